//! One unit of a server-sent event stream.

use std::fmt;

use serde_json::Value;

/// An event, or a comment that only keeps the connection alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Name of the event, where the API has names.
    pub event: Option<&'static str>,
    /// Its data: JSON on one line, `[DONE]`, or the text of the comment.
    pub data: String,
    is_comment: bool,
}

impl Frame {
    /// An event without a name.
    pub(crate) fn data(data: &Value) -> Self {
        Self { event: None, data: data.to_string(), is_comment: false }
    }

    /// An event with a name.
    pub(crate) fn named(event: &'static str, data: &Value) -> Self {
        Self { event: Some(event), ..Self::data(data) }
    }

    /// The end of an OpenAI stream, which is not JSON.
    pub(crate) fn done() -> Self {
        Self { event: None, data: "[DONE]".to_owned(), is_comment: false }
    }

    /// A comment: parsers drop it. `text` must be one line.
    pub fn comment(text: impl Into<String>) -> Self {
        Self { event: None, data: text.into(), is_comment: true }
    }

    /// Whether this is a comment.
    pub fn is_comment(&self) -> bool {
        self.is_comment
    }
}

/// The bytes on the wire, with the blank line that ends them.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_comment {
            return write!(f, ": {}\n\n", self.data);
        }
        if let Some(event) = self.event {
            writeln!(f, "event: {event}")?;
        }
        write!(f, "data: {}\n\n", self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn frames_end_with_a_blank_line() {
        let x = json!({"a": "line\nbreak"});
        assert_eq!(Frame::data(&x).to_string(), "data: {\"a\":\"line\\nbreak\"}\n\n");
        assert_eq!(Frame::named("ping", &json!(1)).to_string(), "event: ping\ndata: 1\n\n");
        assert_eq!(Frame::comment("keepalive").to_string(), ": keepalive\n\n");
        assert_eq!(Frame::done().to_string(), "data: [DONE]\n\n");
    }
}
