//! Why a file could not be read or written.

/// Errors of this crate. Every message is one line, names the file and says what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is damaged, truncated, or not of the format and version that this crate reads.
    #[error("{file}: {what}")]
    Format {
        /// The file's path, or a name for bytes in memory.
        file: String,
        /// What was found and what was expected.
        what: String,
    },
    /// A metadata key is missing or holds something else than the program needs.
    #[error("{file}: metadata key {key}: expected {expected}, found {found}")]
    Key {
        /// The file's path, or a name for bytes in memory.
        file: String,
        /// The key.
        key: String,
        /// What the file holds; `nothing` for a missing key.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// Opening, mapping, reading or writing failed.
    #[error("{file}: {source}")]
    Io {
        /// The file's path.
        file: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// A [`Error::Format`] about `file`.
    pub(crate) fn format(file: &str, what: impl Into<String>) -> Self {
        Self::Format { file: file.to_owned(), what: what.into() }
    }

    /// An [`Error::Io`] about `file`.
    pub(crate) fn io(file: &str, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }
}
