//! Every route, and what is none.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use ds4_server::{Keys, Options};
use serde_json::{Value, json};

use crate::support::{
    ask, endless, get, options, post, question, scripted, send, sharing, test_server, text_of, with,
};

#[tokio::test]
async fn the_document_names_only_what_is_served() {
    let server = endless();
    let (status, document) = ask(&server, get("/openapi.json")).await;
    assert_eq!(status, StatusCode::OK);
    let mut served = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let method = method.to_uppercase().parse::<Method>().unwrap();
            let path = path.replace("{id}", "deepseek-v4-flash");
            let request = Request::builder().method(&method).uri(&path).body(Body::empty());
            let response = send(&server, request.unwrap()).await;
            // An empty body is refused, not unknown.
            let expected = if method == Method::POST { 400 } else { 200 };
            assert_eq!(response.status().as_u16(), expected, "{method} {path}");
            served += 1;
        }
    }
    assert!(served > 30, "{served}");
}

#[tokio::test]
async fn models_have_names() {
    let options = Options { aliases: vec![("fast".into(), "deepseek-chat".into())], ..options() };
    let server = std::sync::Arc::new(test_server(&<_>::default(), sharing(), options));
    let (_, list) = ask(&server, get("/v1/models")).await;
    let names: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["deepseek-v4-flash", "deepseek-chat", "deepseek-reasoner", "fast"]);
    for path in ["/v1/models/fast", "/models/fast", "/anthropic/v1/models/fast"] {
        let (status, model) = ask(&server, get(path)).await;
        assert_eq!((status, &model["id"]), (StatusCode::OK, &json!("fast")), "{path}");
        assert_eq!(model["context_length"], 2048);
    }
    let (status, error) = ask(&server, get("/v1/models/gpt-9/x")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(error["error"]["code"], "model_not_found");
    let request = Request::get("/v1/models").header("anthropic-version", "2023-06-01");
    let (_, list) = ask(&server, request.body(Body::empty()).unwrap()).await;
    assert_eq!(list["data"][0]["type"], "model");
}

#[tokio::test]
async fn what_is_not_served_is_said_in_each_form() {
    let server = endless();
    for (method, path, status, kind) in [
        ("GET", "/nothing", 404, "invalid_request_error"),
        ("GET", "/v1/responses/resp_1", 404, "invalid_request_error"),
        ("POST", "/anthropic/v1/nothing", 404, "not_found_error"),
        ("GET", "/v1/chat/completions", 405, "invalid_request_error"),
        ("DELETE", "/v1/models", 405, "invalid_request_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("PUT", "/v1/models/x", 405, "invalid_request_error"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = send(&server, request).await;
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        let allowed = response.headers().get(header::ALLOW).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(allowed.is_some(), status == 405, "{path}: {allowed:?}");
        let body: Value = serde_json::from_str(&text_of(response).await).unwrap();
        assert_eq!(body["error"]["type"], kind, "{path}");
        let is_theirs = path.contains("messages") || path.starts_with("/anthropic");
        assert_eq!(body.get("type").is_some(), is_theirs, "{path}");
    }
    let request = Request::get("/v1/responses").header("upgrade", "websocket");
    let response = send(&server, request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status().as_u16(), 426);
}

#[tokio::test]
async fn every_path_answers_alike() {
    let server = scripted(json!([{"text": "Hello.", "repeat": true}]));
    for path in [
        "/v1/chat/completions",
        "/chat/completions",
        "/beta/chat/completions?x=1",
        "/v1/completions",
    ] {
        let body = with(question("Hi"), json!({"prompt": "Hi"}));
        let (status, body) = ask(&server, post(path, &body)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        let choice = &body["choices"][0];
        let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
        assert_eq!(text, Some("Hello."), "{path}");
    }
    let body = with(question("Hi"), json!({"max_tokens": 50}));
    for path in ["/v1/messages?beta=true", "/messages", "//anthropic/v1//messages/?beta=true"] {
        let (status, body) = ask(&server, post(path, &body)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        assert_eq!(body["content"][0]["text"], "Hello.", "{path}");
    }
    for path in ["/v1/responses", "/responses"] {
        let body = json!({"input": "Hi", "reasoning": {"effort": "none"}});
        let (status, body) = ask(&server, post(path, &body)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        assert_eq!(body["output"][0]["content"][0]["text"], "Hello.", "{path}");
    }
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_rendered() {
    let server = scripted(json!([{"text": "Hello.", "repeat": true}]));
    let body = with(question("How many tokens?"), json!({"system": "Be brief."}));
    let (status, count) = ask(&server, post("/v1/messages/count_tokens", &body)).await;
    assert_eq!(status, StatusCode::OK);
    let (_, answer) =
        ask(&server, post("/v1/messages", &with(body, json!({"max_tokens": 9})))).await;
    let usage = &answer["usage"];
    let sum = |keys: [&str; 3]| keys.iter().map(|k| usage[k].as_u64().unwrap()).sum::<u64>();
    let all = sum(["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"]);
    assert_eq!(count, json!({"input_tokens": all}));
}

#[tokio::test]
async fn text_becomes_tokens_and_text_again() {
    let server = endless();
    let (_, ids) = ask(&server, post("/tokenize", &json!({"content": "Où est <think>?"}))).await;
    assert_eq!(ids["count"], ids["tokens"].as_array().unwrap().len());
    let (_, text) = ask(&server, post("/detokenize", &json!({"tokens": ids["tokens"]}))).await;
    assert_eq!(text["content"], "Où est <think>?");
    let special = json!({"content": "<think>", "parse_special": true, "add_special": true});
    let (_, ids) = ask(&server, post("/v1/tokenize", &special)).await;
    assert_eq!(ids["count"], 2);
    let (_, chat) = ask(&server, post("/tokenize", &question("Hi"))).await;
    assert!(chat["count"].as_u64().unwrap() > 3);
    for body in [json!({}), json!({"content": 1}), json!({"content": "", "add_special": 1})] {
        assert_eq!(ask(&server, post("/tokenize", &body)).await.0, StatusCode::BAD_REQUEST);
    }
    for body in [json!({}), json!({"tokens": ["a"]}), json!({"tokens": [99_999_999]})] {
        assert_eq!(ask(&server, post("/detokenize", &body)).await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn health_and_metrics() {
    let server = scripted(json!([{"text": "Hello."}]));
    let (status, health) = ask(&server, get("/v1/health")).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("ok")));
    ask(&server, post("/v1/chat/completions", &question("Hi"))).await;
    ask(&server, post("/v1/messages", &json!({}))).await;
    let text = text_of(send(&server, get("/metrics")).await).await;
    for line in [
        "ds4_requests_total{api=\"chat\",status=\"200\"}",
        "ds4_requests_total{api=\"messages\",status=\"400\"} 1",
        "ds4_answers_total{api=\"chat\",finish=\"stop\"} 1",
        "ds4_tokens_total{kind=\"generated\"} ",
        "ds4_cache_hits_total{source=\"cold\"} 1",
        "ds4_ttft_seconds_bucket{le=\"0.1\"}",
        "ds4_ttft_seconds_count 1",
        "ds4_queue 0",
        "ds4_kv_files 0",
        "# HELP ds4_itl_seconds",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    server.close();
    let (status, health) = ask(&server, get("/health")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(health["message"], "server shutting down");
}

#[tokio::test]
async fn keys_are_asked_for() {
    let options = Options { keys: Keys::new(["secret"]), ..options() };
    let server = std::sync::Arc::new(test_server(&<_>::default(), sharing(), options));
    for (path, kind) in [
        ("/v1/models", "authentication_error"),
        ("/v1/messages/count_tokens", "authentication_error"),
    ] {
        let (status, error) = ask(&server, get(path)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(error["error"]["type"], kind);
    }
    assert_eq!(ask(&server, get("/health")).await.0, StatusCode::OK);
    for (name, value) in [("authorization", "Bearer secret"), ("x-api-key", "secret")] {
        let request = Request::get("/v1/models").header(name, value).body(Body::empty()).unwrap();
        assert_eq!(ask(&server, request).await.0, StatusCode::OK, "{name}");
    }
    let request = Request::options("/v1/models").body(Body::empty()).unwrap();
    assert_eq!(send(&server, request).await.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn pages_of_other_machines_ask_only_with_cors() {
    let origin = |server, origin: &'static str| async move {
        let request = Request::get("/v1/models").header("origin", origin);
        send(&server, request.body(Body::empty()).unwrap()).await
    };
    let closed = endless();
    let response = origin(closed.clone(), "https://example.com").await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(text_of(response).await.contains("--cors"));
    assert_eq!(origin(closed, "http://localhost:5173").await.status(), StatusCode::OK);
    let options = Options { cors: true, ..options() };
    let open = std::sync::Arc::new(test_server(&<_>::default(), sharing(), options));
    let response = origin(open.clone(), "https://example.com").await;
    assert_eq!(response.status(), StatusCode::OK);
    for request in [
        Request::options("/anything").body(Body::empty()).unwrap(),
        get("/nothing"),
        post("/v1/chat/completions", &json!({})),
    ] {
        let response = send(&open, request).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("access-control-allow-origin"), "*");
        assert_eq!(header("access-control-allow-methods"), "GET, POST, OPTIONS");
        assert_eq!(header("access-control-allow-headers"), "*");
    }
}

#[tokio::test]
async fn requests_have_ids() {
    let server = endless();
    let id_of = |request| {
        let server = server.clone();
        async move {
            let response = send(&server, request).await;
            let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
            assert_eq!(response.headers()["request-id"], id.as_str());
            (id, text_of(response).await)
        }
    };
    let sent = |id: &str| {
        let request = Request::post("/v1/messages").header("x-request-id", id);
        request.body(Body::from("{}")).unwrap()
    };
    let (id, body) = id_of(sent("abc-1")).await;
    assert_eq!(id, "abc-1");
    assert!(body.contains("\"request_id\":\"abc-1\""), "{body}");
    for odd in ["two words", &"x".repeat(200)] {
        let (id, _) = id_of(sent(odd)).await;
        assert!(id.starts_with("req_") && id.len() == 36, "{id}");
    }
    assert_ne!(id_of(get("/health")).await.0, id_of(get("/health")).await.0);
}
