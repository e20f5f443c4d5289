//! Histories as clients send them back, and whether the next prompt goes on from what is live.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Chat, Heard, Parameter, block, sample, tokenizer, turns};
use ds4_model::TokenId;
use ds4_text::{Arguments, Profile, Tail, ToolChoice};
use ds4_turns::{Found, Options, Said, Turns};

const BASH: &[Parameter] = &[("command", true, "ls -l"), ("timeout", false, "10")];

fn one_call() -> String {
    block(&[("bash", BASH)])
}

fn found(chat: &Chat) -> Vec<Found> {
    chat.render().notes.iter().map(|note| note.found).collect()
}

/// A conversation in which the model has just called a tool.
fn called(turns: &Arc<Turns>, profile: Profile, answer: &str) -> (Chat, Heard) {
    let mut chat = Chat::new(turns, true, true);
    chat.profile = profile;
    chat.user("What is here?");
    let heard = chat.answer(answer);
    assert!(!heard.call_ids.is_empty(), "{answer:?} calls nothing");
    (chat, heard)
}

#[test]
fn calls_that_come_back_as_json_are_written_as_sampled() {
    for profile in [Profile::April, Profile::July] {
        for space in ["\n\n", "\n", "", "\n\n\n", " \n\n"] {
            let answer = format!("I look.</think>Let me see.{space}{}", one_call());
            let (mut chat, heard) = called(&turns(), profile, &answer);
            chat.keep(&heard);
            chat.result(&heard.call_ids[0], "a.txt");
            chat.assert_continues(&heard);
            assert_eq!(found(&chat), [Found::Whole]);
        }
    }
}

#[test]
fn reasoning_that_was_dropped_or_altered_is_restored() {
    for (reasoning, expected) in
        [("", Found::Restored), ("I look. ", Found::Whole), ("(summary)", Found::Replaced)]
    {
        let answer = format!("I look.</think>\n\n{}", one_call());
        let (mut chat, heard) = called(&turns(), Profile::April, &answer);
        reasoning.clone_into(&mut chat.keep(&heard).reasoning);
        chat.result(&heard.call_ids[0], "a.txt");
        chat.assert_continues(&heard);
        assert_eq!(found(&chat), [expected]);
    }
}

#[test]
fn parallel_calls_are_one_turn() {
    let read: &[Parameter] = &[("path", true, "a \"quoted\" <path>")];
    let answer = format!("Two.</think>{}", block(&[("bash", BASH), ("read", read)]));
    let (mut chat, heard) = called(&turns(), Profile::April, &answer);
    chat.keep(&heard);
    chat.result(&heard.call_ids[1], "second");
    chat.result(&heard.call_ids[0], "first");
    chat.assert_continues(&heard);
    // Reordered, or with one left out, it is another history.
    let calls = &mut chat.conversation.messages[2].calls;
    calls.swap(0, 1);
    assert_eq!(found(&chat), [Found::Edited]);
    chat.conversation.messages[2].calls.pop();
    assert_eq!(found(&chat), [Found::Edited]);
}

#[test]
fn final_answers_are_found_by_what_is_visible_before_them() {
    let mut chat = Chat::new(&turns(), true, true);
    chat.user("Hello?");
    let heard = chat.answer("A greeting.</think>Hello! \n");
    let kept = chat.keep(&heard);
    kept.reasoning.clear();
    kept.content = kept.content.trim().to_owned();
    chat.user("And now?");
    chat.assert_continues(&heard);
    assert_eq!(found(&chat), [Found::Restored]);
    // The next turn is found behind it.
    let second = chat.answer("More.</think>Nothing.");
    chat.keep(&second);
    chat.user("Really?");
    chat.assert_continues(&second);
    // In another conversation the same words are another turn.
    let mut other = Chat::new(&chat.turns, true, true);
    other.user("Hello!");
    other.keep(&heard).reasoning.clear();
    other.user("And now?");
    assert_eq!(found(&other), [Found::Unknown]);
    assert!(!other.text(&other.prompt()).contains("A greeting."));
    // And an edited answer is what it says.
    "Hello there!".clone_into(&mut chat.conversation.messages[2].content);
    assert_eq!(found(&chat), [Found::Unknown, Found::Unknown]);
    assert!(chat.text(&chat.prompt()).contains("Hello there!"));
}

#[test]
fn without_tools_reasoning_is_dropped_as_the_profile_has_it() {
    for profile in [Profile::April, Profile::July] {
        let mut chat = Chat::new(&turns(), true, false);
        chat.profile = profile;
        chat.user("Hello?");
        let rendered = chat.render();
        let stable = rendered.cuts.stable.unwrap();
        let heard = chat.answer("A greeting.</think>Hello!");
        chat.keep(&heard);
        chat.user("And now?");
        let prompt = chat.prompt();
        let specials = chat.turns.tokenizer().specials();
        assert_eq!(prompt[..stable], heard.live[..stable]);
        assert_eq!(heard.live[stable], specials.think_open);
        assert_eq!(prompt[stable], specials.think_close);
        // The content is in its own tokens.
        let content = sample(&tokenizer(), "Hello!");
        assert_eq!(prompt[stable + 1..][..content.len()], content);
        assert_ne!(content, tokenizer().encode_plain("Hello!"));
    }
    let mut plain = Chat::new(&turns(), false, false);
    plain.user("Hello?");
    assert_eq!(plain.render().cuts.stable, None);
    let heard = plain.answer("Hello!");
    plain.keep(&heard);
    plain.user("And now?");
    plain.assert_continues(&heard);
}

#[test]
fn edited_calls_are_rendered_as_they_were_sent() {
    for edit in ["{\"command\":\"rm -r\",\"timeout\":10}", "{\"command\":\"ls -l\"}", "nonsense"] {
        let (mut chat, heard) =
            called(&turns(), Profile::April, &format!("Hm.</think>{}", one_call()));
        chat.keep(&heard).calls[0].arguments = Arguments::Text(edit.to_owned());
        chat.result(&heard.call_ids[0], "x");
        assert_eq!(found(&chat), [Found::Edited], "{edit}");
        let text = chat.text(&chat.prompt());
        assert_eq!(text.contains("rm -r"), edit.contains("rm -r"));
    }
    let (mut chat, heard) = called(&turns(), Profile::April, &format!("Hm.</think>{}", one_call()));
    "read".clone_into(&mut chat.keep(&heard).calls[0].name);
    assert_eq!(found(&chat), [Found::Edited]);
}

#[test]
fn edited_content_keeps_the_sampled_calls() {
    let answer = format!("Hm.</think>Look:\n{}", one_call());
    let (mut chat, heard) = called(&turns(), Profile::April, &answer);
    let kept = chat.keep(&heard);
    kept.reasoning.clear();
    "Look here:".clone_into(&mut kept.content);
    chat.result(&heard.call_ids[0], "x");
    assert_eq!(found(&chat), [Found::CallsOnly]);
    let text = chat.text(&chat.prompt());
    let expected = format!("<think>Hm.</think>Look here:\n{}", one_call()).replace('¦', "｜DSML｜");
    assert!(text.contains(&expected), "{text}");
    // The marks are tokens, not text.
    let mark = chat.turns.tokenizer().specials().dsml.unwrap();
    let marks = |ids: &[u32]| ids.iter().filter(|&&id| id == mark).count();
    let again = marks(&chat.prompt());
    chat.conversation.messages.truncate(2);
    assert_eq!(again - marks(&chat.prompt()), marks(&sample(&tokenizer(), &answer)));
}

#[test]
fn ids_of_different_turns_or_of_nobody_are_not_mixed() {
    let turns = turns();
    let answer = format!("Hm.</think>{}", block(&[("bash", BASH), ("bash", BASH)]));
    let (mut first, a) = called(&turns, Profile::April, &answer);
    let mut second = Chat::new(&turns, true, true).named("other_");
    second.user("What is here?");
    let b = second.answer(&answer);
    let kept = first.keep(&a);
    kept.calls[1].id = Some(b.call_ids[1].clone());
    assert_eq!(found(&first), [Found::Unknown]);
    let kept = first.conversation.messages.last_mut().unwrap();
    kept.calls[1].id = Some("call_of_nobody".to_owned());
    assert_eq!(found(&first), [Found::Unknown]);
    let kept = first.conversation.messages.last_mut().unwrap();
    kept.calls[1].id = None;
    assert_eq!(found(&first), [Found::Unknown]);
}

#[test]
fn what_the_client_did_not_hear_is_not_repeated() {
    let mut chat = Chat::new(&turns(), false, false);
    chat.user("Count.");
    let rendered = chat.render();
    let sampled: Vec<TokenId> =
        sample(&tokenizer(), "one two STOP three").into_iter().map(TokenId).collect();
    chat.turns.remember(&rendered.turn, &sampled, &Said { content: "one two ", call_ids: &[] });
    let mut message = ds4_text::Message::new(ds4_text::Role::Assistant, "one two");
    message.tail = Tail::Closed;
    chat.conversation.messages.push(message);
    chat.user("Go on.");
    assert_eq!(found(&chat), [Found::Unknown]);
    assert!(!chat.text(&chat.prompt()).contains("STOP"));
}

#[test]
fn an_answer_stopped_after_its_first_call_is_closed() {
    for cut in ["\n</¦tool_calls>", "</¦tool_calls>", "¦tool_calls>", "_calls>"] {
        let whole = format!("Hm.</think>{}", one_call());
        let stopped = whole.strip_suffix(cut).unwrap();
        let turns = turns();
        let mut chat = Chat::new(&turns, true, true);
        chat.user("What is here?");
        let heard = chat.answer(stopped);
        assert_eq!(heard.call_ids.len(), 1);
        chat.keep(&heard);
        chat.result(&heard.call_ids[0], "x");
        let text = chat.text(&chat.prompt());
        assert!(text.contains(&whole.replace('¦', "｜DSML｜")), "{cut:?}: {text}");
        let live = &heard.live;
        assert_eq!(chat.prompt()[..live.len()], live[..], "{cut:?}");
    }
}

#[test]
fn a_block_that_the_prompt_opened_is_part_of_the_turn() {
    let mut chat = Chat::new(&turns(), false, true);
    chat.conversation.tool_choice = ToolChoice::Required;
    chat.user("What is here?");
    assert!(chat.render().turn.parser_options().in_block);
    let inside = one_call();
    let heard = chat.answer(inside.strip_prefix("<¦tool_calls>\n").unwrap());
    assert_eq!(heard.call_ids.len(), 1);
    chat.keep(&heard);
    chat.result(&heard.call_ids[0], "x");
    chat.conversation.tool_choice = ToolChoice::Auto;
    chat.assert_continues(&heard);
}

#[test]
fn an_answer_to_a_beginning_is_kept_as_a_whole() {
    // The client may be told the whole text or only what is new; its history has the whole.
    for content in ["one two three", " three"] {
        let mut chat = Chat::new(&turns(), false, false);
        chat.user("Count.");
        let mut begun = ds4_text::Message::new(ds4_text::Role::Assistant, "one two");
        begun.tail = Tail::Open;
        chat.conversation.messages.push(begun);
        let rendered = chat.render();
        let sampled = sample(&tokenizer(), " three");
        let tokens: Vec<TokenId> = sampled.iter().copied().map(TokenId).collect();
        chat.turns.remember(&rendered.turn, &tokens, &Said { content, call_ids: &[] });
        let last = chat.conversation.messages.last_mut().unwrap();
        "one two three".clone_into(&mut last.content);
        last.tail = Tail::Closed;
        chat.user("Go on.");
        let live: Vec<u32> = rendered.prompt.iter().map(|t| t.0).chain(sampled).collect();
        assert_eq!(chat.prompt()[..live.len()], live[..], "{content:?}");
    }
}

#[test]
fn calls_promoted_from_open_reasoning_are_closed_properly() {
    let answer = format!("I must look.\n\n{}", one_call());
    let (mut chat, heard) = called(&turns(), Profile::April, &answer);
    assert_eq!(heard.outcome.reasoning, "I must look.");
    chat.keep(&heard).reasoning.clear();
    chat.result(&heard.call_ids[0], "x");
    let text = chat.text(&chat.prompt());
    let block = one_call().replace('¦', "｜DSML｜");
    assert!(text.contains(&format!("<think>I must look.</think>\n\n{block}")), "{text}");
}

#[test]
fn reasoning_cut_off_by_the_budget_is_closed_and_kept() {
    let mut chat = Chat::new(&turns(), true, true);
    chat.user("Think.");
    let heard = chat.answer("First I think and");
    chat.keep(&heard).reasoning.clear();
    chat.user("Go on.");
    let prompt = chat.prompt();
    let n = heard.live.len();
    assert_eq!(prompt[..n], heard.live[..]);
    assert_eq!(prompt[n], chat.turns.tokenizer().specials().think_close);
}

#[test]
fn the_memory_has_its_limits_and_can_be_turned_off() {
    let limits = Options { ids_max: 3, ..Options::default() };
    let small = Arc::new(Turns::new(tokenizer(), limits));
    let answer = format!("Hm.</think>{}", one_call());
    let mut talks: Vec<(Chat, Heard)> = (0..5)
        .map(|i| {
            let mut chat = Chat::new(&small, true, true).named(&format!("id{i}_"));
            chat.user("What is here?");
            let heard = chat.answer(&answer);
            chat.keep(&heard);
            (chat, heard)
        })
        .collect();
    let known = |talks: &[(Chat, Heard)]| {
        talks.iter().filter(|(chat, _)| found(chat) == [Found::Whole]).count()
    };
    assert_eq!(known(&talks), 3);
    assert_eq!(small.held().0, 3);
    // What was used last stays.
    assert_eq!(found(&talks[2].0), [Found::Whole]);
    let mut more = Chat::new(&small, true, true).named("more_");
    more.user("What is here?");
    more.answer(&answer);
    assert_eq!(found(&talks[2].0), [Found::Whole]);
    assert_eq!(found(&talks[3].0), [Found::Unknown]);
    let bytes = Options { bytes_max: small.held().1 / 3, ..Options::default() };
    let tiny = Arc::new(Turns::new(tokenizer(), bytes));
    for (chat, _) in &mut talks[..2] {
        chat.turns = Arc::clone(&tiny);
        chat.conversation.messages.truncate(2);
        let heard = chat.answer(&answer);
        chat.keep(&heard);
    }
    assert_eq!(known(&talks[..2]), 1);
    assert!(tiny.held().1 <= bytes.bytes_max);
    let off = Options { replay: false, ..Options::default() };
    let (mut chat, heard) =
        called(&Arc::new(Turns::new(tokenizer(), off)), Profile::April, &answer);
    chat.keep(&heard);
    assert!(found(&chat).is_empty());
    assert_eq!(chat.turns.held(), (0, 0));
}

#[test]
fn cuts_are_where_prompts_part() {
    let mut chat = Chat::new(&turns(), true, true);
    chat.user("First.");
    let rendered = chat.render();
    let user = chat.turns.tokenizer().specials().user;
    let at = |ids: &[u32]| ids.iter().rposition(|&id| id == user).unwrap();
    let first = at(&chat.prompt());
    assert_eq!((rendered.cuts.anchor, &rendered.cuts.marks[..]), (Some(first), &[first][..]));
    assert_eq!(rendered.cuts.stable, None, "declared tools keep reasoning");
    let heard = chat.answer("Hm.</think>Yes.");
    chat.keep(&heard);
    chat.user("Second.");
    let cuts = chat.render().cuts;
    assert_eq!((cuts.anchor, &cuts.marks[..]), (Some(first), &[first, at(&chat.prompt())][..]));
}
