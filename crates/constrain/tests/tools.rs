//! Tool calls: what is allowed, what is not, and that whatever is allowed can be read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Random, World, text, validate, walk, worlds};
use ds4_constrain::{Answer, Begin, Calls, Form, Functions, Rigour, Spacing};
use ds4_text::parse::{Declared, Outcome, Parser, ParserOptions};
use serde_json::{Map, Value, json};

fn function(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no function"),
    }
}

fn weather() -> Map<String, Value> {
    function(json!({
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "detail": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "where": {
                    "type": "object",
                    "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                    "required": ["lat", "lon"],
                    "additionalProperties": false,
                },
            },
            "required": ["city", "days"],
            "additionalProperties": false,
        },
    }))
}

fn clock() -> Map<String, Value> {
    function(json!({"name": "get_time", "parameters": {"type": "object", "properties": {}}}))
}

fn functions() -> Functions {
    Functions { declared: vec![weather(), clock()], parallel: true, is_open: false }
}

fn form(calls: Calls) -> Form {
    Form { answer: Answer::Free, calls, rigour: Rigour::Lenient, spacing: Spacing::Flexible }
}

/// The parts of a call in the model's own form.
fn call(name: &str, parameters: &[(&str, bool, &str)]) -> String {
    let parameter = |(key, is_string, value): &(&str, bool, &str)| {
        format!(
            "\n<｜DSML｜parameter name=\"{key}\" string=\"{is_string}\">{value}</｜DSML｜parameter>"
        )
    };
    let parameters: String = parameters.iter().map(parameter).collect();
    format!("<｜DSML｜invoke name=\"{name}\">{parameters}\n</｜DSML｜invoke>")
}

fn block(calls: &[String]) -> String {
    format!("\n\n<｜DSML｜tool_calls>\n{}\n</｜DSML｜tool_calls>", calls.join("\n"))
}

fn parse(world: &World, ids: &[u32], thinking: bool, in_block: bool) -> Outcome {
    let names = functions().declared.iter().map(|f| f["name"].as_str().unwrap().into()).collect();
    let options =
        ParserOptions { thinking, in_block, declared: Declared::Names(names), literals: false };
    let mut parser = Parser::new(options);
    for id in ids {
        parser.push_token(
            world.tokenizer.specials(),
            *id,
            world.tokenizer.token_bytes(*id).unwrap(),
        );
    }
    assert!(parser.is_done());
    parser.outcome().clone()
}

const CITY: (&str, bool, &str) = ("city", true, "München <3 \"x\" </b>");
const DAYS: (&str, bool, &str) = ("days", false, "12");

#[test]
fn calls_as_the_model_writes_them_are_allowed() {
    let form = form(Calls::Required(functions()));
    for (name, world) in worlds() {
        for parameters in [
            vec![CITY, DAYS],
            vec![DAYS, CITY],
            vec![("unit", true, "celsius"), DAYS, ("detail", false, "null"), CITY],
            vec![
                DAYS,
                CITY,
                ("detail", true, "null"),
                ("where", false, "{\"lat\": -1.5, \"lon\": 0}"),
            ],
        ] {
            let text = block(&[call("get_weather", &parameters)]);
            world.accepts(&form, &text).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let two = block(&[call("get_time", &[]), call("get_weather", &[DAYS, CITY])]);
        world.accepts(&form, &two).unwrap_or_else(|e| panic!("{name}: {e}"));
        // The blank line that one profile writes for no parameters.
        let blank = block(&[call("get_time", &[]).replace("\n</", "\n\n</")]);
        world.accepts(&form, &blank).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn calls_that_are_not_declared_are_forbidden() {
    let form = form(Calls::Required(functions()));
    for (name, world) in worlds() {
        for (what, text) in [
            ("text", "Hello".to_owned()),
            ("nothing", String::new()),
            ("an unknown function", block(&[call("get_news", &[])])),
            ("a missing parameter", block(&[call("get_weather", &[CITY])])),
            ("an unknown parameter", block(&[call("get_weather", &[CITY, DAYS, ("x", true, "")])])),
            ("a parameter twice", block(&[call("get_weather", &[CITY, CITY, DAYS])])),
            ("a string as JSON", block(&[call("get_weather", &[("city", false, "\"x\""), DAYS])])),
            ("a number as text", block(&[call("get_weather", &[CITY, ("days", true, "12")])])),
            (
                "a number out of range",
                block(&[call("get_weather", &[CITY, ("days", false, "15")])]),
            ),
            (
                "an unknown value",
                block(&[call("get_weather", &[CITY, DAYS, ("unit", true, "kelvin")])]),
            ),
            (
                "a number for an object",
                block(&[call("get_weather", &[CITY, DAYS, ("where", false, "1")])]),
            ),
            ("text after the block", block(&[call("get_time", &[])]) + "x"),
            ("an empty block", "\n\n<｜DSML｜tool_calls>\n</｜DSML｜tool_calls>".to_owned()),
            ("the end of the turn inside", "\n\n<｜DSML｜tool_calls>\n<｜User｜>".to_owned()),
        ] {
            assert!(world.accepts(&form, &text).is_err(), "{name}: {what} passed");
        }
    }
}

#[test]
fn random_calls_can_be_read_and_are_valid() {
    for (name, world) in worlds() {
        for (required, is_open) in [(true, false), (true, true)] {
            let functions = Functions { is_open, ..functions() };
            let calls =
                if required { Calls::Required(functions) } else { Calls::Allowed(functions) };
            let grammar = world.compile(&form(calls));
            assert_eq!(grammar.warnings(), [""; 0]);
            let mut finished = 0;
            for seed in 0..40 {
                let mut constraint = grammar.begin(Begin::default()).unwrap();
                let mut random = Random(seed);
                let Some(ids) = walk(world, &mut constraint, &mut random, 600) else { continue };
                finished += 1;
                let outcome = parse(world, &ids, false, is_open);
                check_calls(&outcome, &format!("{name} {seed}: {:?}", text(world, &ids)));
            }
            assert!(finished >= 30, "{name}: only {finished} of 40 walks came to an end");
        }
    }
}

fn check_calls(outcome: &Outcome, context: &str) {
    assert_eq!(outcome.content, "", "{context}");
    let calls: Vec<_> = outcome.complete_calls().collect();
    assert!(!calls.is_empty(), "{context}");
    for call in calls {
        let declared = functions().declared;
        let function = declared.iter().find(|f| f["name"] == call.name.as_str());
        let schema = &function.unwrap_or_else(|| panic!("{context}"))["parameters"];
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        assert_eq!(validate::errors(schema, schema, &arguments), [""; 0], "{context}");
    }
}
