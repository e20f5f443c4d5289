//! OpenAI's Completions: text that is continued as it is ([`convert`]), or a question that is
//! answered in a chat ([`convert_chat`]), which is how some servers understand this API.

use ds4_text::{BOS, Message, Role, Tokenizer};
use serde_json::Value;

use crate::fields::{Fields, wrong};
use crate::settings::{self, Beyond};
use crate::{Api, RawCompletion, Request, RequestError, Rules, Sampling, limits};

/// The system text of a question that comes without one.
const ASSISTANT: &str = "You are a helpful assistant";

/// What marks the text before a gap, the gap, and the text after it.
const FIM: [&str; 3] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];

/// A prompt that is continued as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawPrompt {
    /// Text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// Converts a request body whose prompts are continued.
pub fn convert(body: &Value, rules: Rules) -> Result<Request, RequestError> {
    let body = Fields::of(body, "")?;
    let raw = RawCompletion {
        prompts: prompts(body)?,
        suffix: body.str("suffix")?.filter(|suffix| !suffix.is_empty()).map(str::to_owned),
        echo: body.bool("echo")?.unwrap_or(false),
    };
    if raw.echo && raw.suffix.is_some() {
        return Err(RequestError::invalid("echo: cannot be combined with suffix"));
    }
    let request = Request::new(Api::Completions, settings::model(body)?, Request::nothing());
    with_settings(Request { raw: Some(raw), ..request }, body, rules)
}

/// Converts a request body whose prompt is answered.
pub fn convert_chat(body: &Value, rules: Rules) -> Result<Request, RequestError> {
    let body = Fields::of(body, "")?;
    let mut prompts = prompts(body)?;
    let (Some(RawPrompt::Text(text)), true) = (prompts.pop(), prompts.is_empty()) else {
        return Err(RequestError::invalid("prompt: a chat takes one text"));
    };
    for field in ["suffix", "echo"] {
        if body.get(field).is_some_and(|value| *value != Value::Bool(false)) {
            return Err(RequestError::invalid(format!("{field}: a chat has none")));
        }
    }
    let model = settings::model(body)?;
    let mut warnings = Vec::new();
    let effort = body.str("reasoning_effort")?;
    let reasoning = settings::reasoning(body, effort, &model, rules, &mut warnings)?;
    let mut conversation = Request::nothing();
    conversation.messages =
        vec![Message::new(Role::System, ASSISTANT), Message::new(Role::User, text)];
    conversation.thinking = reasoning.thinking;
    let request = Request {
        thinking_budget: reasoning.budget,
        is_thinking_explicit: reasoning.is_explicit,
        warnings,
        ..Request::new(Api::Completions, model, conversation)
    };
    with_settings(request, body, rules)
}

fn with_settings(
    mut request: Request,
    body: Fields<'_>,
    rules: Rules,
) -> Result<Request, RequestError> {
    if body.unsigned("best_of")?.is_some_and(|n| n > 1) {
        return Err(RequestError::invalid("best_of: only 1 is supported"));
    }
    settings::without_effect(body, &mut request.warnings);
    let (stream, include_usage) = settings::stream(body, rules)?;
    let beyond = if rules == Rules::Hosted { Beyond::Refused } else { Beyond::Lowered };
    Ok(Request {
        sampling: Sampling { seed: settings::seed(body)?, ..settings::sampling(body)? },
        max_tokens: settings::max_tokens(body, &["max_tokens", "max_completion_tokens"], beyond)?,
        stop: settings::stop_strings(body, "stop")?,
        stream,
        include_usage,
        top_logprobs: top_logprobs(body)?,
        ..request
    })
}

/// The number of alternatives, where `false` stands for none at all.
fn top_logprobs(body: Fields<'_>) -> Result<Option<u64>, RequestError> {
    match body.get("logprobs") {
        Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(0)),
        _ => settings::top_logprobs(body.unsigned("logprobs")?),
    }
}

/// One text, several, one list of token ids, or several.
fn prompts(body: Fields<'_>) -> Result<Vec<RawPrompt>, RequestError> {
    let list = match body.get("prompt") {
        None => return Err(RequestError::invalid("missing field `prompt`")),
        Some(Value::String(text)) => return Ok(vec![RawPrompt::Text(text.clone())]),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("prompt", "a string or an array", other)),
    };
    let first = list.first().ok_or_else(|| RequestError::invalid("prompt: an empty array"))?;
    if first.is_number() {
        return Ok(vec![tokens(list, "prompt")?]);
    }
    if list.len() > limits::PROMPTS_MAX {
        return Err(RequestError::invalid(format!(
            "prompt: {} prompts; the limit is {}",
            list.len(),
            limits::PROMPTS_MAX
        )));
    }
    let prompt = |(i, prompt): (usize, &Value)| match prompt {
        Value::String(text) => Ok(RawPrompt::Text(text.clone())),
        Value::Array(ids) => tokens(ids, &format!("prompt[{i}]")),
        other => Err(wrong(&format!("prompt[{i}]"), "a string or an array", other)),
    };
    list.iter().enumerate().map(prompt).collect()
}

fn tokens(ids: &[Value], path: &str) -> Result<RawPrompt, RequestError> {
    let id = |(i, id): (usize, &Value)| {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        number.ok_or_else(|| wrong(&format!("{path}[{i}]"), "a token id", id))
    };
    let ids: Vec<u32> = ids.iter().enumerate().map(id).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Err(RequestError::invalid(format!("{path}: no tokens")));
    }
    Ok(RawPrompt::Tokens(ids))
}

impl RawCompletion {
    /// The token ids of every prompt. Text gets a beginning of sentence in front; text that spells
    /// it at its start was rendered by somebody else, and all its control tokens count. Token ids
    /// stay as they are.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, RequestError> {
        self.prompts.iter().map(|prompt| self.encode_one(tokenizer, prompt)).collect()
    }

    fn encode_one(
        &self,
        tokenizer: &Tokenizer,
        prompt: &RawPrompt,
    ) -> Result<Vec<u32>, RequestError> {
        let bos = tokenizer.specials().bos;
        let ids = match prompt {
            RawPrompt::Tokens(ids) => {
                let n_vocab = tokenizer.vocab().len();
                if let Some(id) = ids.iter().find(|id| **id as usize >= n_vocab) {
                    return Err(RequestError::invalid(format!(
                        "prompt: there is no token {id}; the vocabulary has {n_vocab}"
                    )));
                }
                ids.clone()
            }
            RawPrompt::Text(text) if self.suffix.is_some() => tokenizer.encode_plain(text),
            RawPrompt::Text(text) if text.starts_with(BOS) => tokenizer.encode_with_control(text),
            RawPrompt::Text(text) => [vec![bos], tokenizer.encode_plain(text)].concat(),
        };
        let Some(suffix) = &self.suffix else { return Ok(ids) };
        let marker = |text: &str| {
            let id = tokenizer.vocab().added_id(text);
            id.ok_or_else(|| RequestError::invalid("suffix: this model has no tokens for it"))
        };
        let [begin, hole, end] = [marker(FIM[0])?, marker(FIM[1])?, marker(FIM[2])?];
        let suffix = tokenizer.encode_plain(suffix);
        Ok([vec![bos, begin], ids, vec![hole], suffix, vec![end]].concat())
    }
}
