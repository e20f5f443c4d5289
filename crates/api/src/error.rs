//! Why a request is refused, in the form that its client understands.

use serde_json::{Value, json};

/// A request that cannot be served as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// HTTP status.
    pub status: u16,
    /// What is wrong and where, one line.
    pub message: String,
}

impl RequestError {
    /// A request that its client must change.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    /// The body that OpenAI clients read.
    pub fn openai_body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": "invalid_request_error",
            "param": null,
            "code": "invalid_request_error",
        }})
    }
}

impl From<ds4_text::Error> for RequestError {
    fn from(error: ds4_text::Error) -> Self {
        Self::invalid(error.to_string())
    }
}
