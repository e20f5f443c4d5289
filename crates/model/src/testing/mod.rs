//! Models with known answers: TINY and the quantised oracle model, made in memory; with the feature
//! `testing` also the references they are held against.

#[cfg(feature = "testing")]
mod oracle;
#[cfg(feature = "testing")]
mod parity;
mod quant;
mod tiny;
mod vocab;

#[cfg(feature = "testing")]
pub use oracle::{Oracle, Reference, read_npz};
#[cfg(feature = "testing")]
pub use parity::{Bounds, Parity, run};
pub use quant::{QUANT_SEED, quant, quant_dims, quant_gguf};
pub use tiny::{tiny, tiny_dims, tiny_gguf};
pub use vocab::VOCAB_MIN;
