//! What DeepSeek V4 Flash *is*, without any arithmetic.
//!
//! [`Dims`] holds the model's numbers, read from the file and checked. [`Weights`] maps tensor names
//! to typed handles and refuses any mismatch. [`Stage`] names the intermediate values on which
//! backends are compared. [`Runner`] is the one boundary between requests and tensors: the engine
//! above sees no tensor, a backend below sees no request.

#![forbid(unsafe_code)]

#[cfg(test)]
mod adversarial;
mod bind;
mod check;
pub mod compare;
mod dims;
mod error;
mod file;
mod layout;
pub mod limits;
pub mod memory;
mod metadata;
pub mod npy;
mod numerics;
mod probe;
mod runner;
pub mod shapes;
mod stage;
pub mod synthetic;
pub mod testing;
mod weights;
mod yarn;

pub use dims::{Dims, INDEXED_RATIO};
pub use error::Error;
pub use file::{Fingerprint, ModelFile};
pub use layout::Class;
pub use numerics::Numerics;
pub use probe::{Recorder, Stages};
pub use runner::{Mark, Result, Runner, SeqId, Span, TokenId};
pub use stage::{Place, Probe, Stage};
pub use weights::{
    BlockWeights, CompressorWeights, FfnWeights, HyperWeights, IndexerWeights, Matrix, MtpWeights,
    Router, Weights,
};
pub use yarn::RopeFreqs;
