//! What DeepSeek V4 Flash *is*, without any arithmetic.
//!
//! [`Dims`] holds the model's numbers, read from the file and checked. [`Weights`] maps tensor names
//! to typed handles and refuses any mismatch. [`Stage`] names the intermediate values on which
//! backends are compared. [`Runner`] is the one boundary between requests and tensors: the engine
//! above sees no tensor, a backend below sees no request.

#![forbid(unsafe_code)]

mod dims;
mod error;
mod numerics;
mod runner;
mod stage;
mod weights;

pub use dims::{Dims, INDEXED_RATIO};
pub use error::Error;
pub use numerics::Numerics;
pub use runner::{Result, Runner, SeqId, Span, TokenId};
pub use stage::{Place, Probe, Stage};
pub use weights::{
    BlockWeights, CompressorWeights, FfnWeights, HyperWeights, IndexerWeights, Matrix, MtpWeights,
    Router, Weights,
};
