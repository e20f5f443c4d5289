//! Answers in JSON: what is allowed, and that whatever is allowed is valid.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Random, World, nano, text, validate, walk, worlds};
use ds4_constrain::{Answer, Begin, Calls, Error, Form, Rigour, Spacing};
use serde_json::{Map, Value, json};

fn form(answer: Answer) -> Form {
    Form { answer, calls: Calls::Free, rigour: Rigour::Strict, spacing: Spacing::Flexible }
}

fn schema(schema: Value) -> Form {
    form(Answer::JsonSchema(schema))
}

/// Which of these answers are allowed.
fn check(world: &World, form: &Form, good: &[&str], bad: &[&str]) {
    for answer in good {
        world.accepts(form, answer).unwrap_or_else(|e| panic!("{e}"));
    }
    for answer in bad {
        assert!(world.accepts(form, answer).is_err(), "{answer:?} passed");
    }
}

#[test]
fn any_object_and_nothing_else() {
    for (_, world) in worlds() {
        check(
            world,
            &form(Answer::JsonObject),
            &[
                "{}",
                "{\"a\":[1,-2.5e3,null,true,{\"ü\":\"\\n\\u0007 😀\"}]}",
                "{ \"a\" : 1 }",
                "{\n    \"a\": 1\n}",
            ],
            &[
                "",
                "[]",
                "1",
                "\"a\"",
                "{",
                "{}{}",
                "{} ",
                "{\"a\":01}",
                "{\"a\":1,}",
                "{a:1}",
                "```json\n{}",
                "{\"a\":\"\n\"}",
            ],
        );
        let compact = Form { spacing: Spacing::Compact, ..form(Answer::JsonObject) };
        check(world, &compact, &["{\"a\":[1,2]}"], &["{ }", "{\"a\": 1}"]);
    }
}

#[test]
fn schemas_are_enforced() {
    let person = schema(json!({
        "$defs": {"name": {"type": "string", "minLength": 1, "maxLength": 5}},
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["a", 2, null]},
            "born": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}\\d+$"},
            "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["name", "age"],
        "additionalProperties": false,
    }));
    for (_, world) in worlds() {
        check(
            world,
            &person,
            &[
                "{\"name\":\"Ann\",\"age\":7}",
                "{\"name\": \"😀😀😀😀😀\", \"age\": 0, \"kind\": null}",
                "{\"name\":\"A\",\"age\":1,\"kind\":2,\"born\":\"2024-02-29\",\"code\":\"AB1\",\
                 \"parent\":{\"name\":\"B\",\"age\":30,\"parent\":null}}",
            ],
            &[
                "{}",
                "{\"name\":\"Ann\"}",
                "{\"name\":\"\",\"age\":7}",
                "{\"name\":\"Ann Bo\",\"age\":7}",
                "{\"name\":\"A\",\"age\":151}",
                "{\"name\":\"A\",\"age\":1.5}",
                "{\"name\":\"A\",\"age\":1,\"kind\":\"b\"}",
                "{\"name\":\"A\",\"age\":1,\"born\":\"2024-13-01\"}",
                "{\"name\":\"A\",\"age\":1,\"code\":\"A1\"}",
                "{\"name\":\"A\",\"age\":1,\"x\":1}",
                "{\"name\":\"A\",\"age\":1,\"parent\":{}}",
            ],
        );
    }
}

#[test]
fn answers_need_not_be_objects() {
    let world = nano();
    check(world, &schema(json!(true)), &["1", "[]", "\"x\""], &["x", ""]);
    check(world, &schema(json!({"type": "string"})), &["\"\"", "\"a\""], &["a", "1"]);
    check(world, &schema(json!({"const": {"a": [1]}})), &["{\"a\":[1]}"], &["{}", "{\"a\":[1,1]}"]);
    let pairs = json!({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false,
                       "minItems": 2, "type": "array"});
    check(world, &schema(pairs), &["[1,\"a\"]"], &["[1]", "[\"a\",1]", "[1,\"a\",2]"]);
}

/// Schemas as clients write them.
fn samples() -> Vec<Value> {
    vec![
        json!({"type": "object"}),
        json!({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4}),
        json!({"enum": ["ja", "nein", "中文", "\"quoted\"", "a\\b"]}),
        json!({"type": "string", "minLength": 2, "maxLength": 6}),
        json!({"type": "integer", "exclusiveMinimum": -3, "maximum": 12}),
        json!({"type": "number", "minimum": 0, "maximum": 1}),
        json!({"type": "integer", "multipleOf": 7, "minimum": -9_999, "maximum": 9_999}),
        json!({"oneOf": [
            {
                "type": "object",
                "properties": {"k": {"const": "a"}, "x": {"type": "integer"}},
                "required": ["k"],
                "additionalProperties": false,
            },
            {
                "type": "object",
                "properties": {"k": {"const": "b"}},
                "required": ["k"],
                "additionalProperties": false,
            },
        ]}),
        json!({"allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]}),
        json!({"type": "object", "additionalProperties": {"type": ["integer", "null"]}}),
        json!({
            "$defs": {"node": {
                "type": "object",
                "properties": {
                    "v": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["v", "next"],
                "additionalProperties": false,
            }},
            "$ref": "#/$defs/node",
        }),
        json!({
            "type": "object",
            "properties": {"a": {}, "b": {"type": "string"}, "c": true},
            "required": ["c", "z"],
        }),
    ]
}

#[test]
fn random_answers_are_valid() {
    for (name, world) in worlds() {
        let mut finished = 0;
        for (i, sample) in samples().iter().enumerate() {
            finished += walks(world, sample, Rigour::Strict, 4, 300, &format!("{name} {i}"));
        }
        assert!(finished >= samples().len() * 3, "{name}: only {finished} walks came to an end");
    }
}

/// Walks under a schema; returns how many came to an end.
fn walks(
    world: &World,
    schema: &Value,
    rigour: Rigour,
    n: u64,
    max: usize,
    context: &str,
) -> usize {
    let form = Form { rigour, ..form(Answer::JsonSchema(schema.clone())) };
    let grammar =
        world.grammars.compile(&form).unwrap_or_else(|e| panic!("{context}: {e} {schema}"));
    let mut finished = 0;
    for seed in 0..n {
        let mut constraint = grammar.begin(Begin::default()).unwrap();
        let Some(ids) = walk(world, &mut constraint, &mut Random(seed), max) else { continue };
        finished += 1;
        let answer = text(world, &ids);
        let context = format!("{context}, seed {seed}: {answer:?} for {schema}");
        let value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(validate::errors(schema, schema, &value), [""; 0], "{context}");
    }
    finished
}

/// A random schema that some value satisfies.
fn random_schema(random: &mut Random, depth: usize) -> Value {
    let leaves = 7;
    let kinds = if depth == 0 { leaves } else { leaves + 5 };
    let count = |random: &mut Random, n| i64::try_from(random.below(n)).unwrap();
    match random.below(kinds) {
        0 => json!({"type": "null"}),
        1 => json!({"type": "boolean"}),
        2 => {
            let low = count(random, 2000) - 1000;
            json!({"type": "integer", "minimum": low, "maximum": low + count(random, 500)})
        }
        3 => {
            let low = count(random, 20) - 10;
            json!({"type": "number", "minimum": low, "exclusiveMaximum": low + 1 + count(random,
                50)})
        }
        4 => {
            let min = count(random, 4);
            json!({"type": "string", "minLength": min, "maxLength": min + count(random, 8)})
        }
        5 => {
            let n = 1 + random.below(5);
            let value =
                |i| json!([format!("v{i}"), i, null, {"k": i}, [i], "é\"\\"])[i % 6].clone();
            json!({"enum": (0..n).map(|_| value(random.below(40))).collect::<Vec<_>>()})
        }
        6 => json!({"type": ["string", "null", "integer"]}),
        7 => {
            json!({"type": "array", "items": random_schema(random, depth - 1),
                "minItems": random.below(3), "maxItems": 2 + random.below(3)})
        }
        8 => json!({"anyOf": [random_schema(random, depth - 1), random_schema(random, depth - 1)]}),
        9 => {
            json!({"type": "array", "prefixItems": [random_schema(random, depth - 1),
                random_schema(random, depth - 1)], "items": false, "minItems": random.below(3)})
        }
        _ => {
            let n = random.below(5);
            let keys: Vec<String> =
                (0..n).map(|i| format!("{}{i}", random.choose(&["key", "ü ", "a\""]))).collect();
            let properties: Map<String, Value> =
                keys.iter().map(|key| (key.clone(), random_schema(random, depth - 1))).collect();
            let required: Vec<&String> = keys.iter().filter(|_| random.chance(50)).collect();
            let mut schema =
                json!({"type": "object", "properties": properties, "required": required});
            if random.chance(60) {
                schema["additionalProperties"] = json!(false);
            } else if random.chance(50) {
                schema["additionalProperties"] = random_schema(random, 0);
            }
            schema
        }
    }
}

#[test]
fn random_answers_to_random_schemas_are_valid() {
    let mut finished = 0;
    for seed in 0..120 {
        let schema = random_schema(&mut Random(seed), 3);
        finished += walks(nano(), &schema, Rigour::Strict, 2, 400, &format!("schema {seed}"));
    }
    assert!(finished >= 200, "only {finished} of 240 walks came to an end");
}

#[test]
fn what_cannot_be_enforced_is_refused_or_reported() {
    let unique =
        json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let message = "response_format.json_schema.schema#/properties/a: the keyword \
                   \"uniqueItems\" is not supported";
    let error = nano().grammars.compile(&schema(unique.clone())).err().unwrap();
    assert!(error.is_request() && error.to_string() == message, "{error}");
    let lenient = Form { rigour: Rigour::Lenient, ..schema(unique) };
    assert_eq!(nano().compile(&lenient).warnings(), [format!("{message}; not enforced")]);
    nano().accepts(&lenient, "{\"a\":[1,1]}").unwrap();
    for (bad, message) in [
        (json!({"type": "strin"}), "Invalid type: strin"),
        (json!({"$ref": "#/$defs/none"}), "Reference segment '$defs' not found in '#/$defs/none'."),
        (
            json!({"$ref": "https://example.com/x"}),
            "the reference 'https://example.com/x' leads out of the schema",
        ),
        (
            json!({"type": "string", "minLength": 3, "maxLength": 2}),
            "minLength (3) is greater than maxLength (2)",
        ),
        (json!(false), "no answer satisfies this schema"),
        (json!(7), "a schema is an object or a boolean"),
        (
            json!({"anyOf": [{"type": "integer"}, {"oneOf": [{"minimum": 1}, {"maximum": 3}]}]}),
            "the keyword \"oneOf\" is not supported where",
        ),
    ] {
        let error = nano().grammars.compile(&schema(bad.clone())).err();
        let error = error.unwrap_or_else(|| panic!("{bad} was taken"));
        assert!(matches!(error, Error::Schema { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(message) && !text.contains('\n'), "{bad}: {text}");
    }
    // The compiler's own options are not for clients.
    let options = json!({"type": "null", "x-guidance": {"whitespace_pattern": "x"}});
    check(nano(), &schema(options), &["null"], &["nullx"]);
}
