//! The multi-token-prediction block (§4): pairs of a trunk state and the token that follows it.
//!
//! The pair at position `p` is `(h_p, t_{p+1})` and its logits predict `t_{p+2}`; it is rotated as
//! position `p`. Rows of true pairs stand in the block's own ring up to the sequence's end. A
//! draft continues them beyond the end with its own states; those rows are overwritten by the
//! true ones before anyone reads them.

use ds4_model::{MtpWeights, Place, TokenId};

use crate::batch::Batch;
use crate::layer::{Block, block, hc_pre};
use crate::scratch::Scratch;
use crate::seq::Seq;
use crate::step::Step;
use crate::{attention, head, norm, vec_ops};

/// The MTP block as a layer: ratio 0, the last layer's clamps.
fn as_block<'a>(step: &Step<'a>, w: &'a MtpWeights) -> Block<'a> {
    let dims = &step.model.dims;
    let last = |clamps: &[f32]| *clamps.last().expect("checked by Dims: one per layer");
    Block {
        place: Place::Mtp,
        w: &w.block,
        ratio: 0,
        clamp: last(&dims.swiglu_clamp),
        clamp_shared: last(&dims.swiglu_clamp_shared),
    }
}

/// Appends to `pairs` the pairs that the step's tokens complete, as far as the rings reach back.
pub(crate) fn collect_pairs(step: &Step<'_>, seqs: &[Seq], pairs: &mut Batch) {
    pairs.clear();
    for part in &step.batch.parts {
        let Some(mtp) = &seqs[part.seq].mtp else { continue };
        let slots = u32::try_from(mtp.raw.slots()).expect("a ring is small");
        let end = part.end() - 1;
        let first = part.pos0.saturating_sub(1).max(end.saturating_sub(slots)).max(mtp.hidden_from);
        if first < end {
            let ids = &step.batch.ids[part.start..][..part.n];
            pairs.push(part.seq, first, &ids[(first + 1 - part.pos0) as usize..], 0);
        }
    }
    if pairs.len() > 0 {
        pairs.finish(step.model);
    }
}

/// After the trunk: remembers the final states of its tokens, and gives every pair they complete
/// its row. `trunk` is the batch that left its states in `s.streams`, `step` has the pairs.
pub(crate) fn catch_up(
    trunk: &Batch,
    step: &mut Step<'_>,
    w: &MtpWeights,
    seqs: &mut [Seq],
    s: &mut Scratch,
) {
    let (n, width) = (step.batch.len(), s.streams.cols());
    let dims = &step.model.dims;
    let hidden = s.hidden.rows_mut(n * dims.n_hc, dims.n_embd);
    for (i, h) in hidden.chunks_exact_mut(width).enumerate() {
        let (pos, seq) = (step.batch.pos[i], step.batch.part(i).seq);
        let part = trunk.parts.iter().find(|p| p.seq == seq).expect("a pair of this step");
        h.copy_from_slice(match pos.checked_sub(part.pos0) {
            Some(t) => s.streams.row(part.start + t as usize),
            None => seqs[seq].mtp.as_ref().expect("it has pairs").hidden.row(pos),
        });
    }
    for part in &trunk.parts {
        if let Some(mtp) = &mut seqs[part.seq].mtp {
            mtp.hidden.extend(part.pos0, part.rows(s.streams.rows(), width));
        }
    }
    if n == 0 {
        return;
    }
    let b = as_block(step, w);
    project_input(step, w, s);
    hc_pre(step, &b.w.hc_attn, &b.w.attn_norm, None, s);
    step.product(&b.w.kv, &mut s.x, &mut s.attn.raw[..n * b.w.kv.rows]);
    attention::raw_rows(step, &b, &mut s.attn);
    attention::store_raw_rows(step, Place::Mtp, seqs, &s.attn);
}

/// Runs the block over the step's pairs, whose states are in `s.hidden`; appends their logits. The
/// new states are left in `s.streams`.
pub(crate) fn run(
    step: &mut Step<'_>,
    w: &MtpWeights,
    seqs: &mut [Seq],
    s: &mut Scratch,
    logits: &mut Vec<f32>,
) {
    let b = as_block(step, w);
    project_input(step, w, s);
    block(step, &b, seqs, s);
    head::head(step, Place::Mtp, &w.hc_head, &w.norm, s, logits);
}

/// `X[i] = e_proj·(rms(E[tok])·enorm) + h_proj·(rms(h[i])·hnorm)` from `s.hidden` to
/// `s.streams` (§4 steps 1 and 2); `hnorm` acts on every stream for itself.
fn project_input(step: &Step<'_>, w: &MtpWeights, s: &mut Scratch) {
    let (dims, table) = (&step.model.dims, &step.model.weights.embd);
    let (n, embd, eps) = (step.batch.len(), dims.n_embd, dims.rms_eps);
    let x = s.x.rows_mut(n, embd);
    step.pool.for_chunks("embedding", x, embd, |t, x| {
        ds4_gguf::dequantize_row(table.ty, table.row(step.batch.ids[t].0 as usize), x);
        norm::rms_weighted(x, &w.enorm, eps);
    });
    step.product(&w.e_proj, &mut s.x, &mut s.y[..n * embd]);
    let (rows, width) = (n * dims.n_hc, dims.n_hc * embd);
    step.pool.for_chunks("norm", s.hidden.rows_mut(rows, embd), embd, |_, h| {
        norm::rms_weighted(h, &w.hnorm, eps);
    });
    step.product(&w.h_proj, &mut s.hidden, s.next.rows_mut(n, width));
    let y = &s.y;
    step.pool.for_chunks("hyper-connection", s.next.rows_mut(n, width), width, |t, streams| {
        for stream in streams.chunks_exact_mut(embd) {
            vec_ops::axpy(1.0, &y[t * embd..][..embd], stream);
        }
    });
    std::mem::swap(&mut s.streams, &mut s.next);
}

/// The id with the largest logit, the lower one on ties.
pub(crate) fn argmax(logits: &[f32]) -> TokenId {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    TokenId(u32::try_from(best).expect("a token id"))
}
