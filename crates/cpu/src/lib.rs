//! DeepSeek V4 Flash on the CPU: the reference, and the product for machines without a big GPU.
//!
//! Read in this order: [`open`] makes a [`CpuRunner`] (`runner`); a call becomes a `batch` of tokens
//! and runs through `layer`, which is the paper's order of things with one call per line:
//! hyper-connections (`hyper`), `attention` with its `compressor` and `indexer`, experts (`moe`,
//! `router`), the output `head`, and the MTP block (`mtp`). What a sequence remembers is in `seq`;
//! `frontier` is its end in canonical form, which `save` writes. The roundings that the model was
//! trained with are in `fp_sim`.
//!
//! Below that line nothing knows the model: `matmul` runs many products of quantised weights
//! (`dot`) with activations (`acts`) as one parallel section of the `pool`.
//!
//! Invariants: a call checks everything before it changes anything, so an error leaves every
//! sequence as it was. A token's result does not depend on the tokens computed beside it or on the
//! number of threads. Buffers are sized for the largest step; a token allocates nothing.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "kernels narrow on purpose: quantised values, lane numbers, f64 sums to f32"
)]

mod acts;
mod attention;
mod batch;
mod compressor;
mod cores;
mod dot;
mod fp_sim;
mod frontier;
mod head;
mod host_experts;
mod hyper;
mod indexer;
mod layer;
mod matmul;
mod model;
mod moe;
mod mtp;
mod norm;
mod par;
mod pool;
mod residency;
mod rope;
mod router;
mod row_ops;
mod runner;
mod save;
mod scratch;
mod seq;
pub mod speed;
pub mod state;
mod step;
mod synthetic;
pub mod trace;
mod vec_ops;
mod vectorise;

pub use dot::Isa;
pub use host_experts::{Chosen, HostExperts};
pub use pool::Pool;
pub use residency::Placement;
pub use runner::{CHUNK_MAX, CpuOptions, CpuRunner, open};
pub use scratch::step_bytes;
