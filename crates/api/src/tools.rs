//! Declared functions and the choice among them.

use std::collections::HashSet;

use ds4_text::ToolChoice;
use serde_json::{Map, Value};

use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules, limits, schema};

/// The function objects of a `tools` array, as received. What is not a function is left out with a
/// warning: agents send mixed arrays.
pub(crate) fn functions(
    tools: &[Value],
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Vec<Map<String, Value>>, RequestError> {
    let mut functions: Vec<Map<String, Value>> = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        let path = format!("tools[{i}]");
        let fields = Fields::of(tool, &path)?;
        let kind = fields.str("type")?.unwrap_or("function");
        if kind != "function" {
            warnings.push(format!("{path}: a tool of type {kind:?} is not supported; left out"));
            continue;
        }
        let path = format!("{path}.function");
        let function = if let Some(function) = fields.get("function") {
            Fields::of(function, &path)?.object().clone()
        } else {
            // The flat form of the Responses API.
            let mut flat = fields.object().clone();
            flat.shift_remove("type");
            flat
        };
        check_name(Fields::of(&Value::Object(function.clone()), &path)?, rules)?;
        functions.push(function);
    }
    Ok(functions)
}

fn check_name(function: Fields<'_>, rules: Rules) -> Result<(), RequestError> {
    let path = function.path();
    let name = function
        .str("name")?
        .ok_or_else(|| RequestError::invalid(format!("{path}: a function needs a name")))?;
    function.str("description")?;
    function.bool("strict")?;
    let expected = if name.is_empty() {
        "empty string. Expected a string with minimum length 1, but got an empty string instead."
            .to_owned()
    } else if rules == Rules::Lenient {
        return Ok(());
    } else if name.len() > limits::TOOL_NAME_BYTES_MAX {
        format!(
            "string too long. Expected a string with maximum length {}, but got a string with \
             length {} instead.",
            limits::TOOL_NAME_BYTES_MAX,
            name.len()
        )
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        "string does not match pattern. Expected a string that matches the pattern \
         '^[a-zA-Z0-9_-]+$'."
            .to_owned()
    } else {
        return Ok(());
    };
    Err(RequestError::invalid(format!("Invalid '{path}.name': {expected}")))
}

/// Reads a `tool_choice` and checks it, and the functions, against each other.
pub(crate) fn choose(
    choice: Option<&Value>,
    functions: &mut [Map<String, Value>],
    thinking: bool,
    rules: Rules,
) -> Result<ToolChoice, RequestError> {
    let choice = choice.map_or(Ok(ToolChoice::Auto), read_choice)?;
    if choice == ToolChoice::None || functions.is_empty() {
        return Ok(if functions.is_empty() { ToolChoice::Auto } else { choice });
    }
    let mut names = HashSet::new();
    for function in functions {
        if !names.insert(name(function).to_owned()) {
            return Err(RequestError::invalid("Tool names must be unique."));
        }
        if rules == Rules::Hosted {
            check_parameters(function)?;
        }
    }
    if let ToolChoice::Named(wanted) = &choice
        && !names.contains(wanted)
    {
        return Err(RequestError::invalid(format!(
            "Invalid value for 'tool_call': no function named '{wanted}' was specified in the \
             'tools' parameter."
        )));
    }
    if choice != ToolChoice::Auto && thinking && rules == Rules::Hosted {
        return Err(RequestError::invalid("Thinking mode does not support this tool_choice"));
    }
    Ok(choice)
}

fn name(function: &Map<String, Value>) -> &str {
    function.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn read_choice(choice: &Value) -> Result<ToolChoice, RequestError> {
    let word = match choice {
        Value::Null => "auto",
        Value::String(word) => word,
        Value::Object(_) => {
            let fields = Fields::of(choice, "tool_choice")?;
            let kind = fields.str("type")?.unwrap_or("function");
            if matches!(kind, "function" | "tool") {
                let holder = fields.get("function").unwrap_or(choice);
                let name = Fields::of(holder, "tool_choice.function")?.str("name")?;
                return name.map(|name| ToolChoice::Named(name.to_owned())).ok_or_else(|| {
                    RequestError::invalid("tool_choice: a named choice needs function.name")
                });
            }
            kind
        }
        other => return Err(wrong("tool_choice", "a string or an object", other)),
    };
    match word {
        "auto" | "allowed_tools" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" | "any" => Ok(ToolChoice::Required),
        other => Err(RequestError::invalid(format!(
            "tool_choice: {other:?} is not one of none, auto, required or a function"
        ))),
    }
}

/// The hosted API's demands on a parameter schema; that of a strict function is rewritten.
fn check_parameters(function: &mut Map<String, Value>) -> Result<(), RequestError> {
    let parameters = function.get("parameters").filter(|value| !value.is_null());
    if function.get("strict") == Some(&Value::Bool(true)) {
        let strict = schema::strict_parameters(parameters)?;
        function.insert("parameters".to_owned(), strict);
        return Ok(());
    }
    let Some(parameters) = parameters else { return Ok(()) };
    let found = parameters.get("type").unwrap_or(&Value::Null);
    if found == "object" {
        return Ok(());
    }
    Err(RequestError::invalid(format!(
        "Invalid schema for function '{}': schema must be a JSON Schema of 'type: \"object\"', got \
         'type: {found}'.",
        name(function)
    )))
}
