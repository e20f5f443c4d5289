//! Messages in the form of the April reference encoder, which carries tools, answer schemas and
//! tasks on the messages themselves. Only the checking commands take it.

use ds4_text::render::april::{Mode, render_messages};
use ds4_text::{Arguments, Message, Prompt, ResponseFormat, Role, Tail, ToolCall};
use serde_json::{Map, Value};

use crate::RequestError;
use crate::content::text;
use crate::fields::Fields;

/// Renders one case: `thinking_mode`, `drop_thinking`, `reasoning_effort` and `messages`.
pub(crate) fn render_case(case: &Value) -> Result<Prompt, RequestError> {
    let fields = Fields::of(case, "")?;
    let thinking = match fields.str("thinking_mode")? {
        Some("thinking") => true,
        Some("chat") => false,
        other => {
            return Err(RequestError::invalid(format!(
                "thinking_mode: {:?} is not chat or thinking",
                other.unwrap_or_default()
            )));
        }
    };
    let max_effort = match fields.str("reasoning_effort")? {
        None | Some("high") => false,
        Some("max") => true,
        Some(other) => {
            return Err(RequestError::invalid(format!(
                "reasoning_effort: {other:?} is not high or max"
            )));
        }
    };
    let drop_thinking = fields.bool("drop_thinking")?.unwrap_or(true);
    let list = fields
        .array("messages")?
        .ok_or_else(|| RequestError::invalid("missing field `messages`"))?;
    let message = |(i, value): (usize, &Value)| message(value, &format!("messages[{i}]"));
    let messages = list.iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
    Ok(render_messages(&messages, Mode { thinking, max_effort, drop_thinking })?)
}

fn message(value: &Value, path: &str) -> Result<Message, RequestError> {
    let fields = Fields::of(value, path)?;
    let role = match fields.str("role")?.unwrap_or_default() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        "latest_reminder" => Role::LatestReminder,
        other => Role::Unknown(other.to_owned()),
    };
    let unsupported = |kind: &str| format!("[Unsupported {kind}]");
    let content = text(fields.get("content"), &format!("{path}.content"), unsupported)?;
    let mut message = Message::new(role, content);
    fields.str("reasoning_content")?.unwrap_or_default().clone_into(&mut message.reasoning);
    message.call_id = fields.str("tool_call_id")?.map(str::to_owned);
    message.task = fields.str("task")?.map(str::to_owned);
    if fields.bool("wo_eos")? == Some(true) {
        message.tail = Tail::Open;
    }
    if let Some(format) = fields.get("response_format").filter(|value| !is_empty(value)) {
        message.response_format = ResponseFormat::JsonSchema(format.clone());
    }
    for (i, tool) in fields.array("tools")?.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}.tools[{i}]");
        message.tools.push(function(Fields::of(tool, &path)?)?.object().clone());
    }
    for (i, call) in fields.array("tool_calls")?.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}.tool_calls[{i}]");
        message.calls.push(tool_call(Fields::of(call, &path)?)?);
    }
    Ok(message)
}

/// What counts as absent in the reference's language.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(array) => array.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Null => true,
    }
}

fn function(holder: Fields<'_>) -> Result<Fields<'_>, RequestError> {
    let path = holder.path();
    match holder.get("function") {
        Some(function) => Fields::of(function, path),
        None => Err(RequestError::invalid(format!("{path}: missing field `function`"))),
    }
}

fn tool_call(call: Fields<'_>) -> Result<ToolCall, RequestError> {
    let function = function(call)?;
    let id = match call.str("id")?.filter(|id| !id.is_empty()) {
        None => function.str("id")?,
        id => id,
    };
    let path = call.path();
    let name = function
        .str("name")?
        .ok_or_else(|| RequestError::invalid(format!("{path}: missing field `name`")))?;
    let arguments = match function.get("arguments") {
        None => Arguments::Object(Map::new()),
        Some(Value::String(text)) => Arguments::Text(text.clone()),
        Some(Value::Object(object)) => Arguments::Object(object.clone()),
        Some(other) => Arguments::Text(other.to_string()),
    };
    Ok(ToolCall { id: id.map(str::to_owned), name: name.to_owned(), arguments })
}
