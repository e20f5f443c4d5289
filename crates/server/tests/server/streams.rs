//! Streams through sockets: at once, alive in every phase, each on its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ds4_scheduler::Options as Sharing;
use ds4_server::Options;
use serde_json::{Value, json};

use crate::client::Client;
use crate::support::{Controls, Running, options, question, sharing, test_server, with};

const CHAT: &str = "/v1/chat/completions";

fn beating(keep_alive_ms: u64) -> Options {
    Options { keep_alive: Duration::from_millis(keep_alive_ms), ..options() }
}

fn streamed(text: &str, max_tokens: u32) -> Value {
    with(question(text), json!({"stream": true, "max_tokens": max_tokens}))
}

#[tokio::test]
async fn headers_and_signs_of_life_come_in_every_phase() {
    let controls = Controls::slow(150);
    let sharing = Sharing { parallel: 1, ..sharing() };
    let running = Running::start(test_server(&controls, sharing, beating(40))).await;
    let mut busy = Client::post(running.address, CHAT, &streamed("x", 8)).await;
    busy.until("\"content\"").await;
    // Queued behind it: headers, the first frame, and life.
    let began = Instant::now();
    let prompt = "word ".repeat(200);
    let waiting =
        [(CHAT, ": keepalive\n\n"), ("/v1/messages", "event: ping\ndata: {\"type\":\"ping\"}\n\n")];
    let mut clients = Vec::new();
    for (path, beat) in waiting {
        let mut client = Client::post(running.address, path, &streamed(&prompt, 3)).await;
        client.until("HTTP/1.1 200 OK").await;
        assert!(began.elapsed() < Duration::from_millis(140), "{:?}", began.elapsed());
        let head = client.until("\r\n\r\n").await.to_lowercase();
        assert!(head.contains("text/event-stream") && head.contains("x-accel-buffering: no"));
        client.until(beat).await;
        assert_eq!(running.server.worker().status().active, 1);
        clients.push((client, beat));
    }
    for (mut client, beat) in clients {
        // Prefill and decode take 150 ms a step: there must be about three between steps.
        let text = client.until("0\r\n\r\n").await;
        let beats = text.matches(beat).count();
        assert!(beats >= 10, "{beats} in {text}");
        let end = if beat.starts_with(':') { "data: [DONE]" } else { "message_stop" };
        assert!(text.contains(end), "{text}");
    }
    busy.until("data: [DONE]").await;
    running.end().await;
}

#[tokio::test]
async fn streams_do_not_mix() {
    let running = Running::start(test_server(&Arc::default(), sharing(), options())).await;
    let mut clients = Vec::new();
    for ix in 0..8 {
        let client = Client::post(running.address, CHAT, &streamed(&format!("q{ix}"), 40)).await;
        clients.push(client);
    }
    let mut together = Vec::new();
    for client in &mut clients {
        together.push(content(&client.until("data: [DONE]").await));
    }
    for (ix, text) in together.into_iter().enumerate() {
        let mut client =
            Client::post(running.address, CHAT, &streamed(&format!("q{ix}"), 40)).await;
        assert_eq!(content(&client.until("data: [DONE]").await), text, "q{ix}");
    }
    running.end().await;
}

/// The text of a chat's stream; chunks of the transfer are cut out.
fn content(raw: &str) -> String {
    let data = raw.lines().filter_map(|line| line.strip_prefix("data: {"));
    let chunks = data.map(|d| serde_json::from_str::<Value>(&format!("{{{d}")).unwrap());
    let texts =
        chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned));
    texts.collect()
}

#[tokio::test]
async fn a_connection_serves_again() {
    let running = Running::start(test_server(&Arc::default(), sharing(), options())).await;
    let mut client = Client::post(running.address, CHAT, &streamed("x", 3)).await;
    client.until("0\r\n\r\n").await;
    client.seen.clear();
    client.send(CHAT, &with(question("x"), json!({"max_tokens": 3}))).await;
    client.until("\"usage\"").await;
    running.end().await;
}

#[tokio::test]
async fn a_panic_ends_its_requests_only() {
    let controls = Controls::slow(20);
    let running = Running::start(test_server(&controls, sharing(), options())).await;
    let mut streaming = Client::post(running.address, CHAT, &streamed("x", 500)).await;
    streaming.until("\"content\"").await;
    controls.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    let text = streaming.until("0\r\n\r\n").await;
    assert!(text.contains("event: error") && text.contains("asked to panic"), "{text}");
    assert!(!text.contains("[DONE]"));
    let mut client = Client::post(running.address, CHAT, &streamed("x", 3)).await;
    client.until("data: [DONE]").await;
    running.end().await;
}

#[tokio::test]
async fn a_request_has_its_time() {
    let controls = Controls::slow(50);
    let options = Options { time_max: Some(Duration::from_millis(300)), ..options() };
    let running = Running::start(test_server(&controls, sharing(), options)).await;
    let mut whole = Client::post(running.address, CHAT, &question("x")).await;
    let mut stream = Client::post(running.address, CHAT, &streamed("y", 500)).await;
    whole.until("HTTP/1.1 504").await;
    let text = stream.until("0\r\n\r\n").await;
    assert!(text.contains("longer than it may"), "{text}");
    running.until(|s| s.active == 0).await;
    running.end().await;
}
