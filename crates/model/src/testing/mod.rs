//! Models with known answers, for the tests of every backend (feature `testing`).

mod tiny;

pub use tiny::{tiny, tiny_dims, tiny_gguf};
