//! Completions: the text alone. Reasoning, where there is any, is not part of it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Kind, Step};
use super::logprobs::lists;
use super::{Finish, Frame, Meta, Shape, TokenLogprob, Usage};
use crate::{Api, ApiError, Request};

pub(super) struct Completions {
    meta: Meta,
    include_usage: bool,
    wants_logprobs: bool,
    /// The answers to earlier prompts of the request.
    finished: Vec<Value>,
    /// Characters of the answer so far.
    offset: usize,
}

impl Completions {
    pub(super) fn new(request: &Request, meta: Meta) -> Self {
        Self {
            meta,
            include_usage: request.include_usage,
            wants_logprobs: request.top_logprobs.is_some(),
            finished: Vec::new(),
            offset: 0,
        }
    }

    fn envelope(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": format!("cmpl-{}", self.meta.id),
            "object": "text_completion",
            "created": self.meta.created,
            "model": self.meta.model,
            "choices": Value::Array(choices),
        })
    }

    fn choice(&self, text: &str, logprobs: Value, finish: Option<&Finish>) -> Value {
        let mut choice = Map::from_iter([("text".to_owned(), json!(text))]);
        choice.insert("index".to_owned(), json!(self.finished.len()));
        if self.wants_logprobs {
            choice.insert("logprobs".to_owned(), logprobs);
        }
        choice.insert("finish_reason".to_owned(), finish.map(finish_reason).into());
        Value::Object(choice)
    }

    fn whole_choice(&self, answer: &Answer, finish: &Finish) -> Value {
        let texts = answer.items.iter().filter(|item| item.kind == Kind::Text);
        let tokens: Vec<TokenLogprob> = texts.flat_map(|item| item.logprobs.clone()).collect();
        self.choice(&answer.text(Kind::Text), lists(&tokens, &mut 0), Some(finish))
    }

    fn last_chunk(&self, finish: &Finish) -> Frame {
        Frame::data(&self.envelope(vec![self.choice("", Value::Null, Some(finish))]))
    }
}

/// There are no tools here.
fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::ToolCalls => Finish::Stop.openai(),
        finish => finish.openai(),
    }
}

impl Shape for Completions {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn start(&mut self, _: &Usage) -> Vec<Frame> {
        Vec::new()
    }

    fn step(&mut self, answer: &Answer, step: &Step, logprobs: &[TokenLogprob]) -> Vec<Frame> {
        match step {
            Step::Delta(at, delta) if answer.items[*at].kind == Kind::Text => {
                let logprobs = lists(logprobs, &mut self.offset);
                vec![Frame::data(&self.envelope(vec![self.choice(delta, logprobs, None)]))]
            }
            _ => Vec::new(),
        }
    }

    fn finish(&mut self, _: &Answer, finish: &Finish, usage: &Usage) -> Vec<Frame> {
        let mut frames = vec![self.last_chunk(finish)];
        if self.include_usage {
            let mut last = self.envelope(Vec::new());
            last["usage"] = usage.openai();
            frames.push(Frame::data(&last));
        }
        frames.push(Frame::done());
        frames
    }

    fn fail(&mut self, _: &Answer, _: &[Step], error: &ApiError) -> Vec<Frame> {
        vec![Frame::named("error", &error.body(Api::Completions))]
    }

    fn keep_alive(&mut self, _: Duration) -> Frame {
        Frame::comment("keepalive")
    }

    fn body(&self, answer: &Answer, finish: &Finish, usage: &Usage) -> Value {
        let last = self.whole_choice(answer, finish);
        let mut body = self.envelope([self.finished.as_slice(), &[last]].concat());
        body["usage"] = usage.openai();
        body
    }

    fn next_choice(&mut self, answer: &Answer, finish: &Finish) -> Option<Vec<Frame>> {
        let frame = self.last_chunk(finish);
        self.finished.push(self.whole_choice(answer, finish));
        self.offset = 0;
        Some(vec![frame])
    }
}
