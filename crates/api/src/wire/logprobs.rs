//! Log probabilities of sampled tokens, in each API's words.

use serde_json::{Map, Value, json};

/// A sampled token and its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most likely tokens and their log probabilities, best first.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// What stands for a probability of zero: JSON has no infinity.
const IMPOSSIBLE: f32 = -9999.0;

fn number(logprob: f32) -> Value {
    json!(if logprob.is_finite() { logprob } else { IMPOSSIBLE })
}

fn token(bytes: &[u8], logprob: f32) -> Value {
    let text = String::from_utf8_lossy(bytes);
    json!({"token": text, "logprob": number(logprob), "bytes": bytes})
}

/// The entries of Chat Completions and Responses.
pub(super) fn entries(tokens: &[TokenLogprob]) -> Vec<Value> {
    let entry = |t: &TokenLogprob| {
        let mut entry = token(&t.bytes, t.logprob);
        let top = t.top.iter().map(|(bytes, logprob)| token(bytes, *logprob));
        entry["top_logprobs"] = top.collect();
        entry
    };
    tokens.iter().map(entry).collect()
}

/// The parallel lists of Completions; `offset` counts the characters before the first token and is
/// moved behind the last. A first token without a probability has `NaN` for it.
pub(super) fn lists(tokens: &[TokenLogprob], offset: &mut usize) -> Value {
    let (mut texts, mut offsets) = (Vec::new(), Vec::new());
    for t in tokens {
        let text = String::from_utf8_lossy(&t.bytes);
        offsets.push(*offset);
        *offset += text.chars().count();
        texts.push(text);
    }
    let logprob = |t: &TokenLogprob| match t.logprob {
        x if x.is_nan() => Value::Null,
        x => number(x),
    };
    let top = |t: &TokenLogprob| {
        let alternative =
            |(bytes, x): &(Vec<u8>, f32)| (String::from_utf8_lossy(bytes).into(), number(*x));
        if t.logprob.is_nan() {
            return Value::Null;
        }
        Value::Object(t.top.iter().map(alternative).collect::<Map<String, Value>>())
    };
    json!({
        "tokens": texts,
        "token_logprobs": tokens.iter().map(logprob).collect::<Value>(),
        "top_logprobs": tokens.iter().map(top).collect::<Value>(),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_cannot_say() {
        let odd = |logprob| TokenLogprob {
            bytes: "é".as_bytes()[..1].to_vec(),
            logprob,
            top: vec![(b"a".to_vec(), f32::NEG_INFINITY)],
        };
        let entry = &entries(&[odd(f32::NEG_INFINITY)])[0];
        assert_eq!(entry["logprob"], -9999.0);
        assert_eq!(entry["top_logprobs"][0]["logprob"], -9999.0);
        assert_eq!(entry["token"], "\u{fffd}");
        assert_eq!(entry["bytes"], json!([0xc3]));
        let mut offset = 3;
        let lists = lists(&[odd(f32::NAN), odd(-1.0)], &mut offset);
        assert_eq!(lists["token_logprobs"], json!([null, -1.0]));
        assert_eq!(lists["top_logprobs"], json!([null, {"a": -9999.0}]));
        assert_eq!(lists["text_offset"], json!([3, 4]));
        assert_eq!(offset, 5);
    }
}
