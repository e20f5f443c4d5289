//! OpenAI's Chat Completions: the request body to a [`Request`].
//!
//! With [`Rules::Hosted`] the checks, their order and their messages are the hosted API's; with
//! [`Rules::Lenient`] whatever has a sensible meaning is served.

use ds4_text::{Conversation, Effort, Message, ResponseFormat, Role, Tail, Thinking, ToolChoice};
use serde_json::Value;

use crate::fields::{Fields, wrong};
use crate::{Request, RequestError, Rules, Sampling, limits, schema, tools};

mod messages;

/// The name that answers carry when a request names no model.
const DEFAULT_MODEL: &str = "deepseek-v4-flash";

/// Converts a request body.
pub fn convert(body: &Value, rules: Rules) -> Result<Request, RequestError> {
    let body = Fields::of(body, "")?;
    let mut warnings = Vec::new();
    let model = body.str("model")?.unwrap_or(DEFAULT_MODEL).to_owned();
    let thinking = thinking(body, &model, &mut warnings)?;
    let thinks = thinking != Thinking::Off;

    let declared = body.array("tools")?.unwrap_or_default();
    let mut functions = tools::functions(declared, rules, &mut warnings)?;
    let list =
        body.array("messages")?.ok_or_else(|| RequestError::invalid("missing field `messages`"))?;
    let mut messages = messages::convert(list, rules)?;
    let is_prefix = open_tail(&mut messages, thinks, rules)?;

    let (response_format, answer_pattern) = response_format(body)?;
    if rules == Rules::Hosted && response_format == ResponseFormat::JsonObject {
        check_json_word(&messages)?;
    }
    let tool_choice = tools::choose(body.get("tool_choice"), &mut functions, thinks, rules)?;
    if rules == Rules::Hosted && is_prefix {
        check_prefix(&response_format, &functions, &messages)?;
    }
    let stop = stop_strings(body)?;
    let (stream, include_usage) = stream_options(body, rules)?;
    let conversation =
        Conversation { messages, tools: functions, tool_choice, response_format, thinking };
    if rules == Rules::Hosted {
        check_strict_answer(body)?;
        check_strictness(&conversation, body)?;
    }
    let sampling = sampling(body)?;
    let top_logprobs = top_logprobs(body)?;
    let max_tokens = max_tokens(body, rules)?;
    let sampling = Sampling { seed: seed(body)?, ..sampling };
    Ok(Request {
        model,
        conversation,
        sampling,
        max_tokens,
        stop,
        parallel_tool_calls: body.bool("parallel_tool_calls")?.unwrap_or(true),
        answer_pattern,
        stream,
        include_usage,
        top_logprobs,
        warnings,
    })
}

/// Whether to think: what the request says explicitly, else its effort, else its model's name, else
/// yes; and how much.
fn thinking(
    body: Fields<'_>,
    model: &str,
    warnings: &mut Vec<String>,
) -> Result<Thinking, RequestError> {
    let explicit = match body.get("thinking") {
        None => body.bool("think")?,
        Some(Value::Bool(on)) => Some(*on),
        Some(setting @ Value::Object(_)) => match Fields::of(setting, "thinking")?.str("type")? {
            Some("enabled" | "adaptive" | "auto") => Some(true),
            Some("disabled") => Some(false),
            other => {
                return Err(RequestError::invalid(format!(
                    "thinking.type: {:?} is not one of enabled, disabled, adaptive",
                    other.unwrap_or_default()
                )));
            }
        },
        Some(other) => return Err(wrong("thinking", "a boolean or an object", other)),
    };
    let name = body.str("reasoning_effort")?;
    let effort = match name {
        None | Some("none" | "medium" | "high" | "xhigh" | "auto") => Effort::High,
        Some("minimal" | "low") => Effort::Low,
        Some("max" | "ultra") => Effort::Max,
        Some(other) => {
            warnings.push(format!("reasoning_effort {other:?} is not known; using high"));
            Effort::High
        }
    };
    let by_effort = name.map(|name| name != "none");
    let by_model = match model {
        "deepseek-chat" => Some(false),
        "deepseek-reasoner" => Some(true),
        _ => None,
    };
    let on = explicit.or(by_effort).or(by_model).unwrap_or(true);
    Ok(if on { Thinking::On(effort) } else { Thinking::Off })
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
    let says_json = |m: &Message| {
        m.content.as_bytes().windows(4).any(|part| part.eq_ignore_ascii_case(b"json"))
    };
    if messages.iter().any(says_json) {
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

/// The form of the answer, and a pattern for it.
fn response_format(body: Fields<'_>) -> Result<(ResponseFormat, Option<String>), RequestError> {
    let Some(format) = body.get("response_format") else {
        return Ok((ResponseFormat::Text, None));
    };
    let fields = Fields::of(format, "response_format")?;
    match fields.str("type")? {
        Some("text") => Ok((ResponseFormat::Text, None)),
        Some("json_object") => Ok((ResponseFormat::JsonObject, None)),
        Some("json_schema") => {
            let holder = fields.get("json_schema").unwrap_or(&Value::Null);
            let fields = Fields::of(holder, "response_format.json_schema")?;
            let schema = fields.get("schema").ok_or_else(|| {
                RequestError::invalid("response_format.json_schema: missing field `schema`")
            })?;
            fields.bool("strict")?;
            Ok((ResponseFormat::JsonSchema(schema.clone()), None))
        }
        Some("regex") => {
            let pattern = fields
                .str("regex")?
                .ok_or_else(|| RequestError::invalid("response_format: missing field `regex`"))?;
            Ok((ResponseFormat::Text, Some(pattern.to_owned())))
        }
        other => Err(RequestError::invalid(format!(
            "response_format.type: {:?} is not one of text, json_object, json_schema, regex",
            other.unwrap_or_default()
        ))),
    }
}

/// A strict answer schema must be in the strict subset.
fn check_strict_answer(body: Fields<'_>) -> Result<(), RequestError> {
    match body.get("response_format").and_then(|format| format.get("json_schema")) {
        Some(holder) if holder.get("strict") == Some(&Value::Bool(true)) => {
            schema::check_strict_answer(holder.get("schema").unwrap_or(&Value::Null))
        }
        _ => Ok(()),
    }
}

/// Strict functions come all or none, and without an answer format.
fn check_strictness(conversation: &Conversation, body: Fields<'_>) -> Result<(), RequestError> {
    let is_strict =
        |f: &serde_json::Map<String, Value>| f.get("strict") == Some(&Value::Bool(true));
    let (strict, other): (Vec<_>, Vec<_>) = conversation.shown_tools().partition(|f| is_strict(f));
    if strict.is_empty() || conversation.tool_choice == ToolChoice::None {
        return Ok(());
    }
    if !other.is_empty() {
        return Err(RequestError::invalid(
            "Cannot use strict tool with non-strict tool in the same request",
        ));
    }
    if body.get("response_format").is_some() {
        return Err(RequestError::invalid("response_format should not be used with tools"));
    }
    Ok(())
}

fn stop_strings(body: Fields<'_>) -> Result<Vec<String>, RequestError> {
    const EMPTY: &str = "empty string. Expected a string with minimum length 1, but got an empty \
                         string instead.";
    match body.get("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) if stop.is_empty() => {
            Err(RequestError::invalid(format!("Invalid 'stop': {EMPTY}")))
        }
        Some(Value::String(stop)) => Ok(vec![stop.clone()]),
        Some(Value::Array(stops)) => {
            if stops.len() > limits::STOP_STRINGS_MAX {
                let n = stops.len();
                return Err(RequestError::invalid(format!("Stop string array too long: {n}")));
            }
            let stop = |(i, stop): (usize, &Value)| match stop {
                Value::String(stop) if stop.is_empty() => {
                    Err(RequestError::invalid(format!("Invalid 'stop[{i}]': {EMPTY}")))
                }
                Value::String(stop) => Ok(stop.clone()),
                other => Err(wrong(&format!("stop[{i}]"), "a string", other)),
            };
            stops.iter().enumerate().map(stop).collect()
        }
        Some(other) => Err(wrong("stop", "a string or an array", other)),
    }
}

fn stream_options(body: Fields<'_>, rules: Rules) -> Result<(bool, bool), RequestError> {
    let stream = body.bool("stream")?.unwrap_or(false);
    let Some(options) = body.get("stream_options") else { return Ok((stream, false)) };
    if !stream && rules == Rules::Hosted {
        return Err(RequestError::invalid("stream_options should be set along with stream = true"));
    }
    let options = Fields::of(options, "stream_options")?;
    Ok((stream, options.bool("include_usage")?.unwrap_or(false)))
}

fn sampling(body: Fields<'_>) -> Result<Sampling, RequestError> {
    if body.unsigned("n")?.is_some_and(|n| n != 1) {
        return Err(RequestError::invalid("Invalid n value (currently only n = 1 is supported)"));
    }
    for penalty in ["presence_penalty", "frequency_penalty"] {
        body.number(penalty, "[-2, 2]", |x| (-2.0..=2.0).contains(&x))?;
    }
    let top_k = body.count("top_k")?.map(|k| k.min(limits::TOP_K_MAX));
    Ok(Sampling {
        temperature: body.number("temperature", "[0, 2]", |x| (0.0..=2.0).contains(&x))?,
        top_p: body.number("top_p", "(0, 1.0]", |x| x > 0.0 && x <= 1.0)?,
        top_k,
        min_p: body.number("min_p", "[0, 1.0]", |x| (0.0..=1.0).contains(&x))?,
        seed: None,
    })
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
    if top.is_some_and(|top| top > limits::TOP_LOGPROBS_MAX) {
        return Err(RequestError::invalid(
            "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].",
        ));
    }
    Ok(wanted.then(|| top.unwrap_or(0)))
}

fn max_tokens(body: Fields<'_>, rules: Rules) -> Result<Option<u32>, RequestError> {
    let max = limits::MAX_TOKENS_MAX;
    let asked = match body.count("max_tokens")? {
        None => body.count("max_completion_tokens")?,
        asked => asked,
    };
    match asked {
        Some(n) if n == 0 || (n > max && rules == Rules::Hosted) => Err(RequestError::invalid(
            format!("Invalid max_tokens value, the valid range of max_tokens is [1, {max}]"),
        )),
        asked => Ok(asked.map(|n| n.min(max))),
    }
}

/// Any integer is a seed; negative ones by their two's complement.
fn seed(body: Fields<'_>) -> Result<Option<u64>, RequestError> {
    let Some(seed) = body.get("seed") else { return Ok(None) };
    if let Some(seed) = seed.as_u64().filter(|seed| *seed < 1 << 63) {
        return Ok(Some(seed));
    }
    seed.as_i64().map(|seed| Some(seed.cast_unsigned())).ok_or_else(|| {
        RequestError::invalid("Invalid seed value, the valid range of seed is [0, 2^63)")
    })
}
