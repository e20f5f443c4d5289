//! Header of a synthetic file: the metadata that describes a shape, and the directory.

use ds4_gguf::Value;
use ds4_gguf::write::Draft;

use super::Part;
use crate::metadata::{ARCH, full, key};
use crate::{Dims, Result};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Meta {
    U32(u32),
    #[cfg(test)]
    U64(u64),
    F32(f32),
    Bool(bool),
    Str(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Strs(Vec<String>),
}

/// The keys of §5.2 for a shape.
pub(crate) fn metadata(d: &Dims, name: &str) -> Vec<(String, Meta)> {
    let mut all = vec![
        ("general.architecture".to_owned(), Meta::Str(ARCH.to_owned())),
        ("general.name".to_owned(), Meta::Str(name.to_owned())),
    ];
    let mut put = |key: &str, value: Meta| all.push((full(key), value));
    for (key, n) in [
        (key::N_LAYER, d.n_layer),
        (key::CTX, d.ctx_max as usize),
        (key::N_EMBD, d.n_embd),
        (key::N_VOCAB, d.n_vocab),
        (key::N_HEAD, d.n_head),
        (key::N_HEAD_KV, 1),
        (key::HEAD_DIM, d.head_dim),
        (key::VALUE_DIM, d.head_dim),
        (key::ROPE_DIM, d.rope_dim),
        (key::Q_RANK, d.q_rank),
        (key::OUT_RANK, d.out_rank),
        (key::N_OUT_GROUP, d.n_out_group),
        (key::WINDOW, d.window),
        (key::N_INDEX_HEAD, d.n_index_head),
        (key::INDEX_DIM, d.index_dim),
        (key::INDEX_TOP_K, d.index_top_k),
        (key::YARN_CTX, d.yarn_ctx as usize),
        (key::N_EXPERT, d.n_expert),
        (key::N_EXPERT_USED, d.n_expert_used),
        (key::N_EXPERT_SHARED, 1),
        (key::N_FF, d.n_ff),
        (key::EXPERT_GATING, 4),
        (key::N_HASH_LAYER, d.n_hash_layer),
        (key::N_NEXTN, 1),
        (key::N_HC, d.n_hc),
        (key::SINKHORN, d.sinkhorn_iters),
    ] {
        put(key, Meta::U32(u32::try_from(n).expect("our own size")));
    }
    for (key, x) in [
        (key::ROPE_BASE_COMP, d.rope_base_comp),
        (key::RMS_EPS, d.rms_eps),
        (key::ROPE_BASE, d.rope_base),
        (key::YARN_FACTOR, d.yarn_factor),
        (key::YARN_BETA_FAST, d.yarn_beta_fast),
        (key::YARN_BETA_SLOW, d.yarn_beta_slow),
        (key::EXPERT_SCALE, d.expert_scale),
        (key::HC_EPS, d.hc_eps),
    ] {
        put(key, Meta::F32(x));
    }
    put(key::ROPE_SCALING, Meta::Str("yarn".to_owned()));
    put(key::EXPERT_NORM, Meta::Bool(true));
    put(key::CLAMP, Meta::F32s(d.swiglu_clamp.clone()));
    if d.swiglu_clamp_shared != d.swiglu_clamp {
        put(key::CLAMP_SHARED, Meta::F32s(d.swiglu_clamp_shared.clone()));
    }
    let ratio = |r: &usize| i32::try_from(*r).expect("our own size");
    // The last entry is the MTP block's.
    let ratios = d.ratios.iter().map(ratio).chain([0]).collect();
    put(key::RATIOS, Meta::I32s(ratios));
    all
}

/// A file's metadata and tensors, to be laid out.
pub(crate) fn draft(name: &str, meta: &[(String, Meta)], parts: &[Part]) -> Result<Draft> {
    let mut draft = Draft::new(name);
    for (key, value) in meta {
        match value {
            Meta::U32(n) => draft.set(key, Value::U32(*n))?,
            #[cfg(test)]
            Meta::U64(n) => draft.set(key, Value::U64(*n))?,
            Meta::F32(x) => draft.set(key, Value::F32(*x))?,
            Meta::Bool(b) => draft.set(key, Value::Bool(*b))?,
            Meta::Str(s) => draft.set(key, Value::Str(s))?,
            Meta::I32s(all) => draft.set_i32s(key, all),
            Meta::F32s(all) => draft.set_f32s(key, all),
            Meta::Strs(all) => draft.set_strs(key, all.iter().map(String::as_str)),
        }
    }
    for part in parts {
        draft.tensor(&part.spec.name, &part.spec.dims, part.ty)?;
    }
    Ok(draft)
}
