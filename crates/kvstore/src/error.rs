//! Why a cache file could not be written or used.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of the store. None of them is fatal to a caller: the worst case is a prefill.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is damaged, truncated, or not one of ours.
    #[error("{path}: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A whole file, but of another model, engine or version: somebody else's, left alone.
    #[error("{path}: {what}")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it seems to be.
        what: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn foreign(path: &Path, what: &str) -> Self {
        Self::Foreign { path: path.to_owned(), what: what.to_owned() }
    }

    /// The disk, or the user's quota of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        ))
    }
}
