//! OpenAI's Chat Completions: the request body to a [`Request`].
//!
//! With [`Rules::Hosted`] the checks, their order and their messages are the hosted API's; with
//! [`Rules::Lenient`] whatever has a sensible meaning is served.

use ds4_text::{Conversation, Message, ResponseFormat, Role, Tail, Thinking};
use serde_json::Value;

use crate::fields::Fields;
use crate::settings::{self, Beyond, Reasoning, says_json};
use crate::{Api, Request, RequestError, Rules, Sampling, schema, tools};

mod messages;

/// Converts a request body.
pub fn convert(body: &Value, rules: Rules) -> Result<Request, RequestError> {
    let body = Fields::of(body, "")?;
    let mut warnings = Vec::new();
    settings::without_effect(body, &mut warnings);
    let model = settings::model(body)?;
    let reasoning = reasoning(body, &model, rules, &mut warnings)?;
    let thinking = reasoning.thinking;
    let thinks = thinking != Thinking::Off;

    let declared = body.array("tools")?.unwrap_or_default();
    let mut functions = tools::functions(declared, rules, &mut warnings)?;
    let list =
        body.array("messages")?.ok_or_else(|| RequestError::invalid("missing field `messages`"))?;
    let mut messages = messages::convert(list, rules)?;
    let is_prefix = open_tail(&mut messages, thinks, rules)?;

    let (response_format, is_strict, answer_pattern) = response_format(body)?;
    if rules == Rules::Hosted && response_format == ResponseFormat::JsonObject {
        check_json_word(&messages)?;
    }
    let choice = tools::read_choice(body.get("tool_choice"), &mut warnings)?;
    let tool_choice = tools::settle(choice.choice, &mut functions, thinks, rules, &mut warnings)?;
    if rules == Rules::Hosted && is_prefix {
        check_prefix(&response_format, &functions, &messages)?;
    }
    let stop = settings::stop_strings(body, "stop")?;
    let (stream, include_usage) = settings::stream(body, rules)?;
    let conversation =
        Conversation { messages, tools: functions, tool_choice, response_format, thinking };
    if rules == Rules::Hosted {
        if let ResponseFormat::JsonSchema(schema) = &conversation.response_format {
            schema::check_answer(schema, is_strict)?;
        }
        tools::check_strictness(&conversation, body.get("response_format").is_some())?;
    }
    let sampling = settings::sampling(body)?;
    let top_logprobs = top_logprobs(body)?;
    let beyond = if rules == Rules::Hosted { Beyond::Refused } else { Beyond::Lowered };
    let max_tokens = settings::max_tokens(body, &["max_tokens", "max_completion_tokens"], beyond)?;
    let sampling = Sampling { seed: settings::seed(body)?, ..sampling };
    Ok(Request {
        sampling,
        max_tokens,
        thinking_budget: reasoning.budget,
        is_thinking_explicit: reasoning.is_explicit,
        stop,
        allowed_tools: choice.allowed,
        parallel_tool_calls: body.bool("parallel_tool_calls")?.unwrap_or(true),
        is_schema_strict: is_strict,
        answer_pattern,
        stream,
        include_usage,
        top_logprobs,
        warnings,
        ..Request::new(Api::Chat, model, conversation)
    })
}

/// What the request says about thinking; some clients say it in an object `reasoning`.
fn reasoning(
    body: Fields<'_>,
    model: &str,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Reasoning, RequestError> {
    let object = body.get("reasoning").filter(|_| rules == Rules::Lenient);
    let of = |key: &str| object.and_then(|object| object.get(key));
    let effort = match body.str("reasoning_effort")? {
        None if of("enabled") == Some(&Value::Bool(false)) => Some("none"),
        None => of("effort").and_then(Value::as_str),
        effort => effort,
    };
    let mut reasoning = settings::reasoning(body, effort, model, rules, warnings)?;
    let budget = of("max_tokens").and_then(Value::as_u64);
    let budget = budget.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    reasoning.budget = reasoning.budget.or(budget);
    Ok(reasoning)
}

/// Settles how the last message ends: only the last one may be a beginning to continue, and in
/// thinking mode a beginning without content continues the reasoning.
fn open_tail(messages: &mut [Message], thinks: bool, rules: Rules) -> Result<bool, RequestError> {
    let Some((last, earlier)) = messages.split_last_mut() else { return Ok(false) };
    for message in earlier.iter_mut().filter(|m| m.tail != Tail::Closed) {
        if rules == Rules::Hosted {
            return Err(RequestError::invalid(
                "Invalid completion message: prefix set true with message which is not final \
                 message or message role is not assistant",
            ));
        }
        message.tail = Tail::Closed;
    }
    let is_prefix = last.tail != Tail::Closed;
    if is_prefix && thinks && last.content.is_empty() {
        last.tail = Tail::OpenReasoning;
    }
    Ok(is_prefix)
}

fn check_json_word(messages: &[Message]) -> Result<(), RequestError> {
    if says_json(messages) {
        return Ok(());
    }
    Err(RequestError::invalid(
        "Prompt must contain the word 'json' in some form to use 'response_format' of type \
         'json_object'.",
    ))
}

fn check_prefix(
    format: &ResponseFormat,
    functions: &[serde_json::Map<String, Value>],
    messages: &[Message],
) -> Result<(), RequestError> {
    if *format == ResponseFormat::JsonObject {
        return Err(RequestError::invalid(
            "response_format json_object should not be used with prefix",
        ));
    }
    let uses_tools = |m: &Message| m.role == Role::Tool || !m.calls.is_empty();
    if !functions.is_empty() || messages.iter().any(uses_tools) {
        return Err(RequestError::invalid("Function call should not be used with prefix"));
    }
    Ok(())
}

/// The form of the answer, whether its schema is strict, and a pattern for it.
fn response_format(
    body: Fields<'_>,
) -> Result<(ResponseFormat, bool, Option<String>), RequestError> {
    let Some(format) = body.get("response_format") else {
        return Ok((ResponseFormat::Text, false, None));
    };
    let fields = Fields::of(format, "response_format")?;
    match fields.str("type")? {
        Some("text") => Ok((ResponseFormat::Text, false, None)),
        Some("json_object") => Ok((ResponseFormat::JsonObject, false, None)),
        Some("json_schema") => {
            let holder = fields.get("json_schema").unwrap_or(&Value::Null);
            let fields = Fields::of(holder, "response_format.json_schema")?;
            let schema = fields.object().get("schema").ok_or_else(|| {
                RequestError::invalid("response_format.json_schema: missing field `schema`")
            })?;
            tools::check_schema_size(schema, "response_format.json_schema.schema")?;
            let is_strict = fields.bool("strict")?.unwrap_or(false);
            Ok((ResponseFormat::JsonSchema(schema.clone()), is_strict, None))
        }
        Some("regex") => {
            let pattern = fields
                .str("regex")?
                .ok_or_else(|| RequestError::invalid("response_format: missing field `regex`"))?;
            Ok((ResponseFormat::Text, false, Some(pattern.to_owned())))
        }
        other => Err(RequestError::invalid(format!(
            "response_format.type: {:?} is not one of text, json_object, json_schema, regex",
            other.unwrap_or_default()
        ))),
    }
}

fn top_logprobs(body: Fields<'_>) -> Result<Option<u64>, RequestError> {
    let wanted = body.bool("logprobs")?.unwrap_or(false);
    let top = body.unsigned("top_logprobs")?;
    if top.is_some() && !wanted {
        return Err(RequestError::invalid(
            "Invalid top_logprobs and logprobs value, logprobs must be set to true if \
             top_logprobs is used.",
        ));
    }
    let top = settings::top_logprobs(top)?;
    Ok(wanted.then(|| top.unwrap_or(0)))
}
