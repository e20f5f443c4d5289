//! Message contents: strings, or lists of parts that are joined by blank lines.

use serde_json::Value;

use crate::RequestError;
use crate::fields::{Fields, wrong};

/// The text of a content of any provider: null is empty, parts that the model cannot see leave a
/// note in their place.
pub(crate) fn text(
    content: Option<&Value>,
    path: &str,
    unsupported: impl Fn(&str) -> String,
) -> Result<String, RequestError> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let part = |(i, part)| self::part(part, &format!("{path}[{i}]"), &unsupported);
            let texts: Vec<String> =
                parts.iter().enumerate().map(part).collect::<Result<_, _>>()?;
            Ok(texts.join("\n\n"))
        }
        Some(other) => Err(wrong(path, "a string or a list of parts", other)),
    }
}

fn part(
    part: &Value,
    path: &str,
    unsupported: &impl Fn(&str) -> String,
) -> Result<String, RequestError> {
    if let Value::String(text) = part {
        return Ok(text.clone());
    }
    let fields = Fields::of(part, path)?;
    match fields.str("type")? {
        Some("text" | "input_text" | "output_text") => {
            Ok(fields.str("text")?.unwrap_or_default().to_owned())
        }
        Some("refusal") => Ok(fields.str("refusal")?.unwrap_or_default().to_owned()),
        Some(other) => Ok(unsupported(other)),
        None => Err(RequestError::invalid(format!("{path}: a content part needs a type"))),
    }
}

/// The note for a part that the model cannot see, as the hosted API writes it.
pub(crate) fn unsupported_part(kind: &str) -> String {
    match kind {
        "image_url" | "input_image" | "image" | "file" | "input_file" => {
            "[Unsupported Image]".to_owned()
        }
        other => format!("[Unsupported {other}]"),
    }
}

/// System text without the billing line that one client puts in front, which changes with every
/// request and would defeat every prefix cache.
pub(crate) fn strip_billing_header(text: String) -> String {
    if !text.starts_with("x-anthropic-billing-header") {
        return text;
    }
    let start = ["\n", "You are"].iter().filter_map(|end| text.find(end)).min();
    start.map_or(String::new(), |start| text[start..].trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_are_joined_and_the_unseen_noted() {
        let content = json!([
            {"type": "text", "text": "a"}, "b", {"type": "image_url", "image_url": {"url": "x"}},
            {"type": "input_audio"}, {"type": "text", "text": ""},
        ]);
        assert_eq!(
            text(Some(&content), "c", unsupported_part).unwrap(),
            "a\n\nb\n\n[Unsupported Image]\n\n[Unsupported input_audio]\n\n"
        );
        assert_eq!(text(Some(&Value::Null), "c", unsupported_part).unwrap(), "");
        for bad in [json!(1), json!({}), json!([1]), json!([{"text": "x"}])] {
            assert!(text(Some(&bad), "c", unsupported_part).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_billing_header_goes() {
        for (text, rest) in [
            ("x-anthropic-billing-header: a\n  You are b", "You are b"),
            ("x-anthropic-billing-header: aYou are b\nc", "You are b\nc"),
            ("x-anthropic-billing-header: a", ""),
            ("system", "system"),
        ] {
            assert_eq!(strip_billing_header(text.to_owned()), rest);
        }
    }
}
