//! Any JSON as a request body of every API: converted or refused in one line; what is converted can
//! be rendered and answered, and the stream of the answer says what its body says.
#![no_main]

use ds4_api::wire::{BodyWriter, Finish, Meta, NewId, StreamWriter, Usage};
use ds4_api::{Api, Request, RequestError, Rules, chat, completions, messages, responses};
use ds4_text::parse::{End, Event, Parser};
use ds4_text::{Profile, render};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

type Convert = fn(&Value, Rules) -> Result<Request, RequestError>;

const CONVERTERS: [Convert; 5] = [
    chat::convert,
    messages::convert,
    responses::convert,
    completions::convert,
    completions::convert_chat,
];

/// An answer with a call of whatever the request may have declared.
const OUTPUT: &str = "r</think>a\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\
                      <｜DSML｜parameter name=\"input\" string=\"true\">x</｜DSML｜parameter>\n\
                      </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

fuzz_target!(|bytes: &[u8]| {
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else { return };
    for convert in CONVERTERS {
        for rules in [Rules::Lenient, Rules::Hosted] {
            match convert(&body, rules) {
                Ok(request) => answer(&request),
                Err(error) => assert!(!error.message.contains(['\n', '\r']), "{}", error.message),
            }
        }
    }
});

fn answer(request: &Request) {
    for profile in [Profile::April, Profile::July] {
        let _ = render(profile, &request.conversation);
    }
    let mut parser = Parser::new(request.parser_options());
    let mut events = parser.push_text(OUTPUT.as_bytes());
    events.extend(parser.finish(End::Stop));

    let meta = || Meta { id: "1".to_owned(), created: 0, model: request.model.clone() };
    let ids = || -> NewId { Box::new(|| "2".to_owned()) };
    let usage = Usage::default();
    let mut stream = StreamWriter::new(request, meta(), ids());
    let mut frames = stream.start(&usage);
    let mut body = BodyWriter::new(request, meta(), ids());
    for event in &events {
        frames.extend(stream.event(event));
        body.event(event);
    }
    frames.extend(stream.finish(&Finish::Stop, &usage));
    let body = body.finish(&Finish::Stop, &usage);
    let json: Vec<Value> = frames
        .iter()
        .filter(|frame| !frame.is_comment() && frame.data != "[DONE]")
        .map(|frame| serde_json::from_str(&frame.data).expect("the data of an event is JSON"))
        .collect();
    match request.api {
        Api::Responses => assert_eq!(json.last().expect("an end")["response"], body),
        Api::Chat => {
            let text = |frame: &Value| {
                frame["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
            };
            let streamed: String = json.iter().map(text).collect();
            assert_eq!(body["choices"][0]["message"]["content"], streamed);
        }
        Api::Messages => {
            let starts = json.iter().filter(|frame| frame["type"] == "content_block_start").count();
            assert_eq!(body["content"].as_array().map(Vec::len), Some(starts));
        }
        Api::Completions => {
            let is_text = |event: &&Event| matches!(event, Event::Text(_));
            assert_eq!(events.iter().filter(is_text).count() + 1, json.len());
        }
    }
}
