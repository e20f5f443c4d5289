//! Blocks of calls that the model opens by itself: held to their grammar, and otherwise untouched.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Random, World, cases, nano, text, validate, walk, worlds};
use ds4_constrain::{Answer, Begin, Calls, Constraint, Form, Functions, Rigour, Spacing};
use ds4_text::DSML;
use ds4_text::parse::{Declared, Outcome, Parser, ParserOptions};
use serde_json::{Map, Value, json};

fn guard(declared: Vec<Map<String, Value>>, parallel: bool) -> Form {
    Form {
        answer: Answer::Free,
        calls: Calls::Allowed(Functions { declared, parallel, is_open: false }),
        rigour: Rigour::Lenient,
        spacing: Spacing::Flexible,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

/// A function with parameters of every kind, none of them described any closer than by its type.
fn tool() -> Map<String, Value> {
    object(json!({
        "name": "edit",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "format": "uri", "maxLength": 40},
                "line": {"type": "integer", "minimum": 1},
                "ratio": {"type": "number"},
                "mode": {"type": "string", "enum": ["insert", "replace"]},
                "edits": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"old": {"type": "string"}, "new": {"type": "string"}},
                        "required": ["old", "new"],
                    },
                },
                "note": {"type": ["string", "null"]},
                "force": {"type": "boolean"},
            },
            "required": ["path"],
        },
    }))
}

fn start(world: &World, form: &Form, thinking: bool) -> Constraint {
    assert!(form.is_guard());
    world.compile(form).begin(Begin { thinking, content: "" }).unwrap()
}

fn parse(world: &World, ids: &[u32], thinking: bool, name: &str) -> Outcome {
    let declared = Declared::Names(vec![name.to_owned()]);
    let options = ParserOptions { thinking, in_block: false, declared, literals: false };
    let mut parser = Parser::new(options);
    for id in ids {
        let bytes = world.tokenizer.token_bytes(*id).unwrap();
        parser.push_token(world.tokenizer.specials(), *id, bytes);
    }
    parser.outcome().clone()
}

#[test]
fn whatever_the_strict_parser_reads_passes_unchanged() {
    let (mut n, mut n_calls) = (0, 0);
    for case in cases("parse.json").into_iter().chain(cases("random_parse.json")) {
        let calls = &case["official_strict"]["tool_calls"];
        let Some(calls) = calls.as_array() else { continue };
        // The mark inside a value is text for a parser of text, but control among tokens; and a key
        // that nobody declared ends at its first quote.
        let is_odd = |call: &Value| {
            let text = call["arguments"].as_str().unwrap();
            let arguments: Map<String, Value> = serde_json::from_str(text).unwrap();
            text.contains(DSML) || arguments.keys().any(|key| key.contains('"'))
        };
        if calls.iter().any(is_odd) {
            continue;
        }
        let mut names: Vec<&Value> = calls.iter().map(|call| &call["name"]).collect();
        names.dedup();
        names.sort_by_key(ToString::to_string);
        names.dedup();
        let any = |name: &Value| object(json!({"name": name, "parameters": {"type": "object"}}));
        let mut declared: Vec<_> = names.into_iter().map(any).collect();
        if declared.is_empty() {
            declared.push(any(&json!("unused")));
        }
        let raw = case["raw_without_eos"].as_str().unwrap();
        for (world_name, world) in worlds() {
            let form = guard(declared.clone(), true);
            let mut constraint = start(world, &form, case["thinking"].as_bool().unwrap());
            let context = |e: String| panic!("{world_name}, {}: {e}", case["id"]);
            world.follow(&mut constraint, raw).unwrap_or_else(context);
            world.end(&mut constraint, raw).unwrap_or_else(context);
        }
        n += 1;
        n_calls += calls.len();
    }
    assert!(n > 60 && n_calls > 40, "{n} cases with {n_calls} calls");
}

const CALL: &str = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"edit\">\n";
const END: &str = "\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

fn parameter(key: &str, is_string: bool, value: &str) -> String {
    format!("<｜DSML｜parameter name=\"{key}\" string=\"{is_string}\">{value}</｜DSML｜parameter>")
}

#[test]
fn valid_calls_pass_however_they_are_written() {
    let path = parameter("path", true, "not /absolute");
    let (_, world) = ("nano", nano());
    for (what, parameters) in [
        ("no more than required", path.clone()),
        ("another order", parameter("force", false, "true") + "\n" + &path),
        ("a string of another format", parameter("path", true, "ä ö")),
        (
            "keys in another order, JSON in Python's style",
            path.clone()
                + "\n"
                + &parameter(
                    "edits",
                    false,
                    "[{\"new\": \"a\\/b \\u00e9\\ud83d\\ude00\", \"old\": \"\"}]",
                ),
        ),
        (
            "indented JSON",
            path.clone() + "\n" + &parameter("edits", false, "[\n\n    {\n\t\"x\" : 1e5 }\r\n]"),
        ),
        ("both sides of a union", parameter("note", true, "null") + "\n" + &path),
        ("both sides of a union", parameter("note", false, "null") + "\n" + &path),
        (
            "tags apart and indented",
            "  ".to_owned() + &path + "\n\n   " + &parameter("mode", true, "insert") + " \n",
        ),
        ("tags together", path.clone() + &parameter("ratio", false, "0.5")),
    ] {
        let answer = format!("Let me see.{CALL}{parameters}{END}");
        world
            .accepts(&guard(vec![tool()], true), &answer)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

#[test]
fn broken_calls_are_forbidden() {
    let path = parameter("path", true, "x");
    let unknown = CALL.replace("edit", "delete");
    for (what, answer) in [
        ("an unknown function", format!("{unknown}{path}{END}")),
        ("a missing parameter", format!("{CALL}{}{END}", parameter("line", false, "1"))),
        ("an unknown parameter", format!("{CALL}{path}\n{}{END}", parameter("x", true, "y"))),
        ("a parameter twice", format!("{CALL}{path}\n{path}{END}")),
        ("a string as JSON", format!("{CALL}{}{END}", parameter("path", false, "\"x\""))),
        ("a number as a string", format!("{CALL}{path}\n{}{END}", parameter("line", true, "1"))),
        (
            "a fraction for an integer",
            format!("{CALL}{path}\n{}{END}", parameter("line", false, "1.5")),
        ),
        ("a number out of range", format!("{CALL}{path}\n{}{END}", parameter("line", false, "0"))),
        ("a text too long", format!("{CALL}{}{END}", parameter("path", true, &"x".repeat(41)))),
        ("broken JSON", format!("{CALL}{path}\n{}{END}", parameter("edits", false, "[1,]"))),
        ("an unknown value", format!("{CALL}{path}\n{}{END}", parameter("mode", true, "delete"))),
        ("another block name", CALL.replace("tool_calls", "calls")),
        ("no attribute", format!("{CALL}<｜DSML｜parameter name=\"path\">x")),
        ("the end inside", format!("{CALL}<｜end▁of▁sentence｜>")),
        (
            "a turn inside",
            format!("{CALL}<｜DSML｜parameter name=\"path\" string=\"true\">a<｜User｜>"),
        ),
        ("text after the block", format!("{CALL}{path}{END}\n")),
    ] {
        let accepted = nano().accepts(&guard(vec![tool()], true), &answer);
        assert!(accepted.is_err(), "{what} passed");
    }
    let two =
        format!("{CALL}{path}\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"edit\">\n{path}{END}");
    nano().accepts(&guard(vec![tool()], true), &two).unwrap();
    assert!(nano().accepts(&guard(vec![tool()], false), &two).is_err());
}

#[test]
fn only_a_tag_opens_a_block() {
    let form = guard(vec![tool()], true);
    // The mark without a bracket, behind a slash, and spelt by ordinary tokens.
    let world = nano();
    for answer in ["about ｜DSML｜ marks", "a </｜DSML｜x> b", "a < b", "<b>｜DSML｜"] {
        let mut constraint = start(world, &form, false);
        world.follow(&mut constraint, answer).unwrap();
        assert!(!constraint.is_active() && constraint.is_complete(), "{answer}");
    }
    let mut constraint = start(world, &form, false);
    for id in world.tokenizer.encode_plain(CALL) {
        constraint.accept(id).unwrap();
    }
    assert!(!constraint.is_active());
    // Reasoning may say anything; so may text before the block.
    let mut constraint = start(world, &form, true);
    world.follow(&mut constraint, "hm <｜DSML｜tool_calls> no</think>a").unwrap();
    assert!(!constraint.is_active());
    world.follow(&mut constraint, "<｜DSML｜").unwrap();
    assert!(constraint.is_active() && !constraint.is_complete());
    // A model that was not asked to think may begin to.
    let mut constraint = start(world, &form, false);
    world.follow(&mut constraint, "<think>a <｜DSML｜").unwrap();
    assert!(!constraint.is_active());
}

#[test]
fn random_calls_are_valid_whatever_was_written_before() {
    let form = guard(vec![tool()], true);
    let schema = &tool()["parameters"];
    // What the guard leaves to the model.
    let mut loose = schema.clone();
    loose["properties"]["edits"] = json!({"type": "array"});
    for (name, world) in worlds() {
        let mut finished = 0;
        for seed in 0..25 {
            let mut constraint = start(world, &form, false);
            let mut ids = world.ids("Sure: <b>\n\n<｜DSML｜");
            for id in &ids {
                constraint.accept(*id).unwrap();
            }
            let Some(rest) = walk(world, &mut constraint, &mut Random(seed), 500) else { continue };
            finished += 1;
            ids.extend(rest);
            let outcome = parse(world, &ids, false, "edit");
            let context = format!("{name} {seed}: {:?}", text(world, &ids));
            assert_eq!(outcome.content, "Sure: <b>", "{context}");
            for call in &outcome.calls {
                assert!(call.is_complete, "{context}");
                let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                assert_eq!(validate::errors(&loose, &loose, &arguments), [""; 0], "{context}");
            }
        }
        assert!(finished >= 18, "{name}: only {finished} of 25 walks came to an end");
    }
}
