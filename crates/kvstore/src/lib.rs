//! The disk KV cache: a directory of saved sequences that survives restarts and never lies.
//!
//! A file is the C engine's container (kvcache.md §2.1) around our own payload: sections with a
//! checksum each, tied to one model by a fingerprint. Its name is the SHA-1 of a *control-aware*
//! encoding of the cached tokens ([`KeyBuilder`]), so equal text with different control tokens never
//! meets. Files appear only whole: written under a temporary name, synced, renamed. What fails a check
//! is renamed to `.bad` once and never tried again; another engine's files are left alone.
//!
//! Writing happens on a thread of the store's own: [`KvStore::save`] takes a [`Snapshot`] and
//! returns, and the snapshot can be found at once. Any number of processes may share a directory.
//!
//! This crate knows no tensor and no request: the state of a sequence is bytes that somebody else's
//! function writes and reads.

#![forbid(unsafe_code)]

mod error;
mod evict;
mod file;
mod header;
mod index;
mod key;
mod listing;
mod loaded;
mod miss;
mod payload;
mod save;
mod stats;
mod store;
mod tools;
mod writer;

pub use error::{Error, Result};
pub use file::{Verified, read_file, verify_file};
pub use header::{Header, Reason};
pub use index::{Entry, Hit};
pub use key::{KeyBuilder, Piece, key_name, pieces};
pub use listing::{Item, Listed, list};
pub use loaded::Loaded;
pub use miss::{Miss, Nearest, Skip};
pub use payload::Identity;
pub use save::Snapshot;
pub use stats::Stats;
pub use store::{KvStore, Options};
pub use tools::ToolEntry;
