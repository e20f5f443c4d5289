//! Responses requests as lenient rules read them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ds4_api::{Alias, Request, RequestError, Rules, responses};
use ds4_text::parse::Declared;
use ds4_text::{Effort, Message, Profile, ResponseFormat, Role, Thinking, ToolChoice, render};
use serde_json::{Value, json};

fn convert(change: Value) -> Result<Request, RequestError> {
    let mut body = json!({"model": "m", "input": "x"});
    let Value::Object(change) = change else { panic!("an object") };
    body.as_object_mut().unwrap().extend(change);
    responses::convert(&body, Rules::Lenient)
}

fn ok(change: Value) -> Request {
    convert(change).unwrap()
}

/// Role, reasoning, text and names of calls of every message.
fn turns(request: &Request) -> Vec<String> {
    let turn = |m: &Message| {
        let calls: Vec<&str> = m.calls.iter().map(|call| call.name.as_str()).collect();
        format!("{:?}|{}|{}|{}", m.role, m.reasoning, m.content, calls.join(","))
    };
    request.conversation.messages.iter().map(turn).collect()
}

#[test]
fn items_become_turns() {
    let input = json!([
        {"role": "developer", "content": [{"type": "input_text", "text": "dev"}]},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "u"},
            {"type": "input_file", "file_id": "f"}, {"type": "input_audio"},
        ]},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "sum"}],
         "encrypted_content": null},
        {"type": "message", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "b"}, {"type": "refusal", "refusal": "no"},
        ]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "summary": [],
         "content": [{"type": "reasoning_text", "text": "more"}]},
        {"type": "custom_tool_call", "call_id": "2", "name": "apply_patch", "input": "*** Begin"},
        {"type": "function_call_output", "call_id": "1", "output": [
            {"type": "input_text", "text": "o1"}, {"type": "input_text", "text": "o2"},
        ]},
        {"type": "custom_tool_call_output", "call_id": "2", "output": "done"},
        {"type": "mystery"},
        {"type": "web_search_call", "id": "w", "status": "completed"},
        {"type": "compaction", "encrypted_content": "c"},
        {"type": "message", "role": "user", "content": "next"},
    ]);
    let request = ok(json!({"input": input, "instructions": "sys"}));
    assert_eq!(
        turns(&request),
        [
            "System||sys|",
            "Developer||dev|",
            "User||a\n\n[Unsupported Image]\n\n[Unsupported Document]\n\n\
             [Unsupported input_audio]|",
            "Assistant|sum\nmore|b\n\nno|f,apply_patch",
            "Tool||o1\n\no2|",
            "Tool||done|",
            "User||next|",
        ]
    );
    assert_eq!(request.warnings.len(), 3, "{:?}", request.warnings);
    let text = render(Profile::April, &request.conversation).unwrap().to_text();
    assert!(text.contains("string=\"true\">*** Begin</｜DSML｜parameter>"), "{text}");
}

#[test]
fn broken_transcripts_are_served() {
    let input = json!([
        {"type": "function_call_output", "call_id": "lost", "output": {"json": 1}},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": null},
        {"type": "function_call", "call_id": "1", "name": "g", "arguments": {"a": 1}},
        {"type": "message", "role": "user", "content": "stop"},
        {"type": "function_call_output", "call_id": "1", "output": "late"},
        {"type": "local_shell_call", "call_id": "l", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "l", "output": "files"},
        {"type": "shell_call", "call_id": "s", "action": {"commands": []}, "status": "completed"},
        {"type": "shell_call_output", "call_id": "s", "output": []},
    ]);
    assert_eq!(
        turns(&ok(json!({"input": input}))),
        [
            "Tool||{\"json\":1}|",
            "Assistant|||f,g",
            "User||stop|",
            "Tool||late|",
            "Assistant|||local_shell",
            "Tool||files|",
            "Assistant|||shell",
            "Tool|||",
        ]
    );
}

#[test]
fn what_was_cut_is_served() {
    let call = |id: &str, status: &str| {
        json!({
            "type": "function_call", "call_id": id, "name": id, "arguments": "{\"a\":", "status": status,
        })
    };
    let request = ok(json!({"input": [
        {"type": "reasoning", "status": "incomplete",
         "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "status": "incomplete", "content": "cut sh"},
        call("lost", "incomplete"),
        call("kept", "in_progress"),
        {"type": "function_call_output", "call_id": "kept", "output": "x", "status": null},
    ]}));
    assert_eq!(turns(&request), ["Assistant|hm|cut sh|kept", "Tool||x|"]);
    assert_eq!(request.warnings, ["input[2]: a \"function_call\" that broke off is left out"]);
}

#[test]
fn reasoning_comes_back_from_where_it_is() {
    let reasoning = |item: Value| {
        let mut item = item;
        item["type"] = json!("reasoning");
        ok(json!({"input": [item, {"role": "user", "content": "x"}]})).conversation.messages[0]
            .reasoning
            .clone()
    };
    let summary = json!([{"type": "summary_text", "text": "s"}]);
    assert_eq!(reasoning(json!({"summary": summary, "encrypted_content": "ds4:sealed"})), "sealed");
    assert_eq!(reasoning(json!({"summary": summary, "encrypted_content": "gAAA"})), "s");
    let content = json!([{"type": "reasoning_text", "text": "c"}]);
    let all = json!({"summary": summary, "content": content, "encrypted_content": "ds4:sealed"});
    assert_eq!(reasoning(all), "c");
}

#[test]
fn tools_of_every_kind() {
    let tools = json!([
        {"type": "function", "name": "shell", "description": "d", "strict": false,
         "parameters": {"type": "object"}},
        {"type": "function", "name": "mcp__a__t1"},
        {"type": "namespace", "name": "mcp__a__", "tools": [
            {"type": "function", "name": "t1", "description": "x"},
            {"type": "function", "name": "t2"},
            {"type": "custom", "name": "c"},
        ]},
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "u"}]},
        {"type": "custom", "name": "apply_patch", "description": "ignored",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}},
        {"type": "custom", "name": "free", "description": "about",
         "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}},
        {"type": "tool_search", "execution": "client", "description": "find",
         "parameters": {"type": "object"}},
        {"type": "web_search"}, {"type": "image_generation"}, {"type": "local_shell"},
        {"type": "computer_use_preview"}, {"type": "from_the_future", "name": "z"},
    ]);
    let request = ok(json!({"tools": tools}));
    let name = |f: &serde_json::Map<String, Value>| f["name"].as_str().unwrap().to_owned();
    let names: Vec<String> = request.conversation.tools.iter().map(name).collect();
    assert_eq!(
        names,
        [
            "shell",
            "mcp__a__t1",
            "mcp__a__t1_1",
            "mcp__a__t2",
            "ns__u",
            "apply_patch",
            "free",
            "tool_search"
        ]
    );
    assert_eq!(request.warnings.len(), 6, "{:?}", request.warnings);
    let of = |namespace: &str, name: &str| {
        Some(Alias::Namespaced { namespace: namespace.into(), name: name.into() })
    };
    assert_eq!(request.aliases.get("mcp__a__t1_1").cloned(), of("mcp__a__", "t1"));
    assert_eq!(request.aliases.get("ns__u").cloned(), of("ns", "u"));
    assert_eq!(request.aliases.get("tool_search"), Some(&Alias::ToolSearch));
    assert!(matches!(request.aliases.get("free"), Some(Alias::Custom { format: Some(_) })));
    let free = &request.conversation.tools[6];
    assert_eq!(free["description"], "about\n\nThe input must match this regex grammar:\na+");
    assert_eq!(free["parameters"]["required"], json!(["input"]));
    for (choice, expected) in [
        (json!("required"), ToolChoice::Required),
        (json!("none"), ToolChoice::None),
        (json!({"type": "function", "name": "t2"}), ToolChoice::Named("mcp__a__t2".into())),
        (json!({"type": "custom", "name": "free"}), ToolChoice::Named("free".into())),
        (json!({"type": "web_search"}), ToolChoice::Auto),
        (json!({"type": "mcp", "server_label": "x"}), ToolChoice::Auto),
    ] {
        let request = ok(json!({"tools": tools, "tool_choice": choice}));
        assert_eq!(request.conversation.tool_choice, expected, "{choice}");
    }
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "function", "name": "shell"}, {"type": "function", "name": "u"},
        {"type": "web_search"},
    ]});
    let request = ok(json!({"tools": tools, "tool_choice": allowed}));
    assert_eq!(request.conversation.tool_choice, ToolChoice::Required);
    assert_eq!(request.conversation.shown_tools().count(), 8);
    assert_eq!(request.callable().map(name).collect::<Vec<_>>(), ["shell", "ns__u"]);
}

#[test]
fn found_tools_may_be_called() {
    let input = json!([
        {"type": "message", "role": "user", "content": "go"},
        {"type": "tool_search_call", "call_id": "s", "execution": "client", "status": "completed",
         "arguments": {"query": "mail"}},
        {"type": "tool_search_output", "call_id": "s", "status": "completed", "tools": [
            {"type": "namespace", "name": "mail", "description": "m", "tools": [
                {"type": "function", "name": "send", "parameters": {"type": "object"}},
            ]},
        ]},
        {"type": "function_call", "call_id": "c", "namespace": "mail", "name": "send",
         "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
    ]);
    let tools = json!([{"type": "tool_search", "execution": "client"}]);
    let request = ok(json!({"input": input, "tools": tools}));
    assert_eq!(request.conversation.tools.len(), 1);
    assert_eq!(
        turns(&request)[1..],
        [
            "Assistant|||tool_search".to_owned(),
            "Tool||[{\"name\":\"mail__send\",\"description\":\"\",\"parameters\":\
             {\"type\":\"object\"}}]|"
                .to_owned(),
            "Assistant|||mail__send".to_owned(),
            "Tool||ok|".to_owned(),
        ]
    );
    let declared = request.parser_options().declared;
    assert_eq!(declared, Declared::Names(vec!["tool_search".into(), "mail__send".into()]));
    assert!(request.aliases.contains_key("mail__send"));
}

#[test]
fn settings() {
    let request = ok(json!({
        "reasoning": {"effort": "minimal", "summary": "auto"}, "max_output_tokens": 7,
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "parallel_tool_calls": false, "store": false, "stream": true, "prompt_cache_key": "k",
        "client_metadata": {}, "service_tier": "auto", "truncation": "auto", "metadata": {"a": "b"},
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n",
            "schema": {"type": "object"}, "strict": true}},
    }));
    assert_eq!(request.conversation.thinking, Thinking::On(Effort::Low));
    assert!(request.responses.summary && request.responses.encrypted_reasoning && request.stream);
    assert_eq!((request.max_tokens, request.top_logprobs), (Some(7), Some(0)));
    assert!(!request.parallel_tool_calls && request.is_schema_strict);
    let schema = ResponseFormat::JsonSchema(json!({"type": "object"}));
    assert_eq!(request.conversation.response_format, schema);
    assert_eq!(request.responses.echo["metadata"], json!({"a": "b"}));
    assert_eq!(
        request.responses.echo["reasoning"],
        json!({"effort": "minimal", "summary": "auto"})
    );
    let bare = ok(json!({"input": null, "instructions": "sys", "max_tokens": 3}));
    assert!(!bare.responses.summary && !bare.responses.encrypted_reasoning);
    assert_eq!(bare.max_tokens, Some(3));
    assert_eq!(bare.conversation.messages[0].role, Role::System);
    assert_eq!(bare.responses.echo["text"], json!({"format": {"type": "text"}}));
}

#[test]
fn what_cannot_be_served_is_named() {
    let item = |item: Value| json!({"input": [item]});
    for (change, word) in [
        (json!({"input": null}), "Either input or instructions"),
        (json!({"input": []}), "must not be empty"),
        (json!({"input": {}}), "input: expected a string or a list"),
        (json!({"conversation": "c"}), "conversation"),
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
        (item(json!({"role": "user", "content": "x", "status": 5})), "input[0].status"),
        (item(json!({"type": "mystery", "call_id": "c"})), "mystery"),
        (item(json!({"type": "item_reference", "id": "msg_1"})), "item_reference"),
        (item(json!({"type": "function_call", "call_id": "c"})), "name"),
        (item(json!({"type": "function_call", "name": "f", "arguments": 5})), "input[0].arguments"),
        (item(json!({"role": "wizard", "content": "x"})), "input[0].role"),
        (item(json!({"content": "x"})), "input[0]"),
        (item(json!({"role": "user", "content": [5]})), "input[0].content[0]"),
        (json!({"tools": [{"type": "function"}]}), "tools[0]"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": {"format": {"type": "json_schema"}}}), "schema"),
        (json!({"tool_choice": "maybe"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function"}}), "name"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"max_output_tokens": 0}), "max_tokens"),
    ] {
        let error = convert(change.clone()).unwrap_err();
        assert_eq!((error.status, error.code), (400, None), "{change}");
        assert!(error.message.contains(word), "{word}: {}", error.message);
    }
    let error = convert(json!({"previous_response_id": "resp_1\n"})).unwrap_err();
    assert_eq!((error.status, error.code), (400, Some("previous_response_not_found")));
    assert!(!error.message.contains('\n'), "{}", error.message);
}
