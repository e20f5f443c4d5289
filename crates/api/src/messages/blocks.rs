//! Content blocks that become text.

use serde_json::Value;

use crate::content::unsupported_part;
use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules};

/// Block types that the hosted API knows, in its own order.
const KNOWN: [&str; 9] = [
    "text",
    "image",
    "document",
    "thinking",
    "server_tool_use",
    "tool_use",
    "tool_result",
    "web_search_tool_result",
    "tool_addition",
];

/// A block's type.
pub(super) fn kind(block: Fields<'_>) -> Result<&str, RequestError> {
    block
        .str("type")?
        .ok_or_else(|| RequestError::invalid(format!("{}: missing field `type`", block.path())))
}

/// The error for a type that the hosted API does not know.
pub(super) fn unknown(kind: &str, known: &[&str]) -> RequestError {
    let known: Vec<String> = known.iter().map(|kind| format!("`{kind}`")).collect();
    RequestError::invalid(format!(
        "invalid request body: unknown variant `{kind}`, expected one of {}",
        known.join(", ")
    ))
}

/// What the model sees of a block that is text, or stands for something it cannot see.
pub(super) fn text(block: Fields<'_>, kind: &str, rules: Rules) -> Result<String, RequestError> {
    match kind {
        "text" => match block.str("text")? {
            Some(text) => Ok(text.to_owned()),
            None if rules == Rules::Lenient => Ok(String::new()),
            None => Err(RequestError::invalid(format!("{}: missing field `text`", block.path()))),
        },
        "image" => Ok(unsupported_part("image")),
        "document" => document(block, rules),
        other if rules == Rules::Hosted => Err(unknown(other, &KNOWN)),
        "search_result" => {
            list(block.get("content"), &format!("{}.content", block.path()), rules, &mut named)
        }
        other => Ok(unsupported_part(other)),
    }
}

/// A document: its text, when it is text.
fn document(block: Fields<'_>, rules: Rules) -> Result<String, RequestError> {
    let path = format!("{}.source", block.path());
    let Some(source) = block.get("source") else {
        return match rules {
            Rules::Hosted => {
                Err(RequestError::invalid(format!("{}: missing field `source`", block.path())))
            }
            Rules::Lenient => Ok(unsupported_part("document")),
        };
    };
    let source = Fields::of(source, &path)?;
    if rules == Rules::Lenient {
        match (source.str("type")?, source.get("data"), source.get("content")) {
            (Some("text"), Some(Value::String(text)), _) => return Ok(text.clone()),
            (Some("content"), _, content @ Some(_)) => {
                return list(content, &format!("{path}.content"), rules, &mut named);
            }
            _ => {}
        }
    }
    let media_type = source.str("media_type")?.unwrap_or("unknown");
    Ok(format!("[Unsupported document type: {media_type}]"))
}

/// A tool that is referred to, by its name alone.
fn named(name: &str) -> String {
    name.to_owned()
}

/// The content of a tool result: text, or blocks joined by blank lines. What a reference to a tool
/// reads as is told by `tool`.
pub(super) fn list(
    content: Option<&Value>,
    path: &str,
    rules: Rules,
    tool: &mut dyn FnMut(&str) -> String,
) -> Result<String, RequestError> {
    const IN_RESULTS: [&str; 4] = ["text", "image", "document", "tool_reference"];
    let blocks = match content {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(blocks)) => blocks,
        Some(other) => return Err(wrong(path, "a string or a list", other)),
    };
    let mut texts = Vec::with_capacity(blocks.len());
    for (i, block) in blocks.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let block = Fields::of(block, &path)?;
        let kind = kind(block)?;
        if rules == Rules::Hosted && !IN_RESULTS.contains(&kind) {
            return Err(unknown(kind, &IN_RESULTS));
        }
        texts.push(match kind {
            "tool_reference" => tool(block.str("tool_name")?.unwrap_or_default()),
            kind => text(block, kind, rules)?,
        });
    }
    Ok(texts.join("\n\n"))
}
