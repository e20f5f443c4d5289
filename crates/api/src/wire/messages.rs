//! Anthropic's Messages: content blocks, each closed before the next begins.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Item, Kind, Status, Step};
use super::{Finish, Frame, Meta, Shape, TokenLogprob, Usage};
use crate::{Api, ApiError};

pub(super) struct Messages {
    meta: Meta,
}

impl Messages {
    pub(super) fn new(meta: Meta) -> Self {
        Self { meta }
    }

    fn id(&self) -> String {
        format!("msg_{}", self.meta.id)
    }

    fn message(&self, content: &[Value], finish: Option<&Finish>, usage: &Usage) -> Value {
        let (reason, sequence) = finish.map_or((None, None), stop_reason);
        json!({
            "id": self.id(),
            "type": "message",
            "role": "assistant",
            "model": self.meta.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage.messages(),
        })
    }

    fn close(&self, item: &Item, at: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        if item.kind == Kind::Thinking {
            // Clients send it back unread; it must not be empty.
            frames.push(delta(at, &json!({"type": "signature_delta", "signature": self.id()})));
        }
        frames.push(stop(at));
        frames
    }

    fn block(&self, item: &Item) -> Value {
        match item.kind {
            Kind::Thinking => {
                json!({"type": "thinking", "thinking": item.text, "signature": self.id()})
            }
            Kind::Text => json!({"type": "text", "text": item.text}),
            Kind::Call => json!({
                "type": "tool_use",
                "id": item.id,
                "name": item.name,
                "input": input(item),
            }),
        }
    }
}

fn stop_reason(finish: &Finish) -> (Option<&'static str>, Option<&str>) {
    match finish {
        Finish::Stop => (Some("end_turn"), None),
        Finish::StopSequence(sequence) => (Some("stop_sequence"), Some(sequence)),
        Finish::Length => (Some("max_tokens"), None),
        Finish::ContextFull => (Some("model_context_window_exceeded"), None),
        Finish::ToolCalls => (Some("tool_use"), None),
    }
}

/// The input of a call: its arguments or, of a call that was cut, the members that are whole.
fn input(item: &Item) -> Map<String, Value> {
    match serde_json::from_str(&item.text) {
        Ok(Value::Object(input)) => input,
        _ if item.status == Status::Cut => whole_members(&item.text),
        _ => Map::new(),
    }
}

/// The members of a broken-off object before the last comma on its own level.
fn whole_members(text: &str) -> Map<String, Value> {
    let (mut depth, mut in_string, mut escaped, mut last) = (0usize, false, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => last = at,
            _ => {}
        }
    }
    serde_json::from_str(&format!("{}}}", &text[..last])).unwrap_or_default()
}

fn empty_text() -> Value {
    json!({"type": "text", "text": ""})
}

fn needs_text(answer: &Answer) -> bool {
    answer.items.iter().all(|item| item.kind == Kind::Thinking)
}

fn start(at: usize, block: &Value) -> Frame {
    let data = json!({"type": "content_block_start", "index": at, "content_block": block});
    Frame::named("content_block_start", &data)
}

fn delta(at: usize, delta: &Value) -> Frame {
    let data = json!({"type": "content_block_delta", "index": at, "delta": delta});
    Frame::named("content_block_delta", &data)
}

fn stop(at: usize) -> Frame {
    Frame::named("content_block_stop", &json!({"type": "content_block_stop", "index": at}))
}

fn ping() -> Frame {
    Frame::named("ping", &json!({"type": "ping"}))
}

impl Shape for Messages {
    fn call_prefix(&self) -> &'static str {
        "toolu_"
    }

    fn start(&mut self, usage: &Usage) -> Vec<Frame> {
        let usage = Usage { completion: 0, reasoning: 0, ..*usage };
        let message = self.message(&[], None, &usage);
        let start = json!({"type": "message_start", "message": message});
        vec![Frame::named("message_start", &start), ping()]
    }

    fn step(&mut self, answer: &Answer, step: &Step, _: &[TokenLogprob]) -> Vec<Frame> {
        match step {
            Step::Open(at) => {
                let item = &answer.items[*at];
                let block = match item.kind {
                    Kind::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                    Kind::Text => empty_text(),
                    Kind::Call => json!({
                        "type": "tool_use",
                        "id": item.id,
                        "name": item.name,
                        "input": {},
                    }),
                };
                vec![start(*at, &block)]
            }
            Step::Delta(at, text) => {
                let piece = match answer.items[*at].kind {
                    Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
                    Kind::Text => json!({"type": "text_delta", "text": text}),
                    Kind::Call => json!({"type": "input_json_delta", "partial_json": text}),
                };
                vec![delta(*at, &piece)]
            }
            Step::Close(at) => self.close(&answer.items[*at], *at),
        }
    }

    fn finish(&mut self, answer: &Answer, finish: &Finish, usage: &Usage) -> Vec<Frame> {
        let mut frames = Vec::new();
        if needs_text(answer) {
            let at = answer.items.len();
            frames.extend([start(at, &empty_text()), stop(at)]);
        }
        let (reason, sequence) = stop_reason(finish);
        let data = json!({
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": usage.messages(),
        });
        frames.push(Frame::named("message_delta", &data));
        frames.push(Frame::named("message_stop", &json!({"type": "message_stop"})));
        frames
    }

    fn fail(&mut self, _: &Answer, _: &[Step], error: &ApiError) -> Vec<Frame> {
        vec![Frame::named("error", &error.body(Api::Messages))]
    }

    fn keep_alive(&mut self, _: Duration) -> Frame {
        ping()
    }

    fn body(&self, answer: &Answer, finish: &Finish, usage: &Usage) -> Value {
        let mut content: Vec<Value> = answer.items.iter().map(|item| self.block(item)).collect();
        if needs_text(answer) {
            content.push(empty_text());
        }
        self.message(&content, Some(finish), usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_broken_object_the_whole_members_stay() {
        for (text, expected) in [
            ("", "{}"),
            ("{", "{}"),
            ("{\"a\":\"x", "{}"),
            ("{\"a\":\"x,\\\",y\",\"b\":[1,", "{\"a\":\"x,\\\",y\"}"),
            ("{\"a\":{\"b\":1,\"c\":2},\"d\":{\"e\":1,", "{\"a\":{\"b\":1,\"c\":2}}"),
            ("{\"a\":1,\"b\":2", "{\"a\":1}"),
            (",,{", "{}"),
        ] {
            assert_eq!(Value::Object(whole_members(text)).to_string(), expected, "{text}");
        }
    }
}
