//! Settings that requests of several APIs share.

use ds4_text::{Effort, Message, Thinking};
use serde_json::Value;

use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules, Sampling, limits, models};

/// The name that answers carry when a request names no model.
pub(crate) const DEFAULT_MODEL: &str = "deepseek-v4-flash";

/// The model's name.
pub(crate) fn model(body: Fields<'_>) -> Result<String, RequestError> {
    let model = body.str("model")?.unwrap_or(DEFAULT_MODEL);
    // Every event of a stream repeats it.
    if model.len() > limits::MODEL_NAME_BYTES_MAX {
        let max = limits::MODEL_NAME_BYTES_MAX;
        return Err(RequestError::invalid(format!("model: a name of more than {max} bytes")));
    }
    Ok(model.to_owned())
}

/// What a request says about thinking.
pub(crate) struct Reasoning {
    pub(crate) thinking: Thinking,
    pub(crate) budget: Option<u32>,
    /// Whether the request itself says whether to think.
    pub(crate) is_explicit: bool,
}

/// Whether to think: what the request says explicitly, else its effort, else its model's name, else
/// yes; and how much. `effort` is the name of the effort, from wherever the API has it.
pub(crate) fn reasoning(
    body: Fields<'_>,
    effort: Option<&str>,
    model: &str,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Reasoning, RequestError> {
    let (mut switch, budget) = switch(body, rules, warnings)?;
    if switch.is_none() {
        switch = body.bool("think")?;
    }
    if switch.is_none() && rules == Rules::Lenient {
        switch = foreign_switch(body);
    }
    let level = match effort {
        None | Some("none" | "medium" | "high" | "xhigh" | "auto") => Effort::High,
        Some("minimal" | "low") => Effort::Low,
        Some("max" | "ultra") => Effort::Max,
        Some(other) => {
            warnings.push(format!("reasoning effort {other:?} is not known; using high"));
            Effort::High
        }
    };
    let said = switch.or(effort.map(|name| name != "none"));
    let on = said.or_else(|| models::thinks_by_name(model, rules)).unwrap_or(true);
    Ok(Reasoning {
        thinking: if on { Thinking::On(level) } else { Thinking::Off },
        budget,
        is_explicit: said.is_some(),
    })
}

/// The field `thinking`: on or off, and the budget in tokens.
fn switch(
    body: Fields<'_>,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<(Option<bool>, Option<u32>), RequestError> {
    let setting = match body.get("thinking") {
        None => return Ok((None, None)),
        Some(Value::Bool(on)) => return Ok((Some(*on), None)),
        Some(setting @ Value::Object(_)) => Fields::of(setting, "thinking")?,
        Some(other) => return Err(wrong("thinking", "a boolean or an object", other)),
    };
    let on = match setting.str("type")? {
        Some("enabled" | "adaptive" | "auto" | "between_tools") => true,
        Some("disabled") => false,
        Some(other) if rules == Rules::Lenient => {
            warnings.push(format!("thinking.type {other:?} is not known; thinking"));
            true
        }
        other => {
            return Err(RequestError::invalid(format!(
                "thinking.type: {:?} is not one of enabled, disabled, adaptive",
                other.unwrap_or_default()
            )));
        }
    };
    Ok((Some(on), setting.count("budget_tokens")?))
}

/// The switch under the names that other models have given it.
fn foreign_switch(body: Fields<'_>) -> Option<bool> {
    let template = body.get("chat_template_kwargs");
    let names = ["enable_thinking", "thinking"];
    let in_template = names.iter().find_map(|name| template?.get(name)?.as_bool());
    body.get("enable_thinking").and_then(Value::as_bool).or(in_template)
}

/// Sampling without the seed.
pub(crate) fn sampling(body: Fields<'_>) -> Result<Sampling, RequestError> {
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

/// Fields that are read by others and have no effect here: said, so that nobody waits for it.
const WITHOUT_EFFECT: [&str; 5] =
    ["logit_bias", "presence_penalty", "frequency_penalty", "functions", "function_call"];

/// Warns of what the request demands in vain.
pub(crate) fn without_effect(body: Fields<'_>, warnings: &mut Vec<String>) {
    let demands = |value: &Value| match value {
        Value::Null => false,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let vain = WITHOUT_EFFECT.iter().filter(|name| body.get(name).is_some_and(demands));
    warnings.extend(vain.map(|name| format!("{name}: has no effect here")));
}

/// Any integer is a seed; negative ones by their two's complement.
pub(crate) fn seed(body: Fields<'_>) -> Result<Option<u64>, RequestError> {
    let Some(seed) = body.get("seed") else { return Ok(None) };
    if let Some(seed) = seed.as_u64().filter(|seed| *seed < 1 << 63) {
        return Ok(Some(seed));
    }
    seed.as_i64().map(|seed| Some(seed.cast_unsigned())).ok_or_else(|| {
        RequestError::invalid("Invalid seed value, the valid range of seed is [0, 2^63)")
    })
}

/// What happens to a budget of tokens beyond the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    Lowered,
    Refused,
}

/// The budget of tokens, from the first of `keys` that is there.
pub(crate) fn max_tokens(
    body: Fields<'_>,
    keys: &[&str],
    beyond: Beyond,
) -> Result<Option<u32>, RequestError> {
    let max = limits::MAX_TOKENS_MAX;
    let mut asked = None;
    for key in keys {
        asked = asked.or(body.count(key)?);
    }
    match asked {
        Some(n) if n == 0 || (n > max && beyond == Beyond::Refused) => Err(RequestError::invalid(
            format!("Invalid max_tokens value, the valid range of max_tokens is [1, {max}]"),
        )),
        asked => Ok(asked.map(|n| n.min(max))),
    }
}

const EMPTY: &str = "empty string. Expected a string with minimum length 1, but got an empty \
                     string instead.";

/// Stop strings: one, or a list.
pub(crate) fn stop_strings(body: Fields<'_>, key: &str) -> Result<Vec<String>, RequestError> {
    match body.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) if stop.is_empty() => {
            Err(RequestError::invalid(format!("Invalid 'stop': {EMPTY}")))
        }
        Some(Value::String(stop)) => Ok(vec![short_stop(stop)?]),
        Some(Value::Array(stops)) => {
            if stops.len() > limits::STOP_STRINGS_MAX {
                let n = stops.len();
                return Err(RequestError::invalid(format!("Stop string array too long: {n}")));
            }
            let stop = |(i, stop): (usize, &Value)| match stop {
                Value::String(stop) if stop.is_empty() => {
                    Err(RequestError::invalid(format!("Invalid 'stop[{i}]': {EMPTY}")))
                }
                Value::String(stop) => short_stop(stop),
                other => Err(wrong(&format!("{key}[{i}]"), "a string", other)),
            };
            stops.iter().enumerate().map(stop).collect()
        }
        Some(other) => Err(wrong(key, "a string or an array", other)),
    }
}

fn short_stop(stop: &str) -> Result<String, RequestError> {
    if stop.len() > limits::STOP_STRING_BYTES_MAX {
        return Err(RequestError::invalid(format!(
            "A stop string has {} bytes; the limit is {}",
            stop.len(),
            limits::STOP_STRING_BYTES_MAX
        )));
    }
    Ok(stop.to_owned())
}

/// Whether to stream, and whether a stream reports its usage.
pub(crate) fn stream(body: Fields<'_>, rules: Rules) -> Result<(bool, bool), RequestError> {
    let stream = body.bool("stream")?.unwrap_or(false);
    let Some(options) = body.get("stream_options") else { return Ok((stream, false)) };
    if !stream && rules == Rules::Hosted {
        return Err(RequestError::invalid("stream_options should be set along with stream = true"));
    }
    let options = Fields::of(options, "stream_options")?;
    Ok((stream, options.bool("include_usage")?.unwrap_or(false)))
}

/// Alternatives to report for each token.
pub(crate) fn top_logprobs(top: Option<u64>) -> Result<Option<u64>, RequestError> {
    if top.is_some_and(|top| top > limits::TOP_LOGPROBS_MAX) {
        return Err(RequestError::invalid(
            "Invalid top_logprobs value, the valid range of top_logprobs is [0, 20].",
        ));
    }
    Ok(top)
}

/// Whether any message has the word that answers in JSON must be asked for with.
pub(crate) fn says_json(messages: &[Message]) -> bool {
    let says = |m: &Message| {
        m.content.as_bytes().windows(4).any(|part| part.eq_ignore_ascii_case(b"json"))
    };
    messages.iter().any(says)
}
