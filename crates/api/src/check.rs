//! JSON in, JSON out: what the checking commands do, so that anyone can hold this implementation
//! against another.

use ds4_text::parse::{Declared, End, Outcome, Parser, ParserOptions};
use ds4_text::{Detok, Profile, Tokenizer, render};
use serde_json::{Value, json};

use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules, april, chat, messages, responses};

/// Array of strings to array of arrays of token ids; `plain` recognises no added token.
pub fn tokenize_json(
    tokenizer: &Tokenizer,
    input: &Value,
    plain: bool,
) -> Result<Value, RequestError> {
    let ids = |(i, text): (usize, &Value)| match text {
        Value::String(text) if plain => Ok(json!(tokenizer.encode_plain(text))),
        Value::String(text) => Ok(json!(tokenizer.encode_with_control(text))),
        other => Err(wrong(&format!("[{i}]"), "a string", other)),
    };
    array(input)?.iter().enumerate().map(ids).collect()
}

/// Array of arrays of token ids to array of `{"text","stream_chunks","pending_hex"}`.
pub fn detokenize_json(tokenizer: &Tokenizer, input: &Value) -> Result<Value, RequestError> {
    array(input)?.iter().enumerate().map(|(i, ids)| detokenize(tokenizer, i, ids)).collect()
}

fn detokenize(tokenizer: &Tokenizer, i: usize, ids: &Value) -> Result<Value, RequestError> {
    let Value::Array(ids) = ids else { return Err(wrong(&format!("[{i}]"), "an array", ids)) };
    let mut detok = Detok::new(tokenizer);
    let mut chunks = Vec::with_capacity(ids.len());
    for (at, id) in ids.iter().enumerate() {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| wrong(&format!("[{i}][{at}]"), "a token id", &ids[at]))?;
        let chunk = detok.push(id).map_err(|e| RequestError::invalid(format!("[{i}][{at}]: {e}")));
        chunks.push(chunk?);
    }
    let pending: Vec<String> = detok.pending().iter().map(|b| format!("{b:02x}")).collect();
    let text = chunks.concat() + &detok.finish();
    Ok(json!({"text": text, "stream_chunks": chunks, "pending_hex": pending.concat()}))
}

/// Array of cases to array of `{"prompt","token_ids"}` or `{"error"}`. April cases are messages of
/// the reference encoder, July cases are request bodies under the hosted API's rules.
pub fn render_json(
    tokenizer: &Tokenizer,
    profile: Profile,
    input: &Value,
) -> Result<Value, RequestError> {
    let case = |case: &Value| {
        render_case(tokenizer, profile, case).unwrap_or_else(|e| json!({"error": e.message}))
    };
    Ok(array(input)?.iter().map(case).collect())
}

fn render_case(
    tokenizer: &Tokenizer,
    profile: Profile,
    case: &Value,
) -> Result<Value, RequestError> {
    let prompt = match profile {
        Profile::April => april::render_case(case)?,
        Profile::July => {
            let fields = Fields::of(case, "")?;
            let convert = match fields.str("protocol")? {
                Some("chat") => chat::convert,
                Some("messages") => messages::convert,
                Some("responses") => responses::convert,
                other => {
                    return Err(RequestError::invalid(format!(
                        "protocol: {:?} is not one of chat, messages, responses",
                        other.unwrap_or_default()
                    )));
                }
            };
            let request = convert(fields.get("body").unwrap_or(&Value::Null), Rules::Hosted)?;
            render(profile, &request.conversation)?
        }
    };
    let ids = tokenizer.encode_segments(prompt.segments())?;
    Ok(json!({"prompt": prompt.to_text(), "token_ids": ids}))
}

/// Array of model outputs `{"thinking","raw_without_eos","tools"?,"finish"?}` to array of
/// `{"reasoning_content","content","tool_calls","finish_reason"}`. Without `tools` every name
/// counts as declared.
pub fn parse_json(input: &Value) -> Result<Value, RequestError> {
    array(input)?.iter().enumerate().map(|(i, case)| parse_case(case, &format!("[{i}]"))).collect()
}

/// Bytes of an output given to the parser at a time.
const PIECE: usize = 256;

fn parse_case(case: &Value, path: &str) -> Result<Value, RequestError> {
    let fields = Fields::of(case, path)?;
    let raw = fields
        .str("raw_without_eos")?
        .ok_or_else(|| RequestError::invalid(format!("{path}: missing field `raw_without_eos`")))?;
    let declared = match fields.array("tools")? {
        None => Declared::Any,
        Some([]) => Declared::None,
        Some(names) => {
            let name = |name: &Value| match name {
                Value::String(name) => Ok(name.clone()),
                other => Err(wrong(&format!("{path}.tools"), "names", other)),
            };
            Declared::Names(names.iter().map(name).collect::<Result<_, _>>()?)
        }
    };
    let end = match fields.str("finish")? {
        None | Some("stop") => End::Stop,
        Some("length") => End::Length,
        Some(other) => {
            return Err(RequestError::invalid(format!(
                "{path}.finish: {other:?} is not stop or length"
            )));
        }
    };
    let thinking = fields.bool("thinking")?.unwrap_or(false);
    let mut parser = Parser::new(ParserOptions { thinking, declared, ..ParserOptions::default() });
    // In pieces, as a model writes: the parser drops what is decided after each.
    raw.as_bytes().chunks(PIECE).for_each(|piece| drop(parser.push_text(piece)));
    parser.finish(end);
    Ok(outcome_json(parser.outcome(), end))
}

fn outcome_json(outcome: &Outcome, end: End) -> Value {
    let calls: Vec<Value> = outcome
        .complete_calls()
        .map(|call| json!({"name": call.name, "arguments": call.arguments}))
        .collect();
    json!({
        "reasoning_content": outcome.reasoning,
        "content": outcome.content,
        "tool_calls": calls,
        "finish_reason": outcome.finish_reason(end).name(),
    })
}

fn array(input: &Value) -> Result<&Vec<Value>, RequestError> {
    match input {
        Value::Array(items) => Ok(items),
        other => Err(wrong("input", "an array", other)),
    }
}
