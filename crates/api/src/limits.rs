//! Every limit of this crate.

/// Depth of arrays and objects in a request body.
pub const NESTING_MAX: usize = 256;
/// Messages, input items or parts of one message in a request.
pub const ITEMS_MAX: usize = 65_536;
/// Declared tools, those inside namespaces included.
pub const TOOLS_MAX: usize = 4096;
/// Bytes of one tool's schema, or of an answer's.
pub const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Prompts of one completion request.
pub const PROMPTS_MAX: usize = 64;
/// Tokens that one answer may have; also the bound that the hosted API names in its error.
pub const MAX_TOKENS_MAX: u32 = 393_216;
/// Stop strings in one request.
pub const STOP_STRINGS_MAX: usize = 16;
/// Bytes of a stop string, which are held back from a stream.
pub const STOP_STRING_BYTES_MAX: usize = 4096;
/// Bytes of a function's name.
pub const TOOL_NAME_BYTES_MAX: usize = 128;
/// Bytes of a function's name where the hosted API's rules do not count.
pub const LENIENT_TOOL_NAME_BYTES_MAX: usize = 1024;
/// Bytes of a model's name.
pub const MODEL_NAME_BYTES_MAX: usize = 1024;
/// Alternatives reported for one token.
pub const TOP_LOGPROBS_MAX: u64 = 20;
/// Candidates that `top_k` may keep.
pub const TOP_K_MAX: u32 = 1024;
