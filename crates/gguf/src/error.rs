//! Why a file could not be read or written.

/// Errors of this crate. Every message names the file and says what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is damaged, truncated, or not a GGUF of version 3.
    #[error("{file}: {what}")]
    Format {
        /// The file's path, or a name for bytes in memory.
        file: String,
        /// What was found and what was expected.
        what: String,
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
