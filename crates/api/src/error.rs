//! Why a request is refused.

use serde_json::{Value, json};

/// A request that cannot be served as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// HTTP status.
    pub status: u16,
    /// What is wrong and where, one line.
    pub message: String,
    /// A word for programs, where clients know one.
    pub code: Option<&'static str>,
}

impl RequestError {
    /// A request that its client must change.
    pub fn invalid(message: impl Into<String>) -> Self {
        let message: String = message.into();
        // Names and values of the request may be part of the message.
        let message = if message.contains(['\n', '\r']) {
            message.replace(['\n', '\r'], " ")
        } else {
            message
        };
        Self { status: 400, message, code: None }
    }

    /// A request that goes on from an answer that is not kept.
    pub(crate) fn unknown_response(id: &str) -> Self {
        let message = format!(
            "Previous response with id '{id}' not found: answers are not stored; send the whole \
             conversation as input"
        );
        Self { code: Some("previous_response_not_found"), ..Self::invalid(message) }
    }

    /// The body of the hosted API.
    pub fn openai_body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": "invalid_request_error",
            "param": null,
            "code": self.code.unwrap_or("invalid_request_error"),
        }})
    }
}

impl From<ds4_text::Error> for RequestError {
    fn from(error: ds4_text::Error) -> Self {
        Self::invalid(error.to_string())
    }
}
