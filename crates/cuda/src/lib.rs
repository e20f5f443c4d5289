//! DeepSeek V4 Flash on an NVIDIA GPU: hand-written CUDA kernels behind the model's `Runner`.
//!
//! Read in this order: [`open()`] finds the device and its kernels and makes a [`CudaRunner`]
//! (`runner`), which uploads the weights once (`weights`, `matrix`, `upload`) in the layouts that
//! `kernels/common.cuh` describes. A call becomes a `step`: the launches of every `layer`, of its
//! `experts`, of the output head and of the `mtp` block, in the order of the paper. Steps of few
//! tokens are recorded once per number of tokens and replayed as CUDA graphs; positions and lengths
//! lie in the device's memory.
//!
//! `kernels/` has the device's side, one file per part of the model, included by `ds4.cu`. They are
//! compiled for one shape (`shape`); `image` finds or makes the compiled form. `device` hides
//! whether a GPU (`driver`) or the emulator of tests (`emulator`, `emu/`) runs them.
//!
//! Invariants: addresses on the device never change after a sequence is opened; a launch has
//! exactly the arguments that its kernel declares, and the sizes of structs are compared when the
//! kernels are loaded; an error leaves every sequence as it was; after an error of the device no
//! call succeeds.

mod args;
mod compile;
mod constants;
mod device;
mod drafts;
mod driver;
#[cfg(feature = "emulator")]
mod emulator;
mod experts;
mod frontier;
mod hybrid;
mod image;
#[cfg(all(test, feature = "emulator"))]
mod kernel_tests;
mod launch;
mod layer;
mod matrix;
mod model;
mod mtp;
mod open;
mod packed;
mod placement;
#[cfg(all(test, feature = "emulator"))]
mod product_tests;
mod runner;
mod scratch;
mod seq;
mod shape;
mod step;
mod tokens;
mod upload;
mod weights;

/// Compiled kernels as files.
pub mod images {
    pub use crate::image::{archive_name, pack, sources_key};
}

pub use device::{DeviceInfo, Timed};
#[cfg(feature = "emulator")]
pub use open::open_emulated;
pub use open::{find, model_bytes, open};
pub use placement::Plan;
pub use runner::{CHUNK_MAX, CudaOptions, CudaRunner};
pub use shape::Defines;
