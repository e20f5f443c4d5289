//! The same request gets the same answer, whatever happens around it: over nano, the real model in
//! small.

use std::sync::Arc;

use ds4_scheduler::Options as Sharing;
use ds4_server::Server;
use serde_json::{Value, json};

use crate::support::{ask, nano_server, options, post, sharing, with};

async fn text(server: &Arc<Server>, body: &Value) -> Value {
    ask(server, post("/v1/chat/completions", body)).await.1["choices"].clone()
}

fn request(ix: usize) -> Value {
    let questions = [
        "Name three colours.",
        "What is two plus two?",
        "Write a short poem about the sea.",
        "Why is the sky blue?",
    ];
    let history = json!([
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": questions[ix % questions.len()]},
    ]);
    json!({
        "messages": history, "max_tokens": 24, "seed": 11 + ix, "temperature": 1.0,
        "thinking": ix.is_multiple_of(2),
    })
}

#[tokio::test]
async fn alone_together_and_from_the_cache() {
    let alone = Arc::new(nano_server(Sharing { parallel: 1, ..sharing() }, options()));
    let mut expected = Vec::new();
    for ix in 0..8 {
        expected.push(text(&alone, &request(ix)).await);
    }
    for (ix, wanted) in expected.iter().enumerate() {
        assert_eq!(&text(&alone, &request(ix)).await, wanted, "cached {ix}");
    }
    let shared = Arc::new(nano_server(Sharing { parallel: 4, ..sharing() }, options()));
    let asked: Vec<_> = (0..8)
        .map(|ix| {
            let server = Arc::clone(&shared);
            tokio::spawn(async move { text(&server, &request(ix)).await })
        })
        .collect();
    for (ix, asked) in asked.into_iter().enumerate() {
        assert_eq!(asked.await.unwrap(), expected[ix], "together {ix}");
    }
}

#[tokio::test]
async fn nano_keeps_to_a_schema() {
    let server = Arc::new(nano_server(sharing(), options()));
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {
            "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99},
        },
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "p", "schema": schema}});
    let fields = json!({"response_format": format, "max_tokens": 200, "thinking": false});
    let choices = text(&server, &with(request(1), fields)).await;
    assert_eq!(choices[0]["finish_reason"], "stop", "{choices}");
    let content = choices[0]["message"]["content"].as_str().unwrap();
    let value: Value = serde_json::from_str(content).unwrap();
    assert!(value["name"].is_string() && value["age"].is_i64(), "{content}");
}

#[tokio::test]
async fn texts_that_part_within_a_word_are_themselves() {
    let prompt = |ix: usize| {
        let places = ["What", "Write", "Why", "Where", "Whose", "Wh", "W", "Water"];
        let text = format!("Once upon a time, in {} ({ix})", places[ix % places.len()]);
        json!({"prompt": text, "max_tokens": 12, "temperature": 1.0, "seed": ix, "logprobs": 0})
    };
    let answer = |server: Arc<Server>, ix| async move {
        ask(&server, post("/v1/completions", &prompt(ix))).await.1["choices"].clone()
    };
    let mut alone = Vec::new();
    for ix in 0..16 {
        let fresh = Arc::new(nano_server(Sharing { parallel: 1, ..sharing() }, options()));
        alone.push(answer(fresh, ix).await);
    }
    let shared = Sharing { parallel: 3, queue_max: 64, ..sharing() };
    let shared = Arc::new(nano_server(shared, options()));
    for round in 0..2 {
        let asked: Vec<_> =
            (0..16).rev().map(|ix| tokio::spawn(answer(Arc::clone(&shared), ix))).collect();
        for (ix, asked) in (0..16).rev().zip(asked) {
            assert_eq!(asked.await.unwrap(), alone[ix], "round {round}, {ix}");
        }
    }
}
