//! Why an answer cannot be constrained as asked, or no longer.

/// Errors of this crate. Every message is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A schema demands what masks cannot enforce, or is no schema; change it, or ask leniently.
    #[error("{path}: {message}")]
    Schema {
        /// Where in the request.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// A schema, a pattern or a list of functions is larger than is safe to compile.
    #[error("{path}: {message}")]
    TooComplex {
        /// Where in the request.
        path: String,
        /// The limit and what was found.
        message: String,
    },
    /// The vocabulary has no token that marks tool calls.
    #[error("the vocabulary has no token {:?}: tool calls cannot be constrained", ds4_text::DSML)]
    NoToolCalls,
    /// A token that the constraint forbids.
    #[error("token {id} is not allowed here")]
    Rejected {
        /// Its id.
        id: u32,
    },
    /// The text that the answer is to continue does not begin an allowed answer.
    #[error("the beginning of the answer does not fit its required form")]
    Beginning,
    /// The constraint met a limit in the middle of an answer, or no token is left.
    #[error("the constraint cannot go on: {0}")]
    Stuck(String),
}

impl Error {
    /// Whether the request is to blame (HTTP status 400), rather than the server.
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Schema { .. } | Self::TooComplex { .. } | Self::Beginning)
    }

    pub(crate) fn schema(path: &str, message: impl Into<String>) -> Self {
        Self::Schema { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn complex(path: &str, message: impl Into<String>) -> Self {
        Self::TooComplex { path: path.to_owned(), message: message.into() }
    }
}
