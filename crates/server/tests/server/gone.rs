//! Clients that go away, and clients that are slow.

use std::sync::Arc;
use std::time::Duration;

use ds4_scheduler::Options as Sharing;
use ds4_server::Options;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::client::Client;
use crate::support::{Controls, Running, options, question, sharing, test_server, with};

const CHAT: &str = "/v1/chat/completions";
/// Time in which a disappearance must be noticed.
const SOON: Duration = Duration::from_millis(100);
/// Tokens that fill the buffers between a server and a client that does not read.
const MANY: u32 = 4000;

fn body(text: &str, is_stream: bool) -> Value {
    with(question(text), json!({"stream": is_stream, "max_tokens": 1500}))
}

/// An answer of large frames, so that few of them fill buffers.
fn long() -> Value {
    let fields = json!({"max_tokens": MANY, "logprobs": true, "top_logprobs": 20});
    with(body("x", true), fields)
}

fn short() -> Value {
    with(body("y", true), json!({"max_tokens": 20}))
}

/// A server whose steps take 10 ms, so that a hundred of them show what was not noticed.
async fn slow(parallel: usize) -> (Arc<Controls>, Running) {
    let controls = Controls::slow(10);
    let sharing = Sharing { parallel, ..sharing() };
    let server = test_server(&controls, sharing, options());
    let running = Running::start(server).await;
    (controls, running)
}

#[tokio::test]
async fn going_away_while_decoding_frees_the_session() {
    let (_, running) = slow(1).await;
    for is_stream in [true, false] {
        let client = Client::post(running.address, CHAT, &body("x", is_stream)).await;
        running.until(|s| s.active == 1 && s.tokens_held > 40).await;
        drop(client);
        let noticed = running.until(|s| s.active == 0).await;
        assert!(noticed < SOON, "stream {is_stream}: {noticed:?}");
    }
    running.end().await;
}

#[tokio::test]
async fn going_away_in_the_queue_leaves_the_queue() {
    let (_, running) = slow(1).await;
    let busy = Client::post(running.address, CHAT, &body("x", true)).await;
    running.until(|s| s.active == 1).await;
    for is_stream in [true, false] {
        let client = Client::post(running.address, CHAT, &body("y", is_stream)).await;
        running.until(|s| s.waiting == 1).await;
        drop(client);
        let noticed = running.until(|s| s.waiting == 0).await;
        assert!(noticed < SOON, "stream {is_stream}: {noticed:?}");
        assert_eq!(running.server.worker().status().active, 1);
    }
    drop(busy);
    running.end().await;
}

#[tokio::test]
async fn going_away_in_the_prompt_keeps_what_was_computed() {
    let (controls, running) = slow(1).await;
    let prompt = "word ".repeat(1500);
    for is_stream in [true, false] {
        controls.delay_ms.store(40, std::sync::atomic::Ordering::SeqCst);
        let held = running.server.worker().status().tokens_held;
        let client = Client::post(running.address, CHAT, &body(&prompt, is_stream)).await;
        running.until(|s| s.active == 1 && s.tokens_held >= held + 200).await;
        drop(client);
        let noticed = running.until(|s| s.active == 0).await;
        assert!(noticed < SOON, "stream {is_stream}: {noticed:?}");
        assert!(running.server.worker().status().tokens_held >= held + 200);
    }
    controls.delay_ms.store(0, std::sync::atomic::Ordering::SeqCst);
    let again = with(body(&prompt, false), json!({"max_tokens": 1}));
    let mut client = Client::post(running.address, CHAT, &again).await;
    let text = client.until("\"prompt_cache_miss_tokens\"").await;
    let at = text.find("\"cached_tokens\":").unwrap() + "\"cached_tokens\":".len();
    let cached: usize = text[at..].split(',').next().unwrap().parse().unwrap();
    assert!(cached >= 400, "{cached}");
    running.end().await;
}

#[tokio::test]
async fn a_slow_client_keeps_its_answer_and_disturbs_nobody() {
    let sharing = Sharing { parallel: 2, ctx: 2 * MANY, ..sharing() };
    let options = Options { ctx: 2 * MANY, stall_max: Duration::from_mins(1), ..options() };
    let running = Running::start(test_server(&Arc::default(), sharing, options)).await;
    let mut slow = Client::narrow(running.address).await;
    slow.send(CHAT, &long()).await;
    slow.until("\"content\"").await;
    // It reads nothing: buffers fill, and its sequence is held.
    let held = async {
        let mut last = 0;
        loop {
            sleep(Duration::from_millis(300)).await;
            let now = running.server.worker().status().tokens_held;
            if now == last {
                return now;
            }
            last = now;
        }
    };
    let held = held.await;
    assert!(held < MANY as usize, "nothing held it");
    let mut quick = Client::post(running.address, CHAT, &short()).await;
    quick.until("data: [DONE]").await;
    let text = slow.until("data: [DONE]").await;
    assert_eq!(text.matches("\"delta\":{\"content\"").count(), MANY as usize);
    running.end().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dropped() {
    let sharing = Sharing { parallel: 1, ctx: 2 * MANY, ..sharing() };
    let options = Options { ctx: 2 * MANY, stall_max: Duration::from_millis(500), ..options() };
    let running = Running::start(test_server(&Arc::default(), sharing, options)).await;
    let mut stuck = Client::narrow(running.address).await;
    stuck.send(CHAT, &long()).await;
    stuck.until("\"content\"").await;
    let mut next = Client::post(running.address, CHAT, &short()).await;
    next.until("data: [DONE]").await;
    let text = stuck.rest().await;
    assert!(!text.contains("[DONE]"));
    running.end().await;
}
