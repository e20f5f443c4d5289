//! Bodies, headers, queues: what is too much is refused, and what is unusual is not.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use ds4_scheduler::Options as Sharing;
use ds4_server::Options;
use serde_json::json;
use tokio::time::sleep;

use crate::client::Client;
use crate::support::{
    Controls, Running, ask, endless, options, post, question, send, sharing, test_server, with,
};

const CHAT: &str = "/v1/chat/completions";

async fn small_bodies() -> Running {
    let options = Options { body_bytes_max: 2000, ..options() };
    Running::start(test_server(&Arc::default(), sharing(), options)).await
}

#[tokio::test]
async fn a_body_has_its_size() {
    let running = small_bodies().await;
    let long = question(&"x".repeat(3000));
    let mut client = Client::post(running.address, CHAT, &long).await;
    let text = client.until("\"error\"").await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    let mut client = Client::post(running.address, "/v1/messages", &long).await;
    client.until("request_too_large").await;
    // Without a length, in chunks.
    let mut client = Client::connect(running.address).await;
    client.write(format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\n").as_bytes()).await;
    client.write(b"Transfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..10 {
        client.write(format!("200\r\n{}\r\n", "x".repeat(512)).as_bytes()).await;
    }
    client.write(b"0\r\n\r\n").await;
    client.until("HTTP/1.1 413").await;
    running.end().await;
}

#[tokio::test]
async fn a_client_may_ask_before_it_sends() {
    let running = small_bodies().await;
    let head = |n: usize| {
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut client = Client::connect(running.address).await;
    client.write(head(1_000_000).as_bytes()).await;
    client.until("HTTP/1.1 413").await;
    let body = with(question("x"), json!({"max_tokens": 2})).to_string();
    let mut client = Client::connect(running.address).await;
    client.write(head(body.len()).as_bytes()).await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write(body.as_bytes()).await;
    client.until("\"usage\"").await;
    running.end().await;
}

#[tokio::test]
async fn a_body_may_come_in_chunks() {
    let running = small_bodies().await;
    let body = with(question("x"), json!({"max_tokens": 2})).to_string();
    let mut client = Client::connect(running.address).await;
    client.write(format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\n").as_bytes()).await;
    client.write(b"Transfer-Encoding: chunked\r\n\r\n").await;
    for piece in body.as_bytes().chunks(7) {
        client.write(format!("{:x}\r\n", piece.len()).as_bytes()).await;
        client.write(piece).await;
        client.write(b"\r\n").await;
    }
    client.write(b"0\r\n\r\n").await;
    client.until("\"usage\"").await;
    running.end().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let running = small_bodies().await;
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut client = Client::connect(running.address).await;
        client.write(bytes).await;
        let text = client.rest().await;
        assert!(text.starts_with("HTTP/1.1 400") || text.is_empty(), "{text}");
    }
    let mut client = Client::connect(running.address).await;
    let long = format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(70_000));
    client.write(long.as_bytes()).await;
    client.until("HTTP/1.1 431").await;
    let mut client = Client::connect(running.address).await;
    client.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.until("\"ok\"").await;
    running.end().await;
}

#[tokio::test]
async fn nesting_and_encodings_are_limited() {
    let server = endless();
    let nested = |n| format!("{{\"messages\": {}{}}}", "[".repeat(n), "]".repeat(n));
    let request = Request::post(CHAT).body(Body::from(nested(300))).unwrap();
    let (status, error) = ask(&server, request).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error["error"]["message"].as_str().unwrap().contains("deeper than 256"));
    let request = Request::post(CHAT).header("content-encoding", "gzip").body(Body::from("x"));
    let (status, _) = ask(&server, request.unwrap()).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let controls = Controls::slow(30);
    let sharing = Sharing { parallel: 1, queue_max: 1, ..sharing() };
    let server = Arc::new(test_server(&controls, sharing, options()));
    let asked = |ix: usize| {
        let server = Arc::clone(&server);
        let body = with(question(&format!("q{ix}")), json!({"max_tokens": 40}));
        tokio::spawn(async move { ask(&server, post(CHAT, &body)).await.0 })
    };
    let first = asked(0);
    while server.worker().status().active == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let second = asked(1);
    while server.worker().status().waiting == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    for (path, status, kind) in
        [(CHAT, 429, "rate_limit_error"), ("/v1/messages", 529, "overloaded_error")]
    {
        let body = with(question("x"), json!({"max_tokens": 5, "stream": true}));
        let response = send(&server, post(path, &body)).await;
        assert_eq!(response.status().as_u16(), status);
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().is_ok());
        let text = crate::support::text_of(response).await;
        assert!(text.contains(kind), "{text}");
    }
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(second.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn requests_at_work_are_limited() {
    let controls = Controls::slow(30);
    let options = Options { requests_max: 1, ..options() };
    let server = Arc::new(test_server(&controls, sharing(), options));
    let body = with(question("x"), json!({"max_tokens": 20, "stream": true}));
    let streaming = send(&server, post(CHAT, &body)).await;
    assert_eq!(ask(&server, post(CHAT, &question("x"))).await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(streaming);
    let begin = std::time::Instant::now();
    loop {
        let body = with(question("x"), json!({"max_tokens": 1}));
        if ask(&server, post(CHAT, &body)).await.0 == StatusCode::OK {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(2), "the place was not given back");
        sleep(Duration::from_millis(5)).await;
    }
}
