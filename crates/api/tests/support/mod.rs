//! What the tests of this crate share: packed fixtures, requests, writers with predictable ids.
#![expect(clippy::unwrap_used, reason = "a broken fixture is a failed test")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use ds4_api::wire::{BodyWriter, Finish, Frame, Meta, NewId, StreamWriter, Usage};
use ds4_api::{Api, Request};
use ds4_text::parse::Event;
use ds4_text::{Conversation, Effort, Message, ResponseFormat, Role, Thinking, ToolChoice};
use serde_json::Value;

/// The cases of a packed fixture file.
pub(crate) fn packed_cases(name: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/protocol").join(name);
    let mut text = String::new();
    flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    match file["cases"].take() {
        Value::Array(cases) => cases,
        other => panic!("{name}: no cases but {other}"),
    }
}

/// A request by one user message.
pub(crate) fn request(api: Api) -> Request {
    let conversation = Conversation {
        messages: vec![Message::new(Role::User, "q")],
        tools: Vec::new(),
        tool_choice: ToolChoice::Auto,
        response_format: ResponseFormat::Text,
        thinking: Thinking::On(Effort::High),
    };
    Request::new(api, "deepseek-v4-flash", conversation)
}

pub(crate) fn meta(id: &str) -> Meta {
    Meta { id: id.to_owned(), created: 0, model: "deepseek-v4-flash".to_owned() }
}

/// Ids `ID0`, `ID1` and so on.
pub(crate) fn ids() -> NewId {
    let mut n = 0;
    Box::new(move || {
        n += 1;
        format!("ID{}", n - 1)
    })
}

/// The whole stream of an answer.
pub(crate) fn stream(
    request: &Request,
    id: &str,
    events: &[Event],
    finish: &Finish,
    usage: &Usage,
) -> Vec<Frame> {
    let mut writer = StreamWriter::new(request, meta(id), ids());
    let mut frames = writer.start(usage);
    for event in events {
        frames.extend(writer.event(event));
    }
    frames.extend(writer.finish(finish, usage));
    frames
}

/// The body of an answer.
pub(crate) fn body(
    request: &Request,
    id: &str,
    events: &[Event],
    finish: &Finish,
    usage: &Usage,
) -> Value {
    let mut writer = BodyWriter::new(request, meta(id), ids());
    for event in events {
        writer.event(event);
    }
    writer.finish(finish, usage)
}

/// The JSON of every frame that has any, in order.
pub(crate) fn data(frames: &[Frame]) -> Vec<Value> {
    let json = |frame: &Frame| serde_json::from_str(&frame.data).ok();
    frames.iter().filter(|frame| !frame.is_comment()).filter_map(json).collect()
}
