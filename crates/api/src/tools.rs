//! Declared functions and the choice among them.

use std::collections::HashSet;

use ds4_text::{Conversation, ToolChoice};
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
        let mut function = if let Some(function) = fields.get("function") {
            Fields::of(function, &path)?.object().clone()
        } else {
            // The flat form of the Responses API.
            let mut flat = fields.object().clone();
            flat.shift_remove("type");
            flat
        };
        check_name(Fields::of(&Value::Object(function.clone()), &path)?, rules)?;
        if rules == Rules::Hosted && function.get("parameters").is_some_and(Value::is_null) {
            function.shift_remove("parameters");
        }
        functions.push(function);
    }
    Ok(functions)
}

pub(crate) fn check_name(function: Fields<'_>, rules: Rules) -> Result<(), RequestError> {
    let path = function.path();
    let name = function
        .str("name")?
        .ok_or_else(|| RequestError::invalid(format!("{path}: a function needs a name")))?;
    function.str("description")?;
    function.bool("strict")?;
    let max = match rules {
        Rules::Hosted => limits::TOOL_NAME_BYTES_MAX,
        Rules::Lenient => limits::LENIENT_TOOL_NAME_BYTES_MAX,
    };
    let expected = if name.is_empty() {
        "empty string. Expected a string with minimum length 1, but got an empty string instead."
            .to_owned()
    } else if name.len() > max {
        format!(
            "string too long. Expected a string with maximum length {max}, but got a string with \
             length {} instead.",
            name.len()
        )
    } else if rules == Rules::Lenient {
        return Ok(());
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        "string does not match pattern. Expected a string that matches the pattern \
         '^[a-zA-Z0-9_-]+$'."
            .to_owned()
    } else {
        return Ok(());
    };
    Err(RequestError::invalid(format!("Invalid '{path}.name': {expected}")))
}

/// A `tool_choice` as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Choice {
    pub(crate) choice: ToolChoice,
    /// The only functions that may be called; the prompt shows the others all the same, so that it
    /// stays equal from request to request.
    pub(crate) allowed: Option<Vec<String>>,
}

/// Checks the functions and the choice among them against each other.
pub(crate) fn settle(
    choice: ToolChoice,
    functions: &mut Vec<Map<String, Value>>,
    thinking: bool,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<ToolChoice, RequestError> {
    check_sizes(functions)?;
    if choice == ToolChoice::None || functions.is_empty() {
        return Ok(if functions.is_empty() { ToolChoice::Auto } else { choice });
    }
    let mut names = HashSet::new();
    let mut repeated = Vec::new();
    for (i, function) in functions.iter_mut().enumerate() {
        if !names.insert(name(function).to_owned()) {
            if rules == Rules::Hosted {
                return Err(RequestError::invalid("Tool names must be unique."));
            }
            warnings.push(format!("a second tool named {:?} is left out", name(function)));
            repeated.push(i);
        } else if rules == Rules::Hosted {
            check_parameters(function)?;
        }
    }
    for i in repeated.into_iter().rev() {
        functions.remove(i);
    }
    if let ToolChoice::Named(wanted) = &choice
        && !names.contains(wanted)
    {
        return Err(unknown_function(wanted));
    }
    if choice != ToolChoice::Auto && thinking && rules == Rules::Hosted {
        return Err(RequestError::invalid("Thinking mode does not support this tool_choice"));
    }
    Ok(choice)
}

/// The error for a choice of a function that is not declared.
pub(crate) fn unknown_function(name: &str) -> RequestError {
    RequestError::invalid(format!(
        "Invalid value for 'tool_call': no function named '{name}' was specified in the 'tools' \
         parameter."
    ))
}

fn check_sizes(functions: &[Map<String, Value>]) -> Result<(), RequestError> {
    if functions.len() > limits::TOOLS_MAX {
        return Err(RequestError::invalid(format!(
            "tools: {} functions; the limit is {}",
            functions.len(),
            limits::TOOLS_MAX
        )));
    }
    for function in functions {
        let schema = function.get("parameters").unwrap_or(&Value::Null);
        check_schema_size(schema, &format!("The schema of function '{}'", name(function)))?;
    }
    Ok(())
}

/// Refuses a schema that no grammar could be made of in reasonable time.
pub(crate) fn check_schema_size(schema: &Value, what: &str) -> Result<(), RequestError> {
    let n_bytes = schema.to_string().len();
    if n_bytes <= limits::SCHEMA_BYTES_MAX {
        return Ok(());
    }
    let max = limits::SCHEMA_BYTES_MAX;
    Err(RequestError::invalid(format!("{what} has {n_bytes} bytes; the limit is {max}")))
}

fn name(function: &Map<String, Value>) -> &str {
    function.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Reads a `tool_choice` in the form of any API.
pub(crate) fn read_choice(
    choice: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<Choice, RequestError> {
    let is = |choice: ToolChoice| Ok(Choice { choice, allowed: None });
    let fields = match choice {
        None | Some(Value::Null) => return is(ToolChoice::Auto),
        Some(Value::String(word)) => {
            let choice = read_word(word).ok_or_else(|| {
                RequestError::invalid(format!(
                    "tool_choice: {word:?} is not one of none, auto, required or a function"
                ))
            })?;
            return is(choice);
        }
        Some(object @ Value::Object(_)) => Fields::of(object, "tool_choice")?,
        Some(other) => return Err(wrong("tool_choice", "a string or an object", other)),
    };
    match fields.str("type")?.unwrap_or("function") {
        kind @ ("function" | "tool" | "custom") => {
            is(ToolChoice::Named(choice_name(fields, kind)?))
        }
        "allowed_tools" => read_allowed(fields),
        kind => is(read_word(kind).unwrap_or_else(|| {
            warnings.push(format!("tool_choice: {kind:?} is not supported; using auto"));
            ToolChoice::Auto
        })),
    }
}

fn read_word(word: &str) -> Option<ToolChoice> {
    match word {
        "auto" => Some(ToolChoice::Auto),
        "none" => Some(ToolChoice::None),
        "required" | "any" => Some(ToolChoice::Required),
        _ => None,
    }
}

/// The name in a choice or in a reference to a tool; Chat Completions has it one level deeper.
fn choice_name(fields: Fields<'_>, kind: &str) -> Result<String, RequestError> {
    let path = format!("{}.{kind}", fields.path());
    let name = match fields.get(kind) {
        Some(holder) => Fields::of(holder, &path)?.str("name")?,
        None => fields.str("name")?,
    };
    name.map(str::to_owned).ok_or_else(|| {
        RequestError::invalid(format!("{}: a named choice needs a name", fields.path()))
    })
}

/// A choice among some of the functions.
fn read_allowed(fields: Fields<'_>) -> Result<Choice, RequestError> {
    let path = format!("{}.allowed_tools", fields.path());
    let fields = match fields.get("allowed_tools") {
        Some(holder) => Fields::of(holder, &path)?,
        None => fields,
    };
    let choice = match fields.str("mode")? {
        None | Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        Some(other) => {
            return Err(RequestError::invalid(format!(
                "{}.mode: {other:?} is not auto or required",
                fields.path()
            )));
        }
    };
    let mut allowed = Vec::new();
    for (i, tool) in fields.array("tools")?.unwrap_or_default().iter().enumerate() {
        let path = format!("{}.tools[{i}]", fields.path());
        let tool = Fields::of(tool, &path)?;
        // Tools that are not functions have no name and are not declared either.
        if let kind @ ("function" | "custom") = tool.str("type")?.unwrap_or("function") {
            allowed.push(choice_name(tool, kind)?);
        }
    }
    Ok(Choice { choice, allowed: Some(allowed) })
}

/// The hosted API's demands on a parameter schema; that of a strict function is rewritten.
fn check_parameters(function: &mut Map<String, Value>) -> Result<(), RequestError> {
    let parameters = function.get("parameters");
    if function.get("strict") == Some(&Value::Bool(true)) {
        let strict = schema::strict_parameters(parameters)?;
        function.insert("parameters".to_owned(), strict);
        return Ok(());
    }
    let Some(parameters) = parameters else { return Ok(()) };
    if !matches!(parameters, Value::Object(_) | Value::Bool(_)) {
        return Err(RequestError::invalid(format!(
            "Invalid schema for function '{}': {parameters} is not of types \"boolean\", \
             \"object\"",
            name(function)
        )));
    }
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

/// Strict functions come all or none, and without an answer format.
pub(crate) fn check_strictness(
    conversation: &Conversation,
    has_format: bool,
) -> Result<(), RequestError> {
    let is_strict = |f: &Map<String, Value>| f.get("strict") == Some(&Value::Bool(true));
    let (strict, other): (Vec<_>, Vec<_>) = conversation.shown_tools().partition(|f| is_strict(f));
    if strict.is_empty() || conversation.tool_choice == ToolChoice::None {
        return Ok(());
    }
    if !other.is_empty() {
        return Err(RequestError::invalid(
            "Cannot use strict tool with non-strict tool in the same request",
        ));
    }
    if has_format {
        return Err(RequestError::invalid("response_format should not be used with tools"));
    }
    Ok(())
}
