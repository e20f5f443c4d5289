//! Contents of items.

use serde_json::Value;

use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules};

/// Where a content stands; the hosted API takes different parts in each place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Message,
    Output,
}

/// The text of a content: a text, or parts joined by blank lines.
pub(super) fn text(
    content: Option<&Value>,
    path: &str,
    place: Place,
    rules: Rules,
) -> Result<String, RequestError> {
    let parts = match content {
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        None | Some(Value::Null) if rules == Rules::Lenient => return Ok(String::new()),
        // Results may be JSON.
        Some(other) if rules == Rules::Lenient && place == Place::Output => {
            return Ok(other.to_string());
        }
        other => return Err(wrong(path, "a string or a list", other.unwrap_or(&Value::Null))),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, value) in parts.iter().enumerate() {
        if let (Value::String(text), Rules::Lenient) = (value, rules) {
            texts.push(text.clone());
        } else {
            let path = format!("{path}[{i}]");
            texts.push(part(Fields::of(value, &path)?, place, rules)?);
        }
    }
    Ok(texts.join("\n\n"))
}

fn part(part: Fields<'_>, place: Place, rules: Rules) -> Result<String, RequestError> {
    let text = |key: &str| Ok(part.str(key)?.unwrap_or_default().to_owned());
    match part.str("type")?.unwrap_or_default() {
        "input_text" => text("text"),
        "output_text" if rules == Rules::Lenient || place == Place::Message => text("text"),
        "input_image" => Ok("[Unsupported Image]".to_owned()),
        "input_file" => Ok("[Unsupported Document]".to_owned()),
        other if rules == Rules::Hosted => {
            Err(RequestError::invalid(format!("invalid request body: unknown variant `{other}`")))
        }
        "text" | "summary_text" | "reasoning_text" => text("text"),
        "refusal" => text("refusal"),
        "" => Err(RequestError::invalid(format!("{}: a content part needs a type", part.path()))),
        "image" | "image_url" => Ok("[Unsupported Image]".to_owned()),
        other => Ok(format!("[Unsupported {other}]")),
    }
}
