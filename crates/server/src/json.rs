//! Bytes of a body to JSON: nesting is limited before anything recurses, and the halves of
//! surrogate pairs that JavaScript clients cut apart are no reason to refuse a conversation.

use ds4_api::RequestError;
use serde::de::Deserialize;
use serde_json::Value;

use crate::limits::NESTING_MAX;
use crate::reply::Refusal;

/// Parses a body.
pub(crate) fn parse(mut body: Vec<u8>) -> Result<Value, Refusal> {
    if depth(&body) > NESTING_MAX {
        return Err(refusal(format!("JSON nested deeper than {NESTING_MAX} levels")));
    }
    match value(&body) {
        Ok(value) => Ok(value),
        Err(error) if replace_lone_surrogates(&mut body) => {
            value(&body).map_err(|_| refusal(format!("invalid JSON: {error}")))
        }
        Err(error) => Err(refusal(format!("invalid JSON: {error}"))),
    }
}

fn refusal(message: String) -> Refusal {
    RequestError::invalid(message).into()
}

fn value(body: &[u8]) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    reader.disable_recursion_limit();
    let value = Value::deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The deepest nesting, counted without parsing.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Turns `\ud83d` without its other half into `\ufffd`; whether there was one.
fn replace_lone_surrogates(body: &mut [u8]) -> bool {
    let mut found = false;
    let mut at = 0;
    while at < body.len() {
        if body[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match (unit(&body[at..]), unit(body.get(at + 6..).unwrap_or_default())) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                body[at + 2..at + 6].copy_from_slice(b"fffd");
                found = true;
                6
            }
            _ => 2,
        };
    }
    found
}

/// The number of an escape `\uXXXX`.
fn unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    // `from_str_radix` would take a sign.
    let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Value, String> {
        parse(text.as_bytes().to_vec()).map_err(|e| e.0.message)
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parsed(&nested(NESTING_MAX)).is_ok());
        let error = parsed(&nested(NESTING_MAX + 1)).unwrap_err();
        assert!(error.contains("deeper than 256"), "{error}");
        assert!(parsed(&"[".repeat(1_000_000)).is_err());
        let brackets = format!("{{\"a\\\"\": \"{}\"}}", "[".repeat(1000));
        assert!(parsed(&brackets).is_ok());
    }

    #[test]
    fn halves_of_pairs_are_replaced() {
        for (text, want) in [
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ude00b""#, "\u{fffd}b"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""\\ud83d""#, "\\ud83d"),
            (r#""\ud83dx\ud83d""#, "\u{fffd}x\u{fffd}"),
        ] {
            assert_eq!(parsed(text).unwrap(), want, "{text}");
        }
        assert!(parsed(r#"{"a": "\ud83d", }"#).unwrap_err().contains("invalid JSON"));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{} x", "\u{1}", "nul", "\"\\u+12f\"", "[1,]"] {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with("invalid JSON"), "{error}");
        }
        assert!(parse(vec![b'"', 0xff, b'"']).is_err());
    }
}
