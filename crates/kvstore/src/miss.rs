//! Why nothing on disk served a prompt, and why a snapshot was not taken.

use std::fmt;

/// Why no file served a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The directory holds no file of this model.
    Empty,
    /// No stored key is a prefix of the prompt.
    NoPrefix {
        /// Usable files that were considered.
        files: usize,
        /// The one that shares the longest beginning, where that was looked for.
        nearest: Option<Nearest>,
    },
    /// The prompt is shorter than the smallest stored key or than the minimum.
    TooShort,
    /// The matching file holds more tokens than this context.
    TooLong {
        /// Its tokens.
        tokens: u32,
    },
    /// The matching file is not this model's.
    Foreign(String),
}

/// A file that shares a beginning with a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its name.
    pub name: String,
    /// Bytes shared.
    pub shared_bytes: usize,
    /// Bytes of its key.
    pub key_bytes: usize,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "no file of this model in the cache directory"),
            Self::NoPrefix { files, nearest } => {
                write!(f, "none of {files} files is a prefix of the prompt")?;
                let Some(n) = nearest else { return Ok(()) };
                let (shared, all) = (n.shared_bytes, n.key_bytes);
                write!(f, ", the nearest, {}, shares {shared} of its {all} bytes", &n.name[..8])
            }
            Self::TooShort => write!(f, "the prompt is shorter than anything stored"),
            Self::TooLong { tokens } => write!(f, "the file holds {tokens} tokens, above --ctx"),
            Self::Foreign(why) => f.write_str(why),
        }
    }
}

/// Why a snapshot was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Too few tokens.
    TooFew,
    /// A file of these tokens exists, or is being written.
    Stored,
    /// Larger than the whole budget.
    TooLarge,
    /// The writer has enough to do.
    Busy,
    /// Enough was written within the hour.
    WornOut,
    /// The disk was full, or writing failed again and again.
    Off,
}

impl Skip {
    /// Lower-case words for logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooFew => "too few tokens",
            Self::Stored => "already stored",
            Self::TooLarge => "larger than the whole budget",
            Self::Busy => "the writer is busy",
            Self::WornOut => "the hourly limit of bytes is reached",
            Self::Off => "writing was given up",
        }
    }
}
