//! Every limit of this crate.

use std::time::Duration;

/// Bytes of the lines before a request's body.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Header lines of a request.
pub const HEADERS_MAX: usize = 128;
/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Bytes of a body beyond the limit that are still read, so that the client reads the refusal
/// instead of a broken connection.
pub const BODY_DISCARD_MAX: usize = 64 << 20;
/// Depth of arrays and objects in a body.
pub const NESTING_MAX: usize = ds4_api::limits::NESTING_MAX;
/// Bytes of a request id that a client chose.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Connections at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1024;
/// Time a request's header may take, and a connection may be without a request.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(30);
/// Time between two pieces of a body.
pub const BODY_IDLE_MAX: Duration = Duration::from_secs(10);
/// Time in which a client must take something of what is ready for it.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// Tokens of an answer that are ready but not yet written. A sequence is held when fewer than
/// [`STEP_TOKENS_MAX`] more would fit.
pub const BACKLOG_TOKENS: usize = 256;
/// Tokens that one step may add to a sequence: one, and its drafts.
pub const STEP_TOKENS_MAX: usize = 1 + ds4_engine::DRAFT_MAX;
/// Pieces of a response between an answer and its connection.
pub const PIECES_MAX: usize = 4;
/// Prompts and outputs waiting to be written to the trace; later ones are dropped.
pub const TRACES_MAX: usize = 64;

const _: () = assert!(BACKLOG_TOKENS > 2 * STEP_TOKENS_MAX);
