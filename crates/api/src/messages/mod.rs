//! Anthropic's Messages: the request body to a [`Request`].
//!
//! `turns.rs` converts the messages, `blocks.rs` what is inside them.

use ds4_text::{Conversation, Message, ResponseFormat, Role, Tail, Thinking, ToolChoice};
use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::settings::{self, Beyond, Reasoning};
use crate::tools::{self, check_schema_size};
use crate::{Api, Request, RequestError, Rules};

mod blocks;
mod turns;

/// Converts a request body.
pub fn convert(body: &Value, rules: Rules) -> Result<Request, RequestError> {
    let body = Fields::of(body, "")?;
    let mut warnings = Vec::new();
    let model = settings::model(body)?;
    let mut reasoning = reasoning(body, &model, rules, &mut warnings)?;
    let mut declared = declared(body, rules, &mut warnings)?;
    let list =
        body.array("messages")?.ok_or_else(|| RequestError::invalid("missing field `messages`"))?;
    let mut messages = turns::system(body, rules)?;
    messages.extend(turns::convert(list, &mut declared, rules, &mut warnings)?);
    if rules == Rules::Lenient {
        continue_last(&mut messages, &mut reasoning);
    }
    let thinks = reasoning.thinking != Thinking::Off;
    let (choice, parallel_tool_calls) = choice(body, &declared, rules, &mut warnings)?;
    let tool_choice = tools::settle(choice, &mut declared.functions, thinks, rules, &mut warnings)?;
    let stop = settings::stop_strings(body, "stop_sequences")?;
    let sampling = settings::sampling(body)?;
    let max_tokens = settings::max_tokens(body, &["max_tokens"], Beyond::Lowered)?;
    let response_format = match rules {
        Rules::Lenient => answer_format(body)?,
        Rules::Hosted => ResponseFormat::Text,
    };
    let conversation = Conversation {
        messages,
        tools: declared.functions,
        tool_choice,
        response_format,
        thinking: reasoning.thinking,
    };
    Ok(Request {
        is_schema_strict: matches!(conversation.response_format, ResponseFormat::JsonSchema(_)),
        sampling,
        max_tokens,
        thinking_budget: reasoning.budget,
        is_thinking_explicit: reasoning.is_explicit,
        stop,
        parallel_tool_calls,
        found_tools: declared.found,
        stream: body.bool("stream")?.unwrap_or(false),
        warnings,
        ..Request::new(Api::Messages, model, conversation)
    })
}

fn reasoning(
    body: Fields<'_>,
    model: &str,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Reasoning, RequestError> {
    let effort = match body.get("output_config") {
        Some(config) => Fields::of(config, "output_config")?.str("effort")?,
        None => None,
    };
    let effort = match effort {
        None if rules == Rules::Lenient => body.str("reasoning_effort")?,
        effort => effort,
    };
    settings::reasoning(body, effort, model, rules, warnings)
}

/// The tools of a request.
#[derive(Default)]
struct Declared {
    functions: Vec<Map<String, Value>>,
    /// Functions that the client finds for the model as it needs them. At the start of the prompt,
    /// where the others are declared, each one that is found would change all that follows.
    deferred: Vec<Map<String, Value>>,
    /// Those of them that were found.
    found: Vec<Map<String, Value>>,
    /// Names of the tools that were left out.
    dropped: Vec<String>,
}

impl Declared {
    /// What the model reads where the messages refer to a function: a deferred one in full, the
    /// first time.
    fn find(&mut self, name: &str) -> String {
        let is = |f: &&Map<String, Value>| f.get("name").and_then(Value::as_str) == Some(name);
        match self.deferred.iter().find(is) {
            Some(function) if !self.found.iter().any(|f| is(&f)) => {
                self.found.push(function.clone());
                format!("<function>{}</function>", Value::Object(function.clone()))
            }
            _ => name.to_owned(),
        }
    }
}

/// The client's own tools as functions. Tools that a server would run have no schema; they are left
/// out, because agents send mixed lists.
fn declared(
    body: Fields<'_>,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Declared, RequestError> {
    let mut declared = Declared::default();
    let list = body.array("tools")?.unwrap_or_default();
    let chosen = body.get("tool_choice").and_then(|choice| choice.get("name"));
    let may_wait = rules == Rules::Lenient && can_defer(list);
    for (i, tool) in list.iter().enumerate() {
        let path = format!("tools[{i}]");
        let tool = Fields::of(tool, &path)?;
        let waits = may_wait && tool.bool("defer_loading")? == Some(true);
        match tool.str("type")? {
            _ if waits && tool.get("name") != chosen => {
                declared.deferred.push(function(tool, rules)?);
            }
            None => declared.functions.push(function(tool, rules)?),
            Some(_) if rules == Rules::Lenient && tool.get("input_schema").is_some() => {
                declared.functions.push(function(tool, rules)?);
            }
            Some("custom") if rules == Rules::Lenient => {
                declared.functions.push(function(tool, rules)?);
            }
            Some(kind) if rules == Rules::Lenient || kind.starts_with("web_search") => {
                warnings
                    .push(format!("{path}: a tool of type {kind:?} is not supported; left out"));
                declared.dropped.push(tool.str("name")?.unwrap_or("web_search").to_owned());
            }
            Some(_) => {
                return Err(RequestError::invalid(format!(
                    "{path}: server tools are not supported"
                )));
            }
        }
    }
    Ok(declared)
}

/// Whether functions may wait until they are found: not where a server would have to find them, nor
/// where nothing else is there to find them with.
fn can_defer(list: &[Value]) -> bool {
    let waits = |tool: &Value| tool.get("defer_loading") == Some(&Value::Bool(true));
    let is_search = |tool: &Value| {
        let kind = tool.get("type").and_then(Value::as_str);
        kind.is_some_and(|kind| kind.starts_with("tool_search_tool"))
    };
    list.iter().any(|tool| !waits(tool)) && !list.iter().any(is_search)
}

fn function(tool: Fields<'_>, rules: Rules) -> Result<Map<String, Value>, RequestError> {
    tools::check_name(tool, rules)?;
    let name = tool.str("name")?.unwrap_or_default();
    let description = tool.str("description")?.unwrap_or_default();
    let mut function = Map::new();
    function.insert("name".to_owned(), name.into());
    function.insert("description".to_owned(), description.into());
    // Without a schema the hosted API refuses the tool, though not before other errors.
    let none = if rules == Rules::Lenient { Map::new().into() } else { Value::Null };
    let schema = tool.get("input_schema").cloned().unwrap_or(none);
    function.insert("parameters".to_owned(), schema);
    if rules == Rules::Lenient && tool.bool("strict")? == Some(true) {
        function.insert("strict".to_owned(), true.into());
    }
    Ok(function)
}

/// The choice among the tools, and whether several may be called at once.
fn choice(
    body: Fields<'_>,
    declared: &Declared,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<(ToolChoice, bool), RequestError> {
    let value = body.get("tool_choice");
    let one_call = match value {
        Some(object @ Value::Object(_)) => {
            Fields::of(object, "tool_choice")?.bool("disable_parallel_tool_use")?.unwrap_or(false)
        }
        _ => false,
    };
    let choice = match tools::read_choice(value, warnings)?.choice {
        // The hosted API lets the model answer in text all the same.
        ToolChoice::Required if rules == Rules::Hosted => ToolChoice::Auto,
        ToolChoice::Named(name) if declared.dropped.contains(&name) => ToolChoice::Auto,
        ToolChoice::Named(name)
            if declared.functions.is_empty() && !declared.dropped.is_empty() =>
        {
            return Err(tools::unknown_function(&name));
        }
        choice => choice,
    };
    Ok((choice, !one_call))
}

/// A last message of the assistant is the beginning of the answer, unless thinking was asked for,
/// which would have to come before it.
fn continue_last(messages: &mut [Message], reasoning: &mut Reasoning) {
    let asked = reasoning.is_explicit && reasoning.thinking != Thinking::Off;
    let is_beginning = |m: &Message| m.role == Role::Assistant && m.calls.is_empty();
    if let Some(last) = messages.last_mut().filter(|m| !asked && is_beginning(m)) {
        last.tail = Tail::Open;
        reasoning.thinking = Thinking::Off;
        reasoning.is_explicit = true;
    }
}

/// The form of the answer, from either of the fields that have had it.
fn answer_format(body: Fields<'_>) -> Result<ResponseFormat, RequestError> {
    let config = body.get("output_config").and_then(|config| config.get("format"));
    let (format, path) = match config.filter(|format| !format.is_null()) {
        Some(format) => (format, "output_config.format"),
        None => match body.get("output_format") {
            Some(format) => (format, "output_format"),
            None => return Ok(ResponseFormat::Text),
        },
    };
    let fields = Fields::of(format, path)?;
    match fields.str("type")? {
        Some("text") => Ok(ResponseFormat::Text),
        Some("json_schema") => {
            let schema = fields
                .get("schema")
                .ok_or_else(|| RequestError::invalid(format!("{path}: missing field `schema`")))?;
            check_schema_size(schema, &format!("{path}.schema"))?;
            Ok(ResponseFormat::JsonSchema(schema.clone()))
        }
        other => Err(RequestError::invalid(format!(
            "{path}.type: {:?} is not text or json_schema",
            other.unwrap_or_default()
        ))),
    }
}
