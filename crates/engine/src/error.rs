//! What can go wrong between a prompt and its answer; variants say what the caller can do.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runner refused: model, context, memory or device.
    #[error(transparent)]
    Model(#[from] ds4_model::Error),
    /// Text that cannot become tokens, or tokens that cannot become text.
    #[error(transparent)]
    Text(#[from] ds4_text::Error),
    /// A logit that no sound model and backend produces.
    #[error("logit of token {id} is {value}: the model file or the backend is damaged")]
    Logit {
        /// Token whose logit is not a number, or is plus infinity.
        id: usize,
        /// The value found.
        value: f32,
    },
    /// Every token is excluded.
    #[error("no token is left to choose from: all logits are minus infinity")]
    NoCandidate,
    /// A sampling option outside its range.
    #[error("{name} must be {expected}, not {value}")]
    Option {
        /// Name of the option.
        name: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value given.
        value: f32,
    },
    /// A prompt without tokens: there is nothing to predict from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The caller asked to stop before the first token.
    #[error("cancelled")]
    Cancelled,
}

/// Result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
