//! Any tokens as an answer and any bytes as the tool map of a file: what is replayed says what the
//! client's own history says.
//!
//! The input is split at its first `0xFF` bytes: options, the sampled answer, entries of a map.
#![no_main]

use std::sync::{Arc, LazyLock};

use ds4_kvstore::ToolEntry;
use ds4_model::TokenId;
use ds4_scheduler::Texts;
use ds4_text::parse::{Declared, End, Outcome, Parser, ParserOptions};
use ds4_text::{
    Arguments, Conversation, Effort, Message, Profile, ResponseFormat, Role, Thinking, Tokenizer,
    ToolCall, ToolChoice,
};
use ds4_turns::{CacheTexts, Options, Said, Turns};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let nano =
        ds4_gguf::Gguf::from_bytes("nano", include_bytes!("../../models/nano.gguf").to_vec());
    Arc::new(Tokenizer::from_gguf(&nano.expect("committed")).expect("a vocabulary"))
});

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |b| *b == 0xFF);
    let (Some(flags), Some(answer)) = (parts.next(), parts.next()) else { return };
    let flags = flags.first().copied().unwrap_or_default();
    let answer = String::from_utf8_lossy(answer);
    let ids = TOKENIZER.encode_with_control(&answer);
    if ids.is_empty() {
        return;
    }
    let profile = if flags & 1 == 0 { Profile::April } else { Profile::July };
    let thinks = flags & 2 == 0;
    let turns = Arc::new(Turns::new(Arc::clone(&TOKENIZER), Options::default()));
    let (mut conversation, outcome, live) = answered(&turns, profile, thinks, &ids);
    check(&turns, profile, &conversation, &outcome);
    // As a file, with the map that the turn had, and with what the input makes of it.
    let texts = CacheTexts::new(Arc::clone(&turns));
    let tokens: Vec<TokenId> = live.iter().copied().map(TokenId).collect();
    let mut entries = texts.tools(&tokens);
    if let Some(map) = parts.next() {
        tamper(&mut entries, map);
    }
    let later = Arc::new(Turns::new(Arc::clone(&TOKENIZER), Options::default()));
    CacheTexts::new(Arc::clone(&later)).learn(&tokens, &entries);
    check(&later, profile, &conversation, &outcome);
    // An edit by the client is never overridden.
    let last = conversation.messages.last_mut().expect("the answer");
    let Some(call) = last.calls.first_mut() else { return };
    call.arguments = Arguments::Text("{\"edited\":[1,2,3]}".to_owned());
    let edited = turns.render(profile, &conversation).expect("it rendered before");
    assert!(edited.segments.to_text().contains("[1, 2, 3]"));
});

/// A conversation whose one answer is `ids`, as a client keeps it: without reasoning, calls as JSON.
fn answered(
    turns: &Arc<Turns>,
    profile: Profile,
    thinks: bool,
    ids: &[u32],
) -> (Conversation, Outcome, Vec<u32>) {
    let tool = |name: &str| Map::from_iter([("name".to_owned(), Value::from(name))]);
    let mut conversation = Conversation {
        messages: vec![Message::new(Role::User, "Go.")],
        tools: vec![tool("f"), tool("bash")],
        tool_choice: ToolChoice::Auto,
        response_format: ResponseFormat::Text,
        thinking: if thinks { Thinking::On(Effort::High) } else { Thinking::Off },
    };
    let rendered = turns.render(profile, &conversation).expect("a plain conversation");
    let outcome = parse(ids, rendered.turn.parser_options());
    let call_ids: Vec<String> = (0..outcome.calls.len()).map(|i| format!("call_{i}")).collect();
    let sampled: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
    let said = Said { content: &outcome.content, call_ids: &call_ids };
    turns.remember(&rendered.turn, &sampled, &said);
    let mut message = Message::new(Role::Assistant, outcome.content.clone());
    for (call, id) in outcome.calls.iter().zip(call_ids) {
        message.calls.push(ToolCall {
            id: Some(id),
            name: call.name.clone(),
            arguments: Arguments::Text(call.arguments.clone()),
        });
    }
    conversation.messages.push(message);
    let live = rendered.prompt.iter().map(|t| t.0).chain(ids.iter().copied()).collect();
    (conversation, outcome, live)
}

fn parse(ids: &[u32], options: ParserOptions) -> Outcome {
    let mut parser = Parser::new(options);
    for &id in ids {
        parser.push_token(TOKENIZER.specials(), id, TOKENIZER.token_bytes(id).expect("known"));
    }
    parser.finish(End::Stop);
    parser.outcome().clone()
}

/// The replayed turn must parse to what the client has.
fn check(turns: &Turns, profile: Profile, conversation: &Conversation, outcome: &Outcome) {
    let rendered = turns.render(profile, conversation).expect("it rendered before");
    let Some(replay) = rendered.notes.first() else { return };
    if replay.found == ds4_turns::Found::Unknown || replay.found == ds4_turns::Found::Edited {
        return;
    }
    let ids: Vec<u32> = rendered.prompt.iter().map(|t| t.0).collect();
    let specials = TOKENIZER.specials();
    let start = ids.iter().position(|&id| id == specials.assistant).expect("the answer") + 2;
    let thinking = ids[start - 1] == specials.think_open;
    let turn = &ids[start..];
    let declared = Declared::Names(vec!["f".to_owned(), "bash".to_owned()]);
    let again = parse(turn, ParserOptions { thinking, declared, ..ParserOptions::default() });
    assert_eq!(again.content.trim(), outcome.content.trim());
    let calls = |o: &Outcome| -> Vec<(String, Value)> {
        let value = |text: &str| serde_json::from_str(text).unwrap_or_default();
        o.calls.iter().map(|c| (c.name.clone(), value(&c.arguments))).collect()
    };
    assert_eq!(calls(&again), calls(outcome));
}

/// Changes entries as the input says: three bytes each for which, where and what.
fn tamper(entries: &mut Vec<ToolEntry>, map: &[u8]) {
    if entries.is_empty() {
        entries.push(ToolEntry { id: "call_0".into(), dsml: map.to_vec() });
    }
    for edit in map.chunks_exact(3) {
        let n = entries.len();
        let entry = &mut entries[usize::from(edit[0]) % n];
        let at = usize::from(edit[1]) % (entry.dsml.len() + 1);
        match edit[2] {
            0 => entry.dsml.truncate(at),
            1 => entry.id = format!("call_{}", edit[1] % 4),
            2 => entry.dsml.insert(at, edit[1]),
            byte => entry.dsml.iter_mut().skip(at).take(1).for_each(|b| *b = byte),
        }
    }
}
