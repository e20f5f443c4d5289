//! Every limit of this crate.

/// Tokens in a vocabulary.
pub const VOCAB_MAX: usize = 1 << 20;
