//! What can go wrong with a model or a running sequence; variants say what the caller can do.

/// Errors of this crate and of every [`crate::Runner`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not a usable GGUF.
    #[error(transparent)]
    Gguf(#[from] ds4_gguf::Error),
    /// Metadata or a tensor is not what the architecture allows: names the key.
    #[error("{file}: {key}: found {found}, expected {expected}")]
    Mismatch {
        /// The file's path.
        file: String,
        /// Metadata key or tensor name.
        key: String,
        /// What the file has.
        found: String,
        /// What the architecture needs.
        expected: String,
    },
    /// A valid model this engine does not run; says why and what to do.
    #[error("{0}")]
    Unsupported(String),
    /// The sequence is full.
    #[error(
        "context is full: {len} tokens and {more} more do not fit into {cap}; \
         use a larger --ctx or a shorter prompt"
    )]
    ContextFull {
        /// Tokens in the sequence.
        len: u32,
        /// Tokens that were to be appended.
        more: usize,
        /// Capacity of the sequence.
        cap: u32,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {n_vocab} tokens")]
    TokenRange {
        /// The id.
        id: u32,
        /// Vocabulary size.
        n_vocab: usize,
    },
    /// `truncate` beyond the rollback margin: restore a saved state or prefill again.
    #[error("cannot go back to {len} of {now} tokens without a replay")]
    NeedsReplay {
        /// Wanted length.
        len: u32,
        /// Present length.
        now: u32,
    },
    /// No such sequence.
    #[error("sequence {0} is not open")]
    NoSequence(u32),
    /// A call that breaks the contract of [`crate::Runner`]: empty span, span above `chunk_max`,
    /// one sequence twice in a call.
    #[error("invalid span: {0}")]
    Span(String),
    /// Not enough memory; says how much was wanted for what.
    #[error("out of memory: {0}")]
    Memory(String),
    /// A saved state that is damaged or belongs to another model.
    #[error("saved state: {0}")]
    State(String),
    /// The device failed.
    #[error("device: {0}")]
    Device(String),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
