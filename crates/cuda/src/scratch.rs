//! Buffers of a step on the device, sized once for the largest step: nothing is allocated while a
//! model runs. `t` counts tokens; layouts are row-major.

use std::sync::Arc;

use ds4_model::{Dims, Result};

use crate::constants::Constants;
use crate::device::{Buf, Device};
use crate::layer::TOPK_PARTS;

/// Tokens of a step up to which every product reads each weight once and nothing is sorted.
pub(crate) const FEW: usize = 16;
/// Rows of logits that are computed together.
pub(crate) const LOGIT_ROWS: usize = 64;
/// Parts into which the attention of one of few tokens may be cut.
pub(crate) const SPLITS_MAX: usize = 32;

/// f32 rows and the int8 forms that products read.
pub(crate) struct Acts {
    /// `[t, cols]` f32.
    pub f: Buf,
    /// `Q8_0` form: values and scales.
    pub q: Buf,
    pub d: Buf,
    /// Values of a row.
    pub cols: usize,
}

/// The `Q8_K` form of rows.
pub(crate) struct ActsK {
    pub q: Buf,
    pub d: Buf,
    pub sums: Buf,
}

/// All buffers.
pub(crate) struct Scratch {
    /// Tokens of the step, and the MTP pairs it completes.
    pub toks: Buf,
    pub pairs: Buf,
    /// Rows whose logits are wanted; rows of the step that pairs take their states from.
    pub wanted: Buf,
    pub from: Buf,
    /// `[kind, t, rope_dim]`.
    pub turns: Buf,
    pub pair_turns: Buf,
    /// Hyper-connection states, in turns: `[t, n_hc, n_embd]`.
    pub streams: [Buf; 2],
    pub part: Buf,
    pub gates: Buf,
    pub x: Acts,
    pub xk: ActsK,
    pub bare: Buf,
    pub qr: Acts,
    pub q: Buf,
    pub kv: Buf,
    pub raw: Buf,
    pub comp: [Buf; 2],
    pub index: [Buf; 2],
    pub index_q: Buf,
    pub index_q16: Buf,
    pub index_w: Buf,
    pub chosen: Buf,
    /// Choices of the blocks that share a token, and how many of these are done: zero between steps.
    pub top_parts: Buf,
    pub topped: Buf,
    pub heads: Acts,
    pub low: Acts,
    pub y: Buf,
    pub probs: Buf,
    pub ids: Buf,
    pub weights: Buf,
    pub mid: Buf,
    pub midk: ActsK,
    pub down: Buf,
    pub shared: [Buf; 2],
    pub shared_mid: Acts,
    pub first: Buf,
    pub token_of: Buf,
    pub weight_of: Buf,
    pub slot_of: Buf,
    pub tiles: Buf,
    pub n_tiles: Buf,
    /// Blocks of the router's product that are done: zero between steps.
    pub routed: Buf,
    pub split_o: Buf,
    pub split_ml: Buf,
    pub logits: Buf,
    pub picks: Buf,
    /// States of pairs, normed, `[t · n_hc, n_embd]`.
    pub hidden: Acts,
    pub pair_hidden: Buf,
}

/// Pairs of sequences that decode beside a prompt.
const MORE_PAIRS: usize = 64;

/// Most pairs that one step completes rows of: what the ring of a sequence holds, and some of others.
pub(crate) fn pairs_max(dims: &Dims, chunk: usize) -> usize {
    chunk.min(crate::seq::raw_slots(dims) + MORE_PAIRS).max(FEW)
}

impl Scratch {
    /// Buffers for steps of `t` tokens.
    #[expect(clippy::too_many_lines, reason = "one line per buffer")]
    pub(crate) fn new(
        device: &Arc<Device>,
        dims: &Dims,
        c: &Constants,
        t: usize,
        kinds: usize,
        with_mtp: bool,
    ) -> Result<Self> {
        let alloc = |n: usize, size: usize| device.alloc(n * size);
        let acts = |n: usize, cols: usize| {
            Ok::<_, ds4_model::Error>(Acts {
                f: alloc(n * cols, 4)?,
                q: alloc(n * cols, 1)?,
                d: alloc(n * cols / 32 + 1, 4)?,
                cols,
            })
        };
        let acts_k = |n: usize| {
            Ok::<_, ds4_model::Error>(ActsK {
                q: alloc(n, 1)?,
                d: alloc(n / 256 + 1, 4)?,
                sums: alloc(n / 16 + 1, 2)?,
            })
        };
        let wide = dims.n_hc * dims.n_embd;
        let all_heads = dims.n_head * dims.head_dim;
        let slots = t * dims.n_expert_used;
        let pairs = if with_mtp { pairs_max(dims, t) } else { 0 };
        let lanes = 2 * dims.head_dim;
        let few = FEW.min(t);
        let tiles = slots / c.expert_tile + dims.n_expert + 1;
        Ok(Self {
            toks: alloc(t, 32)?,
            pairs: alloc(pairs.max(1), 32)?,
            wanted: alloc(t, 4)?,
            from: alloc(pairs.max(1), 4)?,
            turns: alloc(kinds * t * dims.rope_dim, 4)?,
            pair_turns: alloc(kinds * pairs * dims.rope_dim, 4)?,
            streams: [alloc(t * wide, 4)?, alloc(t * wide, 4)?],
            part: alloc(t.max(pairs) * c.hc_slices * c.hc_part, 4)?,
            gates: alloc(t.max(pairs) * dims.hc_mix(), 4)?,
            x: acts(t, dims.n_embd)?,
            xk: acts_k(t * dims.n_embd)?,
            bare: alloc(t * dims.n_embd, 4)?,
            qr: acts(t, dims.q_rank)?,
            q: alloc(t * all_heads, 4)?,
            kv: alloc(t * dims.head_dim, 4)?,
            raw: alloc(t, c.rows.kv.bytes(dims.head_dim))?,
            comp: [alloc(t * lanes, 4)?, alloc(t * lanes, 4)?],
            index: [alloc(t * 2 * dims.index_dim, 4)?, alloc(t * 2 * dims.index_dim, 4)?],
            index_q: alloc(t * dims.n_index_head * dims.index_dim, 4)?,
            index_q16: alloc(t * dims.n_index_head * dims.index_dim, 2)?,
            index_w: alloc(t * dims.n_index_head, 4)?,
            chosen: alloc(t * dims.index_top_k, 4)?,
            top_parts: alloc(few * TOPK_PARTS * dims.index_top_k, 8)?,
            topped: alloc(few, 4)?,
            heads: acts(t, all_heads)?,
            low: acts(t, dims.n_out_group * dims.out_rank)?,
            y: alloc(t * dims.n_embd, 4)?,
            probs: alloc(t * dims.n_expert, 4)?,
            ids: alloc(slots, 4)?,
            weights: alloc(slots, 4)?,
            mid: alloc(slots * dims.n_ff, 4)?,
            midk: acts_k(slots * dims.n_ff)?,
            down: alloc(if t > FEW { slots * dims.n_embd } else { 0 }, 4)?,
            shared: [alloc(t * dims.n_ff, 4)?, alloc(t * dims.n_ff, 4)?],
            shared_mid: acts(t, dims.n_ff)?,
            first: alloc(dims.n_expert + 1, 4)?,
            token_of: alloc(slots, 4)?,
            weight_of: alloc(slots, 4)?,
            slot_of: alloc(slots, 4)?,
            tiles: alloc(tiles, 8)?,
            n_tiles: alloc(1, 4)?,
            routed: alloc(1, 4)?,
            split_o: alloc(few * SPLITS_MAX * all_heads, 4)?,
            split_ml: alloc(few * SPLITS_MAX * dims.n_head * 2, 4)?,
            logits: alloc(LOGIT_ROWS.min(t.max(FEW)) * dims.n_vocab, 4)?,
            picks: alloc(FEW, 4)?,
            hidden: acts(pairs * dims.n_hc, dims.n_embd)?,
            pair_hidden: alloc(pairs * wide, 4)?,
        })
    }
}

/// Bytes of [`Scratch::new`] for steps of `t` tokens, roughly: what a plan counts with.
pub(crate) fn step_bytes(dims: &Dims, t: usize) -> u64 {
    let all_heads = dims.n_head * dims.head_dim;
    let per_token = 4 * (2 * dims.n_hc * dims.n_embd + 4 * dims.n_embd)
        + 4 * all_heads
        + 6 * all_heads
        + 6 * dims.n_out_group * dims.out_rank
        + 4 * (4 * dims.head_dim + 4 * dims.index_dim)
        + 6 * dims.n_index_head * dims.index_dim
        + dims.n_expert_used * (6 * dims.n_ff + 4 * dims.n_embd)
        + 14 * dims.n_ff;
    (t * per_token + LOGIT_ROWS * dims.n_vocab * 4) as u64 + (64 << 20)
}
