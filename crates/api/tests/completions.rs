//! Completion requests: raw prompts and their tokens, and the chat form.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../text/tests/common/mod.rs"]
mod common;

use common::tokenizer;
use ds4_api::completions::{RawPrompt, convert, convert_chat};
use ds4_api::{Request, Rules};
use ds4_text::{Effort, Profile, Thinking, render};
use serde_json::{Value, json};

fn raw(body: &Value) -> Request {
    convert(body, Rules::Lenient).unwrap()
}

fn ids(body: &Value) -> Vec<Vec<u32>> {
    raw(body).raw.unwrap().encode(tokenizer()).unwrap()
}

#[test]
fn prompts_of_every_kind() {
    let text = |text: &str| RawPrompt::Text(text.to_owned());
    for (prompt, expected) in [
        (json!("a"), vec![text("a")]),
        (json!(""), vec![text("")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([1, 2]), vec![RawPrompt::Tokens(vec![1, 2])]),
        (json!([[1], [2, 3]]), vec![RawPrompt::Tokens(vec![1]), RawPrompt::Tokens(vec![2, 3])]),
        (json!(["a", [5]]), vec![text("a"), RawPrompt::Tokens(vec![5])]),
    ] {
        assert_eq!(raw(&json!({"prompt": prompt})).raw.unwrap().prompts, expected, "{prompt}");
    }
    for (body, word) in [
        (json!({}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": {}}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt[1]"),
        (json!({"prompt": [-1]}), "prompt[0]"),
        (json!({"prompt": [[]]}), "prompt[0]"),
        (json!({"prompt": vec!["a"; 65]}), "65 prompts"),
        (json!({"prompt": "a", "n": 2}), "n = 1"),
        (json!({"prompt": "a", "best_of": 3}), "best_of"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs"),
        (json!({"prompt": "a", "echo": true, "suffix": "b"}), "echo"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
    ] {
        let error = convert(&body, Rules::Lenient).unwrap_err();
        assert!(error.message.contains(word), "{body}: {}", error.message);
    }
}

#[test]
fn settings() {
    let request = raw(&json!({"prompt": "a", "logprobs": 3, "echo": true, "stop": "x", "seed": 4,
        "max_tokens": 5, "stream": true, "stream_options": {"include_usage": true}}));
    assert_eq!((request.top_logprobs, request.max_tokens), (Some(3), Some(5)));
    assert_eq!((request.stop.as_slice(), request.sampling.seed), (&["x".to_owned()][..], Some(4)));
    assert!(request.stream && request.include_usage && request.raw.unwrap().echo);
    assert_eq!(raw(&json!({"prompt": "a", "logprobs": false})).top_logprobs, None);
}

#[test]
fn tokens_of_raw_prompts() {
    let specials = tokenizer().specials();
    let hello = tokenizer().encode_plain("hello <think>");
    assert_eq!(ids(&json!({"prompt": "hello <think>"})), [[&[specials.bos], &hello[..]].concat()]);
    assert_eq!(ids(&json!({"prompt": ""})), [[specials.bos]]);
    // What was rendered by somebody else keeps its control tokens.
    let rendered = "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜></think>";
    let found = ids(&json!({"prompt": rendered}));
    assert_eq!(found, [tokenizer().encode_with_control(rendered)]);
    assert_eq!(found[0][..2], [specials.bos, specials.user]);
    assert_eq!(ids(&json!({"prompt": [[5, 6], [7]]})), [vec![5, 6], vec![7]]);
    let added = |text: &str| tokenizer().vocab().added_id(text).unwrap();
    let filled = ids(&json!({"prompt": "def f(", "suffix": "  return x"}));
    let expected = [
        vec![specials.bos, added("<｜fim▁begin｜>")],
        tokenizer().encode_plain("def f("),
        vec![added("<｜fim▁hole｜>")],
        tokenizer().encode_plain("  return x"),
        vec![added("<｜fim▁end｜>")],
    ];
    assert_eq!(filled, [expected.concat()]);
    let raw = raw(&json!({"prompt": [999_999_999]})).raw.unwrap();
    let error = raw.encode(tokenizer()).unwrap_err();
    assert!(error.message.contains("no token 999999999"), "{}", error.message);
}

#[test]
fn the_chat_form_answers() {
    let body = json!({"prompt": "q", "reasoning_effort": "low", "thinking": {"type": "enabled"}});
    let request = convert_chat(&body, Rules::Lenient).unwrap();
    assert_eq!(request.conversation.thinking, Thinking::On(Effort::Low));
    let text = render(Profile::April, &request.conversation).unwrap().to_text();
    assert_eq!(
        text,
        "<｜begin▁of▁sentence｜>You are a helpful assistant<｜User｜>q<｜Assistant｜><think>"
    );
    assert!(request.raw.is_none());
    for body in [
        json!({"prompt": ["a", "b"]}),
        json!({"prompt": [1, 2]}),
        json!({"prompt": "a", "suffix": "b"}),
        json!({"prompt": "a", "echo": true}),
    ] {
        assert!(convert_chat(&body, Rules::Lenient).is_err(), "{body}");
    }
}
