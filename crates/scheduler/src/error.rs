//! Why a request ended without an answer.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors a request can meet; each says who can do something about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request asks for something impossible.
    #[error(transparent)]
    Engine(#[from] ds4_engine::Error),
    /// The prompt leaves no room for an answer.
    #[error("Prompt has {tokens} tokens, but the configured context size is {ctx} tokens")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Context size.
        ctx: u32,
    },
    /// Too many requests wait; try again later.
    #[error("{waiting} requests are waiting already")]
    Busy {
        /// Length of the queue.
        waiting: usize,
    },
    /// The client went away or asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A step could not be computed; the sequences are as they were.
    #[error("{0}")]
    Failed(String),
    /// The computation panicked: the request is lost, the server goes on.
    #[error("internal error: {0}")]
    Panicked(String),
    /// The server is going down.
    #[error("server shutting down")]
    ShuttingDown,
}

impl From<ds4_model::Error> for Error {
    fn from(e: ds4_model::Error) -> Self {
        Self::Engine(e.into())
    }
}

impl Error {
    /// There was no memory for it.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, Self::Engine(ds4_engine::Error::Model(ds4_model::Error::Memory(_))))
    }

    /// The device is unusable: the process should end rather than hang.
    pub fn is_device_lost(&self) -> bool {
        matches!(self, Self::Engine(ds4_engine::Error::Model(ds4_model::Error::Device(_))))
    }
}
