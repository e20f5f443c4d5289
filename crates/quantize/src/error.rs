//! Why a file could not be converted.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of a conversion; the output file appears only when there was none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing the container failed.
    #[error(transparent)]
    Gguf(#[from] ds4_gguf::Error),
    /// A tensor cannot be stored in the wanted type.
    #[error("{tensor}: {source}")]
    Encode {
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        source: ds4_gguf::Unencodable,
    },
    /// A tensor does not fit the wanted type.
    #[error("{tensor}: rows of {cols} elements cannot be stored as {ty}: blocks have {block}")]
    Shape {
        /// Its name.
        tensor: String,
        /// Elements of a row.
        cols: usize,
        /// The type.
        ty: ds4_gguf::TensorType,
        /// Elements of a block.
        block: usize,
    },
    /// The importance matrix is damaged or does not belong to this model.
    #[error("{file}: {what}")]
    Imatrix {
        /// The file's path.
        file: String,
        /// What was found.
        what: String,
    },
    /// An option is not understood.
    #[error("{0}")]
    Option(String),
}
