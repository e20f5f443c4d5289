//! The inside of a block of tool calls: invokes, their parameters, and the arguments they become.
//!
//! The block is read as it arrives. String values stream; other values wait until they are whole,
//! because what is not JSON must become a string. Whatever else stands between tags is skipped.

use super::event::{End, Event};
use super::marks::to_text;
use super::queue::Queue;
use super::tag::{Dialect, Found, Name, Tag, read};
use super::value::{Kind, json_string, json_string_body, minify, object};

/// A block, from after its opening tag on.
#[derive(Clone, Debug)]
pub(super) struct Block {
    dialect: Dialect,
    buf: Queue,
    place: Place,
    calls: Vec<Call>,
    is_clean: bool,
}

#[derive(Clone, Debug, Default)]
struct Call {
    name: String,
    members: Vec<(String, String)>,
    /// Text between the tags of the invoke.
    loose: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Place {
    /// Between invokes.
    Calls,
    /// Inside an invoke, between parameters.
    Parameters,
    Value(Value),
    Done,
}

/// A parameter whose value is being read; the value is at the start of the buffer.
#[derive(Clone, Debug)]
struct Value {
    key: String,
    kind: Kind,
    /// The part of a string value that has been sent, escaped.
    sent: String,
    /// Where to go on searching for the end.
    scan: usize,
    /// Nested parameters that are open.
    depth: usize,
    /// Where a tag closed the invoke or the block while the value was open: either the value goes
    /// on, or its closing tag was forgotten.
    tail: Option<usize>,
    json: JsonScan,
}

/// Whether the end of JSON text is inside a string.
#[derive(Clone, Copy, Debug, Default)]
struct JsonScan {
    seen: usize,
    in_string: bool,
    is_escaped: bool,
}

/// What a sampler wants to know about the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    Structure,
    String,
    Json,
    JsonString,
}

impl Block {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            buf: Queue::default(),
            place: Place::Calls,
            calls: Vec::new(),
            is_clean: true,
        }
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        if !self.is_done() {
            self.buf.push(bytes);
            while self.step(out) {}
        }
    }

    /// Whether the closing tag has been read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.place, Place::Done)
    }

    /// Whether every byte so far was in its place.
    pub(super) fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// Names of the calls so far.
    pub(super) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.calls.iter().map(|call| call.name.as_str())
    }

    /// Bytes after the closing tag.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buf
    }

    /// Whether no call is open.
    pub(super) fn is_between_calls(&self) -> bool {
        matches!(self.place, Place::Calls | Place::Done)
    }

    /// Ends the block where the output ends.
    pub(super) fn finish(&mut self, end: End, out: &mut Vec<Event>) {
        if end == End::Stop {
            self.close_forgotten_value(out);
        }
        match &self.place {
            Place::Value(_) => {
                out.push(Event::ToolEnd { index: self.calls.len() - 1, arguments: None });
            }
            Place::Parameters => {
                let call = self.calls.last().expect("an invoke is open");
                let is_whole = call.loose.trim_ascii().is_empty() || call.body().is_some();
                self.end_call(end == End::Stop && is_whole, out);
            }
            Place::Calls | Place::Done => {}
        }
        self.place = Place::Done;
    }

    /// What the next byte is part of.
    pub(super) fn inside(&self) -> Inside {
        let Place::Value(value) = &self.place else { return Inside::Structure };
        // Two bytes of a closing tag are structure already.
        if value.tail.is_some() || self.buf.len() >= value.scan + 2 {
            return Inside::Structure;
        }
        match value.kind {
            Kind::Text | Kind::Untyped => Inside::String,
            Kind::Json if value.json.in_string => Inside::JsonString,
            Kind::Json => Inside::Json,
        }
    }

    /// Consumes what can be consumed; false when more bytes are needed.
    fn step(&mut self, out: &mut Vec<Event>) -> bool {
        match self.place {
            Place::Calls | Place::Parameters => self.step_tag(out),
            Place::Value(_) => self.step_value(out),
            Place::Done => false,
        }
    }

    fn step_tag(&mut self, out: &mut Vec<Event>) -> bool {
        let Some(at) = self.buf.iter().position(|b| *b == b'<') else {
            self.skip(self.buf.len());
            return false;
        };
        self.skip(at);
        match read(&self.buf, self.dialect) {
            Found::Partial => false,
            Found::No => {
                self.skip(1);
                true
            }
            Found::Tag(tag) => {
                self.buf.skip(tag.len);
                self.take_tag(tag, out);
                true
            }
        }
    }

    /// Drops text between tags; inside an invoke it may turn out to be the arguments.
    fn skip(&mut self, len: usize) {
        let text = &self.buf[..len];
        self.is_clean &= text.trim_ascii().is_empty();
        if matches!(self.place, Place::Parameters)
            && let Some(call) = self.calls.last_mut()
        {
            call.loose.extend_from_slice(text);
        }
        self.buf.skip(len);
    }

    fn take_tag(&mut self, tag: Tag, out: &mut Vec<Event>) {
        let in_invoke = matches!(self.place, Place::Parameters);
        match (tag.name, tag.is_close) {
            (Name::Invoke, false) => {
                if in_invoke {
                    self.is_clean = false;
                    self.end_call(true, out);
                }
                self.start_call(tag, out);
            }
            (Name::Parameter, false) if in_invoke => self.start_value(tag, out),
            (Name::Invoke, true) if in_invoke => self.end_call(true, out),
            (Name::Block | Name::Other, true) => {
                if in_invoke {
                    self.is_clean = false;
                    self.end_call(true, out);
                }
                self.place = Place::Done;
            }
            // Tags out of place.
            _ => self.is_clean = false,
        }
    }

    fn start_call(&mut self, tag: Tag, out: &mut Vec<Event>) {
        let Some(name) = tag.key else {
            self.is_clean = false;
            return;
        };
        out.push(Event::ToolStart { index: self.calls.len(), name: name.clone() });
        self.calls.push(Call { name, ..Call::default() });
        self.push_args("{".to_owned(), out);
        self.place = Place::Parameters;
        if tag.is_self_closing {
            self.end_call(true, out);
        }
    }

    /// Ends a call between parameters; when the output broke off here it is closed, but incomplete.
    fn end_call(&mut self, is_complete: bool, out: &mut Vec<Event>) {
        let call = self.calls.last().expect("an invoke is open");
        let (delta, whole) = match call.body() {
            Some(body) if call.members.is_empty() => (body[1..].to_owned(), body),
            _ => ("}".to_owned(), object(&call.members)),
        };
        self.push_args(delta, out);
        let arguments = is_complete.then_some(whole);
        out.push(Event::ToolEnd { index: self.calls.len() - 1, arguments });
        self.place = Place::Calls;
    }

    fn start_value(&mut self, tag: Tag, out: &mut Vec<Event>) {
        let Some(key) = tag.key else {
            self.is_clean = false;
            return;
        };
        let kind = Kind::of(tag.string.as_deref());
        if kind == Kind::Text {
            let opening = format!("{}{}:\"", self.comma(), json_string(&key));
            self.push_args(opening, out);
        }
        let value = Value {
            key,
            kind,
            sent: String::new(),
            scan: 0,
            depth: 0,
            tail: None,
            json: JsonScan::default(),
        };
        self.place = Place::Value(value);
        if tag.is_self_closing {
            self.end_value(0, 0, out);
        }
    }

    fn step_value(&mut self, out: &mut Vec<Event>) -> bool {
        let Place::Value(value) = &mut self.place else { return false };
        let ended = loop {
            let Some(at) = self.buf[value.scan..].iter().position(|b| *b == b'<') else {
                value.scan = self.buf.len();
                break None;
            };
            value.scan += at;
            match read(&self.buf[value.scan..], self.dialect) {
                Found::Partial => break None,
                Found::No => value.scan += 1,
                Found::Tag(tag) => match (tag.name, tag.is_close) {
                    (Name::Parameter, true) if value.depth == 0 => {
                        break Some((value.scan, value.scan + tag.len));
                    }
                    (Name::Parameter, true) => {
                        value.depth -= 1;
                        value.scan += tag.len;
                    }
                    (Name::Parameter, false)
                        if value.kind == Kind::Untyped && !tag.is_self_closing =>
                    {
                        value.depth += 1;
                        value.scan += tag.len;
                    }
                    (Name::Invoke | Name::Block, true) => {
                        value.tail.get_or_insert(value.scan);
                        value.scan += tag.len;
                    }
                    _ => value.scan += 1,
                },
            }
        };
        match ended {
            Some((end, after)) => self.end_value(end, after, out),
            None if value.kind == Kind::Text => self.send_string(out),
            None => value.json.go_on(&self.buf[..value.scan]),
        }
        ended.is_some()
    }

    /// Sends what is certain of a string value.
    fn send_string(&mut self, out: &mut Vec<Event>) {
        let Place::Value(value) = &mut self.place else { return };
        let certain = value.tail.unwrap_or(value.scan);
        let text = json_string_body(&self.buf[..certain]);
        self.buf.skip(certain);
        value.scan -= certain;
        value.tail = value.tail.map(|_| 0);
        value.sent.push_str(&text);
        self.push_args(text, out);
    }

    /// Ends a value that ends at `end`; its closing tag ends at `after`.
    fn end_value(&mut self, end: usize, after: usize, out: &mut Vec<Event>) {
        let comma = self.comma();
        let Place::Value(value) = std::mem::replace(&mut self.place, Place::Parameters) else {
            return;
        };
        let bytes = &self.buf[..end];
        let (delta, json) = if value.kind == Kind::Text {
            let rest = json_string_body(bytes);
            let json = format!("\"{}{rest}\"", value.sent);
            (rest + "\"", json)
        } else {
            let json = value.kind.value(bytes, self.dialect, 0);
            (format!("{comma}{}:{json}", json_string(&value.key)), json)
        };
        self.buf.skip(after);
        self.push_args(delta, out);
        let call = self.calls.last_mut().expect("a parameter is inside an invoke");
        call.members.push((value.key, json));
    }

    /// At the end of the output: closes a value whose closing tag was forgotten, and reads on.
    fn close_forgotten_value(&mut self, out: &mut Vec<Event>) {
        if let Place::Value(value) = &self.place
            && let Some(tail) = value.tail
        {
            self.is_clean = false;
            self.end_value(tail, tail, out);
            while self.step(out) {}
        }
    }

    fn comma(&self) -> &'static str {
        let is_first = self.calls.last().is_none_or(|call| call.members.is_empty());
        if is_first { "" } else { "," }
    }

    fn push_args(&self, delta: String, out: &mut Vec<Event>) {
        if !delta.is_empty() {
            out.push(Event::ToolArgs { index: self.calls.len() - 1, delta });
        }
    }
}

impl Call {
    /// The loose text of the invoke, when it is an object: arguments written as plain JSON.
    fn body(&self) -> Option<String> {
        let text = to_text(self.loose.trim_ascii());
        text.starts_with('{').then(|| minify(&text)).flatten()
    }
}

impl JsonScan {
    /// Reads on to the end of `json`.
    fn go_on(&mut self, json: &[u8]) {
        for byte in &json[self.seen..] {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'"' => self.in_string = !self.in_string,
                b'\\' => self.is_escaped = self.in_string,
                _ => {}
            }
        }
        self.seen = json.len();
    }
}
