//! OpenAI's Responses: the request body to a [`Request`].
//!
//! `items.rs` converts the input, `tools.rs` the tools of several kinds to functions, `echo.rs`
//! keeps what the answer repeats.

use ds4_text::{Conversation, Message, ResponseFormat, Role, Thinking, ToolChoice};
use serde_json::Value;

use crate::fields::{Fields, wrong};
use crate::settings::{self, Beyond, says_json};
use crate::tools::{self, Choice, check_schema_size};
use crate::{Api, Request, RequestError, ResponsesOptions, Rules, Sampling, schema};

mod content;
mod echo;
mod items;
mod toolset;

use toolset::ToolSet;

/// What sealed reasoning begins with.
const SEAL: &str = "ds4:";

/// Reasoning in the form in which a client keeps it unread and sends it back.
pub(crate) fn seal_reasoning(text: &str) -> String {
    format!("{SEAL}{text}")
}

/// Converts a request body.
pub fn convert(body: &Value, rules: Rules) -> Result<Request, RequestError> {
    let body = Fields::of(body, "")?;
    if rules == Rules::Lenient {
        check_stateless(body)?;
    }
    let mut warnings = Vec::new();
    let model = settings::model(body)?;
    let config = body.get("reasoning").unwrap_or(&Value::Null);
    let effort = match config {
        Value::Null => None,
        config => Fields::of(config, "reasoning")?.str("effort")?,
    };
    let reasoning = settings::reasoning(body, effort, &model, rules, &mut warnings)?;
    let thinks = reasoning.thinking != Thinking::Off;
    let mut set = ToolSet::new(body.array("tools")?.unwrap_or_default(), rules, &mut warnings)?;
    let messages = messages(body, &mut set, rules, &mut warnings)?;
    let choice = choice(body, &set, &mut warnings)?;
    let tool_choice =
        tools::settle(choice.choice, &mut set.functions, thinks, rules, &mut warnings)?;
    let (response_format, is_schema_strict) = text_format(body)?;
    let conversation = Conversation {
        messages,
        tools: set.functions,
        tool_choice,
        response_format,
        thinking: reasoning.thinking,
    };
    if rules == Rules::Hosted {
        check_hosted(&conversation, is_schema_strict)?;
    }
    let beyond = if rules == Rules::Hosted { Beyond::Refused } else { Beyond::Lowered };
    let sampling = Sampling { seed: settings::seed(body)?, ..settings::sampling(body)? };
    let top_logprobs = top_logprobs(body)?;
    Ok(Request {
        sampling,
        max_tokens: settings::max_tokens(body, max_tokens_fields(rules), beyond)?,
        thinking_budget: reasoning.budget,
        is_thinking_explicit: reasoning.is_explicit,
        stop: settings::stop_strings(body, "stop")?,
        parallel_tool_calls: body.bool("parallel_tool_calls")?.unwrap_or(true),
        allowed_tools: choice.allowed,
        aliases: set.aliases,
        found_tools: set.found,
        is_schema_strict,
        stream: body.bool("stream")?.unwrap_or(false),
        top_logprobs,
        responses: options(body, config)?,
        warnings,
        ..Request::new(Api::Responses, model, conversation)
    })
}

fn max_tokens_fields(rules: Rules) -> &'static [&'static str] {
    match rules {
        Rules::Lenient => &["max_output_tokens", "max_tokens"],
        Rules::Hosted => &["max_output_tokens"],
    }
}

/// Nothing is stored, so nothing can be named by an id: answers, conversations, prompts.
fn check_stateless(body: Fields<'_>) -> Result<(), RequestError> {
    if let Some(id) = body.str("previous_response_id")? {
        return Err(RequestError::unknown_response(id));
    }
    if body.get("conversation").is_some() {
        return Err(RequestError::invalid(
            "conversation: conversations are not stored; send the whole conversation as input",
        ));
    }
    if body.get("prompt").is_some() {
        return Err(RequestError::invalid(
            "prompt: prompts are not stored; send its text as instructions or input",
        ));
    }
    Ok(())
}

/// The instructions and the input.
fn messages(
    body: Fields<'_>,
    set: &mut ToolSet,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Vec<Message>, RequestError> {
    let instructions = body.str("instructions")?.filter(|text| !text.is_empty());
    let mut messages: Vec<Message> =
        instructions.map(|text| Message::new(Role::System, text)).into_iter().collect();
    match body.get("input") {
        Some(Value::String(text)) => messages.push(Message::new(Role::User, text)),
        Some(Value::Array(list)) => {
            messages = items::convert(list, messages, set, rules, warnings)?;
        }
        Some(other) => return Err(wrong("input", "a string or a list of input items", other)),
        None if messages.is_empty() => {
            return Err(RequestError::invalid("Either input or instructions must be provided"));
        }
        None => {}
    }
    Ok(messages)
}

/// The choice among the tools, by the names that the model knows.
fn choice(
    body: Fields<'_>,
    set: &ToolSet,
    warnings: &mut Vec<String>,
) -> Result<Choice, RequestError> {
    let read = tools::read_choice(body.get("tool_choice"), warnings)?;
    let choice = match read.choice {
        ToolChoice::Named(name) => ToolChoice::Named(set.known_name(name)),
        choice => choice,
    };
    let known = |names: Vec<String>| names.into_iter().map(|n| set.known_name(n)).collect();
    Ok(Choice { choice, allowed: read.allowed.map(known) })
}

/// The form of the answer, and whether its schema is strict.
fn text_format(body: Fields<'_>) -> Result<(ResponseFormat, bool), RequestError> {
    let Some(text) = body.get("text") else { return Ok((ResponseFormat::Text, false)) };
    let Some(format) = Fields::of(text, "text")?.get("format") else {
        return Ok((ResponseFormat::Text, false));
    };
    let fields = Fields::of(format, "text.format")?;
    match fields.str("type")? {
        Some("text") => Ok((ResponseFormat::Text, false)),
        Some("json_object") => Ok((ResponseFormat::JsonObject, false)),
        Some("json_schema") => {
            let schema = fields
                .object()
                .get("schema")
                .ok_or_else(|| RequestError::invalid("text.format: missing field `schema`"))?;
            check_schema_size(schema, "text.format.schema")?;
            let is_strict = fields.bool("strict")?.unwrap_or(false);
            Ok((ResponseFormat::JsonSchema(schema.clone()), is_strict))
        }
        other => Err(RequestError::invalid(format!(
            "text.format.type: {:?} is not one of text, json_object, json_schema",
            other.unwrap_or_default()
        ))),
    }
}

fn check_hosted(conversation: &Conversation, is_strict: bool) -> Result<(), RequestError> {
    match &conversation.response_format {
        ResponseFormat::JsonSchema(schema) => schema::check_answer(schema, is_strict)?,
        ResponseFormat::JsonObject if !says_json(&conversation.messages) => {
            return Err(RequestError::invalid(
                "Response input messages must contain the word 'json' in some form to use \
                 'text.format' of type 'json_object'.",
            ));
        }
        _ => {}
    }
    let has_format = conversation.response_format != ResponseFormat::Text;
    tools::check_strictness(conversation, has_format)
}

fn top_logprobs(body: Fields<'_>) -> Result<Option<u64>, RequestError> {
    let top = settings::top_logprobs(body.unsigned("top_logprobs")?)?;
    Ok(if includes(body, "message.output_text.logprobs")? { top.or(Some(0)) } else { top })
}

/// Whether the answer is to include something that it has not by default.
fn includes(body: Fields<'_>, what: &str) -> Result<bool, RequestError> {
    Ok(body.array("include")?.unwrap_or_default().iter().any(|wanted| wanted == what))
}

fn options(body: Fields<'_>, config: &Value) -> Result<ResponsesOptions, RequestError> {
    let wanted = ["summary", "generate_summary"].iter().find_map(|key| config.get(key)?.as_str());
    Ok(ResponsesOptions {
        summary: matches!(wanted, Some("auto" | "concise" | "detailed")),
        encrypted_reasoning: includes(body, "reasoning.encrypted_content")?,
        echo: echo::echo(body.object()),
    })
}
