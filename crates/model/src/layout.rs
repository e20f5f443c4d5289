//! Which tensors a model has: one row per tensor with name, shape and what types it may have.
//!
//! Source: §5.3 (main file), §5.5 (MTP file). Nothing here reads a file.

use std::fmt;

use ds4_gguf::TensorType;

use crate::{Dims, INDEXED_RATIO};

/// Prefix of the MTP block's tensors.
pub(crate) const MTP: &str = "mtp.0";

/// One tensor as the architecture wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    /// GGUF name.
    pub(crate) name: String,
    /// GGUF dimensions, input first.
    pub(crate) dims: Vec<u64>,
    /// How it is stored and used.
    pub(crate) form: Form,
    /// What it is counted as.
    pub(crate) class: Class,
}

/// How a tensor is stored and used; decides which types it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// A dense matrix, used in the file's format.
    Matrix,
    /// A stack of expert matrices, used in the file's format.
    Experts,
    /// A few values, decoded to f32 when the model is loaded.
    Vector,
    /// Expert ids.
    Ids,
}

impl Form {
    /// The types such a tensor may have (§5.3, §5.7).
    pub(crate) const fn types(self) -> &'static [TensorType] {
        use TensorType::{Bf16, F16, F32, I32, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0};
        match self {
            Self::Matrix => &[F32, F16, Bf16, Q8_0],
            Self::Experts => &[F32, F16, Bf16, Q8_0, Q2K, Q4K, Iq2Xxs, Mxfp4],
            Self::Vector => &[F32, F16, Bf16],
            Self::Ids => &[I32],
        }
    }
}

/// The classes of §5.4, by which weights are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the labels below are the documentation")]
pub enum Class {
    Embedding,
    Attention,
    Compressor,
    Indexer,
    Hyper,
    Norm,
    Router,
    HashTable,
    Experts,
    Shared,
    Head,
    Mtp,
}

impl Class {
    /// Every class, in the order of a report.
    pub const ALL: [Self; 12] = [
        Self::Embedding,
        Self::Attention,
        Self::Compressor,
        Self::Indexer,
        Self::Hyper,
        Self::Norm,
        Self::Router,
        Self::HashTable,
        Self::Experts,
        Self::Shared,
        Self::Head,
        Self::Mtp,
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention projections",
            Self::Compressor => "compressors",
            Self::Indexer => "indexer",
            Self::Hyper => "hyper-connections",
            Self::Norm => "norms and sinks",
            Self::Router => "router",
            Self::HashTable => "hash routing tables",
            Self::Experts => "routed experts",
            Self::Shared => "shared experts",
            Self::Head => "output head",
            Self::Mtp => "MTP block",
        })
    }
}

/// The tensors of a main file.
pub(crate) fn trunk(dims: &Dims) -> Vec<TensorSpec> {
    let mut t = Table::default();
    let (e, v, hc) = (dims.n_embd, dims.n_vocab, dims.n_hc);
    t.row("token_embd.weight", &[e, v], Form::Matrix, Class::Embedding);
    t.row("output_hc_base.weight", &[hc], Form::Vector, Class::Hyper);
    t.row("output_hc_fn.weight", &[hc * e, hc], Form::Matrix, Class::Hyper);
    t.row("output_hc_scale.weight", &[1], Form::Vector, Class::Hyper);
    t.row("output_norm.weight", &[e], Form::Vector, Class::Norm);
    t.row("output.weight", &[e, v], Form::Matrix, Class::Head);
    for (l, ratio) in dims.ratios.iter().enumerate() {
        t.prefix = format!("blk.{l}.");
        block(&mut t, dims, *ratio, l < dims.n_hash_layer);
    }
    t.rows
}

/// The tensors of the MTP block, in a file of its own or beside the trunk.
pub(crate) fn mtp(dims: &Dims) -> Vec<TensorSpec> {
    let mut t = Table { prefix: format!("{MTP}."), rows: Vec::new() };
    let (e, hc) = (dims.n_embd, dims.n_hc);
    t.row("hc_head_base.weight", &[hc], Form::Vector, Class::Hyper);
    t.row("hc_head_fn.weight", &[hc * e, hc], Form::Matrix, Class::Hyper);
    t.row("hc_head_scale.weight", &[1], Form::Vector, Class::Hyper);
    t.row("e_proj.weight", &[e, e], Form::Matrix, Class::Mtp);
    t.row("h_proj.weight", &[e, e], Form::Matrix, Class::Mtp);
    for norm in ["enorm", "hnorm", "norm"] {
        t.row(&format!("{norm}.weight"), &[e], Form::Vector, Class::Norm);
    }
    block(&mut t, dims, 0, false);
    for row in &mut t.rows {
        row.class = Class::Mtp;
    }
    t.rows
}

/// Rows of one block, in the order of the published files.
fn block(t: &mut Table, dims: &Dims, ratio: usize, hash: bool) {
    hyper(t, dims, "attn");
    attention(t, dims);
    if ratio != 0 {
        compressor(t, dims, "attn_compressor", ratio, dims.head_dim, Class::Compressor);
    }
    if ratio == INDEXED_RATIO {
        let width = dims.n_index_head * dims.index_dim;
        let (q, e) = (dims.q_rank, dims.n_embd);
        t.row("indexer.attn_q_b.weight", &[q, width], Form::Matrix, Class::Indexer);
        t.row("indexer.proj.weight", &[e, dims.n_index_head], Form::Matrix, Class::Indexer);
        compressor(t, dims, "indexer_compressor", ratio, dims.index_dim, Class::Indexer);
    }
    hyper(t, dims, "ffn");
    ffn(t, dims, hash);
}

fn hyper(t: &mut Table, dims: &Dims, part: &str) {
    let (wide, mix) = (dims.n_hc * dims.n_embd, dims.hc_mix());
    t.row(&format!("hc_{part}_fn.weight"), &[wide, mix], Form::Matrix, Class::Hyper);
    t.row(&format!("hc_{part}_scale.weight"), &[3], Form::Vector, Class::Hyper);
    t.row(&format!("hc_{part}_base.weight"), &[mix], Form::Vector, Class::Hyper);
}

fn attention(t: &mut Table, dims: &Dims) {
    let (e, q, d) = (dims.n_embd, dims.q_rank, dims.head_dim);
    let heads = dims.n_head * d;
    let low = dims.n_out_group * dims.out_rank;
    t.row("attn_norm.weight", &[e], Form::Vector, Class::Norm);
    t.row("attn_q_a.weight", &[e, q], Form::Matrix, Class::Attention);
    t.row("attn_q_a_norm.weight", &[q], Form::Vector, Class::Norm);
    t.row("attn_q_b.weight", &[q, heads], Form::Matrix, Class::Attention);
    t.row("attn_kv.weight", &[e, d], Form::Matrix, Class::Attention);
    t.row("attn_kv_a_norm.weight", &[d], Form::Vector, Class::Norm);
    t.row("attn_sinks.weight", &[dims.n_head], Form::Vector, Class::Norm);
    let group = heads / dims.n_out_group;
    t.row("attn_output_a.weight", &[group, low], Form::Matrix, Class::Attention);
    t.row("attn_output_b.weight", &[low, e], Form::Matrix, Class::Attention);
}

fn compressor(t: &mut Table, dims: &Dims, name: &str, ratio: usize, dim: usize, class: Class) {
    let (e, width) = (dims.n_embd, Dims::comp_lanes(ratio) * dim);
    t.row(&format!("{name}_ape.weight"), &[width, ratio], Form::Vector, class);
    t.row(&format!("{name}_kv.weight"), &[e, width], Form::Matrix, class);
    t.row(&format!("{name}_gate.weight"), &[e, width], Form::Matrix, class);
    t.row(&format!("{name}_norm.weight"), &[dim], Form::Vector, Class::Norm);
}

fn ffn(t: &mut Table, dims: &Dims, hash: bool) {
    let (e, ff, n) = (dims.n_embd, dims.n_ff, dims.n_expert);
    t.row("ffn_norm.weight", &[e], Form::Vector, Class::Norm);
    t.row("ffn_gate_inp.weight", &[e, n], Form::Matrix, Class::Router);
    if hash {
        let table = [dims.n_expert_used, dims.n_vocab];
        t.row("ffn_gate_tid2eid.weight", &table, Form::Ids, Class::HashTable);
    } else {
        t.row("exp_probs_b.bias", &[n], Form::Vector, Class::Router);
    }
    t.row("ffn_gate_exps.weight", &[e, ff, n], Form::Experts, Class::Experts);
    t.row("ffn_up_exps.weight", &[e, ff, n], Form::Experts, Class::Experts);
    t.row("ffn_down_exps.weight", &[ff, e, n], Form::Experts, Class::Experts);
    t.row("ffn_gate_shexp.weight", &[e, ff], Form::Matrix, Class::Shared);
    t.row("ffn_up_shexp.weight", &[e, ff], Form::Matrix, Class::Shared);
    t.row("ffn_down_shexp.weight", &[ff, e], Form::Matrix, Class::Shared);
}

#[derive(Default)]
struct Table {
    prefix: String,
    rows: Vec<TensorSpec>,
}

impl Table {
    fn row(&mut self, name: &str, dims: &[usize], form: Form, class: Class) {
        self.rows.push(TensorSpec {
            name: format!("{}{name}", self.prefix),
            dims: dims.iter().map(|d| *d as u64).collect(),
            form,
            class,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::flash;

    #[test]
    fn published_counts() {
        assert_eq!(trunk(&flash()).len(), 1328);
        assert_eq!(mtp(&flash()).len(), 32);
    }

    #[test]
    fn names_are_unique() {
        let all: Vec<_> = trunk(&flash()).into_iter().chain(mtp(&flash())).collect();
        let names: std::collections::HashSet<_> = all.iter().map(|t| &t.name).collect();
        assert_eq!(names.len(), all.len());
    }
}
