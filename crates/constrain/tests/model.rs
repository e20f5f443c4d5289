//! The demo model under constraints, from the request to the parsed answer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{nano, validate};
use ds4_constrain::{Begin, Constraint, Form, Rigour, Wishes};
use ds4_cpu::{CpuOptions, open};
use ds4_model::{ModelFile, Runner, Span, TokenId};
use ds4_text::parse::{Declared, End, Outcome, ParsedCall, Parser, ParserOptions};
use ds4_text::{
    Conversation, Effort, Message, Profile, ResponseFormat, Role, Thinking, ToolChoice, render,
};
use serde_json::{Map, Value, json};

fn runner() -> Box<dyn Runner> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/nano.gguf");
    let file = ModelFile::open(&path, None).unwrap();
    open(&Arc::new(file), &CpuOptions::default()).unwrap()
}

fn conversation(text: &str) -> Conversation {
    Conversation {
        messages: vec![Message::new(Role::User, text)],
        tools: Vec::new(),
        tool_choice: ToolChoice::Auto,
        response_format: ResponseFormat::Text,
        thinking: Thinking::Off,
    }
}

fn weather() -> Map<String, Value> {
    let function = json!({
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": false,
        },
    });
    function.as_object().unwrap().clone()
}

/// The most likely answer of at most `max` tokens, as tokens and parsed. Whether it came to an end.
fn answer(
    runner: &mut dyn Runner,
    conversation: &Conversation,
    mut constraint: Option<Constraint>,
    max: usize,
) -> (Vec<u32>, Outcome, bool) {
    let tokenizer = &nano().tokenizer;
    let prompt = render(Profile::April, conversation).unwrap();
    let ids = tokenizer.encode_segments(prompt.segments()).unwrap();
    let names = conversation.tools.iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect();
    let mut parser = Parser::new(ParserOptions {
        thinking: conversation.thinking != Thinking::Off,
        in_block: conversation.opens_block(),
        declared: Declared::Names(names),
        literals: false,
    });
    let seq = runner.open_seq(u32::try_from(ids.len() + max).unwrap()).unwrap();
    let (mut next, mut logits, mut out) = (ids, Vec::new(), Vec::new());
    while out.len() < max {
        let tokens: Vec<TokenId> = next.iter().map(|id| TokenId(*id)).collect();
        for chunk in tokens.chunks(runner.chunk_max()) {
            runner.forward(&[Span { seq, tokens: chunk, n_logits: 1 }], &mut logits).unwrap();
        }
        if let Some(constraint) = &mut constraint {
            constraint.mask(&mut logits).unwrap();
        }
        let best = (0u32..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        if let Some(constraint) = &mut constraint {
            constraint.accept(best).unwrap();
        }
        out.push(best);
        parser.push_token(tokenizer.specials(), best, tokenizer.token_bytes(best).unwrap());
        if parser.is_done() {
            break;
        }
        next = vec![best];
    }
    runner.close_seq(seq);
    let is_done = parser.is_done();
    parser.finish(if is_done { End::Stop } else { End::Length });
    (out, parser.outcome().clone(), is_done)
}

fn constraint(conversation: &Conversation) -> Constraint {
    let wishes = Wishes { rigour: Rigour::Strict, ..Wishes::default() };
    let form = Form::of(conversation, wishes).unwrap();
    nano().compile(&form).begin(Begin::of(conversation)).unwrap()
}

#[test]
fn nano_answers_a_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "population": {"type": "integer", "minimum": 0, "maximum": 50_000_000},
            "languages": {"type": "array", "items": {"enum": ["French", "German"]},
                "minItems": 1, "maxItems": 2},
        },
        "required": ["city", "population", "languages"],
        "additionalProperties": false,
    });
    let mut runner = runner();
    for thinking in [Thinking::Off, Thinking::On(Effort::High)] {
        let response_format = ResponseFormat::JsonSchema(schema.clone());
        let question = conversation("What is 7 plus 5?");
        let conversation = Conversation { response_format, thinking, ..question };
        let constraint = constraint(&conversation);
        let (_, outcome, is_done) = answer(runner.as_mut(), &conversation, Some(constraint), 300);
        assert!(is_done, "{outcome:?}");
        let value =
            serde_json::from_str(&outcome.content).unwrap_or_else(|e| panic!("{e}: {outcome:?}"));
        assert_eq!(validate::errors(&schema, &schema, &value), [""; 0], "{outcome:?}");
        assert_eq!(outcome.reasoning.is_empty(), thinking == Thinking::Off, "{outcome:?}");
    }
}

#[test]
fn nano_must_call() {
    let mut runner = runner();
    for thinking in [Thinking::Off, Thinking::On(Effort::High)] {
        for tool_choice in [ToolChoice::Required, ToolChoice::Named("get_weather".into())] {
            let conversation = Conversation {
                tools: vec![weather()],
                tool_choice,
                thinking,
                // Nothing that a tool is good for.
                ..conversation("Hello! How are you?")
            };
            let constraint = constraint(&conversation);
            let (_, outcome, is_done) =
                answer(runner.as_mut(), &conversation, Some(constraint), 400);
            assert!(is_done && outcome.content.is_empty(), "{outcome:?}");
            let schema = &weather()["parameters"];
            assert!(outcome.complete_calls().count() > 0, "{outcome:?}");
            for call in outcome.complete_calls() {
                let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                assert_eq!(validate::errors(schema, schema, &arguments), [""; 0], "{outcome:?}");
            }
        }
    }
}

#[test]
fn the_guard_changes_no_valid_answer() {
    let mut runner = runner();
    let (mut valid, mut corrected) = (0, 0);
    for required in [json!(["city"]), json!(["city", "days"])] {
        let mut function = weather();
        function["parameters"]["required"] = required;
        let schema = function["parameters"].clone();
        let is_valid = |call: &ParsedCall| {
            let arguments = serde_json::from_str(&call.arguments).unwrap();
            call.is_complete && validate::errors(&schema, &schema, &arguments).is_empty()
        };
        for text in [
            "What is the weather in Paris?",
            "Tell me the weather in Oslo for 3 days.",
            "weather in Rome in fahrenheit please, 2 days",
            "Hello!",
            "What is 7 plus 5?",
            "Write the weather tool call for Berlin.",
        ] {
            let conversation = Conversation { tools: vec![function.clone()], ..conversation(text) };
            let (free, outcome, is_done) = answer(runner.as_mut(), &conversation, None, 120);
            let constraint = constraint(&conversation);
            let (guarded, guarded_outcome, _) =
                answer(runner.as_mut(), &conversation, Some(constraint), 120);
            if is_done && outcome.calls.iter().all(is_valid) {
                assert_eq!(free, guarded, "{text}: {outcome:?}, {guarded_outcome:?}");
                valid += outcome.calls.len();
            } else {
                // Where they part, the model went where no valid call is.
                assert_ne!(free, guarded, "{text}");
                assert!(guarded_outcome.calls.iter().all(is_valid), "{guarded_outcome:?}");
                corrected += 1;
            }
        }
    }
    assert!(valid >= 2 && corrected >= 2, "{valid} valid calls, {corrected} answers corrected");
}
