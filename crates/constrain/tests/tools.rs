//! Tool calls: what is allowed, what is not, and that whatever is allowed can be read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Random, World, nano, text, validate, walk, worlds};
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

fn parse(world: &World, ids: &[u32], declared: Declared, in_block: bool) -> Outcome {
    let options = ParserOptions { thinking: false, in_block, declared, literals: false };
    let mut parser = Parser::new(options);
    for id in ids {
        let bytes = world.tokenizer.token_bytes(*id).unwrap();
        parser.push_token(world.tokenizer.specials(), *id, bytes);
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
    let names = functions().declared.iter().map(|f| f["name"].as_str().unwrap().into()).collect();
    let names = Declared::Names(names);
    for (name, world) in worlds() {
        for is_open in [false, true] {
            let calls = Calls::Required(Functions { is_open, ..functions() });
            let grammar = world.compile(&form(calls));
            assert_eq!(grammar.warnings(), [""; 0]);
            let mut finished = 0;
            for seed in 0..20 {
                let mut constraint = grammar.begin(Begin::default()).unwrap();
                let mut random = Random(seed);
                let Some(ids) = walk(world, &mut constraint, &mut random, 600) else { continue };
                finished += 1;
                let outcome = parse(world, &ids, names.clone(), is_open);
                check_calls(&outcome, &format!("{name} {seed}: {:?}", text(world, &ids)));
            }
            assert!(finished >= 15, "{name}: only {finished} of 20 walks came to an end");
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

/// A form that requires one function with these parameters.
fn one(parameters: &Value, strict: bool) -> Form {
    let declared = vec![function(json!({"name": "f", "strict": strict, "parameters": parameters}))];
    form(Calls::Required(Functions { declared, parallel: false, is_open: false }))
}

#[test]
fn texts_follow_the_schema_of_their_parameter() {
    let parameters = json!({
        "$defs": {"unit": {"type": "string", "enum": ["m", "km"]}},
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]$"},
            "day": {"type": "string", "format": "date"},
            "short": {"type": "string", "minLength": 1, "maxLength": 3},
            "part": {"type": "string", "pattern": "ab"},
            "unit": {"$ref": "#/$defs/unit"},
            "maybe": {"anyOf": [{"$ref": "#/$defs/unit"}, {"type": "null"}, {"type": "integer"}]},
            "any": {},
            "list": {"type": "array", "items": {"$ref": "#/$defs/unit"}},
        },
        "additionalProperties": false,
    });
    let good: [(&str, bool, &str); 14] = [
        ("code", true, "AB1"),
        ("day", true, "2024-02-28"),
        ("short", true, "äöü"),
        ("part", true, "x\nab</x"),
        ("unit", true, "km"),
        ("maybe", true, "m"),
        ("maybe", false, "null"),
        ("maybe", false, "-12"),
        ("any", true, "</any>"),
        ("any", false, "[{}]"),
        ("any", false, "\"x\""),
        ("list", false, "[]"),
        ("list", false, "[\"m\", \"km\"]"),
        ("list", false, "[\n  \"m\"\n]"),
    ];
    let bad: [(&str, bool, &str); 13] = [
        ("code", true, "AB12"),
        ("day", true, "2024-02-30"),
        ("short", true, ""),
        ("short", true, "four"),
        ("part", true, "a b"),
        ("unit", true, "mi"),
        ("unit", false, "\"m\""),
        ("maybe", true, "null"),
        ("maybe", false, "\"m\""),
        ("maybe", false, "1.5"),
        ("any", false, "x"),
        ("list", false, "[\"mi\"]"),
        ("list", true, "[]"),
    ];
    for strict in [false, true] {
        let form = one(&parameters, strict);
        assert_eq!(nano().compile(&form).warnings(), [""; 0]);
        for parameter in good {
            let answer = block(&[call("f", &[parameter])]);
            nano().accepts(&form, &answer).unwrap_or_else(|e| panic!("{e}"));
        }
        for parameter in bad {
            let answer = block(&[call("f", &[parameter])]);
            assert!(nano().accepts(&form, &answer).is_err(), "{parameter:?} passed");
        }
    }
}

#[test]
fn schemas_beyond_the_compiler_are_refused_only_where_they_are_strict() {
    let odd = json!({"type": "object", "properties": {
        "a": {"type": "array", "uniqueItems": true},
        "b": {"type": "string", "pattern": "(?=x)y"},
    }});
    let error = nano().grammars.compile(&one(&odd, true)).err().unwrap().to_string();
    assert!(error.contains("function \"f\"#/properties/a: the keyword \"uniqueItems\""), "{error}");
    let form = one(&odd, false);
    let warnings = nano().compile(&form).warnings().join("; ");
    assert!(warnings.contains("uniqueItems") && warnings.contains("look-around"), "{warnings}");
    let answer = block(&[call("f", &[("b", true, "any"), ("a", false, "[1,1]")])]);
    nano().accepts(&form, &answer).unwrap();

    let unreachable = json!({"properties": {"a": {"$ref": "#/nowhere"}}});
    let form = one(&unreachable, false);
    let warnings = nano().compile(&form).warnings().join("; ");
    assert!(warnings.contains("of functions, only types are enforced"), "{warnings}");
    nano().accepts(&form, &block(&[call("f", &[("a", false, "{\"x\": 1}")])])).unwrap();
    assert!(nano().grammars.compile(&one(&unreachable, true)).is_err());
    let either = json!({"anyOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]});
    assert!(nano().grammars.compile(&one(&either, true)).is_err());
    let both = block(&[call("f", &[("b", false, "1"), ("a", true, "x")])]);
    nano().accepts(&one(&either, false), &both).unwrap();
}

#[test]
fn many_parameters_keep_their_order() {
    let properties: Map<String, Value> =
        (0..70).map(|i| (format!("p{i}"), json!({"type": "integer"}))).collect();
    let form = one(&json!({"properties": properties, "required": ["p3"]}), false);
    let parameter = |key| (key, false, "1");
    let answer = block(&[call("f", &["p0", "p3", "p69"].map(parameter))]);
    nano().accepts(&form, &answer).unwrap();
    for keys in [vec!["p4", "p3"], vec!["p0"], vec!["p3", "p3"], vec!["p3", "p70"]] {
        let parameters: Vec<_> = keys.into_iter().map(parameter).collect();
        assert!(nano().accepts(&form, &block(&[call("f", &parameters)])).is_err());
    }
}

#[test]
fn unknown_parameters_come_where_the_schema_wants_them() {
    let open = json!({"properties": {"a": {"type": "integer"}},
        "additionalProperties": {"type": "boolean"}});
    let form = one(&open, false);
    for (parameters, is_good) in [
        (vec![("b", false, "true"), ("a", false, "1"), ("aa", false, "false")], true),
        (vec![("b", false, "1")], false),
        (vec![("a", false, "true")], false),
        (vec![("b\"", false, "true")], false),
    ] {
        let accepted = nano().accepts(&form, &block(&[call("f", &parameters)]));
        assert_eq!(accepted.is_ok(), is_good, "{parameters:?}: {accepted:?}");
    }
}

#[test]
fn one_call_is_one_call() {
    let functions = Functions { parallel: false, ..functions() };
    let form = form(Calls::Required(functions));
    let time = call("get_time", &[]);
    nano().accepts(&form, &block(std::slice::from_ref(&time))).unwrap();
    assert!(nano().accepts(&form, &block(&[time.clone(), time])).is_err());
}

#[test]
fn a_prompt_may_end_inside_the_block() {
    let form = form(Calls::Required(Functions { is_open: true, ..functions() }));
    let whole = block(&[call("get_time", &[])]);
    let rest = whole.strip_prefix("\n\n<｜DSML｜tool_calls>\n").unwrap();
    nano().accepts(&form, rest).unwrap();
    assert!(nano().accepts(&form, &whole).is_err());
}

#[test]
fn an_answer_with_a_form_may_be_calls_instead() {
    let answer = Answer::JsonSchema(json!({"type": "object", "required": ["a"]}));
    let form = Form { answer, ..form(Calls::Allowed(functions())) };
    assert!(!form.is_guard());
    nano().accepts(&form, "{\"a\": 1}").unwrap();
    nano().accepts(&form, &block(&[call("get_time", &[])])).unwrap();
    for bad in ["{}", "Hello", "{\"a\":1}\n\n<｜DSML｜tool_calls>"] {
        assert!(nano().accepts(&form, bad).is_err(), "{bad}");
    }
}

/// A random function: parameters of random types, some of them required.
fn random_function(random: &mut Random) -> Map<String, Value> {
    let types = [
        json!({"type": "string"}),
        json!({"type": "string", "minLength": 1, "maxLength": 9}),
        json!({"enum": ["x", "xy", "x</y"]}),
        json!({"type": "integer", "minimum": -5, "maximum": 50}),
        json!({"type": ["number", "null"]}),
        json!({"type": "boolean"}),
        json!({"anyOf": [{"type": "string", "maxLength": 4}, {"type": "array",
            "items": {"type": "boolean"}, "maxItems": 2}]}),
        json!({"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"],
            "additionalProperties": false}),
        json!({}),
    ];
    let properties: Map<String, Value> =
        (0..random.below(6)).map(|i| (format!("p{i}"), random.choose(&types).clone())).collect();
    let required: Vec<&String> = properties.keys().filter(|_| random.chance(50)).collect();
    function(json!({
        "name": format!("f{}", random.below(3)),
        "parameters": {
            "type": "object", "properties": properties, "required": required,
            "additionalProperties": random.chance(20),
        },
    }))
}

#[test]
fn random_calls_of_random_functions_are_valid() {
    let mut finished = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let function = random_function(&mut random);
        let schema = &function["parameters"];
        let is_open = random.chance(50);
        let declared = vec![function.clone()];
        let functions = Functions { declared, parallel: random.chance(50), is_open };
        let mut constraint = nano().begin(&form(Calls::Required(functions)));
        let Some(ids) = walk(nano(), &mut constraint, &mut random, 500) else { continue };
        finished += 1;
        let names = Declared::Names(vec![function["name"].as_str().unwrap().to_owned()]);
        let outcome = parse(nano(), &ids, names, is_open);
        let context = format!("{seed}: {:?} for {schema}", text(nano(), &ids));
        assert!(outcome.complete_calls().count() > 0, "{context}");
        assert_eq!(outcome.complete_calls().count(), outcome.calls.len(), "{context}");
        for call in outcome.calls {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
            assert_eq!(validate::errors(schema, schema, &arguments), [""; 0], "{context}");
        }
    }
    assert!(finished >= 45, "only {finished} of 60 walks came to an end");
}
