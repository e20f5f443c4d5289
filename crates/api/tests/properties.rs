//! What holds for every answer and every body: a stream says what its body says and has one end;
//! nothing in a body makes a converter panic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ds4_api::wire::{Finish, Usage};
use ds4_api::{Alias, Api, Request, Rules, chat, completions, messages, responses};
use ds4_text::parse::{Declared, End, Event, Parser, ParserOptions};
use ds4_text::{Profile, render};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{body, data, request, stream};

/// Pieces from which outputs of a model are put together.
const PIECES: [&str; 22] = [
    "a",
    " ",
    "\n\n",
    "\"",
    "\\",
    "é😀",
    "\u{2028}",
    "<",
    "</think>",
    "<think>",
    "<｜DSML｜tool_calls>\n",
    "</｜DSML｜tool_calls>",
    "<｜DSML｜invoke name=\"f\">\n",
    "<｜DSML｜invoke name=\"ns__g\">\n",
    "<｜DSML｜invoke name=\"patch\">\n",
    "</｜DSML｜invoke>\n",
    "<｜DSML｜parameter name=\"input\" string=\"true\">",
    "<｜DSML｜parameter name=\"n\" string=\"false\">",
    "</｜DSML｜parameter>\n",
    "{\"x\": [1, null]}",
    "17",
    "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n",
];

/// The events of a random output.
fn parsed() -> impl Strategy<Value = Vec<Event>> {
    let pieces = vec(prop::sample::select(&PIECES[..]), 0..24);
    (pieces, any::<[bool; 3]>()).prop_map(|(pieces, [thinking, cut, declared])| {
        let names = ["f", "ns__g", "patch"].map(str::to_owned).to_vec();
        let declared = if declared { Declared::Names(names) } else { Declared::None };
        let options = ParserOptions { thinking, declared, literals: true, in_block: false };
        let mut parser = Parser::new(options);
        let mut events: Vec<Event> =
            pieces.iter().flat_map(|piece| parser.push_text(piece.as_bytes())).collect();
        events.extend(parser.finish(if cut { End::Length } else { End::Stop }));
        events
    })
}

/// Events in an order in which no parser has them.
fn disordered() -> impl Strategy<Value = Vec<Event>> {
    let texts = prop::sample::select(&["", "a", "\"}", "{\"input\":\"", "\\n"][..]);
    let event = (0..6, 0..3usize, texts).prop_map(|(kind, index, text)| match kind {
        0 => Event::Thinking(text.to_owned()),
        1 => Event::Text(text.to_owned()),
        2 | 3 => Event::ToolStart { index, name: "patch".to_owned() },
        4 => Event::ToolArgs { index, delta: text.to_owned() },
        _ => Event::ToolEnd { index, arguments: None },
    });
    vec(event, 0..16)
}

fn finishes() -> impl Strategy<Value = Finish> {
    prop::sample::select(vec![
        Finish::Stop,
        Finish::ToolCalls,
        Finish::Length,
        Finish::ContextFull,
        Finish::StopSequence("x".to_owned()),
    ])
}

/// A request with an option of each kind.
fn asked(api: Api, parallel_tool_calls: bool) -> Request {
    let mut request = request(api);
    request.parallel_tool_calls = parallel_tool_calls;
    request.responses.summary = true;
    let namespaced = Alias::Namespaced { namespace: "ns".into(), name: "g".into() };
    request.aliases.insert("ns__g".into(), namespaced);
    request.aliases.insert("patch".into(), Alias::Custom { format: None });
    request
}

/// Equal texts or, where a parameter was given twice, equal JSON.
fn same(streamed: &str, whole: &str) -> bool {
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    streamed == whole || (json(streamed).is_some() && json(streamed) == json(whole))
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn check_chat(frames: &[Value], body: &Value) {
    let message = &body["choices"][0]["message"];
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut calls: Vec<(String, String, String)> = Vec::new();
    for frame in frames {
        content += text(frame, "/choices/0/delta/content");
        reasoning += text(frame, "/choices/0/delta/reasoning_content");
        let Some(call) = frame.pointer("/choices/0/delta/tool_calls/0") else { continue };
        if let Some(id) = call["id"].as_str() {
            assert_eq!(call["index"], calls.len());
            calls.push((id.to_owned(), text(call, "/function/name").to_owned(), String::new()));
        }
        assert_eq!(call["index"], calls.len() - 1);
        calls.last_mut().unwrap().2 += text(call, "/function/arguments");
    }
    assert_eq!(message["content"], content);
    assert_eq!(text(message, "/reasoning_content"), reasoning);
    let whole = message["tool_calls"].as_array().cloned().unwrap_or_default();
    assert_eq!(whole.len(), calls.len());
    for (call, (id, name, arguments)) in whole.iter().zip(&calls) {
        assert_eq!((text(call, "/id"), text(call, "/function/name")), (id.as_str(), name.as_str()));
        let found = text(call, "/function/arguments");
        assert!(same(arguments, found), "{arguments} and {found}");
    }
    let ends = frames.iter().filter(|f| f["choices"][0]["finish_reason"].is_string());
    let ends: Vec<&Value> = ends.map(|f| &f["choices"][0]["finish_reason"]).collect();
    assert_eq!(ends, [&body["choices"][0]["finish_reason"]]);
}

/// Blocks follow each other, and put together they are the content.
fn check_messages(frames: &[Value], body: &Value) {
    let mut content: Vec<Value> = Vec::new();
    let (mut is_open, mut json_text) = (false, String::new());
    for frame in frames {
        match text(frame, "/type") {
            "content_block_start" => {
                assert!(!is_open && frame["index"] == content.len());
                (is_open, json_text) = (true, String::new());
                content.push(frame["content_block"].clone());
            }
            "content_block_delta" => {
                assert!(is_open && frame["index"] == content.len() - 1);
                json_text += text(frame, "/delta/partial_json");
                let block = content.last_mut().unwrap();
                for key in ["text", "thinking", "signature"] {
                    if let Some(piece) = frame["delta"].get(key) {
                        block[key] = (text(block, &format!("/{key}")).to_owned()
                            + piece.as_str().unwrap())
                        .into();
                    }
                }
            }
            "content_block_stop" => {
                assert!(is_open && frame["index"] == content.len() - 1);
                is_open = false;
                let block = content.last_mut().unwrap();
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json_text).unwrap_or(json!({}));
                }
            }
            _ => assert!(!is_open),
        }
    }
    let whole = body["content"].as_array().unwrap();
    assert_eq!(content.len(), whole.len());
    for (block, whole) in content.iter().zip(whole) {
        let mut whole = whole.clone();
        // Of a call that broke off a body has what is whole.
        if block["input"] == json!({}) {
            assert!(whole["input"].is_object());
            whole["input"] = json!({});
        }
        assert_eq!(block, &whole);
        if block["type"] == "thinking" {
            assert_ne!(block["signature"], "");
        }
    }
    let end = &frames[frames.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], body["stop_reason"]);
    assert_eq!(end["usage"], body["usage"]);
}

/// Items follow each other; what was added piece by piece is what is done, and all is in the end.
fn check_responses(frames: &[Value], body: &Value) {
    let mut done: Vec<Value> = Vec::new();
    let (mut open, mut pieces) = (None, String::new());
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(frame["sequence_number"], n);
        match text(frame, "/type") {
            "response.output_item.added" => {
                assert!(open.is_none() && frame["output_index"] == done.len());
                open = Some(frame["item"].clone());
                pieces.clear();
            }
            "response.output_item.done" => {
                let added = open.take().unwrap();
                let item = &frame["item"];
                assert_eq!((&added["id"], &added["type"]), (&item["id"], &item["type"]));
                let whole = ["/arguments", "/input", "/content/0/text", "/summary/0/text"]
                    .iter()
                    .find_map(|path| item.pointer(path));
                let whole = whole.and_then(Value::as_str).unwrap_or_default();
                assert!(same(&pieces, whole), "{pieces} and {whole}");
                done.push(item.clone());
            }
            kind if kind.split('.').next_back() == Some("delta") => pieces += text(frame, "/delta"),
            _ => {}
        }
    }
    assert!(open.is_none());
    assert_eq!(json!(done), body["output"]);
    assert_eq!(&frames.last().unwrap()["response"], body);
}

fn check(events: &[Event], finish: &Finish, parallel: bool) {
    let usage = Usage { prompt: 9, cached: 3, cache_write: 2, completion: 7, reasoning: 1 };
    for api in [Api::Chat, Api::Completions, Api::Messages, Api::Responses] {
        let request = asked(api, parallel);
        let frames = stream(&request, "1", events, finish, &usage);
        for frame in &frames {
            assert!(!frame.data.contains(['\n', '\r']));
        }
        let has_done = matches!(api, Api::Chat | Api::Completions);
        assert_eq!(frames.last().unwrap().data == "[DONE]", has_done);
        let json = data(&frames);
        assert_eq!(json.len(), frames.len() - usize::from(has_done), "all but [DONE] is JSON");
        let body = body(&request, "1", events, finish, &usage);
        match api {
            Api::Chat => check_chat(&json, &body),
            Api::Completions => {
                let texts = json.iter().map(|frame| text(frame, "/choices/0/text"));
                assert_eq!(body["choices"][0]["text"], texts.collect::<String>());
            }
            Api::Messages => check_messages(&json, &body),
            Api::Responses => check_responses(&json, &body),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn streams_say_what_bodies_say(
        events in parsed(),
        finish in finishes(),
        parallel in any::<bool>(),
    ) {
        check(&events, &finish, parallel);
    }

    #[test]
    fn even_in_disorder(
        events in disordered(),
        finish in finishes(),
        parallel in any::<bool>(),
    ) {
        check(&events, &finish, parallel);
    }
}

/// Words that mean something somewhere in a request.
const WORDS: [&str; 64] = [
    "messages",
    "role",
    "user",
    "assistant",
    "system",
    "developer",
    "tool",
    "content",
    "type",
    "text",
    "input",
    "input_text",
    "output",
    "output_text",
    "message",
    "reasoning",
    "summary",
    "encrypted_content",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "tool_search_output",
    "call_id",
    "name",
    "namespace",
    "arguments",
    "tools",
    "function",
    "parameters",
    "strict",
    "tool_choice",
    "required",
    "allowed_tools",
    "custom",
    "mode",
    "thinking",
    "enabled",
    "budget_tokens",
    "effort",
    "output_config",
    "format",
    "json_schema",
    "schema",
    "tool_use",
    "tool_result",
    "tool_use_id",
    "id",
    "source",
    "document",
    "image",
    "prompt",
    "suffix",
    "echo",
    "logprobs",
    "stop",
    "stop_sequences",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "seed",
    "tool_calls",
    "prefix",
    "instructions",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        1 => "[\\x00-\\x7f]{0,6}",
        1 => Just("x-anthropic-billing-header: \u{1f600}".to_owned()),
    ]
}

/// JSON out of those words.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => word().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => (-3.0..3.0f64).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((word(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A body that is right but for one random field, or not right at all.
fn bodies() -> impl Strategy<Value = Value> {
    let items = vec(any_json(), 0..4);
    let nearly = (items, word(), any_json(), any_json()).prop_map(|(items, key, value, tools)| {
        let mut body = json!({
            "messages": [{"role": "user", "content": items}],
            "input": items,
            "prompt": "x",
            "tools": [tools],
        });
        body[key.as_str()] = value;
        body
    });
    prop_oneof![3 => nearly, 1 => any_json()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_body_panics(body in bodies()) {
        type Convert = fn(&Value, Rules) -> Result<Request, ds4_api::RequestError>;
        let converters: [Convert; 5] = [
            chat::convert,
            messages::convert,
            responses::convert,
            completions::convert,
            completions::convert_chat,
        ];
        for convert in converters {
            for rules in [Rules::Lenient, Rules::Hosted] {
                match convert(&body, rules) {
                    Ok(request) => {
                        let _ = request.parser_options();
                        for profile in [Profile::April, Profile::July] {
                            let _ = render(profile, &request.conversation);
                        }
                    }
                    Err(error) => {
                        prop_assert!(!error.message.contains('\n'), "{}", error.message);
                        prop_assert_eq!(error.status, 400);
                    }
                }
            }
        }
    }
}
