//! The quantised oracle model: the formats of the published files in the smallest shape that has
//! them, with an MTP block and a tokenizer. Its references are in `testdata/oracle/quant`.

use ds4_gguf::Gguf;

use super::vocab::byte_vocab;
use crate::synthetic::{Recipe, Types};
use crate::{Dims, ModelFile, Result, shapes};

/// Seed of the model, chosen for healthy margins between the scores of chosen and other experts
/// and rows (`testdata/oracle/README.md`).
pub const QUANT_SEED: u64 = 3;

/// The numbers of the quantised oracle model.
pub fn quant_dims() -> Dims {
    let n_layer = 4;
    Dims {
        n_layer,
        n_embd: 256,
        n_vocab: 288,
        n_head: 4,
        head_dim: 96,
        rope_dim: 32,
        q_rank: 64,
        n_out_group: 2,
        out_rank: 32,
        window: 12,
        ratios: vec![0, 4, 8, 4],
        n_index_head: 16,
        index_dim: 64,
        index_top_k: 4,
        n_expert: 8,
        n_expert_used: 3,
        n_ff: 256,
        n_hash_layer: 1,
        swiglu_clamp: vec![1.5; n_layer],
        swiglu_clamp_shared: vec![1.5; n_layer],
        ..shapes::flash_with(n_layer)
    }
}

/// The quantised oracle model as a file in memory, for any seed.
pub fn quant_gguf(seed: u64) -> Result<Gguf> {
    let dims = quant_dims();
    Recipe {
        name: format!("quantised oracle model, seed {seed}"),
        meta: byte_vocab(dims.n_vocab),
        dims,
        types: Types::Q2,
        mtp: Some(Types::MTP),
        seed,
    }
    .build()
}

/// The quantised oracle model of [`QUANT_SEED`], made through the same path as a file.
///
/// # Panics
/// Never: the model is our own.
pub fn quant() -> ModelFile {
    let gguf = quant_gguf(QUANT_SEED).expect("the oracle model fits into memory");
    ModelFile::new(gguf, None).expect("the oracle model is consistent")
}
