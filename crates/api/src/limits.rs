//! Every limit of this crate.

/// Tokens that one answer may have; also the bound that the hosted API names in its error.
pub const MAX_TOKENS_MAX: u32 = 393_216;
/// Stop strings in one request.
pub const STOP_STRINGS_MAX: usize = 16;
/// Bytes of a function's name.
pub const TOOL_NAME_BYTES_MAX: usize = 128;
/// Alternatives reported for one token.
pub const TOP_LOGPROBS_MAX: u64 = 20;
/// Candidates that `top_k` may keep.
pub const TOP_K_MAX: u32 = 1024;
