//! OpenAI's Responses: output items, each closed before the next begins, and a terminal event that
//! repeats the whole response.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Item, Kind, Status, Step};
use super::custom_input::CustomInput;
use super::logprobs::entries;
use super::{Finish, Frame, Meta, Shape, TokenLogprob, Usage};
use crate::responses::seal_reasoning;
use crate::{Alias, ApiError, Request, ResponsesOptions};

/// Comments are no events to clients that wait for events; after this long they get one.
const QUIET_MAX: Duration = Duration::from_mins(1);

pub(super) struct Responses {
    meta: Meta,
    options: ResponsesOptions,
    aliases: BTreeMap<String, Alias>,
    wants_logprobs: bool,
    sequence: usize,
    /// Of each item of the answer, its place in the output; hidden reasoning has none.
    places: Vec<Option<usize>>,
    /// The text of custom calls, by item.
    custom: BTreeMap<usize, CustomInput>,
}

impl Responses {
    pub(super) fn new(request: &Request, meta: Meta) -> Self {
        Self {
            meta,
            options: request.responses.clone(),
            aliases: request.aliases.clone(),
            wants_logprobs: request.top_logprobs.is_some(),
            sequence: 0,
            places: Vec::new(),
            custom: BTreeMap::new(),
        }
    }

    fn event(&mut self, name: &'static str, fields: Value) -> Frame {
        let mut data = json!({"type": name, "sequence_number": self.sequence});
        self.sequence += 1;
        if let (Value::Object(data), Value::Object(fields)) = (&mut data, fields) {
            data.extend(fields);
        }
        Frame::named(name, &data)
    }

    /// The response object, with the fields in the middle that only its end has.
    fn response(
        &self,
        status: &str,
        middle: Value,
        output: &[Value],
        usage: Option<&Usage>,
    ) -> Value {
        let mut response = json!({
            "id": format!("resp_{}", self.meta.id),
            "object": "response",
            "created_at": self.meta.created,
            "status": status,
            "model": self.meta.model,
        });
        let Value::Object(fields) = &mut response else { unreachable!("an object") };
        if let Value::Object(middle) = middle {
            fields.extend(middle);
        }
        fields.insert("output".to_owned(), output.into());
        if let Some(usage) = usage {
            fields.insert("usage".to_owned(), usage.responses());
        }
        fields.extend(self.options.echo.clone());
        response
    }

    fn in_progress(&self) -> Value {
        json!({"response": self.response("in_progress", Value::Null, &[], None)})
    }

    fn place(&self, at: usize) -> Option<usize> {
        self.places.get(at).copied().flatten()
    }

    /// The id of an output item.
    fn item_id(&self, item: &Item, place: usize) -> String {
        let prefix = match item.kind {
            Kind::Thinking => "rs",
            Kind::Text => "msg",
            Kind::Call => match self.aliases.get(&item.name) {
                Some(Alias::Custom { .. }) => "ctc",
                Some(Alias::ToolSearch) => "tsc",
                Some(Alias::Namespaced { .. }) | None => "fc",
            },
        };
        format!("{prefix}_{}{place:04x}", self.meta.id)
    }

    /// An output item as it is now; an open one has no content yet.
    fn item(&self, item: &Item, at: usize, place: usize) -> Value {
        let id = self.item_id(item, place);
        let status = match item.status {
            Status::Open => "in_progress",
            Status::Whole => "completed",
            Status::Cut => "incomplete",
        };
        let is_open = item.status == Status::Open;
        match item.kind {
            Kind::Thinking => self.reasoning(item, &id, status),
            Kind::Text => {
                let content = if is_open { Vec::new() } else { vec![self.text_part(item)] };
                json!({
                    "id": id,
                    "type": "message",
                    "status": status,
                    "role": "assistant",
                    "content": content,
                })
            }
            Kind::Call => self.call(item, at, &id, status),
        }
    }

    fn reasoning(&self, item: &Item, id: &str, status: &str) -> Value {
        let is_open = item.status == Status::Open;
        let shows = self.options.summary && !is_open;
        let summary = if shows { vec![summary_part(&item.text)] } else { Vec::new() };
        let mut reasoning =
            json!({"id": id, "type": "reasoning", "status": status, "summary": summary});
        if self.options.encrypted_reasoning {
            let sealed = if is_open { String::new() } else { seal_reasoning(&item.text) };
            reasoning["encrypted_content"] = sealed.into();
        }
        reasoning
    }

    fn text_part(&self, item: &Item) -> Value {
        let mut part = json!({"type": "output_text", "text": item.text, "annotations": []});
        if self.wants_logprobs {
            part["logprobs"] = entries(&item.logprobs).into();
        }
        part
    }

    fn call(&self, item: &Item, at: usize, id: &str, status: &str) -> Value {
        let is_open = item.status == Status::Open;
        match self.aliases.get(&item.name) {
            Some(Alias::Custom { .. }) => {
                let text = self.custom.get(&at).map_or("", CustomInput::text);
                json!({
                    "id": id,
                    "type": "custom_tool_call",
                    "status": status,
                    "call_id": item.id,
                    "name": item.name,
                    "input": if is_open { "" } else { text },
                })
            }
            Some(Alias::ToolSearch) => {
                let arguments: Map<String, Value> =
                    serde_json::from_str(&item.text).unwrap_or_default();
                json!({
                    "id": id,
                    "type": "tool_search_call",
                    "status": status,
                    "call_id": item.id,
                    "execution": "client",
                    "arguments": if is_open { Map::new() } else { arguments },
                })
            }
            Some(Alias::Namespaced { .. }) | None => {
                let mut call = json!({"id": id, "type": "function_call", "status": status});
                self.name_call(&mut call, item);
                call["call_id"] = item.id.clone().into();
                call["arguments"] = if is_open { "" } else { &item.text }.into();
                call
            }
        }
    }

    /// Adds the name of a call, as the client knows it.
    fn name_call(&self, call: &mut Value, item: &Item) {
        if let Some(Alias::Namespaced { namespace, name }) = self.aliases.get(&item.name) {
            call["name"] = name.clone().into();
            call["namespace"] = namespace.clone().into();
        } else {
            call["name"] = item.name.clone().into();
        }
    }

    fn output(&self, answer: &Answer) -> Vec<Value> {
        let item = |(at, item)| self.place(at).map(|place| self.item(item, at, place));
        answer.items.iter().enumerate().filter_map(item).collect()
    }

    fn open(&mut self, answer: &Answer, at: usize) -> Vec<Frame> {
        let item = &answer.items[at];
        let is_hidden = item.kind == Kind::Thinking
            && !self.options.summary
            && !self.options.encrypted_reasoning;
        let place = self.places.iter().flatten().count();
        self.places.resize(at, None);
        self.places.push((!is_hidden).then_some(place));
        if is_hidden {
            return Vec::new();
        }
        // The item may have grown since it was opened.
        let opened = Item { status: Status::Open, ..item.clone() };
        let added = json!({"output_index": place, "item": self.item(&opened, at, place)});
        let mut frames = vec![self.event("response.output_item.added", added)];
        let mut fields = self.fields(item, place);
        match item.kind {
            Kind::Thinking if self.options.summary => {
                fields["part"] = summary_part("");
                frames.push(self.event("response.reasoning_summary_part.added", fields));
            }
            Kind::Text => {
                fields["part"] = self.text_part(&Item {
                    text: String::new(),
                    logprobs: Vec::new(),
                    ..item.clone()
                });
                frames.push(self.event("response.content_part.added", fields));
            }
            Kind::Call if matches!(self.aliases.get(&item.name), Some(Alias::Custom { .. })) => {
                self.custom.insert(at, CustomInput::default());
            }
            Kind::Thinking | Kind::Call => {}
        }
        frames
    }

    /// What events about the inside of an item begin with.
    fn fields(&self, item: &Item, place: usize) -> Value {
        let mut fields = json!({"item_id": self.item_id(item, place), "output_index": place});
        match item.kind {
            Kind::Thinking => fields["summary_index"] = 0.into(),
            Kind::Text => fields["content_index"] = 0.into(),
            Kind::Call => {}
        }
        fields
    }

    fn delta(
        &mut self,
        answer: &Answer,
        at: usize,
        delta: &str,
        logprobs: &[TokenLogprob],
    ) -> Option<Frame> {
        let place = self.place(at)?;
        let item = &answer.items[at];
        let mut fields = self.fields(item, place);
        fields["delta"] = delta.into();
        let name = match item.kind {
            Kind::Thinking if !self.options.summary => return None,
            Kind::Thinking => "response.reasoning_summary_text.delta",
            Kind::Text => {
                let logprobs = if self.wants_logprobs { entries(logprobs) } else { Vec::new() };
                fields["logprobs"] = logprobs.into();
                "response.output_text.delta"
            }
            Kind::Call => match self.aliases.get(&item.name) {
                Some(Alias::ToolSearch) => return None,
                Some(Alias::Custom { .. }) => {
                    let text = self.custom.get_mut(&at)?.feed(delta);
                    return self.custom_delta(item, place, text);
                }
                Some(Alias::Namespaced { .. }) | None => "response.function_call_arguments.delta",
            },
        };
        Some(self.event(name, fields))
    }

    fn custom_delta(&mut self, item: &Item, place: usize, text: String) -> Option<Frame> {
        if text.is_empty() {
            return None;
        }
        let mut fields = self.fields(item, place);
        fields["delta"] = text.into();
        Some(self.event("response.custom_tool_call_input.delta", fields))
    }

    fn close(&mut self, answer: &Answer, at: usize) -> Vec<Frame> {
        let Some(place) = self.place(at) else { return Vec::new() };
        let item = &answer.items[at];
        let mut frames = match item.kind {
            Kind::Thinking if self.options.summary => self.close_summary(item, place),
            Kind::Thinking => Vec::new(),
            Kind::Text => self.close_text(item, place),
            Kind::Call => self.close_call(item, at, place),
        };
        let done = json!({"output_index": place, "item": self.item(item, at, place)});
        frames.push(self.event("response.output_item.done", done));
        frames
    }

    fn close_summary(&mut self, item: &Item, place: usize) -> Vec<Frame> {
        let (mut text, mut part) = (self.fields(item, place), self.fields(item, place));
        text["text"] = item.text.clone().into();
        part["part"] = summary_part(&item.text);
        vec![
            self.event("response.reasoning_summary_text.done", text),
            self.event("response.reasoning_summary_part.done", part),
        ]
    }

    fn close_text(&mut self, item: &Item, place: usize) -> Vec<Frame> {
        let (mut text, mut part) = (self.fields(item, place), self.fields(item, place));
        text["text"] = item.text.clone().into();
        let logprobs = if self.wants_logprobs { entries(&item.logprobs) } else { Vec::new() };
        text["logprobs"] = logprobs.into();
        part["part"] = self.text_part(item);
        vec![
            self.event("response.output_text.done", text),
            self.event("response.content_part.done", part),
        ]
    }

    fn close_call(&mut self, item: &Item, at: usize, place: usize) -> Vec<Frame> {
        let mut fields = self.fields(item, place);
        match self.aliases.get(&item.name) {
            Some(Alias::ToolSearch) => Vec::new(),
            Some(Alias::Custom { .. }) => {
                let Some(custom) = self.custom.get_mut(&at) else { return Vec::new() };
                let rest = custom.finish(&item.text);
                fields["input"] = custom.text().into();
                let mut frames: Vec<Frame> =
                    self.custom_delta(item, place, rest).into_iter().collect();
                frames.push(self.event("response.custom_tool_call_input.done", fields));
                frames
            }
            Some(Alias::Namespaced { .. }) | None => {
                self.name_call(&mut fields, item);
                fields["arguments"] = item.text.clone().into();
                vec![self.event("response.function_call_arguments.done", fields)]
            }
        }
    }

    /// The response at its end.
    fn ended(&self, answer: &Answer, finish: &Finish, usage: &Usage) -> Value {
        let (status, middle) = if finish.is_cut() {
            ("incomplete", json!({"incomplete_details": {"reason": "max_output_tokens"}}))
        } else {
            ("completed", Value::Null)
        };
        self.response(status, middle, &self.output(answer), Some(usage))
    }
}

fn summary_part(text: &str) -> Value {
    json!({"type": "summary_text", "text": text})
}

/// The code of an error inside a response.
fn error_code(error: &ApiError) -> &str {
    match &error.code {
        Some(code) => code,
        None if error.status < 500 => "invalid_prompt",
        None => "server_error",
    }
}

impl Shape for Responses {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn start(&mut self, _: &Usage) -> Vec<Frame> {
        let response = self.in_progress();
        vec![
            self.event("response.created", response.clone()),
            self.event("response.in_progress", response),
        ]
    }

    fn step(&mut self, answer: &Answer, step: &Step, logprobs: &[TokenLogprob]) -> Vec<Frame> {
        match step {
            Step::Open(at) => self.open(answer, *at),
            Step::Delta(at, delta) => {
                self.delta(answer, *at, delta, logprobs).into_iter().collect()
            }
            Step::Close(at) => self.close(answer, *at),
        }
    }

    fn finish(&mut self, answer: &Answer, finish: &Finish, usage: &Usage) -> Vec<Frame> {
        let response = json!({"response": self.ended(answer, finish, usage)});
        let name = if finish.is_cut() { "response.incomplete" } else { "response.completed" };
        vec![self.event(name, response)]
    }

    fn fail(&mut self, answer: &Answer, steps: &[Step], error: &ApiError) -> Vec<Frame> {
        let mut frames: Vec<Frame> =
            steps.iter().flat_map(|step| self.step(answer, step, &[])).collect();
        let middle = json!({"error": {"code": error_code(error), "message": error.message}});
        let response = self.response("failed", middle, &self.output(answer), None);
        frames.push(self.event("response.failed", json!({"response": response})));
        frames
    }

    fn keep_alive(&mut self, quiet: Duration) -> Frame {
        if quiet < QUIET_MAX {
            return Frame::comment("keepalive");
        }
        let response = self.in_progress();
        self.event("response.in_progress", response)
    }

    fn body(&self, answer: &Answer, finish: &Finish, usage: &Usage) -> Value {
        self.ended(answer, finish, usage)
    }
}
