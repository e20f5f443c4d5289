//! Why text could not become tokens, or a vocabulary could not be used.

/// Errors of this crate. Every message is one line and says what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file's tokenizer is not one that this crate reads; get another file.
    #[error("tokenizer: {0}")]
    Vocab(String),
    /// A metadata key is missing or has the wrong type.
    #[error(transparent)]
    File(#[from] ds4_gguf::Error),
    /// A token id is outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {n_vocab} tokens")]
    TokenId {
        /// The id.
        id: u32,
        /// Number of tokens in the vocabulary.
        n_vocab: usize,
    },
    /// The prompt needs a control token that this vocabulary does not have.
    #[error("the vocabulary has no token {0:?}, which this conversation needs")]
    NoControl(&'static str),
    /// The conversation cannot be rendered; change its messages.
    #[error("{0}")]
    Conversation(String),
}

impl Error {
    /// An [`Error::Vocab`].
    pub(crate) fn vocab(what: impl Into<String>) -> Self {
        Self::Vocab(what.into())
    }

    /// An [`Error::Conversation`].
    pub(crate) fn conversation(what: impl Into<String>) -> Self {
        Self::Conversation(what.into())
    }
}
