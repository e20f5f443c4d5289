//! TINY, the smallest model with every kind of layer (§8.2): weights are functions of their names,
//! so the model is made where it is needed and only its goldens are kept as a file.

use ds4_gguf::{Gguf, TensorType};

use crate::layout::{self, Form};
use crate::synthetic::{self, GAMMA, Part, Types, fnv, mix};
use crate::{Dims, ModelFile, Result, shapes};

/// TINY as a checked model with its MTP block, made through the same path as a file.
///
/// # Panics
/// Never: the model is our own.
pub fn tiny() -> ModelFile {
    ModelFile::new(tiny_gguf().expect("TINY fits into memory"), None).expect("TINY is consistent")
}

/// The numbers of TINY; ratio 8 plays the part of 128.
pub fn tiny_dims() -> Dims {
    Dims {
        n_layer: 6,
        n_embd: 96,
        n_vocab: 64,
        n_head: 4,
        head_dim: 144,
        rope_dim: 16,
        q_rank: 48,
        n_out_group: 2,
        out_rank: 24,
        window: 8,
        ratios: vec![0, 0, 4, 8, 4, 8],
        n_index_head: 4,
        index_dim: 64,
        index_top_k: 3,
        n_expert: 8,
        n_expert_used: 2,
        n_ff: 64,
        yarn_ctx: 64,
        ..shapes::flash_with(6)
    }
}

/// TINY as a file in memory, all tensors in f32.
pub fn tiny_gguf() -> Result<Gguf> {
    let dims = tiny_dims();
    let specs = layout::trunk(&dims).into_iter().chain(layout::mtp(&dims)).collect();
    let meta = synthetic::metadata(&dims, "TINY");
    synthetic::build("TINY", &meta, &synthetic::parts(specs, Types::F32), |part, chunk, out| {
        assert_eq!(chunk, 0, "every tensor of TINY is one chunk");
        let values = tensor(&dims, part);
        let (bytes, _) = out.as_chunks_mut::<4>();
        assert_eq!(values.len(), bytes.len(), "{}", part.spec.name);
        bytes.iter_mut().zip(values).for_each(|(b, v)| *b = v);
    })
}

/// The values of a tensor, as stored.
fn tensor(dims: &Dims, part: &Part) -> Vec<[u8; 4]> {
    let name = &part.spec.name;
    let (prefix, suffix) = split(name);
    if part.ty == TensorType::I32 {
        let layer: usize = prefix.trim_matches(['L', '.']).parse().expect("only trunk layers");
        return hash_table(dims, layer);
    }
    let sizes: Vec<usize> =
        part.spec.dims.iter().map(|d| usize::try_from(*d).expect("small")).collect();
    let n = sizes.iter().take(2).product();
    let input = sizes[0] as f64;
    let values = match recipe(suffix) {
        (their, Kind::Near(offset, scale)) => noise(&format!("{prefix}{their}"), n, offset, scale),
        (their, Kind::Linear(gain)) => {
            let scale = gain * (3.0 / input).sqrt();
            // Experts have their own name each.
            let names: Vec<String> = match part.spec.form {
                Form::Experts => (0..sizes[2]).map(|e| format!("{prefix}{their}.{e}")).collect(),
                _ => vec![format!("{prefix}{their}")],
            };
            names.iter().flat_map(|name| noise(name, n, 0.0, scale)).collect()
        }
    };
    values.into_iter().map(f32::to_le_bytes).collect()
}

/// How a tensor is drawn.
enum Kind {
    /// `offset ± scale`.
    Near(f32, f64),
    /// A matrix with this gain.
    Linear(f64),
}

/// Prefix of the reference's name, and our name within the block.
fn split(name: &str) -> (String, &str) {
    if let Some(rest) = name.strip_prefix("mtp.0.") {
        return ("mtp.".to_owned(), rest);
    }
    match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, rest)) => (format!("L{layer}."), rest),
        None => (String::new(), name),
    }
}

/// Our name to the reference's name and its distribution.
fn recipe(suffix: &str) -> (&'static str, Kind) {
    const NORM: Kind = Kind::Near(1.0, 0.2);
    const LINEAR: Kind = Kind::Linear(1.0);
    let name = suffix.rsplit_once('.').map_or(suffix, |(name, _)| name);
    match name {
        "token_embd" => ("embed", Kind::Near(0.0, 1.5)),
        "output_norm" | "norm" => ("norm", NORM),
        "output" => ("head", LINEAR),
        "output_hc_fn" | "hc_head_fn" => ("hh_fn", LINEAR),
        "output_hc_scale" | "hc_head_scale" => ("hh_scale", Kind::Near(1.0, 0.5)),
        "output_hc_base" | "hc_head_base" => ("hh_base", Kind::Near(0.0, 1.0)),
        "hc_attn_fn" => ("hca_fn", Kind::Linear(2.0)),
        "hc_attn_scale" => ("hca_scale", Kind::Near(1.0, 0.5)),
        "hc_attn_base" => ("hca_base", Kind::Near(0.0, 1.0)),
        "hc_ffn_fn" => ("hcf_fn", Kind::Linear(2.0)),
        "hc_ffn_scale" => ("hcf_scale", Kind::Near(1.0, 0.5)),
        "hc_ffn_base" => ("hcf_base", Kind::Near(0.0, 1.0)),
        "attn_norm" => ("attn_norm", NORM),
        "ffn_norm" => ("ffn_norm", NORM),
        "attn_q_a" => ("wq_a", LINEAR),
        "attn_q_a_norm" => ("q_norm", NORM),
        "attn_q_b" => ("wq_b", LINEAR),
        "attn_kv" => ("wkv", LINEAR),
        "attn_kv_a_norm" => ("kv_norm", NORM),
        "attn_sinks" => ("sink", Kind::Near(0.0, 1.0)),
        "attn_output_a" => ("wo_a", LINEAR),
        "attn_output_b" => ("wo_b", LINEAR),
        "attn_compressor_kv" => ("comp.wkv", LINEAR),
        "attn_compressor_gate" => ("comp.wgate", Kind::Linear(2.0)),
        "attn_compressor_ape" => ("comp.ape", Kind::Near(0.0, 1.0)),
        "attn_compressor_norm" => ("comp.norm", NORM),
        "indexer.attn_q_b" => ("iwq_b", LINEAR),
        "indexer.proj" => ("iproj", LINEAR),
        "indexer_compressor_kv" => ("icomp.wkv", LINEAR),
        "indexer_compressor_gate" => ("icomp.wgate", Kind::Linear(2.0)),
        "indexer_compressor_ape" => ("icomp.ape", Kind::Near(0.0, 1.0)),
        "indexer_compressor_norm" => ("icomp.norm", NORM),
        "ffn_gate_inp" => ("gate", LINEAR),
        "exp_probs_b" => ("gbias", Kind::Near(0.0, 0.3)),
        "ffn_gate_exps" => ("w1", Kind::Linear(8.0)),
        "ffn_up_exps" => ("w3", Kind::Linear(8.0)),
        "ffn_down_exps" => ("w2", LINEAR),
        "ffn_gate_shexp" => ("s1", Kind::Linear(8.0)),
        "ffn_up_shexp" => ("s3", Kind::Linear(8.0)),
        "ffn_down_shexp" => ("s2", LINEAR),
        "e_proj" => ("e_proj", LINEAR),
        "h_proj" => ("h_proj", LINEAR),
        "enorm" => ("enorm", NORM),
        "hnorm" => ("hnorm", NORM),
        other => panic!("TINY has no recipe for {other}"),
    }
}

/// `n` values of the tensor with the reference's name `name`.
fn noise(name: &str, n: usize, offset: f32, scale: f64) -> Vec<f32> {
    let seed = fnv(name);
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the definition")]
    let scale = scale as f32;
    let value = |i: u64| {
        let z = mix(seed.wrapping_add((i + 1).wrapping_mul(GAMMA)));
        // 2u − 1 of a 24-bit u: exact in f32.
        let u = ((z >> 40) as f32 - 8_388_608.0) / 8_388_608.0;
        offset + u * scale
    };
    (0..n as u64).map(value).collect()
}

/// `tid2eid[t][k] = (5t + 3k + layer) mod 8`.
fn hash_table(dims: &Dims, layer: usize) -> Vec<[u8; 4]> {
    let id = |t: usize, k: usize| {
        u32::try_from((5 * t + 3 * k + layer) % dims.n_expert).expect("small").to_le_bytes()
    };
    (0..dims.n_vocab).flat_map(|t| (0..dims.n_expert_used).map(move |k| id(t, k))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::excessive_precision, reason = "as published")]
    fn probe_values_are_the_published_ones() {
        let model = tiny();
        assert!(model.has_mtp());
        assert_eq!(model.dims, tiny_dims());
        let embd = model.weights.embd.to_f32();
        assert_eq!(embd[..3], [0.735_228_72, 0.904_284_06, -0.470_243_81]);
        let ape = &model.weights.layers[2].comp.as_ref().unwrap().ape;
        assert_eq!(ape[..3], [0.317_720_89, 0.189_988_73, -0.289_902_45]);
    }
}
