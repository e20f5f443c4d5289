//! The checking commands: JSON in, JSON out.

use serde_json::{Value, json};

use crate::run::{ds4_with, model};

fn converted(args: &[&str], input: &Value) -> Value {
    let run = ds4_with(args, &input.to_string());
    assert_eq!(run.err, "", "{args:?}");
    serde_json::from_str(&run.ok()).unwrap()
}

#[test]
fn text_and_ids_are_converted_both_ways() {
    let texts = json!(["the war", "", "<think>x</think>", "é"]);
    let ids = converted(&["tokenize", "-m", model(), "--json"], &texts);
    assert_eq!(ids[1], json!([]));
    assert_eq!((&ids[2][0], &ids[2][2]), (&json!(5), &json!(6)));
    assert_eq!(ids[3].as_array().unwrap().len(), 2);
    let plain = converted(&["tokenize", "-m", model(), "--json", "--plain"], &texts);
    assert_eq!(plain[0], ids[0]);
    assert!(plain[2].as_array().unwrap().len() > 3);
    let back = converted(&["detokenize", "-m", model(), "--json"], &ids);
    assert_eq!(back[0]["text"], "the war");
    assert_eq!(back[3], json!({"text": "é", "stream_chunks": ["", "é"], "pending_hex": ""}));
    let cut = json!([[ids[3][0]]]);
    let cut = converted(&["detokenize", "-m", model(), "--json"], &cut);
    assert_eq!(cut[0], json!({"text": "\u{fffd}", "stream_chunks": [""], "pending_hex": "c3"}));
}

#[test]
fn conversations_are_rendered_in_both_profiles() {
    let april = json!([
        {"id": "ignored", "thinking_mode": "chat", "messages": [{"role": "user", "content": "Hi"}]},
        {"thinking_mode": "chat", "messages": [{"role": "nobody", "content": "Hi"}]},
    ]);
    let got = converted(&["render", "-m", model(), "--json", "--profile", "2604"], &april);
    let prompt = "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>";
    assert_eq!(got[0]["prompt"], prompt);
    assert_eq!(got[0]["token_ids"][0], 0);
    assert!(got[1]["error"].is_string(), "{got}");
    let july = json!([{"protocol": "chat", "body": {
        "model": "deepseek-chat", "messages": [{"role": "user", "content": "Hi"}],
    }}]);
    let got = converted(&["render", "-m", model(), "--json", "--profile", "2607"], &july);
    assert!(got[0]["prompt"].as_str().unwrap().contains("<｜User｜>Hi<｜Assistant｜>"), "{got}");
}

#[test]
fn output_is_parsed_without_a_model() {
    let cases = json!([
        {"thinking": true, "raw_without_eos": "hm</think>yes"},
        {"thinking": false, "raw_without_eos": "cut", "finish": "length", "tools": []},
    ]);
    let got = converted(&["parse", "--json"], &cases);
    assert_eq!(
        got,
        json!([
            {"reasoning_content": "hm", "content": "yes", "tool_calls": [],
             "finish_reason": "stop"},
            {"reasoning_content": "", "content": "cut", "tool_calls": [],
             "finish_reason": "length"},
        ])
    );
}

#[test]
fn input_that_is_something_else_is_refused() {
    for (args, stdin, want) in [
        (&["tokenize", "-m", model(), "--json"][..], "", "stdin is not JSON"),
        (&["tokenize", "-m", model(), "--json"], "[1", "stdin is not JSON"),
        (&["tokenize", "-m", model(), "--json"], "{}", "stdin: input"),
        (&["tokenize", "-m", model(), "--json"], "[1]", "stdin: [0]"),
        (&["detokenize", "-m", model(), "--json"], "[[1, 288]]", "outside the vocabulary of 288"),
        (&["detokenize", "-m", model(), "--json"], "[[-1]]", "stdin: [0][0]"),
        (&["parse", "--json"], "[{}]", "raw_without_eos"),
    ] {
        let line = ds4_with(args, stdin).fails(1);
        assert!(line.contains(want), "{args:?} {stdin}: {line}");
    }
}
