//! The end: asked for, or because the device is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ds4_server::{Options, Stopped};
use serde_json::json;

use crate::client::Client;
use crate::support::{Controls, Running, options, question, sharing, test_server, with};

const CHAT: &str = "/v1/chat/completions";

async fn running(delay_ms: u64, drain_ms: u64) -> (Arc<Controls>, Running) {
    let controls = Controls::slow(delay_ms);
    let options = Options { drain_max: Duration::from_millis(drain_ms), ..options() };
    let running = Running::start(test_server(&controls, sharing(), options)).await;
    (controls, running)
}

#[tokio::test]
async fn requests_at_work_end_in_peace() {
    let (_, mut running) = running(20, 10_000).await;
    let body = with(question("x"), json!({"stream": true, "max_tokens": 30}));
    let mut client = Client::post(running.address, CHAT, &body).await;
    // Open connections without a request do not hold the end up.
    let mut idle = Client::connect(running.address).await;
    client.until("\"content\"").await;
    running.ask_to_end();
    let text = client.rest().await;
    assert!(text.contains("data: [DONE]"), "{text}");
    let began = Instant::now();
    assert_eq!(running.ended().await, Stopped::Asked);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    idle.rest().await;
}

#[tokio::test]
async fn requests_that_take_too_long_are_told() {
    let (_, mut running) = running(20, 200).await;
    let body = with(question("x"), json!({"stream": true, "max_tokens": 2000}));
    let mut stream = Client::post(running.address, CHAT, &body).await;
    let mut anthropic = Client::post(running.address, "/v1/messages", &body).await;
    let mut whole = Client::post(running.address, CHAT, &question("y")).await;
    stream.until("\"content\"").await;
    anthropic.until("text_delta").await;
    running.ask_to_end();
    let began = Instant::now();
    let text = stream.rest().await;
    assert!(text.contains("server shutting down") && !text.contains("[DONE]"), "{text}");
    let text = anthropic.rest().await;
    assert!(text.contains("event: error") && text.contains("overloaded_error"), "{text}");
    assert!(whole.rest().await.starts_with("HTTP/1.1 503"));
    assert_eq!(running.ended().await, Stopped::Asked);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn while_ending_nothing_is_taken() {
    let (_, mut running) = running(20, 5000).await;
    let body = with(question("x"), json!({"stream": true, "max_tokens": 60}));
    let mut busy = Client::post(running.address, CHAT, &body).await;
    busy.until("\"content\"").await;
    running.ask_to_end();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let late = tokio::net::TcpStream::connect(running.address).await;
    assert!(late.is_err(), "the port is still open");
    busy.until("data: [DONE]").await;
    running.ended().await;
}

#[tokio::test]
async fn a_lost_device_ends_the_server() {
    let (controls, running) = running(20, 5000).await;
    let body = with(question("x"), json!({"stream": true, "max_tokens": 2000}));
    let mut stream = Client::post(running.address, CHAT, &body).await;
    let mut whole = Client::post(running.address, CHAT, &question("y")).await;
    stream.until("\"content\"").await;
    controls.is_lost.store(true, Ordering::SeqCst);
    let text = stream.rest().await;
    assert!(text.contains("unplugged") && !text.contains("[DONE]"), "{text}");
    assert!(whole.rest().await.starts_with("HTTP/1.1 503"));
    assert_eq!(running.ended().await, Stopped::DeviceLost);
}
