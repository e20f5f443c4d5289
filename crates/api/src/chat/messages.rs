//! The `messages` of a chat request.

use std::collections::HashSet;

use ds4_text::{Arguments, Message, Role, Tail, ToolCall};
use serde_json::{Map, Value};

use crate::content::{strip_billing_header, text, unsupported_part};
use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules, limits};

/// Converts all messages and, for [`Rules::Hosted`], checks that every call has its result.
pub(super) fn convert(list: &[Value], rules: Rules) -> Result<Vec<Message>, RequestError> {
    if list.is_empty() {
        return Err(RequestError::invalid("Empty input messages"));
    }
    if list.len() > limits::ITEMS_MAX {
        let (n, max) = (list.len(), limits::ITEMS_MAX);
        return Err(RequestError::invalid(format!("messages: {n} messages; the limit is {max}")));
    }
    let mut messages = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        messages.push(message(value, &format!("messages[{i}]"), i, rules)?);
    }
    if rules == Rules::Hosted {
        check_results(&messages)?;
    }
    Ok(messages)
}

fn message(value: &Value, path: &str, i: usize, rules: Rules) -> Result<Message, RequestError> {
    let fields = Fields::of(value, path)?;
    let role = match fields.str("role")? {
        Some("system") => Role::System,
        Some("developer") => Role::Developer,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => Role::Tool,
        Some("latest_reminder") => Role::LatestReminder,
        other => {
            return Err(RequestError::invalid(format!(
                "{path}.role: {:?} is not one of system, developer, user, assistant, tool, \
                 latest_reminder",
                other.unwrap_or_default()
            )));
        }
    };
    let content = text(fields.get("content"), &format!("{path}.content"), unsupported_part)?;
    let mut message = Message::new(role, content);
    match message.role {
        Role::System | Role::Developer => message.content = strip_billing_header(message.content),
        Role::Tool => message.call_id = fields.str("tool_call_id")?.map(str::to_owned),
        Role::Assistant => read_assistant(&mut message, fields, i, rules)?,
        Role::User | Role::LatestReminder | Role::Unknown(_) => {}
    }
    Ok(message)
}

fn read_assistant(
    message: &mut Message,
    fields: Fields<'_>,
    i: usize,
    rules: Rules,
) -> Result<(), RequestError> {
    reasoning(fields, rules)?.clone_into(&mut message.reasoning);
    if fields.bool("prefix")? == Some(true) {
        message.tail = Tail::Open;
    }
    let calls = fields.array("tool_calls")?;
    if rules == Rules::Hosted {
        if fields.get("content").is_none() && calls.is_none() {
            return Err(RequestError::invalid(
                "Invalid assistant message: content or tool_calls must be set",
            ));
        }
        if calls.is_some_and(<[Value]>::is_empty) {
            return Err(RequestError::invalid(format!(
                "Invalid 'messages[{i}].tool_calls': empty array. Expected an array with minimum \
                 length 1, but got an empty array instead."
            )));
        }
    }
    for (call_ix, value) in calls.unwrap_or_default().iter().enumerate() {
        let path = format!("{}.tool_calls[{call_ix}]", fields.path());
        message.calls.push(call(Fields::of(value, &path)?, rules)?);
    }
    if let Some(function) = fields.get("function_call") {
        let path = format!("{}.function_call", fields.path());
        message.calls.push(function_call(Fields::of(function, &path)?, None, rules)?);
    }
    Ok(())
}

/// Replayed reasoning, under whichever name a client knows it.
fn reasoning(fields: Fields<'_>, rules: Rules) -> Result<&str, RequestError> {
    if rules == Rules::Hosted {
        return Ok(fields.str("reasoning_content")?.unwrap_or_default());
    }
    let names = ["reasoning_content", "reasoning", "reasoning_text"];
    let texts = names.iter().filter_map(|name| fields.get(name)?.as_str());
    Ok(texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default())
}

fn call(fields: Fields<'_>, rules: Rules) -> Result<ToolCall, RequestError> {
    let id = fields.str("id")?.map(str::to_owned);
    if let (Some(custom), Rules::Lenient) = (fields.get("custom"), rules) {
        let custom = Fields::of(custom, fields.path())?;
        let input = custom.str("input")?.unwrap_or_default();
        let name = custom.str("name")?.unwrap_or_default().to_owned();
        let arguments = Map::from_iter([("input".to_owned(), input.into())]);
        return Ok(ToolCall { id, name, arguments: Arguments::Object(arguments) });
    }
    let path = format!("{}.function", fields.path());
    let function = fields.get("function").ok_or_else(|| {
        RequestError::invalid(format!("{}: missing field `function`", fields.path()))
    })?;
    function_call(Fields::of(function, &path)?, id, rules)
}

fn function_call(
    function: Fields<'_>,
    id: Option<String>,
    rules: Rules,
) -> Result<ToolCall, RequestError> {
    let path = function.path();
    let name = function
        .str("name")?
        .ok_or_else(|| RequestError::invalid(format!("{path}: missing field `name`")))?;
    let arguments = match function.get("arguments") {
        None => Arguments::Object(Map::new()),
        // An empty text stands for no arguments; the hosted API keeps it as text.
        Some(Value::String(text)) if text.trim().is_empty() && rules == Rules::Lenient => {
            Arguments::Object(Map::new())
        }
        Some(Value::String(text)) => Arguments::Text(text.clone()),
        Some(Value::Object(object)) => Arguments::Object(object.clone()),
        Some(other) => {
            return Err(wrong(&format!("{path}.arguments"), "a string or an object", other));
        }
    };
    Ok(ToolCall { id, name: name.to_owned(), arguments })
}

/// Every assistant message with calls is followed by exactly one result for each of them, and there
/// are no other results.
fn check_results(messages: &[Message]) -> Result<(), RequestError> {
    let mut i = 0;
    while let Some(message) = messages.get(i) {
        if message.role == Role::Tool {
            return Err(RequestError::invalid(
                "Messages with role 'tool' must be a response to a preceding message with \
                 'tool_calls'",
            ));
        }
        check_answers(messages, i)?;
        i += 1 + message.calls.len();
    }
    Ok(())
}

fn check_answers(messages: &[Message], i: usize) -> Result<(), RequestError> {
    const RULE: &str = "An assistant message with 'tool_calls' must be followed by tool messages \
                        responding to each 'tool_call_id'";
    let duplicate = |id: &str, at: usize| {
        RequestError::invalid(format!(
            "Duplicate value for 'tool_call_id' of {id} in message[{at}]"
        ))
    };
    let mut ids = HashSet::new();
    for call in &messages[i].calls {
        let id = call.id.as_deref().unwrap_or_default();
        if !ids.insert(id) {
            return Err(duplicate(id, i));
        }
    }
    let mut answered = HashSet::new();
    for at in i + 1..=i + messages[i].calls.len() {
        let Some(result) = messages.get(at).filter(|m| m.role == Role::Tool) else {
            return Err(RequestError::invalid(format!(
                "{RULE}. (insufficient tool messages following tool_calls message)"
            )));
        };
        let id = result.call_id.as_deref().unwrap_or_default();
        if !ids.contains(id) {
            return Err(RequestError::invalid(format!(
                "{RULE}, The following tool_call_ids did not have response messages: {id}"
            )));
        }
        if !answered.insert(id) {
            return Err(duplicate(id, at));
        }
    }
    Ok(())
}
