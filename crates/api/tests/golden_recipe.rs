//! Answers on the wire against the hosted API's for the same output: the same reasoning, text,
//! calls, ends and counts, and the same order of events where we send its shapes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ds4_api::Api;
use ds4_api::wire::{Finish, Usage};
use ds4_text::parse::{Declared, End, Event, Parser, ParserOptions};
use serde_json::Value;
use support::{data, packed_cases, request, stream};

/// What an answer says: reasoning, text, names and arguments of calls, end.
#[derive(Debug, Default, PartialEq)]
struct Said {
    reasoning: String,
    text: String,
    calls: Vec<(String, String)>,
    end: String,
}

fn api(case: &Value) -> Api {
    match case["protocol"].as_str().unwrap() {
        "chat" => Api::Chat,
        "messages" => Api::Messages,
        "responses" => Api::Responses,
        other => panic!("{other}"),
    }
}

fn ours(case: &Value) -> Vec<Value> {
    let thinking = case["thinking"] == true;
    let options =
        ParserOptions { thinking, declared: Declared::Any, literals: true, in_block: false };
    let mut parser = Parser::new(options);
    let mut events: Vec<Event> = Vec::new();
    for piece in case["raw_pieces"].as_array().unwrap() {
        events.extend(parser.push_text(piece.as_str().unwrap().as_bytes()));
    }
    let is_length = case["backend_finish"] == "length";
    events.extend(parser.finish(if is_length { End::Length } else { End::Stop }));
    let finish = if is_length { Finish::Length } else { Finish::Stop };
    let mut request = request(api(case));
    request.include_usage = true;
    request.responses.summary = true;
    let n = |key: &str| usize::try_from(case[key].as_u64().unwrap()).unwrap();
    let usage = Usage {
        prompt: n("prompt_tokens"),
        cached: n("cached_tokens"),
        completion: case["raw_pieces"].as_array().unwrap().len(),
        ..Usage::default()
    };
    data(&stream(&request, "1", &events, &finish, &usage))
}

fn theirs(case: &Value) -> Vec<Value> {
    let events = case["events"].as_array().unwrap().iter();
    events.map(|event| serde_json::from_str(event["data"].as_str().unwrap()).unwrap()).collect()
}

fn add(to: &mut String, value: &Value) {
    to.push_str(value.as_str().unwrap_or_default());
}

/// Takes in one event of any of the APIs.
fn hear(said: &mut Said, event: &Value) {
    let kind = event["type"].as_str().unwrap_or_default();
    let delta = &event["delta"];
    match kind {
        "" => {
            let choice = &event["choices"][0];
            add(&mut said.text, &choice["delta"]["content"]);
            add(&mut said.reasoning, &choice["delta"]["reasoning_content"]);
            let function = &choice["delta"]["tool_calls"][0]["function"];
            start_call(said, &function["name"]);
            add_arguments(said, &function["arguments"]);
            add(&mut said.end, &choice["finish_reason"]);
        }
        "content_block_start" => start_call(said, &event["content_block"]["name"]),
        "content_block_delta" => {
            add(&mut said.text, &delta["text"]);
            add(&mut said.reasoning, &delta["thinking"]);
            add_arguments(said, &delta["partial_json"]);
        }
        "message_delta" => add(&mut said.end, &delta["stop_reason"]),
        "response.output_item.added" => start_call(said, &event["item"]["name"]),
        "response.output_text.delta" => add(&mut said.text, delta),
        "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
            add(&mut said.reasoning, delta);
        }
        "response.function_call_arguments.delta" => add_arguments(said, delta),
        "response.completed" | "response.incomplete" => {
            add(&mut said.end, &event["response"]["status"]);
            add(&mut said.end, &event["response"]["incomplete_details"]["reason"]);
        }
        _ => {}
    }
}

fn start_call(said: &mut Said, name: &Value) {
    if let Some(name) = name.as_str() {
        said.calls.push((name.to_owned(), String::new()));
    }
}

fn add_arguments(said: &mut Said, piece: &Value) {
    if let (Some(call), Some(piece)) = (said.calls.last_mut(), piece.as_str()) {
        call.1.push_str(piece);
    }
}

/// All that the events say; arguments as JSON without spaces.
fn said(events: &[Value]) -> Said {
    let mut said = Said::default();
    for event in events {
        hear(&mut said, event);
    }
    for call in &mut said.calls {
        call.1 = serde_json::from_str::<Value>(&call.1).unwrap().to_string();
    }
    said
}

/// The types of the events, runs of one type as one. Pings are left out: theirs comes after the
/// first block has opened. Their reasoning is a content of its item, ours its summary.
fn kinds(events: &[Value]) -> Vec<String> {
    let kind = |event: &Value| {
        let kind = event["type"].as_str().unwrap_or_default();
        let is_reasoning = event["part"]["type"] == "reasoning_text";
        match kind.strip_prefix("response.") {
            Some("content_part.added") if is_reasoning => "response.reasoning_summary_part.added",
            Some("content_part.done") if is_reasoning => "response.reasoning_summary_part.done",
            Some("reasoning_text.delta") => "response.reasoning_summary_text.delta",
            Some("reasoning_text.done") => "response.reasoning_summary_text.done",
            _ => kind,
        }
        .to_owned()
    };
    let mut kinds: Vec<String> = events.iter().map(kind).filter(|kind| kind != "ping").collect();
    kinds.dedup();
    kinds
}

/// The last count of tokens.
fn usage(events: &[Value]) -> Value {
    let of = |event: &Value| match event["response"].get("usage") {
        Some(usage) => usage.clone(),
        None => event["usage"].clone(),
    };
    events.iter().map(of).rfind(Value::is_object).unwrap()
}

#[test]
fn the_same_is_said_in_the_same_order() {
    let cases = packed_cases("sse_recipe.json.gz");
    assert_eq!(cases.len(), 20);
    for case in &cases {
        let id = case["id"].as_str().unwrap();
        let (theirs, ours) = (theirs(case), ours(case));
        assert_eq!(said(&ours), said(&theirs), "{id}");
        if api(case) == Api::Chat {
            continue;
        }
        let mut order = kinds(&theirs);
        if id == "messages-unclosed-think-stop" {
            // Where only thinking came out, an empty text follows.
            let at = order.len() - 2;
            let text = ["content_block_start", "content_block_stop"].map(str::to_owned);
            order.splice(at..at, text);
        }
        assert_eq!(kinds(&ours), order, "{id}");
    }
}

#[test]
fn the_same_is_counted() {
    for case in packed_cases("sse_recipe.json.gz") {
        let (theirs, ours) = (usage(&theirs(&case)), usage(&ours(&case)));
        for (key, count) in theirs.as_object().unwrap() {
            let found = &ours[key];
            match count {
                Value::Number(_) => assert_eq!(found, count, "{}: {key}", case["id"]),
                Value::Object(parts) => {
                    for (part, count) in parts {
                        assert_eq!(&found[part], count, "{}: {key}.{part}", case["id"]);
                    }
                }
                _ => {}
            }
        }
    }
}
