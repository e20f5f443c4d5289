//! Models with known answers, for the tests of every backend (feature `testing`).

mod oracle;
mod parity;
mod quant;
mod tiny;
mod vocab;

pub use oracle::{Oracle, Reference, read_npz};
pub use parity::{Bounds, Parity, run};
pub use quant::{QUANT_SEED, quant, quant_dims, quant_gguf};
pub use tiny::{tiny, tiny_dims, tiny_gguf};
pub use vocab::VOCAB_MIN;
