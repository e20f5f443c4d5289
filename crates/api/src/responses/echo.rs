//! Settings of a request that its answer repeats. Clients with types for the response object
//! require some of them.

use serde_json::{Map, Value, json};

/// The settings, as the client wrote them or as they are when it did not.
pub(super) fn echo(body: &Map<String, Value>) -> Map<String, Value> {
    let or = |key: &str, default: Value| match body.get(key) {
        None | Some(Value::Null) => default,
        Some(value) => value.clone(),
    };
    let mut text = or("text", json!({}));
    if text.get("format").is_none_or(Value::is_null) && text.is_object() {
        text["format"] = json!({"type": "text"});
    }
    let reasoning = body.get("reasoning").unwrap_or(&Value::Null);
    let of = |key: &str| reasoning.get(key).cloned().unwrap_or(Value::Null);
    let summary = match of("summary") {
        Value::Null => of("generate_summary"),
        summary => summary,
    };
    let settings = json!({
        "instructions": or("instructions", Value::Null),
        "max_output_tokens": or("max_output_tokens", or("max_tokens", Value::Null)),
        "metadata": or("metadata", json!({})),
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": null,
        "reasoning": {"effort": of("effort"), "summary": summary},
        "store": false,
        "temperature": or("temperature", json!(1.0)),
        "text": text,
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": tools(body.get("tools")),
        "top_p": or("top_p", json!(1.0)),
        "truncation": "disabled",
    });
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}

/// The tools; functions have all the fields that the types of clients require.
fn tools(tools: Option<&Value>) -> Value {
    let Some(Value::Array(tools)) = tools else { return json!([]) };
    let tool = |tool: &Value| {
        let mut tool = tool.clone();
        if let Value::Object(fields) = &mut tool
            && fields.get("type").and_then(Value::as_str) == Some("function")
        {
            for key in ["parameters", "strict"] {
                fields.entry(key).or_insert(Value::Null);
            }
        }
        tool
    };
    tools.iter().map(tool).collect()
}
