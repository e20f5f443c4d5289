//! Every limit of this crate.

/// Tokens in a vocabulary.
pub const VOCAB_MAX: usize = 1 << 20;

/// Bytes of one tag of a tool call; longer ones are broken.
pub const TAG_BYTES_MAX: usize = 4096;

/// Depth of parameters inside parameters.
pub const NESTED_PARAMETERS_MAX: usize = 16;

/// Closing tags at which an unmarked block is tried before it is taken for text.
pub const BARE_BLOCK_TRIES: usize = 8;

/// Bytes of white space that are held back because a block of tool calls may follow.
pub const HELD_SPACE_MAX: usize = 64;
