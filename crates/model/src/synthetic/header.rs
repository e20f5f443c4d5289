//! Header of a synthetic file: the metadata that describes a shape, and the directory.

use std::ops::Range;

use ds4_gguf::ValueType;

use super::{Part, spec_bytes};
use crate::Dims;
use crate::metadata::{ARCH, full, key};

/// Alignment of every tensor.
const ALIGNMENT: usize = 32;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Meta {
    U32(u32),
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

/// The file's bytes up to the data, and where each part lies in the file.
pub(crate) fn header(meta: &[(String, Meta)], parts: &[Part]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((parts.len() as u64).to_le_bytes());
    out.extend((meta.len() as u64).to_le_bytes());
    for (key, value) in meta {
        string(&mut out, key);
        put(&mut out, value);
    }
    let mut offset = 0;
    let mut ranges = Vec::with_capacity(parts.len());
    for part in parts {
        string(&mut out, &part.spec.name);
        out.extend(u32::try_from(part.spec.dims.len()).expect("at most 3").to_le_bytes());
        part.spec.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(part.ty.id().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        let len = spec_bytes(&part.spec, part.ty);
        ranges.push(offset..offset + len);
        offset = (offset + len).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    let start = out.len();
    (out, ranges.into_iter().map(|r| r.start + start..r.end + start).collect())
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Meta) {
    let ty = |out: &mut Vec<u8>, ty: ValueType| out.extend(ty.id().to_le_bytes());
    let array = |out: &mut Vec<u8>, elem: ValueType, n: usize| {
        out.extend(ValueType::Array.id().to_le_bytes());
        out.extend(elem.id().to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    };
    match value {
        Meta::U32(n) => {
            ty(out, ValueType::U32);
            out.extend(n.to_le_bytes());
        }
        Meta::F32(x) => {
            ty(out, ValueType::F32);
            out.extend(x.to_le_bytes());
        }
        Meta::Bool(b) => {
            ty(out, ValueType::Bool);
            out.push(u8::from(*b));
        }
        Meta::Str(s) => {
            ty(out, ValueType::Str);
            string(out, s);
        }
        Meta::I32s(all) => {
            array(out, ValueType::I32, all.len());
            all.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::F32s(all) => {
            array(out, ValueType::F32, all.len());
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Meta::Strs(all) => {
            array(out, ValueType::Str, all.len());
            all.iter().for_each(|s| string(out, s));
        }
    }
}
