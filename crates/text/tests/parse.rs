//! The output parser: what its rules say, and that nothing depends on how the output is cut.

mod common;

use common::tokenizer;
use ds4_text::parse::{Declared, End, Event, FinishReason, Outcome, Parser, ParserOptions, Region};
use proptest::prelude::*;

fn options(thinking: bool, tools: Option<&[&str]>) -> ParserOptions {
    let declared = match tools {
        None => Declared::Any,
        Some([]) => Declared::None,
        Some(names) => Declared::Names(names.iter().map(|&name| name.to_owned()).collect()),
    };
    ParserOptions { thinking, declared, ..ParserOptions::default() }
}

/// `¦` in test outputs stands for the marker of tags.
fn marked(text: &str) -> String {
    text.replace('¦', "｜DSML｜")
}

/// Parses `text` cut into pieces of these lengths, over and over; checks that the events add up.
fn parse(text: &str, options: &ParserOptions, end: End, cuts: &[usize]) -> (Outcome, Vec<Event>) {
    let mut parser = Parser::new(options.clone());
    let (mut events, mut rest) = (Vec::new(), text.as_bytes());
    for &cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at(cut.clamp(1, rest.len().max(1)).min(rest.len()));
        events.extend(parser.push_text(piece));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    events.extend(parser.finish(end));
    (parser.outcome().clone(), joined(&events))
}

/// Events with adjacent pieces of the same kind put together.
fn joined(events: &[Event]) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::new();
    for event in events {
        match (out.last_mut(), event) {
            (Some(Event::Thinking(all)), Event::Thinking(piece))
            | (Some(Event::Text(all)), Event::Text(piece)) => all.push_str(piece),
            (
                Some(Event::ToolArgs { index: a, delta: all }),
                Event::ToolArgs { index: b, delta: piece },
            ) if a == b => all.push_str(piece),
            _ => out.push(event.clone()),
        }
    }
    out
}

/// Parses whole and byte by byte; both must agree.
fn outcome(text: &str, options: &ParserOptions, end: End) -> Outcome {
    let text = marked(text);
    let whole = parse(&text, options, end, &[usize::MAX]);
    for cut in 1..5 {
        assert_eq!(parse(&text, options, end, &[cut]), whole, "{text}");
    }
    for pair in whole.1.windows(2) {
        if let [sent, Event::ToolEnd { index, arguments: Some(arguments) }] = pair {
            let delta = arguments.clone();
            assert_eq!(*sent, Event::ToolArgs { index: *index, delta }, "{text}");
        }
    }
    whole.0
}

/// Checks a chat output without thinking against content and `name(arguments)` of complete calls.
fn check(text: &str, tools: Option<&[&str]>, content: &str, calls: &[&str]) {
    let found = outcome(text, &options(false, tools), End::Stop);
    assert_eq!(found.content, marked(content), "{text}");
    assert_eq!(shown(&found), calls, "{text}");
    let reason = if calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls };
    assert_eq!(found.finish_reason(End::Stop), reason, "{text}");
}

fn shown(outcome: &Outcome) -> Vec<String> {
    outcome.complete_calls().map(|call| format!("{}({})", call.name, call.arguments)).collect()
}

const CALL: &str = "\n\n<¦tool_calls>\n<¦invoke name=\"f\">\n\
                    <¦parameter name=\"a\" string=\"true\">v</¦parameter>\n\
                    </¦invoke>\n</¦tool_calls>";

#[test]
fn content_before_a_block_loses_only_the_separator() {
    for (before, content) in
        [("x  ", "x  "), ("x\n", "x\n"), ("", ""), (" \n\n ", " \n\n "), ("a\n\nb", "a\n\nb")]
    {
        check(&format!("{before}{CALL}"), None, content, &["f({\"a\":\"v\"})"]);
    }
    let block = CALL.trim_start();
    for before in ["x", "x ", "x\n", "x \r\n\t"] {
        check(&format!("{before}{block}"), None, "x", &["f({\"a\":\"v\"})"]);
    }
    let spaces = " ".repeat(200);
    check(
        &format!("x{spaces}{block}"),
        None,
        &format!("x{}", &spaces[..136]),
        &["f({\"a\":\"v\"})"],
    );
    check("x \n\n ", None, "x \n\n ", &[]);
}

#[test]
fn tags_are_read_tolerantly() {
    let f = &["f({\"a\":\"v\"})"];
    check(&CALL.replace('\n', ""), None, "", f);
    check(&CALL.replace('\n', "\n    "), None, "", f);
    check(
        &CALL.replace("<¦", "<¦ ").replace("tool_calls", "calls"),
        None,
        "",
        &["f({\"a\":\"v\"})"],
    );
    check("<¦tool_calls><¦invoke name=\"now\"/></¦tool_calls>", None, "", &["now({})"]);
    check(
        "<¦tool_calls><¦invoke name=\"f\"><¦parameter name=\"a\" string=\"true\"/></¦invoke>",
        None,
        "",
        &["f({\"a\":\"\"})"],
    );
    check("<¦invoke name=\"f\">\n</¦invoke>", None, "", &["f({})"]);
    check("x<¦invoke name=\"g\">\n</¦invoke>y", Some(&["f"]), "x\ny", &[]);
    check("x<¦stuff>\n<¦invoke name=\"g\"></¦invoke>", Some(&["f"]), "x\n", &[]);
    check("<¦tool_calls>\n<¦invoke name=\"g\"></¦invoke>", Some(&["f"]), "", &["g({})"]);
}

#[test]
fn forgotten_closing_tags_are_added_at_the_end() {
    let f = &["f({\"a\":\"v\"})"];
    check(&CALL.replace("\n</¦tool_calls>", ""), None, "", f);
    check(&CALL.replace("\n</¦invoke>", ""), None, "", f);
    check(&CALL.replace("\n</¦invoke>\n</¦tool_calls>", ""), None, "", f);
    check(&CALL.replace("</¦parameter>\n", ""), None, "", f);
    check(&CALL.replace("</¦parameter>\n</¦invoke>\n</¦tool_calls>", "</¦par"), None, "", &[]);
    // Two calls, the first of them left open.
    let open = CALL.replace("</¦invoke>\n</¦tool_calls>", "<¦invoke name=\"g\">\n</¦invoke>");
    check(&open, None, "", &["f({\"a\":\"v\"})", "g({})"]);
}

#[test]
fn string_values_are_taken_as_they_are() {
    let value = |value: &str| CALL.replace(">v<", &format!(">{value}<"));
    for (text, json) in [
        ("a\"b\\c\n\t", r#"a\"b\\c\n\t"#),
        ("</parameter>\n<invoke>", r"</parameter>\n<invoke>"),
        ("&lt;&amp;", "&lt;&amp;"),
        ("</¦invoke> x", "</¦invoke> x"),
        ("</think><think>", "</think><think>"),
        ("中😀", "中😀"),
        ("", ""),
        ("<", "<"),
        ("<¦", "<¦"),
    ] {
        check(&value(text), None, "", &[&marked(&format!("f({{\"a\":\"{json}\"}})"))]);
    }
}

#[test]
fn other_values_become_json_whatever_they_are() {
    let value =
        |value: &str| CALL.replace("string=\"true\">v<", &format!("string=\"false\">{value}<"));
    for (text, json) in [
        (" 5 ", "5"),
        ("1.50", "1.50"),
        ("[1, {\"k\": null}]", "[1,{\"k\":null}]"),
        ("\"s\"", "\"s\""),
        ("{\"a\": \"</¦parameter\"}", "{\"a\":\"</¦parameter\"}"),
        ("not json", "\"not json\""),
        ("{'a': 1}", "\"{'a': 1}\""),
        ("", "\"\""),
    ] {
        check(&value(text), None, "", &[&marked(&format!("f({{\"a\":{json}}})"))]);
    }
}

#[test]
fn markers_never_reach_the_content() {
    check("the <¦tool_calls> tag", None, "the  tag", &[]);
    check("</¦invoke>x</¦tool_calls>", None, "x", &[]);
    check("x <¦tool_calls>\n", None, "x ", &[]);
    check("x<¦tool_calls>\ny", None, "x\ny", &[]);
    check("x <¦", None, "x ", &[]);
    check("x </¦par", None, "x ", &[]);
    check("the token ¦ alone", None, "the token ¦ alone", &[]);
    check("a<b>c</think>d<", None, "a<b>cd<", &[]);
    // Without declared functions tags are nobody's.
    let text = format!("x{CALL}");
    check(&text, Some(&[]), &text, &[]);
}

#[test]
fn unmarked_blocks_count_if_whole_and_declared() {
    for mark in ["", "DSML｜"] {
        let block = CALL.replace('¦', mark);
        check(&format!("x{block} y"), Some(&["f"]), "x", &["f({\"a\":\"v\"})"]);
        check(&format!("x{block}"), Some(&["g"]), &format!("x{block}"), &[]);
        let open = block.replace("</tool_calls>", "").replace("</DSML｜tool_calls>", "");
        check(&format!("x{open}"), Some(&["f"]), "x", &["f({\"a\":\"v\"})"]);
        let cut: String = block.chars().take(block.chars().count() - 30).collect();
        check(&format!("x{cut}"), Some(&["f"]), &format!("x{cut}"), &[]);
        let two = block.replace(
            &format!("</{mark}tool_calls>"),
            &format!("<{mark}invoke name=\"g\"></{mark}invoke></{mark}tool_calls>"),
        );
        check(&two, Some(&["f"]), &two, &[]);
        check(&two, Some(&["f", "g"]), "", &["f({\"a\":\"v\"})", "g({})"]);
    }
    for text in ["<tool_calls> is a tag", "<｜｜DSML｜｜tool_calls>", "<|DSML|tool_calls>", "<tool"]
    {
        check(text, None, text, &[]);
    }
}

#[test]
fn thinking_ends_where_it_says() {
    let think = |text: &str, end: End| {
        let found = outcome(text, &options(true, None), end);
        let calls = shown(&found);
        (found.reasoning, found.content, calls)
    };
    let is = |r: &str, c: &str, calls: &[&str]| {
        (marked(r), marked(c), calls.iter().map(|&c| c.to_owned()).collect::<Vec<_>>())
    };
    let f: &[&str] = &["f({\"a\":\"v\"})"];
    assert_eq!(think("r</think>c", End::Stop), is("r", "c", &[]));
    assert_eq!(think("<think>r</think>\n\nc", End::Stop), is("r", "\n\nc", &[]));
    assert_eq!(think("never closed", End::Stop), is("never closed", "", &[]));
    assert_eq!(think("never closed ", End::Length), is("never closed ", "", &[]));
    // A block counts in the thinking only if the output ends with it.
    assert_eq!(think(&format!("r{CALL}"), End::Stop), is("r", "", f));
    assert_eq!(think(&format!("r \n{CALL}\n"), End::Stop), is("r \n", "", f));
    assert_eq!(think(&format!("r{CALL}"), End::Length), is(&format!("r{CALL}"), "", &[]));
    assert_eq!(think(&format!("r{CALL}</think>c"), End::Stop), is(&format!("r{CALL}"), "c", &[]));
    assert_eq!(think(&format!("r{CALL} so"), End::Stop), is(&format!("r{CALL} so"), "", &[]));
    assert_eq!(
        think(&format!("a <¦tool_calls>\n<¦invoke name=\"x\"> b{CALL}"), End::Stop),
        is("a <¦tool_calls>\n<¦invoke name=\"x\"> b", "", f)
    );
    assert_eq!(think(&format!("r{CALL}{CALL}"), End::Stop), is(&format!("r{CALL}"), "", f));
    let broken = CALL.replace("</¦invoke>", "");
    assert_eq!(think(&format!("r{broken}"), End::Stop), is(&format!("r{broken}"), "", &[]));
    let undeclared = outcome(&format!("r{CALL}"), &options(true, Some(&["g"])), End::Stop);
    assert_eq!(undeclared.reasoning, marked(&format!("r{CALL}")));
    // What follows the first closing tag counts, not what follows the last.
    let quoted = CALL.replace(">v<", "></¦tool_calls> v<");
    assert_eq!(think(&format!("r{quoted}"), End::Stop), is(&format!("r{quoted}"), "", &[]));
    // Thinking although nobody asked for it.
    let found = outcome("<think>r</think>c", &options(false, None), End::Stop);
    assert_eq!((found.reasoning.as_str(), found.content.as_str()), ("r", "c"));
}

#[test]
fn a_call_cut_off_is_never_complete() {
    for cut in 1..marked(CALL).len() {
        let text = marked(CALL);
        if !text.is_char_boundary(cut) {
            continue;
        }
        let found = outcome(&text[..cut], &options(false, None), End::Length);
        let is_over = cut >= text.find("</｜DSML｜invoke>").unwrap() + "</｜DSML｜invoke>".len();
        assert_eq!(found.complete_calls().count(), usize::from(is_over), "{cut}");
        assert_eq!(found.finish_reason(End::Length), FinishReason::Length);
        assert!(!found.content.contains("｜DSML｜"), "{cut}: {}", found.content);
    }
    // Between parameters what was streamed is closed; inside a value it stays open.
    let streamed = |text: &str| outcome(text, &options(false, None), End::Length).calls;
    let head = CALL.split("</¦parameter>").next().unwrap();
    assert_eq!(streamed(head)[0].arguments, "{\"a\":\"v");
    assert_eq!(streamed(&format!("{head}</¦parameter>\n"))[0].arguments, "{\"a\":\"v\"}");
}

#[test]
fn nothing_follows_a_block() {
    let mut parser = Parser::new(options(false, None));
    let text = marked(CALL);
    for (i, c) in text.char_indices() {
        assert!(!parser.is_done());
        parser.push_text(&text.as_bytes()[i..i + c.len_utf8()]);
    }
    assert!(parser.is_done());
    assert_eq!(parser.region(), Region::Done);
    assert_eq!(parser.push_text(b"more"), []);
    assert_eq!(parser.finish(End::Stop), []);
}

#[test]
fn a_block_opened_by_the_prompt_needs_no_tag() {
    let options = ParserOptions { in_block: true, ..options(false, Some(&["f"])) };
    let inside = CALL.split_once("<¦tool_calls>\n").unwrap().1;
    assert_eq!(shown(&outcome(inside, &options, End::Stop)), ["f({\"a\":\"v\"})"]);
}

#[test]
fn only_tokens_are_control() {
    let specials = tokenizer().specials();
    let run = |ids: &[u32], literals: bool| {
        let mut parser = Parser::new(ParserOptions { literals, ..options(true, None) });
        for &id in ids {
            parser.push_token(specials, id, tokenizer().token_bytes(id).unwrap());
        }
        parser.finish(End::Stop);
        parser.outcome().clone()
    };
    let text = marked(&format!("r</think>c{CALL}"));
    let tokens = tokenizer().encode_with_control(&text);
    let found = run(&tokens, false);
    assert_eq!((found.reasoning.as_str(), found.content.as_str()), ("r", "c"));
    assert_eq!(shown(&found), ["f({\"a\":\"v\"})"]);
    // The same text without a control token is reasoning, unless literals are to count.
    let plain = tokenizer().encode_plain(&text);
    assert_eq!(run(&plain, false).reasoning, text);
    assert_eq!(run(&plain, true), found);
    // A token that cannot belong to an answer ends it.
    let ended = [&tokens[..2], &[specials.user], &tokens[2..]].concat();
    assert_eq!(run(&ended, false).content, "");
    // A control token cuts off an incomplete character.
    let half = tokenizer().encode_plain("😀")[0];
    let mut ids = vec![half];
    ids.extend(tokenizer().encode_with_control("</think>c"));
    assert_eq!(run(&ids, false).reasoning, "\u{fffd}");
}

#[test]
fn regions_tell_the_sampler_where_it_is() {
    let specials = tokenizer().specials();
    let mut parser = Parser::new(options(true, None));
    let mut at = |text: &str| {
        for id in tokenizer().encode_with_control(&marked(text)) {
            parser.push_token(specials, id, tokenizer().token_bytes(id).unwrap());
        }
        parser.region()
    };
    assert_eq!(at(""), Region::Thinking);
    assert_eq!(at("r <¦tool_calls>"), Region::Thinking);
    assert_eq!(at(" no</think>"), Region::Text);
    assert_eq!(at("c\n\n<"), Region::Text);
    assert_eq!(at("¦tool"), Region::Structure);
    assert_eq!(at("_calls>\n<¦invoke name=\"f\">\n<¦parameter name=\"a\""), Region::Structure);
    assert_eq!(at(" string=\"true\">"), Region::StringBody);
    assert_eq!(at("x <"), Region::StringBody);
    assert_eq!(at("/"), Region::Structure);
    assert_eq!(at("b"), Region::StringBody);
    assert_eq!(at("</¦parameter>\n"), Region::Structure);
    assert_eq!(at("<¦parameter name=\"b\" string=\"false\">"), Region::Json);
    assert_eq!(at("{\"k"), Region::JsonString);
    assert_eq!(at("\\\""), Region::JsonString);
    assert_eq!(at("\": 1"), Region::Json);
    assert_eq!(at("}</¦parameter>\n</¦invoke>\n</¦tool_calls>"), Region::Done);
}

/// Pieces of output that outputs are made of, sound and broken.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "<¦tool_calls>",
        "</¦tool_calls>",
        "<¦invoke name=\"f\">",
        "<¦invoke name=\"zz\">",
        "</¦invoke>",
        "<¦parameter name=\"a\" string=\"true\">",
        "</¦parameter>",
        "<¦parameter name=\"b\" string=\"false\">",
        "<¦parameter name=\"c\">",
        "<¦",
        "</¦",
        "¦",
        "<tool_calls>",
        "</tool_calls>",
        "<invoke name=\"f\">",
        "</invoke>",
        "<parameter name=\"a\" string=\"true\">",
        "</parameter>",
        "<DSML｜tool_calls>",
        "<DSML｜invoke name=\"f\">",
        "</DSML｜invoke>",
        "</DSML｜tool_calls>",
        "<think>",
        "</think>",
        "<",
        "</",
        ">",
        "\"",
        "/>",
        "\n\n",
        "\n",
        " ",
        "{\"k\": [1, \"x\"]}",
        "1.5",
        "text",
        "中",
        "<｜end▁of▁sentence｜>",
        "<invoke name=\"",
        "<¦invoke name=\"",
        "&lt;",
        "\\",
        "｜",
        "D",
    ]);
    prop_oneof![8 => known.prop_map(marked), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn cuts_have_no_meaning(
        pieces in proptest::collection::vec(piece(), 0..30),
        cuts in proptest::collection::vec(1usize..12, 1..8),
        thinking: bool, in_block: bool, length: bool, tools in 0usize..3,
    ) {
        let text = pieces.concat();
        let tools = [None, Some(&["f"][..]), Some(&[][..])][tools];
        let options = ParserOptions { in_block, ..options(thinking, tools) };
        let end = if length { End::Length } else { End::Stop };
        let whole = parse(&text, &options, end, &[usize::MAX]);
        prop_assert_eq!(&parse(&text, &options, end, &cuts), &whole);
        prop_assert_eq!(&parse(&text, &options, end, &[1]), &whole);
        for call in whole.0.complete_calls() {
            let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
            prop_assert!(arguments.is_object());
        }
        if tools != Some(&[][..]) {
            for marker in ["<｜DSML｜tool_calls>", "</｜DSML｜parameter>", "<｜DSML｜invoke"] {
                prop_assert!(!whole.0.content.contains(marker), "{}", whole.0.content);
            }
        }
    }
}
