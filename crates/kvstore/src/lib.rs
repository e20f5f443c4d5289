//! The disk KV cache: a directory of saved sequences that survives restarts and never lies.
//!
//! A file is the C engine's container (kvcache.md §2.1) around our own payload: sections with a
//! checksum each, tied to one model by a fingerprint. Its name is the SHA-1 of a *control-aware*
//! encoding of the cached tokens ([`KeyBuilder`]), so equal text with different control tokens never
//! meets. Files appear only whole: written under a temporary name, synced, renamed. What fails a check
//! is renamed to `.bad` once and never tried again.
//!
//! This crate knows no tensor and no request: the state of a sequence is bytes that a caller's
//! function writes and reads.

#![forbid(unsafe_code)]

mod error;
mod evict;
mod header;
mod key;
mod payload;
mod save;
mod store;
mod tools;

pub use error::{Error, Result};
pub use header::{Header, Reason};
pub use key::{KeyBuilder, Piece, key_name, pieces};
pub use save::{Saved, Snapshot};
pub use store::{Entry, Hit, KvStore, Loaded, Miss, Options, Verified, verify_file};
pub use tools::ToolEntry;
