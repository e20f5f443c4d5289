//! What requests ask for, and what they are told.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use ds4_server::{Options, Server};
use serde_json::{Value, json};

use crate::support::{
    ask, endless, options, post, question, scripted, send, sharing, test_server, text_of, with,
};

const CHAT: &str = "/v1/chat/completions";

/// The JSON of every `data:` line.
fn events(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

async fn stream(server: &Arc<Server>, path: &str, body: &Value) -> String {
    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let response = send(server, post(path, &with(body.clone(), fields))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    text_of(response).await
}

#[tokio::test]
async fn a_stream_says_what_its_body_says() {
    let text = "I see.</think>Here \u{e9}t\u{e9} 日本.\n\nDone.";
    let server = scripted(json!([{"text": text, "repeat": true}]));
    let long = "word ".repeat(80);
    let body = json!({"messages": [{"role": "user", "content": long}], "seed": 1});
    let (_, whole) = ask(&server, post(CHAT, &body)).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "I see.");
    assert_eq!(message["content"], "Here \u{e9}t\u{e9} 日本.\n\nDone.");
    let streamed = stream(&server, CHAT, &body).await;
    assert!(streamed.ends_with("data: [DONE]\n\n"));
    let chunks = events(&streamed);
    let joined = |key: &str| {
        let deltas = chunks.iter().filter_map(|c| c["choices"][0]["delta"][key].as_str());
        deltas.collect::<String>()
    };
    assert_eq!(joined("reasoning_content"), "I see.");
    assert_eq!(joined("content"), message["content"].as_str().unwrap());
    let finish = chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str());
    assert_eq!(finish.collect::<Vec<_>>(), ["stop"]);
    let (mut a, mut b) = (whole["usage"].clone(), chunks.last().unwrap()["usage"].clone());
    assert!(a["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() >= 3);
    // The second request finds the first one's prompt.
    assert_eq!(b["prompt_tokens_details"]["cached_tokens"], a["prompt_tokens"]);
    for usage in [&mut a, &mut b] {
        for key in ["prompt_tokens_details", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"]
        {
            usage.as_object_mut().unwrap().remove(key);
        }
    }
    assert_eq!(a, b);
}

#[tokio::test]
async fn calls_have_ids_and_come_back() {
    let block = "Let me look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"ls\">\n\
        <｜DSML｜parameter name=\"dir\" string=\"true\">/tmp</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let server = scripted(json!([{"text": block}, {"text": "It is empty."}]));
    let schema = json!({"type": "object", "properties": {"dir": {"type": "string"}}});
    let tool = json!({"type": "function", "function": {"name": "ls", "parameters": schema}});
    let mut body = with(question("What is in /tmp?"), json!({"tools": [tool]}));
    let (_, first) = ask(&server, post(CHAT, &body)).await;
    assert_eq!(first["choices"][0]["finish_reason"], "tool_calls", "{first}");
    let message = &first["choices"][0]["message"];
    assert_eq!(message["content"], "Let me look.");
    let call = &message["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "ls", "arguments": "{\"dir\":\"/tmp\"}"}));
    assert_eq!(call["id"].as_str().unwrap().len(), "call_".len() + 32);
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(message.clone());
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "nothing"});
    messages.push(result);
    let (_, second) = ask(&server, post(CHAT, &body)).await;
    assert_eq!(second["choices"][0]["message"]["content"], "It is empty.");
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let before = first["usage"]["total_tokens"].as_u64().unwrap();
    // All but the last token of the answer was computed, and all of that is used.
    assert!(cached + 2 >= before, "{cached} of {before}");
}

#[tokio::test]
async fn one_call_at_a_time_on_demand() {
    let invoke = "<｜DSML｜invoke name=\"ls\">\n</｜DSML｜invoke>\n";
    let block = format!("\n\n<｜DSML｜tool_calls>\n{invoke}{invoke}</｜DSML｜tool_calls>");
    let server = scripted(json!([{"text": block, "repeat": true}]));
    let tool = json!({"type": "function", "function": {"name": "ls"}});
    for (parallel, n) in [(true, 2), (false, 1)] {
        let fields = json!({"tools": [tool], "parallel_tool_calls": parallel});
        let body = with(question("Look twice."), fields);
        let (_, answer) = ask(&server, post(CHAT, &body)).await;
        let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), n, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    }
}

#[tokio::test]
async fn answers_end_where_they_should() {
    let server = scripted(json!([{"text": "one two STOP three", "repeat": true}]));
    let (_, cut) = ask(&server, post(CHAT, &with(question("x"), json!({"stop": ["STOP"]})))).await;
    assert_eq!(cut["choices"][0]["message"]["content"], "one two ");
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    let fields = json!({"stop_sequences": ["nothing", "STOP"], "max_tokens": 50});
    let (_, cut) = ask(&server, post("/v1/messages", &with(question("x"), fields))).await;
    assert_eq!(cut["stop_reason"], "stop_sequence");
    assert_eq!(cut["stop_sequence"], "STOP");
    let (_, cut) = ask(&server, post(CHAT, &with(question("x"), json!({"max_tokens": 1})))).await;
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["usage"]["completion_tokens"], 1);
    let server = endless();
    let body = with(question("x"), json!({"max_tokens": 100_000}));
    let (_, full) = ask(&server, post("/v1/messages", &body)).await;
    assert_eq!(full["stop_reason"], "model_context_window_exceeded");
    let (_, full) = ask(&server, post(CHAT, &body)).await;
    assert_eq!(full["choices"][0]["finish_reason"], "length");
    assert_eq!(full["usage"]["total_tokens"], 2048);
}

#[tokio::test]
async fn thinking_stops_when_its_budget_is_spent() {
    let server = endless();
    let thinking = json!({"type": "enabled", "budget_tokens": 20});
    let body = json!({
        "messages": [{"role": "user", "content": "Hi"}], "thinking": thinking, "max_tokens": 30,
    });
    let (_, answer) = ask(&server, post("/v1/messages", &body)).await;
    assert_eq!(answer["content"][0]["type"], "thinking", "{answer}");
    assert_eq!(answer["content"][1]["type"], "text");
    let (_, answer) = ask(&server, post(CHAT, &body)).await;
    // Twenty tokens and the one that closes.
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 21);
    assert_eq!(answer["usage"]["completion_tokens"], 30);
}

#[tokio::test]
async fn probabilities_are_the_models_own() {
    let server = endless();
    let body = with(question("x"), json!({"max_tokens": 3, "logprobs": true, "top_logprobs": 2}));
    let (_, answer) = ask(&server, post(CHAT, &body)).await;
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 3, "{answer}");
    let text: String = tokens.iter().map(|t| t["token"].as_str().unwrap()).collect();
    assert_eq!(answer["choices"][0]["message"]["content"], text);
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!(top[0]["token"], token["token"]);
        let logprob = |ix: usize| top[ix]["logprob"].as_f64().unwrap();
        assert!(logprob(0) < 0.0 && (logprob(0) - logprob(1) - 1.0).abs() < 1e-3, "{token}");
        assert_eq!(token["logprob"], top[0]["logprob"]);
    }
}

#[tokio::test]
async fn seeds_repeat_and_sampling_counts_where_it_should() {
    let server = endless();
    let text = |body: Value| {
        let server = server.clone();
        async move {
            let (_, answer) = ask(&server, post(CHAT, &body)).await;
            answer["choices"][0]["message"].clone()
        }
    };
    // A flat distribution, so that nothing but the seed decides.
    let hot = json!({"temperature": 2, "min_p": 0, "seed": 7, "max_tokens": 20});
    let first = text(with(question("x"), hot.clone())).await;
    assert_eq!(first, text(with(question("x"), hot.clone())).await);
    let other = with(hot.clone(), json!({"seed": 8}));
    assert_ne!(first, text(with(question("x"), other)).await);
    // While thinking the client's temperature does not count, unless it says so.
    let cold = json!({"thinking": true, "temperature": 0, "max_tokens": 40});
    let body = |seed: u64| with(question("x"), with(cold.clone(), json!({"seed": seed})));
    let thoughts = |seed| {
        let server = server.clone();
        let body = body(seed).to_string();
        async move {
            let request = Request::post(CHAT).header("x-ds4-deterministic", "1");
            ask(&server, request.body(Body::from(body)).unwrap()).await.1["choices"].clone()
        }
    };
    assert_eq!(thoughts(1).await, thoughts(2).await);
    assert_ne!(text(body(1)).await, text(body(2)).await);
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let server = endless();
    for (body, wanted) in [
        ("", "invalid JSON"),
        ("[]", "object"),
        ("{}", "messages"),
        (r#"{"messages": 5}"#, "messages"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "n": 2}"#, "n = 1"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}"#, "max_tokens"),
        (r#"{"messages": [{"role": "user", "content": "x"}], "temperature": 3}"#, "temperature"),
    ] {
        let request = Request::post(CHAT).body(Body::from(body)).unwrap();
        let (status, error) = ask(&server, request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let error = &error["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(wanted), "{body}: {error}");
    }
    let role = json!({"messages": [{"role": "é".repeat(100_000), "content": "x"}]});
    let (status, error) = ask(&server, post(CHAT, &role)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error["error"]["message"].as_str().unwrap().chars().count() <= 1001);
    let long = question(&"word ".repeat(3000));
    let (status, error) = ask(&server, post(CHAT, &long)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["error"]["code"], "context_length_exceeded");
    assert_eq!(error["error"]["n_ctx"], 2048);
    let (_, error) = ask(&server, post("/v1/messages", &long)).await;
    assert!(error["error"]["message"].as_str().unwrap().starts_with("prompt is too long: "));
    // A stream is refused like any other request.
    let (status, _) = ask(&server, post(CHAT, &with(long, json!({"stream": true})))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn headers_explain_on_demand() {
    let server = scripted(json!([{"text": "Hello.", "repeat": true}]));
    let body = question(&"word ".repeat(80));
    for (is_stream, wanted) in [(false, "cold; reused=0;"), (true, "rewound; reused=")] {
        let body = with(body.clone(), json!({"stream": is_stream, "reasoning_effort": "odd"}));
        let request = Request::post(CHAT).header("x-ds4-explain", "1");
        let response = send(&server, request.body(Body::from(body.to_string())).unwrap()).await;
        let cache = response.headers()["x-ds4-cache"].to_str().unwrap().to_owned();
        assert!(cache.starts_with(wanted), "{cache}");
        let warning = response.headers()["x-ds4-warning"].to_str().unwrap();
        assert!(warning.contains("odd"), "{warning}");
        text_of(response).await;
    }
    let response = send(&server, post(CHAT, &body)).await;
    assert!(!response.headers().contains_key("x-ds4-cache"));
}

#[tokio::test]
async fn several_prompts_have_several_answers() {
    let server = endless();
    let one = |prompt: &str| json!({"prompt": prompt, "max_tokens": 5, "temperature": 0});
    let (_, a) = ask(&server, post("/v1/completions", &one("first"))).await;
    let (_, b) = ask(&server, post("/v1/completions", &one("second"))).await;
    let both = json!({"prompt": ["first", "second"], "max_tokens": 5, "temperature": 0});
    let (status, answer) = ask(&server, post("/v1/completions", &both)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["choices"][0]["text"], a["choices"][0]["text"]);
    assert_eq!(answer["choices"][1]["text"], b["choices"][0]["text"]);
    assert_eq!(answer["usage"]["completion_tokens"], 10);
    let echo = with(one("first"), json!({"echo": true}));
    let (_, answer) = ask(&server, post("/v1/completions", &echo)).await;
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text, format!("first{}", a["choices"][0]["text"].as_str().unwrap()));
    let streamed = stream(&server, "/v1/completions", &both).await;
    let of = |ix: u64| {
        let choices = events(&streamed);
        let texts = choices.iter().map(|e| e["choices"][0].clone());
        let own = texts.filter(|c| c["index"] == ix);
        own.filter_map(|c| c["text"].as_str().map(str::to_owned)).collect::<String>()
    };
    assert_eq!(of(0), a["choices"][0]["text"].as_str().unwrap());
    assert_eq!(of(1), b["choices"][0]["text"].as_str().unwrap());
}

#[tokio::test]
async fn forms_are_kept() {
    let server = endless();
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["ok"],
        "properties": {"ok": {"type": "boolean"}},
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for thinking in [false, true] {
        let fields = json!({
            "response_format": format, "max_tokens": 200, "seed": 3, "temperature": 1,
            "thinking": {"type": if thinking { "enabled" } else { "disabled" }, "budget_tokens": 9},
        });
        let (status, answer) = ask(&server, post(CHAT, &with(question("x"), fields))).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(content).unwrap();
        assert!(value["ok"].is_boolean(), "{content}");
    }
    let tool = json!({"type": "function", "function": {"name": "go", "parameters": schema}});
    let fields =
        json!({"tools": [tool], "tool_choice": "required", "max_tokens": 200, "temperature": 1});
    let (_, answer) = ask(&server, post(CHAT, &with(question("x"), fields))).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "go", "{answer}");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["ok"].is_boolean());
}

#[tokio::test]
async fn demands_beyond_masks_are_refused_where_the_client_is_strict() {
    let server = endless();
    let list = json!({"type": "array", "items": {"type": "boolean"}, "uniqueItems": true});
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["a"],
        "properties": {"a": list},
    });
    let body = |is_strict: bool| {
        let holder = json!({"name": "x", "strict": is_strict, "schema": schema});
        let format = json!({"type": "json_schema", "json_schema": holder});
        with(question("x"), json!({"response_format": format, "max_tokens": 5}))
    };
    let (status, error) = ask(&server, post(CHAT, &body(true))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("uniqueItems"), "{error}");
    let response = send(&server, post(CHAT, &body(false))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let warning = response.headers()["x-ds4-warning"].to_str().unwrap();
    assert!(warning.contains("uniqueItems"), "{warning}");
}

#[tokio::test]
async fn found_functions_are_within_the_form() {
    let server = endless();
    let found = json!({"type": "namespace", "name": "mail", "tools": [
        {"type": "function", "name": "send", "parameters": {"type": "object", "properties": {}}},
    ]});
    let input = json!([
        {"type": "message", "role": "user", "content": "go"},
        {"type": "tool_search_call", "call_id": "s", "execution": "client", "arguments": {}},
        {"type": "tool_search_output", "call_id": "s", "tools": [found]},
    ]);
    let choice = json!({"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "function", "name": "send"},
    ]});
    let body = json!({
        "input": input, "tools": [{"type": "tool_search", "execution": "client"}],
        "tool_choice": choice, "max_output_tokens": 300, "thinking": false,
    });
    let (status, answer) = ask(&server, post("/v1/responses", &body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let item = &answer["output"][0];
    assert_eq!(item["type"], "function_call", "{answer}");
    assert_eq!((&item["namespace"], &item["name"]), (&json!("mail"), &json!("send")), "{item}");
}

#[tokio::test]
async fn names_stand_for_settings() {
    let aliases = vec![
        ("quick".to_owned(), "deepseek-chat".to_owned()),
        ("deep".to_owned(), "deepseek-reasoner".to_owned()),
    ];
    let options = Options { aliases, ..options() };
    let server = Arc::new(test_server(&Arc::default(), sharing(), options));
    for (model, thinks) in
        [("quick", false), ("deep", true), ("claude-x", true), ("y-haiku", false)]
    {
        let body = json!({
            "model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3,
        });
        let (_, answer) = ask(&server, post(CHAT, &body)).await;
        assert_eq!(answer["model"], model);
        let message = &answer["choices"][0]["message"];
        assert_eq!(message.get("reasoning_content").is_some(), thinks, "{model}: {message}");
    }
}
