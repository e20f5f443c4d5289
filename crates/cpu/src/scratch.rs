//! Buffers of a step, sized once for the largest step: a token allocates nothing.

use ds4_model::{Dims, INDEXED_RATIO};

use crate::acts::Acts;
use crate::matmul::Job;

/// Values of a step that pass from one part of a layer to the next. `t` counts tokens.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Hyper-connection state: `[t, n_hc · n_embd]`.
    pub streams: Acts,
    /// The state being made from it.
    pub next: Acts,
    /// Gates of the hyper-connection in use: `[t, hc_mix]`.
    pub mix: Vec<f32>,
    /// Sublayer input: `[t, n_embd]`.
    pub x: Acts,
    /// Sublayer output: `[t, n_embd]`.
    pub y: Vec<f32>,
    /// Of attention.
    pub attn: AttnScratch,
    /// Of the FFN.
    pub ffn: FfnScratch,
    /// Normed trunk states in front of the MTP block: `[t · n_hc, n_embd]`.
    pub hidden: Acts,
    /// One per thread.
    pub locals: Vec<Local>,
    /// Memory of job lists.
    pub jobs: Jobs,
}

/// Buffers of attention.
#[derive(Debug, Default)]
pub(crate) struct AttnScratch {
    /// Query's low-rank form: `[t, q_rank]`.
    pub qr: Acts,
    /// Queries, then attention's output in their place: `[t, n_head · head_dim]`.
    pub heads: Acts,
    /// Low-rank output: `[t, n_out_group · out_rank]`.
    pub low: Acts,
    /// Raw rows of the step: `[t, head_dim]`.
    pub raw: Vec<f32>,
    /// Compressor projections.
    pub comp: Projected,
    /// Index compressor projections.
    pub index: Projected,
    /// Index queries: `[t, n_index_head · index_dim]`.
    pub index_q: Vec<f32>,
    /// Weights of the index heads: `[t, n_index_head]`.
    pub index_w: Vec<f32>,
    /// Chosen compressed rows, ascending: `[t, index_top_k]`.
    pub chosen: Vec<u32>,
}

/// What a compressor projects from each token.
#[derive(Debug, Default)]
pub(crate) struct Projected {
    /// `kv_t`: `[t, lanes · dim]`.
    pub kv: Vec<f32>,
    /// `sc_t`: `[t, lanes · dim]`.
    pub score: Vec<f32>,
}

/// Buffers of the FFN. A slot is one (token, chosen expert) pair, sorted by expert.
#[derive(Debug, Default)]
pub(crate) struct FfnScratch {
    /// Router scores: `[t, n_expert]`.
    pub probs: Vec<f32>,
    /// Chosen experts: `[t, n_expert_used]`.
    pub ids: Vec<u16>,
    /// Their weights.
    pub weights: Vec<f32>,
    /// Slot of each choice: `[t, n_expert_used]`.
    pub slot_of: Vec<u32>,
    /// Token of each slot.
    pub token_of: Vec<u32>,
    /// Weight of each slot.
    pub weight_of: Vec<f32>,
    /// `0, 1, 2, …`: slots as rows of `mid`.
    pub slots: Vec<u32>,
    /// First slot of each expert and the end: `[n_expert + 1]`.
    pub first: Vec<u32>,
    /// Gate, then the activated product, of each slot: `[slots, n_ff]`.
    pub mid: Acts,
    /// Up projection of each slot: `[slots, n_ff]`.
    pub up: Vec<f32>,
    /// Expert outputs: `[slots, n_embd]`.
    pub down: Vec<f32>,
    /// The shared expert's gate, then its activated product: `[t, n_ff]`.
    pub shared_mid: Acts,
    /// The shared expert's up projection: `[t, n_ff]`.
    pub shared_up: Vec<f32>,
}

/// Private space of one thread.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// Scores of attention: `[heads, rows]`; of the indexer: `[rows]`.
    pub scores: Vec<f32>,
    /// Weighted sums: `[heads, head_dim]`; maxima and sums of a compressor: `[2, dim]`.
    pub sums: Vec<f32>,
    /// Sort keys of the indexer.
    pub keys: Vec<u64>,
    /// Cosines and sines of a compressed row.
    pub turns: Vec<f32>,
}

impl Scratch {
    /// Room for steps of `t` tokens on `threads` threads.
    pub(crate) fn new(dims: &Dims, t: usize, threads: usize) -> Self {
        let mut s = Self {
            mix: vec![0.0; t * dims.hc_mix()],
            y: vec![0.0; t * dims.n_embd],
            attn: AttnScratch::new(dims, t),
            ffn: FfnScratch::new(dims, t),
            ..Self::default()
        };
        s.locals.resize_with(threads, Local::default);
        s
    }

    /// Makes the threads' space large enough for sequences of `cap` tokens.
    pub(crate) fn fit(&mut self, dims: &Dims, cap: u32) {
        let comp = |ratio: &usize| (cap as usize).checked_div(*ratio).unwrap_or(0);
        let rows = dims.ratios.iter().map(comp).max().unwrap_or(0);
        let seen = |ratio: &usize| match *ratio {
            INDEXED_RATIO => comp(ratio).min(dims.index_top_k),
            _ => comp(ratio),
        };
        let seen = dims.window + dims.ratios.iter().map(seen).max().unwrap_or(0);
        let scores = (dims.n_head * seen).max(rows);
        let pooled = 2 * dims.head_dim.max(dims.index_dim);
        let sums = (dims.n_head * dims.head_dim).max(pooled);
        for local in &mut self.locals {
            grow(&mut local.scores, scores);
            grow(&mut local.sums, sums);
            grow(&mut local.keys, rows);
            grow(&mut local.turns, dims.rope_dim);
        }
    }
}

/// Upper bound of the buffers of steps of `t` tokens, in bytes, without what grows with a
/// sequence's length: memory beside the mapped file and the sequences.
pub fn step_bytes(dims: &Dims, t: usize) -> u64 {
    let comp = dims.ratios.iter().filter(|r| **r != 0).map(|r| Dims::comp_lanes(*r)).max();
    let indexed = dims.ratios.contains(&INDEXED_RATIO);
    let wide = dims.n_hc * dims.n_embd;
    let index = dims.n_index_head * (dims.index_dim + 1) + 4 * dims.index_dim + dims.index_top_k;
    let used = dims.n_expert_used;
    let plain = 2 * wide
        + dims.hc_mix()
        + dims.n_embd
        + dims.head_dim * (1 + 2 * comp.unwrap_or(0))
        + if indexed { index } else { 0 }
        + dims.n_expert
        + used * (dims.n_ff + dims.n_embd + 6)
        + dims.n_ff;
    // Activations have an f32 and up to two int8 forms with their scales.
    let quantised = dims.n_embd
        + dims.q_rank
        + dims.n_head * dims.head_dim
        + dims.n_out_group * dims.out_rank
        + (used + 1) * dims.n_ff
        + wide;
    (t * (4 * plain + 7 * quantised)) as u64
}

impl AttnScratch {
    fn new(dims: &Dims, t: usize) -> Self {
        let comp = dims.ratios.iter().filter(|r| **r != 0).map(|r| Dims::comp_lanes(*r)).max();
        let indexed = if dims.ratios.contains(&INDEXED_RATIO) { t } else { 0 };
        Self {
            raw: vec![0.0; t * dims.head_dim],
            comp: Projected::new(t * comp.unwrap_or(0) * dims.head_dim),
            index: Projected::new(indexed * Dims::comp_lanes(INDEXED_RATIO) * dims.index_dim),
            index_q: vec![0.0; indexed * dims.n_index_head * dims.index_dim],
            index_w: vec![0.0; indexed * dims.n_index_head],
            chosen: vec![0; indexed * dims.index_top_k],
            ..Self::default()
        }
    }
}

impl Projected {
    fn new(len: usize) -> Self {
        Self { kv: vec![0.0; len], score: vec![0.0; len] }
    }
}

impl FfnScratch {
    fn new(dims: &Dims, t: usize) -> Self {
        let slots = t * dims.n_expert_used;
        let last = u32::try_from(slots).expect("slots of a chunk are few");
        Self {
            probs: vec![0.0; t * dims.n_expert],
            ids: vec![0; slots],
            weights: vec![0.0; slots],
            slot_of: vec![0; slots],
            token_of: vec![0; slots],
            weight_of: vec![0.0; slots],
            slots: (0..last).collect(),
            first: vec![0; dims.n_expert + 1],
            up: vec![0.0; slots * dims.n_ff],
            down: vec![0.0; slots * dims.n_embd],
            shared_up: vec![0.0; t * dims.n_ff],
            ..Self::default()
        }
    }
}

/// The memory of a list of jobs, lent for one call at a time.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Vec<Job<'static>>);

impl Jobs {
    /// An empty list with room for the longest list so far.
    pub(crate) fn take<'a>(&mut self) -> Vec<Job<'a>> {
        std::mem::take(&mut self.0)
    }

    /// Takes the memory of a list back.
    pub(crate) fn give(&mut self, mut jobs: Vec<Job<'_>>) {
        jobs.clear();
        // Collecting from the list's own iterator keeps its memory; no element crosses over.
        self.0 = jobs.into_iter().map(|_| unreachable!("the list is empty")).collect();
    }
}

fn grow<T: Clone + Default>(v: &mut Vec<T>, len: usize) {
    if v.len() < len {
        v.resize(len, T::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_no_less_than_what_is_allocated_at_the_start() {
        let dims = ds4_model::shapes::flash();
        let s = Scratch::new(&dims, 8, 1);
        let floats = |v: &[&Vec<f32>]| v.iter().map(|v| 4 * v.capacity()).sum::<usize>();
        let (a, f) = (&s.attn, &s.ffn);
        let all = floats(&[&s.mix, &s.y, &a.raw, &a.comp.kv, &a.comp.score, &a.index.kv])
            + floats(&[&a.index.score, &a.index_q, &a.index_w, &f.probs, &f.weights])
            + floats(&[&f.up, &f.down, &f.shared_up]);
        assert!(all as u64 <= step_bytes(&dims, 8), "{all}");
        assert!(step_bytes(&dims, 512) < 600 << 20, "{}", step_bytes(&dims, 512));
    }

    #[test]
    fn one_head_leaves_room_for_the_compressor() {
        let dims = Dims { n_head: 1, ..ds4_model::shapes::flash() };
        let mut s = Scratch::new(&dims, 1, 1);
        s.fit(&dims, 100);
        assert!(s.locals[0].sums.len() >= 2 * dims.head_dim);
    }

    #[test]
    fn a_job_list_keeps_its_memory() {
        let mut jobs = Jobs::default();
        let mut list = jobs.take();
        list.reserve(100);
        let capacity = list.capacity();
        jobs.give(list);
        assert_eq!(jobs.take().capacity(), capacity);
    }
}
