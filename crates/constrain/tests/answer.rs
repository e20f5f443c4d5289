//! The course of an answer: reasoning, beginnings, the end, drafts.

mod common;

use std::sync::Arc;

use common::{Random, nano, real, walk, worlds};
use ds4_constrain::{
    Answer, Begin, Calls, Error, Form, Functions, Grammars, Rigour, Spacing, Wishes,
};
use ds4_text::{ASSISTANT, BOS, DSML, EOS, THINK_CLOSE, THINK_OPEN, USER};
use ds4_text::{Conversation, Effort, Message, ResponseFormat, Role, Tail, Thinking, ToolChoice};
use ds4_text::{Tokenizer, Vocab};
use serde_json::{Map, Value, json};

fn form(answer: Answer) -> Form {
    Form { answer, calls: Calls::Free, rigour: Rigour::Lenient, spacing: Spacing::Flexible }
}

fn pattern(text: &str) -> Form {
    form(Answer::Pattern(text.to_owned()))
}

fn weather() -> Map<String, Value> {
    match json!({"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}})
    {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

#[test]
fn patterns_match_the_whole_answer() {
    for (_, world) in worlds() {
        let phone = pattern(r"^(\+\d{1,3} )?\d{3}-\d{4}$");
        for good in ["555-1234", "+49 555-1234"] {
            world.accepts(&phone, good).unwrap();
        }
        for bad in ["", "555-123", "555-12345", "x555-1234", "555-1234\n"] {
            assert!(world.accepts(&phone, bad).is_err(), "{bad}");
        }
        world.accepts(&pattern("yes|no"), "no").unwrap();
        world.accepts(&pattern("(?s).*/.*"), "a\n/中").unwrap();
        world.accepts(&pattern(r"\p{Lu}\w*"), "Ärger").unwrap();
    }
    for bad in [r"\bx", "(", "(?=a)", "", "x(?<!a)"] {
        let error = nano().grammars.compile(&pattern(bad)).err().unwrap();
        assert!(error.is_request(), "{bad}: {error}");
        assert!(error.to_string().starts_with("response_format.regex: "), "{bad}: {error}");
    }
}

#[test]
fn the_form_begins_where_the_reasoning_ends() {
    for (name, world) in worlds() {
        let grammar = world.compile(&form(Answer::JsonObject));
        let mut constraint = grammar.begin(Begin { thinking: true, content: "" }).unwrap();
        let specials = world.tokenizer.specials();
        world.follow(&mut constraint, "Well, } or <｜DSML｜?").unwrap();
        // An answer is owed: only its end is forbidden.
        let n = world.tokenizer.vocab().len();
        let allowed = world.allowed(&mut constraint);
        for stop in [specials.eos, specials.user, specials.bos] {
            assert!(!allowed.contains(&stop), "{name}");
            assert_eq!(constraint.accept(stop), Err(Error::Rejected { id: stop }), "{name}");
        }
        assert!(allowed.len() + 4 >= n && !constraint.is_complete(), "{name}");
        world.follow(&mut constraint, "</think>").unwrap();
        assert!(world.allowed(&mut constraint).len() < 10, "{name}");
        world.follow(&mut constraint, "{\"a\": 1}").unwrap();
        assert!(constraint.is_complete() && constraint.is_finished(), "{name}");
        assert_eq!(world.allowed(&mut constraint), [specials.eos], "{name}");
        constraint.accept(specials.eos).unwrap();
        assert_eq!(world.allowed(&mut constraint), [specials.eos], "{name}");
        assert!(constraint.accept(specials.eos).is_err() && constraint.is_finished(), "{name}");
    }
}

#[test]
fn an_answer_may_have_been_begun() {
    let grammar = nano().compile(&form(Answer::JsonObject));
    let begin = |content| grammar.begin(Begin { thinking: false, content });
    let mut constraint = begin("{\"a\": [1, ").unwrap();
    nano().follow(&mut constraint, "2]}").unwrap();
    assert!(constraint.is_finished());
    assert_eq!(begin("Sure: {").err(), Some(Error::Beginning));
}

#[test]
fn rejected_tokens_change_nothing() {
    let mut constraint = nano().begin(&form(Answer::JsonObject));
    nano().follow(&mut constraint, "{\"a\":").unwrap();
    let before = nano().allowed(&mut constraint);
    for bad in [nano().eos(), nano().ids("}")[0], nano().tokenizer.specials().user, u32::MAX] {
        assert_eq!(constraint.accept(bad), Err(Error::Rejected { id: bad }));
        assert_eq!(nano().allowed(&mut constraint), before);
    }
    nano().follow(&mut constraint, " null}").unwrap();
}

#[test]
fn logits_beyond_the_vocabulary_are_masked() {
    let n = nano().tokenizer.vocab().len();
    let mut logits = vec![1.0; n + 70];
    nano().begin(&form(Answer::JsonObject)).mask(&mut logits).unwrap();
    assert!(logits[n..].iter().all(|logit| *logit == f32::NEG_INFINITY));
    assert!(logits.iter().any(|logit| logit.to_bits() == 1f32.to_bits()));
}

#[test]
fn drafts_are_cut_where_they_leave_the_form() {
    for (name, world) in worlds() {
        let mut constraint = world.begin(&form(Answer::JsonObject));
        world.follow(&mut constraint, "{\"key\":").unwrap();
        let before = world.allowed(&mut constraint);
        let good = world.ids(" [1, 2]}");
        let draft = [good.as_slice(), &[world.eos()], &world.ids("x")].concat();
        assert_eq!(constraint.allowed_prefix(&draft), good.len() + 1, "{name}");
        assert_eq!(
            constraint.allowed_prefix(&world.ids(" [1, }")),
            world.ids(" [1,").len(),
            "{name}"
        );
        assert_eq!(world.allowed(&mut constraint), before, "{name}");
    }
}

#[test]
fn clones_go_their_own_ways() {
    let functions = Functions { declared: vec![weather()], parallel: true, is_open: false };
    let forms = [
        form(Answer::JsonObject),
        Form { calls: Calls::Required(functions.clone()), ..form(Answer::Free) },
        Form { calls: Calls::Allowed(functions), ..form(Answer::JsonObject) },
    ];
    for form in forms {
        for seed in 0..6 {
            let mut random = Random(seed);
            let mut constraint = nano().begin(&form);
            let Some(ids) = walk(nano(), &mut constraint.clone(), &mut random, 300) else {
                continue;
            };
            for id in ids {
                // A draft that is not kept, followed by a clone.
                let mut draft = constraint.clone();
                walk(nano(), &mut draft, &mut random, 4);
                let mut fresh = constraint.clone();
                assert_eq!(nano().allowed(&mut fresh), nano().allowed(&mut constraint));
                constraint.accept(id).unwrap();
            }
        }
    }
}

#[test]
fn certain_tokens_are_those_of_the_text() {
    let functions = Functions { declared: vec![weather()], parallel: false, is_open: false };
    let form = Form { calls: Calls::Required(functions), ..form(Answer::Free) };
    for (name, world) in worlds() {
        let mut constraint = world.begin(&form);
        let forced = constraint.forced();
        assert_eq!(constraint.allowed_prefix(&forced), forced.len(), "{name}");
        let opening = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">";
        let text = world.tokenizer.decode(&forced).unwrap();
        assert!(opening.starts_with(&text) && text.len() + 3 > opening.len(), "{name}: {text:?}");
        assert_eq!(forced, world.ids(&text), "{name}");
        // The mask says the same, one token after the other.
        for id in forced {
            assert_eq!(world.allowed(&mut constraint), [id], "{name}");
            constraint.accept(id).unwrap();
        }
    }
}

#[test]
fn characters_may_be_cut_between_tokens() {
    // Every character of this text is several tokens of nano's.
    let mut constraint = nano().begin(&pattern("[中文😀]+"));
    let ids = nano().tokenizer.encode_plain("中😀文");
    assert!(ids.len() > 3);
    let partial: Vec<u32> = ids.iter().copied().take(1).collect();
    assert!(nano().tokenizer.decode(&partial).unwrap().contains('\u{fffd}'));
    for id in ids {
        assert!(nano().allowed(&mut constraint).contains(&id));
        assert!(!constraint.clone().is_finished());
        constraint.accept(id).unwrap();
    }
    assert!(constraint.is_complete());
    // And where a character is open, the answer cannot end.
    constraint.accept(partial[0]).unwrap();
    assert!(!constraint.is_complete() && !nano().allowed(&mut constraint).contains(&nano().eos()));
}

fn conversation() -> Conversation {
    Conversation {
        messages: vec![Message::new(Role::User, "Hi")],
        tools: Vec::new(),
        tool_choice: ToolChoice::Auto,
        response_format: ResponseFormat::Text,
        thinking: Thinking::Off,
    }
}

#[test]
fn forms_are_those_of_the_request() {
    let of = |conversation: &Conversation, wishes| Form::of(conversation, wishes);
    let plain = conversation();
    assert_eq!(of(&plain, Wishes::default()), None);
    let wishes = Wishes { pattern: Some("a+"), ..Wishes::default() };
    assert_eq!(of(&plain, wishes).unwrap().answer, Answer::Pattern("a+".into()));
    let json = Conversation { response_format: ResponseFormat::JsonObject, ..plain.clone() };
    assert_eq!(of(&json, Wishes::default()).unwrap().answer, Answer::JsonObject);

    let tools = Conversation { tools: vec![weather()], ..plain };
    let off = Wishes { guard: false, ..Wishes::default() };
    assert!(of(&tools, Wishes::default()).unwrap().is_guard());
    assert_eq!(of(&tools, off), None);
    let none = Conversation { tool_choice: ToolChoice::None, ..tools.clone() };
    assert_eq!(of(&none, Wishes::default()), None);
    let required = Conversation { tool_choice: ToolChoice::Required, ..tools };
    let functions = Functions { declared: vec![weather()], parallel: true, is_open: true };
    assert_eq!(of(&required, off).unwrap().calls, Calls::Required(functions.clone()));
    let thinking = Conversation { thinking: Thinking::On(Effort::High), ..required };
    let functions = Functions { is_open: false, ..functions };
    assert_eq!(of(&thinking, off).unwrap().calls, Calls::Required(functions));

    assert_eq!(Begin::of(&thinking), Begin { thinking: true, content: "" });
    let mut begun = thinking;
    let mut answer = Message::new(Role::Assistant, "{\"a\":");
    answer.tail = Tail::Open;
    begun.messages.push(answer);
    assert_eq!(Begin::of(&begun), Begin { thinking: false, content: "{\"a\":" });
    begun.messages[1].tail = Tail::OpenReasoning;
    assert_eq!(Begin::of(&begun), Begin { thinking: true, content: "" });
}

#[test]
fn compiled_forms_are_kept() {
    let grammars = &real().grammars;
    let schema = json!({"type": "object", "properties": {"kept": {"type": "string"}}});
    let form = form(Answer::JsonSchema(schema));
    let first = grammars.compile(&form).unwrap();
    assert!(grammars.compile(&form).unwrap().is_same(&first));
    // What only differs in what is left out is not the same: its warnings are others.
    let mut more = form.clone();
    if let Answer::JsonSchema(schema) = &mut more.answer {
        schema["not"] = json!({});
    }
    let warned = grammars.compile(&more).unwrap();
    assert!(warned.warnings().len() == 1 && first.warnings().is_empty());
    assert!(grammars.compile(&form).unwrap().warnings().is_empty());
    let other = Form { spacing: Spacing::Compact, ..form };
    assert!(!grammars.compile(&other).unwrap().is_same(&first));
}

#[test]
fn fillers_and_giants_are_never_written() {
    let bytes: Vec<u32> = (0..256).collect();
    let printable = |b: &u32| matches!(*b, 33..=126 | 161..=172 | 174..=255);
    let mut odd = 256..;
    let mut tokens: Vec<String> = Vec::new();
    for byte in bytes {
        let code = if printable(&byte) { byte } else { odd.next().unwrap() };
        tokens.push(char::from_u32(code).unwrap().into());
    }
    let mut types = vec![1; 256];
    for name in [BOS, EOS, USER, ASSISTANT, THINK_OPEN, THINK_CLOSE, DSML] {
        tokens.push(name.to_owned());
        types.push(4);
    }
    tokens.extend(["filler".to_owned(), "x".repeat(5_000), "ab".to_owned()]);
    types.extend([5, 1, 1]);
    let tokenizer = Arc::new(Tokenizer::new(Vocab::new(&tokens, &types, &[]).unwrap()).unwrap());
    let grammar = Grammars::new(tokenizer).compile(&pattern("[a-z]+")).unwrap();
    let mut logits = vec![0.0; tokens.len()];
    grammar.begin(Begin::default()).unwrap().mask(&mut logits).unwrap();
    let allowed: Vec<&String> =
        tokens.iter().zip(logits).filter(|(_, l)| l.is_finite()).map(|(t, _)| t).collect();
    assert_eq!(allowed.len(), 27, "{allowed:?}");
    assert_eq!(allowed[26], "ab");
}

#[test]
fn constraints_may_move_between_threads() {
    fn moved<T: Send>() {}
    fn shared<T: Sync>() {}
    moved::<ds4_constrain::Constraint>();
    moved::<ds4_constrain::Grammar>();
    shared::<Grammars>();
    shared::<ds4_constrain::Grammar>();
}
