//! What DeepSeek V4 Flash *is*, without any arithmetic.
//!
//! [`ModelFile::open`] is where a model begins: [`Dims`] holds its numbers, read from the metadata
//! and checked (`metadata`, `check`); [`Weights`] maps tensor names to typed handles and refuses
//! any mismatch (`layout` says what there must be, `bind` compares). The published shapes are
//! named in [`shapes`]; any other consistent shape is described and runs too.
//!
//! [`Runner`] is the one boundary between requests and tensors: the engine above sees no tensor, a
//! backend below sees no request. What a sequence keeps in memory is planned in [`memory`], so that
//! runners and reports count alike. [`Numerics`] says which roundings are simulated, and
//! [`RopeFreqs`] holds the rotations as data. [`Steering`] moves the layers' outputs along given
//! directions.
//!
//! Backends share the truth, not the schedule: [`Stage`] names the intermediate values, a
//! [`Recorder`] collects them, [`compare`] measures them against a reference. Models for this are
//! made in memory ([`synthetic`], [`testing`]); the feature `testing` reads the references.

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
mod steering;
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
pub use runner::{Mark, Residency, Result, Runner, SeqId, Span, TokenId};
pub use stage::{ExpertInputs, Place, Probe, Stage};
pub use steering::Steering;
pub use weights::{
    BlockWeights, CompressorWeights, FfnWeights, HyperWeights, IndexerWeights, Matrix, MtpWeights,
    Router, Weights,
};
pub use yarn::RopeFreqs;
