//! Answers on the wire against what ds4's own writers sent for the same output.
//!
//! Both sides are brought into a form in which only meaning is left: adjacent deltas are one, ids
//! are numbered, sequence numbers are checked and then taken out. What remains must be equal, byte
//! for byte and key for key, after the deviations that each test names.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use ds4_api::wire::{Finish, Usage};
use ds4_api::{Api, Request};
use ds4_text::Thinking;
use ds4_text::parse::{Declared, End, Event, Parser, ParserOptions};
use serde_json::{Value, json};
use support::{body, packed_cases, request, stream};

/// One event, its delta taken out.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    event: Option<String>,
    data: Value,
    delta: Option<String>,
}

fn api(case: &Value) -> Api {
    match case["api"].as_str().unwrap() {
        "chat" => Api::Chat,
        "completion" => Api::Completions,
        "messages" => Api::Messages,
        "responses" => Api::Responses,
        other => panic!("{other}"),
    }
}

fn asked(case: &Value) -> Request {
    let mut request = request(api(case));
    if case["thinking"] == false {
        request.conversation.thinking = Thinking::Off;
    }
    request.include_usage = case["include_usage"] == true;
    request.responses.summary = true;
    request
}

/// The case's output, parsed piece by piece; ds4's own "error" is a budget that ran out.
fn parsed(case: &Value) -> (Vec<Event>, Finish) {
    let declared = if case["tools_declared"] == true {
        Declared::Names(vec!["bash".into(), "list".into()])
    } else {
        Declared::None
    };
    let thinking = case["thinking"] == true;
    let mut parser =
        Parser::new(ParserOptions { thinking, declared, literals: true, in_block: false });
    let mut events = Vec::new();
    for piece in case["raw_pieces"].as_array().unwrap() {
        events.extend(parser.push_text(piece.as_str().unwrap().as_bytes()));
    }
    let (end, finish) = match case["base_finish"].as_str().unwrap() {
        "stop" => (End::Stop, Finish::Stop),
        "tool_calls" => (End::Stop, Finish::ToolCalls),
        "length" | "error" => (End::Length, Finish::Length),
        other => panic!("{other}"),
    };
    events.extend(parser.finish(end));
    (events, finish)
}

fn usage(case: &Value) -> Usage {
    let n = |key: &str| usize::try_from(case[key].as_u64().unwrap()).unwrap();
    Usage {
        prompt: n("prompt_tokens"),
        cached: n("cached"),
        cache_write: n("cache_write"),
        completion: n("completion_tokens"),
        reasoning: 0,
    }
}

/// The id that the case's writer used.
fn meta_id(case: &Value) -> &'static str {
    if api(case) == Api::Responses { "ID0" } else { "1" }
}

/// Takes the delta out of an event.
fn take_delta(data: &mut Value) -> Option<String> {
    for path in [
        "/choices/0/delta/content",
        "/choices/0/delta/reasoning_content",
        "/choices/0/delta/tool_calls/0/function/arguments",
        "/choices/0/text",
        "/delta/text",
        "/delta/thinking",
        "/delta/partial_json",
        "/delta",
    ] {
        if let Some(text @ Value::String(_)) = data.pointer_mut(path)
            && let Value::String(text) = text.take()
        {
            return Some(text);
        }
    }
    None
}

/// Adjacent deltas of the same kind as one; sequence numbers checked and taken out. Arguments are
/// compared as JSON: ds4 keeps the spaces inside values.
fn told(events: Vec<(Option<String>, Value)>) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    for (n, (event, mut data)) in events.into_iter().enumerate() {
        if let Some(number) = data.get_mut("sequence_number") {
            assert_eq!(*number, n);
            *number = json!(0);
        }
        let delta = take_delta(&mut data);
        match (all.last_mut(), &delta) {
            (Some(last), Some(delta)) if last.data == data && last.delta.is_some() => {
                last.delta.as_mut().unwrap().push_str(delta);
            }
            _ => all.push(Told { event, data, delta }),
        }
    }
    for told in &mut all {
        let text = told.data.to_string();
        let is_arguments = ["arguments", "partial_json"].iter().any(|key| text.contains(key));
        if let (true, Some(delta)) = (is_arguments, &mut told.delta)
            && let Ok(value) = serde_json::from_str::<Value>(delta)
        {
            *delta = value.to_string();
        }
    }
    all
}

fn theirs(case: &Value) -> Vec<Told> {
    let text = case["body"].as_str().unwrap();
    let mut events = Vec::new();
    for block in text.split("\n\n").filter(|block| !block.is_empty()) {
        let mut event = None;
        let mut data = Value::Null;
        for line in block.lines() {
            if let Some(name) = line.strip_prefix("event: ") {
                event = Some(name.to_owned());
            } else if let Some(json) = line.strip_prefix("data: ") {
                data = serde_json::from_str(json).unwrap_or_else(|_| json!(json));
            }
        }
        events.push((event, data));
    }
    told(events)
}

fn ours(case: &Value) -> Vec<Told> {
    let (events, finish) = parsed(case);
    let frames = stream(&asked(case), meta_id(case), &events, &finish, &usage(case));
    let data = |data: &str| serde_json::from_str(data).unwrap_or_else(|_| json!(data));
    let events = frames.iter().map(|f| (f.event.map(str::to_owned), data(&f.data)));
    told(events.collect())
}

/// What our output says where ds4's differs on purpose: reasoning, text, calls, end.
struct Deviation {
    case: &'static str,
    reasoning: &'static str,
    text: &'static str,
    /// Names and arguments.
    calls: &'static [(&'static str, &'static str)],
    /// The end in the words of Chat Completions.
    end: &'static str,
}

const LS: (&str, &str) = ("bash", r#"{"command":"ls -l","timeout":10}"#);

/// Every output about which the two servers disagree, by the end of the case's name.
const DEVIATIONS: [Deviation; 6] = [
    // Entities are text: `&lt;` in a command stays what it is.
    Deviation {
        case: "tool-entities",
        reasoning: "",
        text: "",
        calls: &[("bash", r#"{"command":"echo &lt;a&gt; &amp;&amp; 1 < 2"}"#)],
        end: "tool_calls",
    },
    // A block that is none is text, without its marks, in streams and bodies alike.
    Deviation {
        case: "tool-malformed",
        reasoning: "",
        text: "Ok\n\n\nnot an invoke\n",
        calls: &[],
        end: "stop",
    },
    // A call that broke off is closed and never looks complete.
    Deviation {
        case: "tool-unterminated",
        reasoning: "",
        text: "Ok",
        calls: &[("bash", r#"{"command":"ls "#)],
        end: "length",
    },
    // A model that stops after a call inside its reasoning means the call.
    Deviation {
        case: "tool-inside-think-unclosed",
        reasoning: "maybe",
        text: "",
        calls: &[LS],
        end: "tool_calls",
    },
    // Without tools there are no calls.
    Deviation {
        case: "tool-not-declared",
        reasoning: "",
        text: "Ok\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"bash\">\n<｜DSML｜parameter \
               name=\"command\" string=\"true\">ls -l</｜DSML｜parameter>\n<｜DSML｜parameter \
               name=\"timeout\" string=\"false\">10</｜DSML｜parameter>\n</｜DSML｜invoke>\n\
               </｜DSML｜tool_calls>",
        calls: &[],
        end: "stop",
    },
    // Reasoning that is never closed is reasoning in a body too. ds4's streams agree with ours.
    Deviation {
        case: "json-think-length",
        reasoning: "never finished thinking",
        text: "",
        calls: &[],
        end: "length",
    },
];

fn deviation(case: &Value) -> Option<&'static Deviation> {
    DEVIATIONS.iter().find(|d| case["id"].as_str().unwrap().ends_with(d.case))
}

/// Takes back what all our streams and bodies do differently, and checks that it is there.
fn undo(api: Api, told: &mut Vec<Told>) {
    match api {
        Api::Chat | Api::Completions => {
            for told in told.iter_mut().filter(|told| told.data.get("usage").is_some()) {
                undo_usage(&mut told.data["usage"]);
            }
        }
        Api::Messages => {
            assert_eq!(told[1].event.as_deref(), Some("ping"), "right after the start");
            told.remove(1);
            for told in told.iter_mut() {
                rename_message(&mut told.data);
                if told.event.as_deref() == Some("message_delta") {
                    let output = told.data["usage"]["output_tokens"].clone();
                    assert_eq!(told.data["usage"].as_object().unwrap().len(), 4);
                    told.data["usage"] = json!({"output_tokens": output});
                }
            }
        }
        Api::Responses => {
            let mut in_progress = told.remove(1);
            in_progress.data["type"] = json!("response.created");
            assert_eq!(in_progress.data, told[0].data);
            for told in told.iter_mut() {
                assert_eq!(told.event.take().as_deref(), told.data["type"].as_str());
                if let Some(logprobs) = told.data.as_object_mut().unwrap().remove("logprobs") {
                    assert!(told.data["type"].as_str().unwrap().contains("output_text"));
                    assert_eq!(logprobs, json!([]));
                }
                rename_reason(&mut told.data["response"]);
                if told.data["response"].is_null() {
                    told.data.as_object_mut().unwrap().remove("response");
                }
            }
            let mut names = BTreeMap::new();
            for told in told {
                number_ids(&mut told.data, &mut names);
            }
        }
    }
}

/// Our counts say more.
fn undo_usage(usage: &mut Value) {
    for key in ["completion_tokens_details", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"]
    {
        assert!(usage.as_object_mut().unwrap().shift_remove(key).is_some(), "{key}");
    }
}

/// Our ids of messages are Anthropic's.
fn rename_message(value: &mut Value) {
    match value {
        Value::String(text) if text == "msg_1" => "chatcmpl-1".clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(rename_message),
        Value::Object(object) => object.values_mut().for_each(rename_message),
        _ => {}
    }
}

/// Our reason for an incomplete response is OpenAI's.
fn rename_reason(response: &mut Value) {
    if let Some(reason) = response.pointer_mut("/incomplete_details/reason") {
        assert_eq!(*reason, "max_output_tokens");
        *reason = json!("max_tokens");
    }
}

/// Ids of items as the fixtures number them.
fn number_ids(value: &mut Value, names: &mut BTreeMap<String, String>) {
    match value {
        Value::String(id) => {
            let prefix = ["rs_", "msg_", "fc_"].into_iter().find(|p| id.starts_with(p));
            if let Some(prefix) = prefix {
                let n = names.keys().filter(|name| name.starts_with(prefix)).count();
                let name = names.entry(id.clone()).or_insert_with(|| format!("{prefix}ID{n}"));
                id.clone_from(name);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| number_ids(item, names)),
        Value::Object(object) => object.values_mut().for_each(|item| number_ids(item, names)),
        _ => {}
    }
}

/// ds4 closes the reasoning at the very end; OpenAI, and we, before the next item opens.
fn close_reasoning_first(told: &mut Vec<Told>) {
    let is_end = |told: &Told| {
        let kind = told.data["type"].as_str().unwrap_or_default();
        let is_item =
            kind == "response.output_item.done" && told.data["item"]["type"] == "reasoning";
        kind.starts_with("response.reasoning_summary") && kind.ends_with("done") || is_item
    };
    let last = |told: &Told| told.data["type"] == "response.reasoning_summary_text.delta";
    if let Some(at) = told.iter().rposition(last) {
        let (ends, mut rest): (Vec<_>, Vec<_>) = told.drain(..).partition(is_end);
        let after = rest.split_off(at + 1);
        rest.extend(ends);
        rest.extend(after);
        *told = rest;
    }
}

#[test]
fn streams_as_ds4_writes_them() {
    let cases = packed_cases("sse_ds4.json.gz");
    let mut n = 0;
    for case in cases.iter().filter(|c| c["mode"] == "stream" && deviation(c).is_none()) {
        let (mut theirs, mut ours) = (theirs(case), ours(case));
        close_reasoning_first(&mut theirs);
        undo(api(case), &mut ours);
        let lines = |told: &[Told]| {
            let line = |t: &Told| format!("{:?} {} {:?}", t.event, t.data, t.delta);
            told.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(lines(&ours), lines(&theirs), "{}", case["id"]);
        n += 1;
    }
    assert_eq!(n, 32);
}

#[test]
fn bodies_as_ds4_writes_them() {
    let cases = packed_cases("sse_ds4.json.gz");
    let mut n = 0;
    for case in cases.iter().filter(|c| c["mode"] == "json" && deviation(c).is_none()) {
        let (events, finish) = parsed(case);
        let mut ours = body(&asked(case), meta_id(case), &events, &finish, &usage(case));
        match api(case) {
            Api::Chat | Api::Completions => undo_usage(&mut ours["usage"]),
            Api::Messages => rename_message(&mut ours),
            Api::Responses => {
                rename_reason(&mut ours);
                number_ids(&mut ours, &mut BTreeMap::new());
            }
        }
        assert_eq!(ours.to_string(), case["body"].as_str().unwrap().trim_end(), "{}", case["id"]);
        n += 1;
    }
    assert_eq!(n, 25);
}

/// What an answer says, whatever its form: reasoning, text, names and arguments of calls, end.
type Said = (String, String, Vec<(String, String)>, String);

fn said_by_chat(body: &Value) -> Said {
    let choice = &body["choices"][0];
    let text = |key: &str| choice["message"][key].as_str().unwrap_or_default().to_owned();
    let calls = choice["message"]["tool_calls"].as_array().into_iter().flatten().map(|call| {
        let of = |key: &str| call["function"][key].as_str().unwrap().to_owned();
        (of("name"), of("arguments"))
    });
    let end = choice["finish_reason"].as_str().unwrap().to_owned();
    (text("reasoning_content"), text("content"), calls.collect(), end)
}

#[test]
fn where_ds4_is_not_followed() {
    let cases = packed_cases("sse_ds4.json.gz");
    let mut n = 0;
    for case in &cases {
        let Some(deviation) = deviation(case) else { continue };
        let (events, finish) = parsed(case);
        // All four forms say the same; Chat Completions has all of it.
        let chat = Request { api: Api::Chat, ..asked(case) };
        let said = said_by_chat(&body(&chat, "1", &events, &finish, &usage(case)));
        let calls =
            deviation.calls.iter().map(|(n, a)| ((*n).to_owned(), (*a).to_owned())).collect();
        let expected =
            (deviation.reasoning.into(), deviation.text.into(), calls, deviation.end.into());
        assert_eq!(said, expected, "{}", case["id"]);
        if case["mode"] == "stream" {
            let told = ours(case);
            let deltas: String = told.iter().filter_map(|t| t.delta.clone()).collect();
            assert!(deltas.contains(deviation.text), "{}: {deltas}", case["id"]);
        }
        n += 1;
    }
    assert_eq!(n, 75 - 32 - 25);
}
