//! Chat Completions.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Item, Kind, Step};
use super::logprobs::entries;
use super::{Finish, Frame, Meta, Shape, TokenLogprob, Usage};
use crate::{Api, ApiError, Request};

pub(super) struct Chat {
    meta: Meta,
    include_usage: bool,
    wants_logprobs: bool,
}

impl Chat {
    pub(super) fn new(request: &Request, meta: Meta) -> Self {
        Self {
            meta,
            include_usage: request.include_usage,
            wants_logprobs: request.top_logprobs.is_some(),
        }
    }

    fn envelope(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.meta.id),
            "object": object,
            "created": self.meta.created,
            "model": self.meta.model,
            "choices": Value::Array(choices),
        })
    }

    fn chunk(&self, delta: Value, logprobs: Option<Value>, finish: Option<&str>) -> Frame {
        let mut choice = Map::from_iter([("index".to_owned(), json!(0))]);
        choice.insert("delta".to_owned(), delta);
        if self.wants_logprobs {
            choice.insert("logprobs".to_owned(), logprobs.into());
        }
        choice.insert("finish_reason".to_owned(), finish.into());
        Frame::data(&self.envelope("chat.completion.chunk", vec![Value::Object(choice)]))
    }

    fn delta(&self, answer: &Answer, at: usize, delta: &str, tokens: &[TokenLogprob]) -> Frame {
        match answer.items[at].kind {
            Kind::Thinking => {
                let logprobs = json!({"content": null, "reasoning_content": entries(tokens)});
                self.chunk(json!({"reasoning_content": delta}), Some(logprobs), None)
            }
            Kind::Text => {
                let logprobs = json!({"content": entries(tokens), "refusal": null});
                self.chunk(json!({"content": delta}), Some(logprobs), None)
            }
            Kind::Call => {
                let call = json!({
                    "index": answer.call_ix(at),
                    "function": {"arguments": delta},
                });
                self.chunk(json!({"tool_calls": [call]}), None, None)
            }
        }
    }
}

impl Shape for Chat {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn start(&mut self, _: &Usage) -> Vec<Frame> {
        vec![self.chunk(json!({"role": "assistant"}), None, None)]
    }

    fn step(&mut self, answer: &Answer, step: &Step, logprobs: &[TokenLogprob]) -> Vec<Frame> {
        match step {
            Step::Open(at) if answer.items[*at].kind == Kind::Call => {
                let item = &answer.items[*at];
                let call = json!({
                    "index": answer.call_ix(*at),
                    "id": item.id,
                    "type": "function",
                    "function": {"name": item.name, "arguments": ""},
                });
                vec![self.chunk(json!({"tool_calls": [call]}), None, None)]
            }
            Step::Delta(at, delta) => vec![self.delta(answer, *at, delta, logprobs)],
            Step::Open(_) | Step::Close(_) => Vec::new(),
        }
    }

    fn finish(&mut self, _: &Answer, finish: &Finish, usage: &Usage) -> Vec<Frame> {
        let mut frames = vec![self.chunk(json!({}), None, Some(finish.openai()))];
        if self.include_usage {
            let mut last = self.envelope("chat.completion.chunk", Vec::new());
            last["usage"] = usage.openai();
            frames.push(Frame::data(&last));
        }
        frames.push(Frame::done());
        frames
    }

    fn fail(&mut self, _: &Answer, _: &[Step], error: &ApiError) -> Vec<Frame> {
        vec![Frame::named("error", &error.body(Api::Chat))]
    }

    fn keep_alive(&mut self, _: Duration) -> Frame {
        Frame::comment("keepalive")
    }

    fn body(&self, answer: &Answer, finish: &Finish, usage: &Usage) -> Value {
        let mut message = json!({"role": "assistant", "content": answer.text(Kind::Text)});
        let reasoning = answer.text(Kind::Thinking);
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        let calls: Vec<Value> = answer.calls().map(call).collect();
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let mut choice = json!({"index": 0, "message": message});
        if self.wants_logprobs {
            choice["logprobs"] = logprobs(answer);
        }
        choice["finish_reason"] = finish.openai().into();
        let mut body = self.envelope("chat.completion", vec![choice]);
        body["usage"] = usage.openai();
        body
    }
}

fn call(item: &Item) -> Value {
    json!({
        "id": item.id,
        "type": "function",
        "function": {"name": item.name, "arguments": item.text},
    })
}

fn logprobs(answer: &Answer) -> Value {
    let of = |kind: Kind| {
        let items = answer.items.iter().filter(|item| item.kind == kind);
        items.flat_map(|item| entries(&item.logprobs)).collect::<Vec<_>>()
    };
    let (content, reasoning) = (of(Kind::Text), of(Kind::Thinking));
    let mut logprobs = json!({"content": content, "refusal": null});
    if !reasoning.is_empty() {
        logprobs["reasoning_content"] = reasoning.into();
    }
    logprobs
}
