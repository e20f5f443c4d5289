//! Parsing model output against the vendor's parsers, and by the rules where they give up.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../text/tests/common/mod.rs"]
mod common;

use common::cases;
use ds4_api::check::parse_json;
use serde_json::{Value, json};

/// Where the strict parser succeeds and the rules demand something else: lost bars are forgiven.
const FORGIVEN: [&str; 2] = ["short-dsml", "plain-xml"];

#[test]
fn as_the_strict_parser_where_it_succeeds() {
    let cases = [cases("parse.json"), cases("random_parse.json")].concat();
    assert_eq!(cases.len(), 34 + 80);
    let found = parse_json(&Value::Array(cases.clone())).unwrap();
    let mut n_strict = 0;
    for (case, found) in cases.iter().zip(found.as_array().unwrap()) {
        let strict = &case["official_strict"];
        let id = case["id"].as_str().unwrap();
        if strict.get("error").is_some() || FORGIVEN.contains(&id) {
            continue;
        }
        n_strict += 1;
        for field in ["content", "reasoning_content"] {
            assert_eq!(found[field], strict[field], "{id}: {field}");
        }
        assert_eq!(arguments(found), arguments(strict), "{id}");
        let has_calls = strict["tool_calls"] != json!([]);
        assert_eq!(found["finish_reason"], if has_calls { "tool_calls" } else { "stop" }, "{id}");
    }
    assert_eq!(n_strict, 14 + 80);
}

/// Names and arguments as JSON values, whose key order counts.
fn arguments(message: &Value) -> Vec<(String, String)> {
    let call = |call: &Value| {
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        (call["name"].as_str().unwrap().to_owned(), arguments.to_string())
    };
    message["tool_calls"].as_array().unwrap().iter().map(call).collect()
}

#[test]
fn by_the_rules_where_the_strict_parser_gives_up() {
    let weather = json!([["get_weather", {"location": "Paris", "unit": "celsius"}]]);
    let f_v = json!([["f", {"a": "v"}]]);
    for (id, reasoning, content, calls) in [
        ("attr-order", "r", "pre", f_v.clone()),
        ("bad-string-attr", "r", "pre", f_v.clone()),
        ("double-bar", "r", "*raw", json!([])),
        ("dup-param", "r", "pre", json!([["f", {"a": "2"}]])),
        ("function_calls-v32", "r", "pre", weather.clone()),
        ("json-body", "r", "pre", json!([["f", {"a": "v", "n": 1}]])),
        ("mention-dsml", "I could write <｜DSML｜tool_calls> but no", "fine", json!([])),
        ("missing-string-attr", "r", "pre", f_v.clone()),
        ("nested-param", "r", "pre", json!([["f", {"opts": {"x": 1, "y": "z"}}]])),
        ("only-in-think", "maybe", "", weather.clone()),
        ("partial-dsml-end", "r", "text ", json!([])),
        ("partial-in-think", "plan <｜DSML｜invoke name=\"x\"> hmm", "done", json!([])),
        ("plain-xml", "r", "pre", f_v.clone()),
        ("reopened-think", "again", "ok", json!([])),
        ("second-block", "r", "pre", weather.clone()),
        ("sep-none", "r", "text", weather.clone()),
        ("short-dsml", "r", "pre", f_v.clone()),
        ("text-after", "r", "pre", weather.clone()),
        ("toolcalls-typo", "r", "pre", weather.clone()),
        ("unclosed-param", "r", "pre", json!([])),
    ] {
        let case = cases("parse.json").into_iter().find(|case| case["id"] == id).unwrap();
        let raw = case["raw_without_eos"].as_str().unwrap().to_owned();
        let found = &parse_json(&json!([case])).unwrap()[0];
        assert_eq!(found["reasoning_content"], reasoning, "{id}");
        let content =
            if content == "*raw" { raw.strip_prefix("r</think>").unwrap() } else { content };
        assert_eq!(found["content"], content, "{id}");
        check_calls(found, &calls, id);
    }
}

fn check_calls(found: &Value, expected: &Value, id: &str) {
    let expected: Vec<(String, String)> = expected
        .as_array()
        .unwrap()
        .iter()
        .map(|call| (call[0].as_str().unwrap().to_owned(), call[1].to_string()))
        .collect();
    assert_eq!(arguments(found), expected, "{id}");
    let reason = if expected.is_empty() { "stop" } else { "tool_calls" };
    assert_eq!(found["finish_reason"], reason, "{id}");
}

/// Each of these tags could begin the block that ends the output: taken as one piece they would be
/// searched again from each, which takes minutes.
#[test]
fn long_hostile_output_is_parsed_in_time_that_grows_with_its_length() {
    let raw = "<｜DSML｜".repeat(100_000);
    let started = std::time::Instant::now();
    let found = parse_json(&json!([{"thinking": true, "raw_without_eos": raw}])).unwrap();
    assert_eq!(found[0]["reasoning_content"], raw);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
