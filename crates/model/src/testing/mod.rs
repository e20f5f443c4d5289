//! Models with known answers, for the tests of every backend (feature `testing`).

mod quant;
mod tiny;
mod vocab;

pub use quant::{QUANT_SEED, quant, quant_dims, quant_gguf};
pub use tiny::{tiny, tiny_dims, tiny_gguf};
pub use vocab::VOCAB_MIN;
