//! Chat requests: settings as the hosted API resolves them, and what lenient rules forgive.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../text/tests/common/mod.rs"]
mod common;

use common::cases;
use ds4_api::{Request, RequestError, Rules, chat};
use ds4_text::{Effort, Profile, Thinking, ToolChoice, render};
use serde_json::{Value, json};

#[test]
fn settings_as_the_hosted_api_resolves_them() {
    let all = [cases("requests_2607.json"), cases("random_2607.json")].concat();
    let mut n = 0;
    for case in all.iter().filter(|c| c["protocol"] == "chat" && c["prompt"].is_string()) {
        let id = &case["id"];
        let request = chat::convert(&case["body"], Rules::Hosted).unwrap();
        let thinks = request.conversation.thinking != Thinking::Off;
        assert_eq!(json!(thinks), case["thinking"], "{id}");
        let (temperature, top_p) = request.hosted_sampling();
        for (ours, theirs) in [(temperature, "temperature"), (top_p, "top_p")] {
            let theirs = case[theirs].as_f64().unwrap();
            assert!((f64::from(ours) - theirs).abs() < 1e-6, "{id}: {ours} {theirs}");
        }
        assert_eq!(json!(request.max_tokens), case["max_tokens"], "{id}");
        assert_eq!(json!(request.sampling.seed), case["seed"], "{id}");
        if let Some(stop) = case.get("stop_sequences") {
            assert_eq!(&json!(request.stop), stop, "{id}");
            assert_eq!(request.conversation.opens_block(), case["starts_in_tool_calls"], "{id}");
        }
        n += 1;
    }
    assert_eq!(n, 24 + 58);
}

fn convert(change: Value) -> Result<Request, RequestError> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let Value::Object(change) = change else { panic!("an object") };
    body.as_object_mut().unwrap().extend(change);
    chat::convert(&body, Rules::Lenient)
}

#[test]
fn thinking_is_what_the_request_says() {
    let high = Thinking::On(Effort::High);
    for (change, expected) in [
        (json!({}), high),
        (json!({"thinking": true}), high),
        (json!({"thinking": false}), Thinking::Off),
        (json!({"think": false}), Thinking::Off),
        (json!({"thinking": {"type": "disabled"}, "reasoning_effort": "max"}), Thinking::Off),
        (json!({"thinking": {"type": "adaptive"}, "reasoning_effort": "none"}), high),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 5}}), high),
        (json!({"reasoning_effort": "none"}), Thinking::Off),
        (json!({"reasoning_effort": null}), high),
        (json!({"reasoning_effort": "minimal"}), Thinking::On(Effort::Low)),
        (json!({"reasoning_effort": "medium"}), high),
        (json!({"reasoning_effort": "xhigh"}), high),
        (json!({"reasoning_effort": "auto"}), high),
        (json!({"reasoning_effort": "ultra"}), Thinking::On(Effort::Max)),
        (json!({"reasoning": {"effort": "low"}}), Thinking::On(Effort::Low)),
        (json!({"reasoning": {"enabled": false}}), Thinking::Off),
        (json!({"enable_thinking": false}), Thinking::Off),
        (json!({"chat_template_kwargs": {"thinking": false}}), Thinking::Off),
        (json!({"model": "claude-haiku-4-5"}), Thinking::Off),
        (json!({"model": "claude-haiku-4-5", "reasoning_effort": "high"}), high),
        (json!({"model": "deepseek-chat"}), Thinking::Off),
        (json!({"model": "deepseek-chat", "thinking": true}), high),
        (json!({"model": "deepseek-reasoner"}), high),
    ] {
        assert_eq!(convert(change.clone()).unwrap().conversation.thinking, expected, "{change}");
    }
    let budget = |change: Value| convert(change).unwrap().thinking_budget;
    assert_eq!(budget(json!({"thinking": {"type": "enabled", "budget_tokens": 5}})), Some(5));
    assert_eq!(budget(json!({"reasoning": {"max_tokens": 7}})), Some(7));
    assert_eq!(budget(json!({})), None);
    for unknown in [json!({"reasoning_effort": "huge"}), json!({"thinking": {"type": "often"}})] {
        let unknown = convert(unknown).unwrap();
        assert_eq!(unknown.conversation.thinking, high);
        assert_eq!(unknown.warnings.len(), 1, "{:?}", unknown.warnings);
    }
}

#[test]
fn demands_without_effect_are_named() {
    let warnings = |change: Value| convert(change).unwrap().warnings;
    let vain = json!({"logit_bias": {"5": -100}, "presence_penalty": 0.5, "functions": [{}]});
    let said = warnings(vain);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said.iter().all(|line| line.ends_with("has no effect here")), "{said:?}");
    let nothing = json!({"logit_bias": {}, "frequency_penalty": 0, "function_call": null});
    assert!(warnings(nothing).is_empty());
}

#[test]
fn numbers_are_checked_and_limited() {
    let ok = |change: Value| convert(change).unwrap();
    assert_eq!(ok(json!({"max_tokens": 7})).max_tokens, Some(7));
    assert_eq!(ok(json!({"max_completion_tokens": 8})).max_tokens, Some(8));
    assert_eq!(ok(json!({"max_tokens": 99_999_999_999_u64})).max_tokens, Some(393_216));
    assert_eq!(ok(json!({"seed": -1})).sampling.seed, Some(u64::MAX));
    assert_eq!(ok(json!({"top_k": 5000})).sampling.top_k, Some(1024));
    assert_eq!(ok(json!({"temperature": 0})).sampling.temperature, Some(0.0));
    assert_eq!(ok(json!({"logprobs": true})).top_logprobs, Some(0));
    assert_eq!(ok(json!({"logprobs": true, "top_logprobs": 3})).top_logprobs, Some(3));
    assert_eq!(ok(json!({"stop": ["a"], "stream": true})).stop, ["a"]);
    assert!(ok(json!({"stream": true, "stream_options": {"include_usage": true}})).include_usage);
    assert!(!ok(json!({"parallel_tool_calls": false})).parallel_tool_calls);
    for (change, word) in [
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -5}), "max_tokens"),
        (json!({"max_tokens": "5"}), "max_tokens"),
        (json!({"temperature": 2.5}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"min_p": 2}), "min_p"),
        (json!({"n": 2}), "n = 1"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": [5]}), "stop[0]"),
        (json!({"top_logprobs": 2}), "logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "[0, 20]"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"messages": []}), "Empty input messages"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": [{"role": "wizard"}]}), "messages[0].role"),
        (json!({"messages": ["x"]}), "messages[0]: expected an object, found a string"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (json!({"thinking": {"type": 5}}), "thinking.type"),
        (json!({"thinking": {}}), "thinking.type"),
        (json!({"tool_choice": "maybe", "tools": [{"function": {"name": "f"}}]}), "tool_choice"),
        (json!({"tools": [{"function": {}}]}), "tools[0].function"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
    ] {
        let error = convert(change.clone()).unwrap_err();
        assert_eq!(error.status, 400);
        assert!(error.message.contains(word), "{change}: {}", error.message);
        assert!(!error.message.contains('\n'));
        assert_eq!(error.openai_body()["error"]["message"], error.message);
    }
}

/// Text of the April prompt of lenient rules, without what every prompt has.
fn april(body: &Value) -> String {
    let request = chat::convert(body, Rules::Lenient).unwrap();
    let prompt = render(Profile::April, &request.conversation).unwrap().to_text();
    prompt.replace("<｜begin▁of▁sentence｜>", "").replace("<｜end▁of▁sentence｜>", "¶")
}

#[test]
fn broken_transcripts_are_served() {
    let off = |messages: Value| json!({"thinking": false, "messages": messages});
    // A result without its call, a call without its result, unknown ids, empty arguments.
    assert_eq!(
        april(&off(json!([
            {"role": "user", "content": "q"},
            {"role": "tool", "tool_call_id": "zz", "content": "x"},
            {"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": ""}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": {"n": 1}}},
                {"id": "c", "function": {"name": "h", "arguments": null}},
            ]},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
        ]))),
        "<｜User｜>q\n\n<tool_result>x</tool_result><｜Assistant｜></think>\n\n<｜DSML｜tool_calls>\n\
         <｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n\
         <｜DSML｜invoke name=\"g\">\n\
         <｜DSML｜parameter name=\"n\" string=\"false\">1</｜DSML｜parameter>\n\
         </｜DSML｜invoke>\n<｜DSML｜invoke name=\"h\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>¶\
         <｜User｜>a\n\n[Unsupported Image]<｜Assistant｜></think>"
    );
    // System and developer texts come first, joined; the prompt always ends in the model's turn.
    assert_eq!(
        april(&off(json!([
            {"role": "user", "content": "q"},
            {"role": "developer", "content": "d"},
            {"role": "system", "content": "s"},
        ]))),
        "d\n\ns<｜User｜>q<｜Assistant｜></think>"
    );
    assert_eq!(
        april(&off(json!([{"role": "system", "content": "s"}]))),
        "s<｜Assistant｜></think>"
    );
    let answered = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    assert_eq!(
        april(&off(answered)),
        "<｜User｜>q<｜Assistant｜></think>a¶<｜Assistant｜></think>"
    );
    // Replayed reasoning under either name; a beginning is continued.
    let begun = |content: &str| {
        json!({"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": content, "reasoning": "r", "prefix": true},
        ]})
    };
    assert_eq!(april(&begun("c")), "<｜User｜>q<｜Assistant｜><think>r</think>c");
    assert_eq!(april(&begun("")), "<｜User｜>q<｜Assistant｜><think>r");
}

#[test]
fn tools_and_formats_ride_on_the_system_text() {
    let body = |change: Value| {
        let mut body = json!({
            "thinking": false,
            "messages": [{"role": "user", "content": "q"}],
            "tools": [
                {"type": "function", "function": {"name": "f", "strict": true}},
                {"type": "web_search"},
                {"type": "function", "name": "g", "parameters": {}},
            ],
        });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let request = chat::convert(&body(json!({})), Rules::Lenient).unwrap();
    assert_eq!(request.warnings.len(), 1, "{:?}", request.warnings);
    let text = april(&body(json!({})));
    assert!(text.starts_with("\n\n## Tools\n"), "{text}");
    assert!(text.contains(
        "\n{\"name\": \"f\", \"strict\": true}\n{\"name\": \"g\", \"parameters\": {}}\n"
    ));
    assert!(text.ends_with("tool calls.\n<｜User｜>q<｜Assistant｜></think>"), "{text}");
    let hidden = april(&body(json!({"tool_choice": {"type": "none"}})));
    assert_eq!(hidden, "<｜User｜>q<｜Assistant｜></think>");
    let named = body(json!({"tool_choice": {"type": "function", "function": {"name": "g"}}}));
    let request = chat::convert(&named, Rules::Lenient).unwrap();
    assert_eq!(request.conversation.tool_choice, ToolChoice::Named("g".into()));
    let text = april(&named);
    assert!(!text.contains("\"f\"") && text.contains("{\"name\": \"g\""), "{text}");
    assert!(text.ends_with("</think>\n\n<｜DSML｜tool_calls>\n"), "{text}");
    let json = april(&body(json!({"response_format": {"type": "json_object"}})));
    assert!(json.contains("tool calls.\n\n\nYou are a helpful assistant designed to"), "{json}");
    assert!(
        json.ends_with("Reply with JSON object ONLY.<｜User｜>q<｜Assistant｜></think>"),
        "{json}"
    );
}
