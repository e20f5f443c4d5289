//! Messages requests as lenient rules read them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ds4_api::{Request, RequestError, Rules, messages};
use ds4_text::{Effort, Profile, ResponseFormat, Role, Tail, Thinking, ToolChoice, render};
use serde_json::{Value, json};

fn convert(change: Value) -> Result<Request, RequestError> {
    let mut body = json!({"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": "x"},
    ]});
    let Value::Object(change) = change else { panic!("an object") };
    body.as_object_mut().unwrap().extend(change);
    messages::convert(&body, Rules::Lenient)
}

fn ok(change: Value) -> Request {
    convert(change).unwrap()
}

/// The July prompt without what every prompt has.
fn prompt(change: Value) -> String {
    let request = ok(change);
    let text = render(Profile::July, &request.conversation).unwrap().to_text();
    text.replace("<｜begin▁of▁sentence｜>", "").replace("<｜end▁of▁sentence｜>", "¶")
}

/// The same without thinking.
fn off(change: Value) -> String {
    let mut change = change;
    change["thinking"] = json!({"type": "disabled"});
    prompt(change)
}

#[test]
fn thinking_in_all_its_spellings() {
    let high = Thinking::On(Effort::High);
    for (change, expected, budget) in [
        (json!({}), high, None),
        (json!({"thinking": {"type": "adaptive"}}), high, None),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 2000}}), high, Some(2000)),
        (json!({"thinking": {"type": "disabled"}}), Thinking::Off, None),
        (json!({"thinking": {"type": "between_tools"}}), high, None),
        (json!({"output_config": {"effort": "low"}}), Thinking::On(Effort::Low), None),
        (json!({"output_config": {"effort": "max"}}), Thinking::On(Effort::Max), None),
        (json!({"output_config": {}}), high, None),
        (json!({"reasoning_effort": "none"}), Thinking::Off, None),
        (json!({"model": "claude-3-5-haiku-latest"}), Thinking::Off, None),
        (json!({"model": "claude-haiku", "thinking": {"type": "adaptive"}}), high, None),
    ] {
        let request = ok(change.clone());
        assert_eq!(request.conversation.thinking, expected, "{change}");
        assert_eq!(request.thinking_budget, budget, "{change}");
    }
}

#[test]
fn system_texts_without_what_changes() {
    let parts = json!([
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=abc;"},
        {"type": "text", "text": "You are", "cache_control": {"type": "ephemeral"}},
        "plain",
        {"type": "text", "text": "X-Anthropic-Whatever: b"},
    ]);
    let plain = "You are\n\nplain<｜User｜>x<｜Assistant｜></think>";
    assert_eq!(off(json!({"system": parts})), plain);
    assert_eq!(
        off(json!({"system": "x-anthropic-billing-header: a\nYou are"})),
        "You are<｜User｜>x<｜Assistant｜></think>"
    );
    // System messages in the middle stay there.
    let messages = json!([
        {"role": "user", "content": "a"},
        {"role": "system", "content": [{"type": "text", "text": "date"}]},
        {"role": "system", "content": ""},
    ]);
    assert_eq!(
        off(json!({"messages": messages})),
        "<｜User｜>a\n\n<system-reminder>\ndate\n</system-reminder><｜Assistant｜></think>"
    );
}

#[test]
fn blocks_of_every_kind() {
    let content = json!([
        {"type": "text", "text": "a"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "doc"}},
        {"type": "document", "source": {"type": "content", "content": [
            {"type": "text", "text": "p1"}, {"type": "text", "text": "p2"},
        ]}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}},
        {"type": "search_result", "source": "s", "content": [{"type": "text", "text": "found"}]},
        {"type": "container_upload", "file_id": "f"},
    ]);
    assert_eq!(
        off(json!({"messages": [{"role": "user", "content": content}]})),
        "<｜User｜>a\n\n[Unsupported Image]\n\ndoc\n\np1\n\np2\n\n[Unsupported document type: \
         application/pdf]\n\nfound\n\n[Unsupported container_upload]<｜Assistant｜></think>"
    );
}

#[test]
fn turns_with_tools_whatever_they_lack() {
    let messages = json!([
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "zzz"},
            {"type": "thinking", "thinking": "t1", "signature": ""},
            {"type": "thinking", "thinking": "t2"},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "b", "name": "f", "input": {"x": "1", "n": 2}},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            {"type": "text", "text": "b"},
            {"type": "tool_use", "id": "a", "name": "g", "input": null},
            {"type": "mcp_tool_use", "id": "m"},
        ]},
        {"role": "user", "content": [
            {"type": "text", "text": "note"},
            {"type": "tool_result", "tool_use_id": "b", "is_error": true},
            {"type": "tool_result", "tool_use_id": "lost", "content": [
                {"type": "image", "source": {}}, {"type": "tool_reference", "tool_name": "h"},
            ]},
        ]},
    ]);
    let request = ok(json!({"messages": messages, "thinking": {"type": "enabled"}}));
    assert_eq!(request.warnings.len(), 1, "{:?}", request.warnings);
    let turn = &request.conversation.messages[1];
    assert_eq!((turn.content.as_str(), turn.reasoning.as_str()), ("a\n\nb", "t1\n\nt2"));
    assert_eq!(turn.calls.len(), 2);
    let results: Vec<_> = request.conversation.messages[2..].iter().collect();
    assert_eq!(results[0].content, "note");
    assert_eq!((results[1].role.clone(), results[1].content.as_str()), (Role::Tool, ""));
    assert_eq!(results[2].call_id.as_deref(), Some("lost"));
    assert_eq!(results[2].content, "[Unsupported Image]\n\nh");
    // Arguments that are null are none.
    let text = off(json!({"messages": messages}));
    assert!(text.contains("<｜DSML｜invoke name=\"g\">\n</｜DSML｜invoke>"), "{text}");
}

#[test]
fn tools_and_the_choice_among_them() {
    let tools = json!([
        {"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": true,
         "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "name": "g"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        {"type": "bash_20250124", "name": "bash"},
        {"name": "f", "input_schema": {}},
    ]);
    let with = |choice: Value| ok(json!({"tools": tools, "tool_choice": choice}));
    let request = with(Value::Null);
    assert_eq!(
        json!(request.conversation.tools),
        json!([
            {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true},
            {"name": "g", "description": "", "parameters": {}},
        ])
    );
    assert_eq!(request.warnings.len(), 3, "{:?}", request.warnings);
    for (choice, expected) in [
        (json!({"type": "auto"}), ToolChoice::Auto),
        (json!({"type": "any"}), ToolChoice::Required),
        (json!({"type": "none"}), ToolChoice::None),
        (json!({"type": "tool", "name": "g"}), ToolChoice::Named("g".into())),
        (json!({"type": "tool", "name": "bash"}), ToolChoice::Auto),
    ] {
        let request = with(choice.clone());
        assert_eq!(request.conversation.tool_choice, expected, "{choice}");
        assert!(request.parallel_tool_calls);
    }
    assert!(!with(json!({"type": "auto", "disable_parallel_tool_use": true})).parallel_tool_calls);
}

#[test]
fn a_last_message_of_the_assistant_is_continued() {
    let messages =
        json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "{\"a\":"}]);
    let request = ok(json!({"messages": messages}));
    assert_eq!(request.conversation.messages[1].tail, Tail::Open);
    assert!(!request.parser_options().thinking);
    let text = prompt(json!({"messages": messages}));
    assert_eq!(text, "<｜User｜>x<｜Assistant｜></think>{\"a\":");
    let thinking = json!({"messages": messages, "thinking": {"type": "adaptive"}});
    assert!(prompt(thinking).ends_with("{\"a\":¶<｜Assistant｜><think>"));
}

#[test]
fn forms_of_answers() {
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    for change in [json!({"output_format": format}), json!({"output_config": {"format": format}})] {
        let request = ok(change);
        let schema = ResponseFormat::JsonSchema(json!({"type": "object"}));
        assert_eq!(request.conversation.response_format, schema);
        assert!(request.is_schema_strict);
    }
    let request = ok(json!({"stop_sequences": ["a"], "top_k": 3, "stream": true}));
    assert_eq!(
        (request.stop, request.sampling.top_k, request.stream),
        (vec!["a".into()], Some(3), true)
    );
}

#[test]
fn what_cannot_be_served_is_named() {
    for (change, word) in [
        (json!({"messages": []}), "at least one message"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": [{"role": "wizard", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": [{"text": "x"}]}]}), "content[0]"),
        (json!({"messages": ["x"]}), "messages[0]: expected an object, found a string"),
        (json!({"system": 5}), "system"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": "9"}), "max_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"tools": {}}), "tools: expected an array"),
        (json!({"tools": [{"input_schema": {}}]}), "tools[0]"),
        (json!({"tools": [{"name": ""}]}), "'tools[0].name'"),
        (json!({"tools": [{"name": "f\n"}], "tool_choice": {"type": "tool", "name": "g"}}), "'g'"),
        (json!({"output_format": {"type": "xml"}}), "output_format.type"),
        (json!({"stop_sequences": [""]}), "stop"),
        (json!({"model": "m".repeat(2000)}), "model"),
        (json!({"tools": [{"name": "f", "input_schema": {"x": "y".repeat(2 << 20)}}]}), "bytes"),
    ] {
        let error = convert(change.clone()).unwrap_err();
        assert_eq!(error.status, 400);
        assert!(error.message.contains(word), "{word}: {}", error.message);
        assert!(!error.message.contains('\n'));
    }
}

#[test]
fn deferred_tools_are_told_where_they_are_found() {
    let later = |name: &str| json!({"name": name, "input_schema": {}, "defer_loading": true});
    let search = json!({"name": "search", "input_schema": {}});
    let refer = |name: &str| json!({"type": "tool_reference", "tool_name": name});
    let messages = json!([
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "s", "name": "search", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "s", "content": [
            refer("fetch"), refer("fetch"), refer("lost"),
        ]}]},
        {"role": "system", "content": [
            {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "more"}},
        ]},
    ]);
    let tools = json!([search, later("fetch"), later("more"), later("never")]);
    let request = ok(json!({"messages": messages, "tools": tools}));
    let names = |list: &[serde_json::Map<String, Value>]| {
        list.iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&request.conversation.tools), ["search"]);
    assert_eq!(names(&request.found_tools), ["fetch", "more"]);
    let told = |name: &str| {
        format!(
            "<function>{{\"name\":\"{name}\",\"description\":\"\",\"parameters\":{{}}}}</function>"
        )
    };
    let said = &request.conversation.messages;
    assert_eq!(said[2].content, format!("{}\n\nfetch\n\nlost", told("fetch")));
    assert!(said[3].content.contains(&told("more")), "{}", said[3].content);

    // Where nothing could find them, or one is demanded, they are declared as all others.
    let server = json!({"type": "tool_search_tool_bm25_20251119", "name": "tool_search"});
    for (tools, choice, shown) in [
        (json!([later("a"), later("b")]), json!(null), &["a", "b"][..]),
        (json!([later("a"), server, search]), json!(null), &["a", "search"]),
        (json!([later("a"), search]), json!({"type": "tool", "name": "a"}), &["a", "search"]),
    ] {
        let request = ok(json!({"tools": tools, "tool_choice": choice}));
        assert_eq!(names(&request.conversation.tools), shown);
        assert!(request.found_tools.is_empty());
    }
}
