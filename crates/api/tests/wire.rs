//! Shapes of streams and bodies that no recording has: ends, failures, signs of life, log
//! probabilities, tools that are not plain functions.

mod support;

use std::time::Duration;

use ds4_api::wire::{BodyWriter, Finish, Frame, StreamWriter, TokenLogprob, Usage};
use ds4_api::{Alias, Api, ApiError, Request};
use ds4_text::parse::Event;
use serde_json::{Value, json};
use support::{body, data, ids, meta, request, stream};

const APIS: [Api; 4] = [Api::Chat, Api::Completions, Api::Messages, Api::Responses];
const USAGE: Usage = Usage { prompt: 10, cached: 6, cache_write: 3, completion: 5, reasoning: 2 };

fn thinking(text: &str) -> Event {
    Event::Thinking(text.to_owned())
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

/// A whole call in pieces.
fn call(index: usize, name: &str, pieces: &[&str]) -> Vec<Event> {
    let mut events = vec![Event::ToolStart { index, name: name.to_owned() }];
    let piece = |piece: &&str| Event::ToolArgs { index, delta: (*piece).to_owned() };
    events.extend(pieces.iter().map(piece));
    events.push(Event::ToolEnd { index, arguments: Some(pieces.concat()) });
    events
}

fn lines(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(|frame| frame.to_string().trim_end().replace('\n', " ")).collect()
}

#[test]
fn every_end_in_every_api() {
    let stop = Finish::StopSequence("END".to_owned());
    for (finish, chat, messages, responses) in [
        (Finish::Stop, "stop", json!(["end_turn", null]), json!(["completed", null])),
        (stop, "stop", json!(["stop_sequence", "END"]), json!(["completed", null])),
        (
            Finish::Length,
            "length",
            json!(["max_tokens", null]),
            json!(["incomplete", "max_output_tokens"]),
        ),
        (
            Finish::ContextFull,
            "length",
            json!(["model_context_window_exceeded", null]),
            json!(["incomplete", "max_output_tokens"]),
        ),
        // No call came out, so none is announced.
        (Finish::ToolCalls, "stop", json!(["end_turn", null]), json!(["completed", null])),
    ] {
        let events = [thinking("t"), text("a")];
        let of = |api: Api| {
            let frames = data(&stream(&request(api), "1", &events, &finish, &USAGE));
            (frames, body(&request(api), "1", &events, &finish, &USAGE))
        };
        for api in [Api::Chat, Api::Completions] {
            let (frames, body) = of(api);
            assert_eq!(frames.last().unwrap()["choices"][0]["finish_reason"], chat);
            assert_eq!(body["choices"][0]["finish_reason"], chat);
        }
        let (frames, body) = of(Api::Messages);
        let delta = &frames[frames.len() - 2]["delta"];
        assert_eq!(json!([delta["stop_reason"], delta["stop_sequence"]]), messages);
        assert_eq!(json!([body["stop_reason"], body["stop_sequence"]]), messages);
        let (frames, body) = of(Api::Responses);
        let last = frames.last().unwrap();
        assert_eq!(
            json!([last["response"]["status"], body["incomplete_details"]["reason"]]),
            responses
        );
        let status = responses[0].as_str().unwrap();
        assert_eq!(last["type"], format!("response.{status}"));
        assert_eq!(last["response"], body);
        assert_eq!(body["output"][0]["status"], status);
        assert_eq!(body["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
    }
}

#[test]
fn a_call_that_broke_off_is_never_complete() {
    let mut events = call(0, "f", &["{\"a\":1,\"b\":\"x"]);
    events.pop();
    events.push(Event::ToolEnd { index: 0, arguments: None });
    for finish in [Finish::Stop, Finish::ToolCalls, Finish::Length] {
        let of = |api: Api| body(&request(api), "1", &events, &finish, &USAGE);
        let chat = of(Api::Chat);
        assert_eq!(chat["choices"][0]["finish_reason"], "length");
        let messages = of(Api::Messages);
        assert_eq!(messages["stop_reason"], "max_tokens");
        assert_eq!(messages["content"][0]["input"], json!({"a": 1}));
        let responses = of(Api::Responses);
        assert_eq!(responses["status"], "incomplete");
        assert_eq!(responses["output"][0]["status"], "incomplete");
        assert_eq!(responses["output"][0]["arguments"], "{\"a\":1,\"b\":\"x");
        // In a stream of blocks every block is closed.
        let frames = data(&stream(&request(Api::Messages), "1", &events, &finish, &USAGE));
        let count = |kind: &str| frames.iter().filter(|frame| frame["type"] == kind).count();
        assert_eq!(count("content_block_start"), count("content_block_stop"));
    }
}

#[test]
fn only_one_call_when_the_client_takes_one() {
    let mut events = call(0, "f", &["{}"]);
    events.extend(call(1, "g", &["{}"]));
    events.push(text("more"));
    for api in APIS {
        let mut request = request(api);
        request.parallel_tool_calls = false;
        let mut writer = StreamWriter::new(&request, meta("1"), ids());
        let mut frames = writer.start(&USAGE);
        for (n, event) in events.iter().enumerate() {
            assert_eq!(writer.is_full(), n > 2, "{api:?}");
            frames.extend(writer.event(event));
        }
        frames.extend(writer.finish(&Finish::ToolCalls, &USAGE));
        assert_eq!(writer.call_ids().len(), 1);
        let all = lines(&frames).concat();
        assert!(!all.contains("\"g\"") && !all.contains("more"), "{all}");
        let body = body(&request, "1", &events, &Finish::ToolCalls, &USAGE).to_string();
        assert!(!body.contains("\"g\"") && !body.contains("more"), "{body}");
    }
}

#[test]
fn ids_of_calls_are_handed_out_in_order() {
    let events = [call(0, "f", &["{}"]), call(1, "g", &["{}"])].concat();
    for (api, prefix) in
        [(Api::Chat, "call_"), (Api::Messages, "toolu_"), (Api::Responses, "call_")]
    {
        let mut writer = BodyWriter::new(&request(api), meta("1"), ids());
        for event in &events {
            writer.event(event);
        }
        let handed_out = writer.call_ids().to_vec();
        assert_eq!(handed_out, [format!("{prefix}ID0"), format!("{prefix}ID1")]);
        let body = writer.finish(&Finish::Stop, &USAGE).to_string();
        assert!(handed_out.iter().all(|id| body.contains(id)), "{body}");
    }
}

#[test]
fn failures_after_the_headers() {
    let error = ApiError::internal("boom").with_request_id("req_1");
    let of = |api: Api| {
        let mut writer = StreamWriter::new(&request(api), meta("1"), ids());
        writer.start(&USAGE);
        writer.event(&text("a"));
        let frames = writer.fail(&error);
        assert!(writer.fail(&error).is_empty(), "one terminal event");
        assert!(writer.finish(&Finish::Stop, &USAGE).is_empty());
        assert!(writer.event(&text("b")).is_empty());
        assert_eq!(writer.keep_alive(Duration::from_mins(5)), None);
        lines(&frames)
    };
    let openai = "event: error data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\",\
                  \"param\":null,\"code\":null}}";
    assert_eq!(of(Api::Chat), [openai]);
    assert_eq!(of(Api::Completions), [openai]);
    assert_eq!(
        of(Api::Messages),
        ["event: error data: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\
          \"message\":\"boom\"},\"request_id\":\"req_1\"}"]
    );
    let responses = of(Api::Responses);
    assert!(responses[2].contains("\"status\":\"incomplete\""), "{responses:?}");
    assert_eq!(
        responses.last().unwrap(),
        "event: response.failed data: {\"type\":\"response.failed\",\"sequence_number\":8,\
         \"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"created_at\":0,\
         \"status\":\"failed\",\"model\":\"deepseek-v4-flash\",\
         \"error\":{\"code\":\"server_error\",\
         \"message\":\"boom\"},\"output\":[{\"id\":\"msg_10000\",\"type\":\"message\",\
         \"status\":\"incomplete\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\
         \"text\":\"a\",\"annotations\":[]}]}]}}"
    );
}

#[test]
fn signs_of_life() {
    let beat = |api: Api, seconds: u64| {
        let mut writer = StreamWriter::new(&request(api), meta("1"), ids());
        let quiet = Duration::from_secs(seconds);
        assert!(writer.keep_alive(quiet).unwrap().is_comment(), "nothing before the start");
        writer.start(&USAGE);
        writer.keep_alive(quiet).unwrap()
    };
    assert_eq!(beat(Api::Chat, 5).to_string(), ": keepalive\n\n");
    assert_eq!(beat(Api::Completions, 500).to_string(), ": keepalive\n\n");
    assert_eq!(beat(Api::Messages, 5).to_string(), "event: ping\ndata: {\"type\":\"ping\"}\n\n");
    assert_eq!(beat(Api::Responses, 59).to_string(), ": keepalive\n\n");
    let event = beat(Api::Responses, 60);
    assert!(!event.is_comment());
    assert_eq!(event.event, Some("response.in_progress"));
    assert!(event.data.contains("\"sequence_number\":2"), "{}", event.data);
}

#[test]
fn log_probabilities_go_with_their_text() {
    let token = |text: &str, logprob: f32| TokenLogprob {
        bytes: text.as_bytes().to_vec(),
        logprob,
        top: vec![(text.as_bytes().to_vec(), logprob), (b"z".to_vec(), -9.5)],
    };
    let run = |api: Api| {
        let mut request = request(api);
        request.top_logprobs = Some(2);
        let mut writer = StreamWriter::new(&request, meta("1"), ids());
        let mut frames = writer.start(&USAGE);
        writer.attach(token("t", -0.25));
        frames.extend(writer.event(&thinking("t")));
        // Text may be held back over several tokens.
        writer.attach(token("a", -0.5));
        writer.attach(token("é", -1.5));
        frames.extend(writer.event(&text("aé")));
        frames.extend(writer.finish(&Finish::Stop, &USAGE));
        let mut writer = BodyWriter::new(&request, meta("1"), ids());
        writer.attach(token("t", -0.25));
        writer.event(&thinking("t"));
        writer.attach(token("a", -0.5));
        writer.attach(token("é", -1.5));
        writer.event(&text("aé"));
        (data(&frames), writer.finish(&Finish::Stop, &USAGE))
    };
    let entry = |text: &str, logprob: f64| {
        let of = |text: &str, logprob: f64| {
            let bytes = text.as_bytes();
            json!({"token": text, "logprob": logprob, "bytes": bytes})
        };
        let mut entry = of(text, logprob);
        entry["top_logprobs"] = json!([of(text, logprob), of("z", -9.5)]);
        entry
    };
    let (frames, body) = run(Api::Chat);
    let entries = json!([entry("a", -0.5), entry("é", -1.5)]);
    assert_eq!(frames[2]["choices"][0]["logprobs"]["content"], entries);
    assert_eq!(frames[0]["choices"][0]["logprobs"], Value::Null);
    assert_eq!(body["choices"][0]["logprobs"]["content"], entries);
    assert_eq!(body["choices"][0]["logprobs"]["reasoning_content"], json!([entry("t", -0.25)]));
    let (frames, body) = run(Api::Completions);
    let lists = json!({
        "tokens": ["a", "é"], "token_logprobs": [-0.5, -1.5],
        "top_logprobs": [{"a": -0.5, "z": -9.5}, {"é": -1.5, "z": -9.5}], "text_offset": [0, 1],
    });
    assert_eq!(frames[0]["choices"][0]["logprobs"], lists);
    assert_eq!(body["choices"][0]["logprobs"], lists);
    let (frames, body) = run(Api::Responses);
    let delta = frames.iter().find(|f| f["type"] == "response.output_text.delta").unwrap();
    assert_eq!(delta["logprobs"], entries);
    assert_eq!(body["output"][0]["content"][0]["logprobs"], entries);
}

#[test]
fn several_prompts_are_several_choices() {
    let mut request = request(Api::Completions);
    request.include_usage = true;
    let mut writer = StreamWriter::new(&request, meta("1"), ids());
    let mut frames = writer.start(&USAGE);
    frames.extend(writer.event(&text("a")));
    frames.extend(writer.next_choice(&Finish::Length, &USAGE));
    frames.extend(writer.event(&text("b")));
    frames.extend(writer.finish(&Finish::Stop, &USAGE));
    let choices: Vec<Value> = data(&frames).iter().map(|f| f["choices"][0].clone()).collect();
    assert_eq!(
        json!(choices),
        json!([
            {"text": "a", "index": 0, "finish_reason": null},
            {"text": "", "index": 0, "finish_reason": "length"},
            {"text": "b", "index": 1, "finish_reason": null},
            {"text": "", "index": 1, "finish_reason": "stop"},
            null,
        ])
    );
    assert_eq!(data(&frames)[4]["usage"]["total_tokens"], 30);
    let mut writer = BodyWriter::new(&request, meta("1"), ids());
    writer.event(&text("a"));
    writer.next_choice(&Finish::Length, &USAGE);
    writer.event(&text("b"));
    let body = writer.finish(&Finish::Stop, &USAGE);
    assert_eq!(
        body["choices"],
        json!([
            {"text": "a", "index": 0, "finish_reason": "length"},
            {"text": "b", "index": 1, "finish_reason": "stop"},
        ])
    );
    assert_eq!(body["usage"]["prompt_tokens"], 20);
}

/// A request of the Responses API with tools of all kinds.
fn with_aliases() -> Request {
    let mut request = request(Api::Responses);
    let namespaced = Alias::Namespaced { namespace: "mcp__a".into(), name: "t".into() };
    for (name, alias) in [
        ("mcp__a__t", namespaced),
        ("patch", Alias::Custom { format: None }),
        ("tool_search", Alias::ToolSearch),
    ] {
        request.aliases.insert(name.to_owned(), alias);
    }
    request
}

#[test]
fn calls_as_the_client_knows_its_tools() {
    let events = [
        call(0, "mcp__a__t", &["{", "\"x\":1}"]),
        call(1, "patch", &["{", "\"input\":\"*** ", "Begin\\n", "+a\"}"]),
        call(2, "tool_search", &["{\"q\":\"mail\"}"]),
        call(3, "patch", &["{\"text\":\"b\"}"]),
    ]
    .concat();
    let frames = stream(&with_aliases(), "1", &events, &Finish::ToolCalls, &USAGE);
    let all = data(&frames);
    let of = |kind: &str, key: &str| -> Vec<Value> {
        all.iter().filter(|f| f["type"] == kind).map(|f| f[key].clone()).collect()
    };
    assert_eq!(of("response.function_call_arguments.done", "namespace"), [json!("mcp__a")]);
    assert_eq!(of("response.function_call_arguments.done", "name"), [json!("t")]);
    assert_eq!(
        of("response.custom_tool_call_input.delta", "delta"),
        ["*** ", "Begin\n", "+a", "b"].map(|delta| json!(delta))
    );
    assert_eq!(
        of("response.custom_tool_call_input.done", "input"),
        [json!("*** Begin\n+a"), json!("b")]
    );
    let output = json!([
        {"id": "fc_10000", "type": "function_call", "status": "completed", "name": "t",
         "namespace": "mcp__a", "call_id": "call_ID0", "arguments": "{\"x\":1}"},
        {"id": "ctc_10001", "type": "custom_tool_call", "status": "completed",
         "call_id": "call_ID1", "name": "patch", "input": "*** Begin\n+a"},
        {"id": "tsc_10002", "type": "tool_search_call", "status": "completed",
         "call_id": "call_ID2", "execution": "client", "arguments": {"q": "mail"}},
        {"id": "ctc_10003", "type": "custom_tool_call", "status": "completed",
         "call_id": "call_ID3", "name": "patch", "input": "b"},
    ]);
    assert_eq!(all.last().unwrap()["response"]["output"].to_string(), output.to_string());
    let body = body(&with_aliases(), "1", &events, &Finish::ToolCalls, &USAGE);
    assert_eq!(body["output"], output);
    let done = of("response.output_item.done", "item");
    assert_eq!(json!(done), output);
}

#[test]
fn reasoning_is_shown_as_far_as_it_was_asked_for() {
    let events = [thinking("why"), text("a")];
    let run = |summary: bool, encrypted_reasoning: bool| {
        let mut request = request(Api::Responses);
        request.responses.summary = summary;
        request.responses.encrypted_reasoning = encrypted_reasoning;
        let frames = data(&stream(&request, "1", &events, &Finish::Stop, &USAGE));
        let kinds: Vec<String> = frames
            .iter()
            .filter_map(|f| f["type"].as_str().map(str::to_owned))
            .filter(|kind| kind.contains("reasoning"))
            .collect();
        (frames.last().unwrap()["response"]["output"].clone(), kinds.len())
    };
    assert_eq!(run(false, false).0[0]["type"], "message");
    let (output, n) = run(true, false);
    assert_eq!(output[0]["summary"], json!([{"type": "summary_text", "text": "why"}]));
    assert_eq!((output[0].get("encrypted_content"), n), (None, 4));
    let (output, n) = run(false, true);
    assert_eq!((&output[0]["summary"], n), (&json!([]), 0));
    assert_eq!(output[0]["encrypted_content"], "ds4:why");
    assert_eq!(output[1]["id"], "msg_10001");
}
