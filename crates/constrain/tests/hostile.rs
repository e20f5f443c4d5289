//! Forms made to hang the compiler, to fill the memory or to break the parser: each is refused with
//! one line, or served; within its time, with bounded memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Random, nano, real};
use ds4_constrain::{Answer, Begin, Calls, Error, Form, Functions, Rigour, Spacing, limits};
use serde_json::{Map, Value, json};

/// What must become of a form.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Refused,
    Served,
    /// Refused, or served until the parser or the lexer meets a limit.
    Bounded,
}
use Fate::{Bounded, Refused, Served};

/// Compiles a form and writes some random tokens under it.
fn check(name: &str, form: &Form, fate: Fate) {
    let world = real();
    world.grammars.prepare();
    let start = Instant::now();
    let compiled = world.grammars.compile(form);
    let took = start.elapsed();
    assert!(took < limits::COMPILE_TIME_MAX + Duration::from_secs(2), "{name}: {took:?}");
    let grammar = match compiled {
        Ok(grammar) => grammar,
        Err(error) => {
            let text = error.to_string();
            assert!(fate != Served, "{name}: {text}");
            assert!(error.is_request(), "{name}: {text}");
            assert!(!text.contains('\n') && text.len() < 1000, "{name}: {text}");
            return;
        }
    };
    assert!(fate != Refused, "{name} was taken");
    let mut constraint = grammar.begin(Begin::default()).unwrap();
    let mut random = Random(1);
    for _ in 0..40 {
        let mut logits = vec![0.0; world.tokenizer.vocab().len()];
        let start = Instant::now();
        let masked = constraint.mask(&mut logits);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "{name}: a mask in {took:?}");
        let step = masked.and_then(|()| {
            let allowed: Vec<u32> =
                (0u32..).zip(&logits).filter(|(_, l)| l.is_finite()).map(|(id, _)| id).collect();
            let id = *random.choose(&allowed);
            constraint.accept(id).map(|()| id)
        });
        match step {
            Ok(id) if id == world.eos() => return,
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, Error::Stuck(_)), "{name}: {error:?}");
                assert!(fate == Bounded && !error.to_string().contains('\n'), "{name}: {error}");
                return;
            }
        }
    }
}

fn form(answer: Answer) -> Form {
    Form { answer, calls: Calls::Free, rigour: Rigour::Lenient, spacing: Spacing::Flexible }
}

fn check_schema(name: &str, schema: Value, fate: Fate) {
    check(name, &form(Answer::JsonSchema(schema)), fate);
    // The most memory that was ever in use, in kB.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 800_000, "{name}: {peak} kB");
    }
}

/// A chain of definitions, each made from the next by `link`.
fn chain(n: usize, link: impl Fn(Value) -> Value) -> Value {
    let reference = |i: usize| json!({"$ref": format!("#/$defs/d{i}")});
    let mut definitions: Map<String, Value> =
        (0..n).map(|i| (format!("d{i}"), link(reference(i + 1)))).collect();
    definitions.insert(format!("d{n}"), json!({"type": "string"}));
    let mut schema = reference(0);
    schema["$defs"] = Value::Object(definitions);
    schema
}

#[test]
fn exponential_references() {
    let pair = |next: Value| json!({"type": "object", "properties": {"a": next, "b": next}});
    check_schema("pairs", chain(60, pair), Served);
    let all = |next: Value| json!({"allOf": [next, next], "minProperties": 0});
    check_schema("allOf", chain(60, all), Bounded);
    let object = |next: &Value| json!({"type": "object", "properties": {"x": next}});
    let any = |next: Value| json!({"anyOf": [next, object(&next)], "title": "t"});
    check_schema("anyOf", chain(60, any), Bounded);
    let types = json!(["string", "null", "object"]);
    let both = |next: Value| json!({"anyOf": [next, next, {"type": "null"}], "type": types});
    check_schema("anyOf with types", chain(60, both), Refused);
    check_schema("circle", json!({"$ref": "#"}), Bounded);
    check_schema(
        "circles",
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}], "type": "object"}),
        Bounded,
    );
    let (t, u) = (json!({"$ref": "#/$defs/t"}), json!({"$ref": "#/$defs/u"}));
    let tree = |l: &Value, r: &Value| json!({"properties": {"l": l, "r": r}, "type": "object"});
    let met = json!({"allOf": [t, u], "$defs": {"t": tree(&t, &t), "u": tree(&u, &t)}});
    check_schema("trees that meet", met, Bounded);
}

#[test]
fn large_schemas() {
    let values: Vec<String> = (0..10_000).map(|i| format!("value {i}")).collect();
    check_schema("enumeration of texts", json!({"enum": values}), Served);
    check_schema(
        "enumeration of numbers",
        json!({"enum": (0..10_000).collect::<Vec<_>>()}),
        Served,
    );
    check_schema(
        "enumeration of objects",
        json!({"enum": (0..5_000).map(|i| json!({"a": i})).collect::<Vec<_>>()}),
        Bounded,
    );
    let properties = |n: usize| -> Map<String, Value> {
        (0..n).map(|i| (format!("key{i}"), json!({"type": "string"}))).collect()
    };
    check_schema(
        "1000 properties",
        json!({"type": "object", "properties": properties(1000), "additionalProperties": false}),
        Served,
    );
    check_schema(
        "1001 properties",
        json!({"type": "object", "properties": properties(1001)}),
        Refused,
    );
    let options = |n: usize| -> Vec<Value> {
        (0..n)
            .map(|i| {
                json!({"type": "object",
            "properties": {format!("k{i}"): {"type": "integer"}},
            "required": [format!("k{i}")]})
            })
            .collect()
    };
    check_schema("1000 alternatives", json!({"anyOf": options(1000)}), Served);
    check_schema("1000 exclusive alternatives", json!({"oneOf": options(1000)}), Served);
    check_schema(
        "alternatives of properties",
        json!({"anyOf": options(900), "type": "object", "properties": properties(900)}),
        Refused,
    );
    check_schema(
        "alternatives of alternatives",
        json!({"allOf": [{"anyOf": options(200)}, {"anyOf": options(200)}]}),
        Refused,
    );
    check_schema("too many bytes", json!({"title": "x".repeat(limits::SCHEMA_BYTES_MAX)}), Refused);
    let patterns = |n: usize| -> Map<String, Value> {
        (0..n).map(|i| (format!("^a{i}.{{{i}}}"), json!({}))).collect()
    };
    check_schema("overlapping patterns", json!({"patternProperties": patterns(16)}), Served);
    check_schema("too many patterns", json!({"patternProperties": patterns(900)}), Served);
}

#[test]
fn deep_schemas() {
    let nest = |n: usize, wrap: &dyn Fn(Value) -> Value| {
        (0..n).fold(json!({"type": "null"}), |schema, _| wrap(schema))
    };
    check_schema(
        "objects",
        nest(45, &|s| json!({"type": "object", "properties": {"a": s}, "required": ["a"]})),
        Served,
    );
    check_schema("arrays", nest(90, &|s| json!({"items": s})), Served);
    check_schema("alternatives", nest(45, &|s| json!({"anyOf": [s, {"type": "string"}]})), Served);
    check_schema("too deep", nest(300, &|s| json!({"items": s})), Refused);
}

#[test]
fn large_numbers() {
    for (name, schema, fate) in [
        (
            "items at least",
            json!({"type": "array", "minItems": 1_000_000, "items": {"type": "null"}}),
            Served,
        ),
        (
            "items at most",
            json!({"type": "array", "maxItems": 999_999, "items": {"type": "null"}}),
            Served,
        ),
        ("length at least", json!({"type": "string", "minLength": 1_000_000}), Served),
        ("lengths", json!({"type": "string", "minLength": 400_000, "maxLength": 500_000}), Served),
        (
            "beyond counting",
            json!({"type": "string", "minLength": 1e30, "maxLength": 1e300}),
            Served,
        ),
        ("properties", json!({"type": "object", "minProperties": 500_000}), Served),
        ("steps", json!({"type": "integer", "multipleOf": 997}), Served),
        ("fine steps", json!({"type": "number", "multipleOf": 0.00001}), Bounded),
        ("large steps", json!({"type": "integer", "multipleOf": 99_999_989}), Served),
        (
            "many steps",
            json!({"type": "integer",
                "allOf": (2..60).map(|i| json!({"multipleOf": i})).collect::<Vec<_>>()}),
            Served,
        ),
        (
            "bounds",
            json!({"type": "integer", "minimum": -9_007_199_254_740_991_i64,
                "maximum": 9_007_199_254_740_991_i64}),
            Served,
        ),
        (
            "bounds of reals",
            json!({"type": "number", "minimum": 1e-15, "exclusiveMaximum": 123_456_789.123_456_7}),
            Served,
        ),
        ("endless bounds", json!({"type": "number", "minimum": -1e308, "maximum": 1e308}), Served),
    ] {
        check_schema(name, schema, fate);
    }
}

#[test]
fn large_patterns() {
    for pattern in [
        "(a{1,1000}){1,1000}",
        ".*a.{500}",
        "((((a|b){50}){50}){50}){50}",
        "(x+x+)+y",
        "^(a|b)*a(a|b){30}$",
        "^([^x]{0,1000}x){1000}$",
        "(.*a.*b.*c.*){30}",
        r"\p{L}{1,1000}",
        r"^(\w+\.?)+@(\w+\.?)+$",
        "^(.*)*$",
        "(a?){1000}a{1000}",
        "((((((((((a*)*)*)*)*)*)*)*)*)*)*",
        "[^a]{999}{999}{999}",
    ] {
        check_schema(pattern, json!({"type": "string", "pattern": pattern}), Bounded);
        check(pattern, &form(Answer::Pattern(pattern.into())), Bounded);
    }
    let words: Vec<String> = (0..600).map(|i| format!("(w{i}.*x{i})")).collect();
    check("alternatives", &form(Answer::Pattern(words.join("|"))), Bounded);
    check("too long", &form(Answer::Pattern("a".repeat(limits::PATTERN_BYTES_MAX + 1))), Refused);
    let met = |n: usize| -> Vec<Value> {
        (10..10 + n).map(|i| json!({"pattern": format!("a.{{{i}}}b")})).collect()
    };
    check_schema("patterns that meet", json!({"type": "string", "allOf": met(4)}), Bounded);
    check_schema("too many patterns", json!({"type": "string", "allOf": met(5)}), Refused);
}

#[test]
fn functions() {
    let call = |declared: Vec<Value>, is_required: bool| {
        let declared = declared.into_iter().map(|f| f.as_object().unwrap().clone()).collect();
        let functions = Functions { declared, parallel: true, is_open: false };
        let calls =
            if is_required { Calls::Required(functions) } else { Calls::Allowed(functions) };
        Form { calls, ..form(Answer::Free) }
    };
    let values: Vec<String> = (0..10_000).map(|i| format!("value {i}")).collect();
    let pair = |next: Value| {
        json!({"anyOf": [next, next, {"type": "object",
        "properties": {"a": next, "b": next}}]})
    };
    let simple = json!({"type": "object", "properties": {"a": {"type": "string"},
        "b": {"type": "integer"}}});
    for is_required in [true, false] {
        let one = |parameters: Value| {
            call(vec![json!({"name": "f", "parameters": parameters})], is_required)
        };
        check(
            "values",
            &one(json!({"properties": {"a": {"enum": values}}, "required": ["a"]})),
            Served,
        );
        check("references", &one(chain(60, pair)), Served);
        check(
            "references inside",
            &one(json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": chain(60,
                    pair)["$defs"]})),
            Served,
        );
        check(
            "patterns",
            &one(json!({"properties": {"a": {"type": "string", "pattern": "(.*a.{90}){9}"}},
                    "required": ["a"]})),
            Bounded,
        );
        check(
            "no value",
            &one(json!({"properties": {"a": {"type": "string", "enum": [1]}}, "required": ["a"]})),
            Refused,
        );
        let many = |n: usize| {
            (0..n).map(|i| json!({"name": format!("function_{i}"), "parameters": simple})).collect()
        };
        check("functions", &call(many(limits::FUNCTIONS_MAX), is_required), Served);
        check("no functions", &call(Vec::new(), is_required), Refused);
        check("too many functions", &call(many(limits::FUNCTIONS_MAX + 1), is_required), Refused);
        let wide: Map<String, Value> =
            (0..900).map(|i| (format!("p{i}"), json!({"type": ["string", "integer"]}))).collect();
        check("parameters", &one(json!({"properties": wide})), Served);
    }
}

#[test]
fn names_are_only_text() {
    for name in ["", "a b", "\"><x", "中\n\u{7f}", "%json {}", "/x/", "<[1]>", "a\\", "｜DSML｜"]
    {
        let parameters = json!({"properties": {name: {"type": "string"}}, "required": [name]});
        let declared = json!({"name": name, "parameters": parameters});
        let declared = vec![declared.as_object().unwrap().clone()];
        let functions = Functions { declared, parallel: true, is_open: true };
        let form = Form { calls: Calls::Required(functions), ..form(Answer::Free) };
        let mut constraint = nano().begin(&form);
        let mut ids = nano().ids("<｜DSML｜");
        ids.extend(nano().tokenizer.encode_plain(&format!("invoke name=\"{name}\">\n<")));
        ids.extend(nano().ids("｜DSML｜"));
        ids.extend(
            nano()
                .tokenizer
                .encode_plain(&format!("parameter name=\"{name}\" string=\"true\">x</")),
        );
        ids.extend(nano().ids("｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"));
        assert_eq!(constraint.allowed_prefix(&ids), ids.len(), "{name:?}");
        for id in ids {
            constraint.accept(id).unwrap();
        }
        assert!(constraint.is_finished(), "{name:?}");
    }
}
