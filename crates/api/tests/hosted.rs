//! Requests of all APIs under the hosted API's rules: random bodies, converted and refused exactly
//! as by the vendor's own code.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../text/tests/common/mod.rs"]
mod common;
mod support;

use common::{cases, ids, tokenizer};
use ds4_api::check::render_json;
use ds4_api::{Request, RequestError, Rules, chat, messages, responses};
use ds4_text::{Profile, Segment, Thinking, render};
use serde_json::{Value, json};
use support::packed_cases;

fn convert(case: &Value) -> Result<Request, RequestError> {
    let convert = match case["protocol"].as_str().unwrap() {
        "chat" => chat::convert,
        "messages" => messages::convert,
        "responses" => responses::convert,
        other => panic!("{other}"),
    };
    convert(&case["body"], Rules::Hosted)
}

#[test]
fn random_requests_as_the_hosted_api() {
    let cases = packed_cases("random_requests.json.gz");
    let (mut n_served, mut n_refused) = (0, 0);
    for case in &cases {
        let id = &case["id"];
        match (convert(case), case.get("prompt")) {
            (Ok(request), Some(prompt)) => {
                check_prompt(case, &request, prompt);
                check_settings(case, &request);
                n_served += 1;
            }
            (Err(error), None) => {
                assert_eq!(error.openai_body(), case["error"]["body"], "{id}");
                assert_eq!(error.status, case["error"]["status"], "{id}");
                n_refused += 1;
            }
            (Ok(_), None) => panic!("{id} was accepted: {}", case["error"]),
            (Err(error), Some(_)) => panic!("{id} was refused: {error}"),
        }
    }
    assert_eq!((n_served, n_refused), (157, 93));
}

#[test]
fn chosen_requests_as_the_hosted_api() {
    let cases: Vec<Value> =
        cases("requests_2607.json").into_iter().filter(|c| c["protocol"] != "chat").collect();
    assert_eq!(cases.len(), 12 + 11);
    for case in &cases {
        match case.get("prompt") {
            Some(prompt) => {
                let request = convert(case).unwrap();
                check_prompt(case, &request, prompt);
                check_settings(case, &request);
            }
            None => check_error(case, &convert(case).unwrap_err()),
        }
    }
    let found = render_json(tokenizer(), Profile::July, &Value::Array(cases.clone())).unwrap();
    for (case, found) in cases.iter().zip(found.as_array().unwrap()) {
        assert_eq!(found.get("prompt"), case.get("prompt"), "{}", case["id"]);
        if case.get("prompt").is_some() {
            assert_eq!(ids(&found["token_ids"]), ids(&case["token_ids"]), "{}", case["id"]);
        }
    }
}

/// Bodies that the vendor's code cannot even read have no body for the client.
fn check_error(case: &Value, error: &RequestError) {
    if let Some(body) = case["error"].get("body") {
        assert_eq!(error.openai_body(), *body, "{}", case["id"]);
    } else {
        let theirs = case["error"]["text"].as_str().unwrap();
        assert_eq!(error.message, theirs, "{}", case["id"]);
    }
}

fn check_prompt(case: &Value, request: &Request, expected: &Value) {
    let id = &case["id"];
    let prompt = render(Profile::July, &request.conversation).unwrap();
    assert_eq!(prompt.to_text(), expected.as_str().unwrap(), "{id}");
    let (mut at, mut ranges) = (0, Vec::new());
    for segment in prompt.segments() {
        match segment {
            Segment::Plain(text) => at += text.chars().count(),
            Segment::Control(control) => {
                let end = at + control.text().chars().count();
                ranges.push([at, end]);
                at = end;
            }
            Segment::Sampled(_) => panic!("{id}: nothing was sampled"),
        }
    }
    assert_eq!(json!(ranges), case["special_ranges_codepoints"], "{id}");
}

fn check_settings(case: &Value, request: &Request) {
    let id = &case["id"];
    let (temperature, top_p) = request.hosted_sampling();
    for (ours, theirs) in [(temperature, "temperature"), (top_p, "top_p")] {
        let theirs = case[theirs].as_f64().unwrap();
        assert!((f64::from(ours) - theirs).abs() < 1e-6, "{id}: {ours} {theirs}");
    }
    let thinks = request.conversation.thinking != Thinking::Off;
    assert_eq!(json!(thinks), case["thinking"], "{id}");
    assert_eq!(json!(request.max_tokens), case["max_tokens"], "{id}");
    assert_eq!(json!(request.stop), case["stop_sequences"], "{id}");
    assert_eq!(json!(request.stream), case["stream"], "{id}");
    assert_eq!(json!(request.conversation.opens_block()), case["starts_in_tool_calls"], "{id}");
}
