//! Compressed rows: windows of tokens pooled channel by channel (§2.7).

use ds4_model::{CompressorWeights, Dims, INDEXED_RATIO};

use crate::norm;
use crate::rope::rotate;
use crate::scratch::{Local, Projected};
use crate::seq::{CompState, Recent};
use crate::step::Step;
use crate::{batch::Part, vec_ops};

/// What happens to a row after norm and rotation.
pub(crate) type Finish = fn(ds4_model::Numerics, rope_dim: usize, row: &mut [f32]);

/// Adds the position-in-window bias to the scores of the step's tokens.
pub(crate) fn add_ape(step: &Step<'_>, ape: &[f32], width: usize, p: &mut Projected) {
    let ratio = ape.len() / width;
    let batch = step.batch;
    step.pool.for_chunks("compressor", &mut p.score[..batch.len() * width], width, |t, score| {
        let row = batch.pos[t] as usize % ratio;
        vec_ops::axpy(1.0, &ape[row * width..][..width], score);
    });
}

/// Takes the tokens of one part into `state` and completes the rows whose last token is among
/// them; returns the number of the first new row.
pub(crate) fn compress(
    step: &Step<'_>,
    w: &CompressorWeights,
    state: &mut CompState,
    part: &Part,
    p: &Projected,
    finish: Finish,
    locals: &mut [Local],
) -> usize {
    let dims = &step.model.dims;
    let CompState { ratio, kv, score, rows } = state;
    let (ratio, width, dim) = (*ratio, kv.width(), rows.width());
    let (chunk_kv, chunk_score) = (part.rows(&p.kv, width), part.rows(&p.score, width));
    let kvs = Recent { ring: kv, chunk: chunk_kv, pos0: part.pos0 };
    let scores = Recent { ring: score, chunk: chunk_score, pos0: part.pos0 };
    let first = rows.len();
    debug_assert_eq!(first, part.pos0 as usize / ratio);
    let new = rows.grow(part.end() as usize / ratio);
    let rope = step.model.rope(ratio);
    step.pool.for_chunks_with("compressor", locals, new, dim, |local, i, row| {
        let start = u32::try_from((first + i) * ratio).expect("a position of the sequence");
        pool_window(row, kvs, scores, start, ratio, &mut local.sums);
        norm::rms_weighted(row, &w.norm, dims.rms_eps);
        let turns = &mut local.turns[..dims.rope_dim];
        rope.turns(start, turns);
        rotate(row, turns);
        finish(step.model.numerics, dims.rope_dim, row);
    });
    kv.extend(part.pos0, chunk_kv);
    score.extend(part.pos0, chunk_score);
    first
}

/// `row[j] = Σ softmax(sc[j])·kv[j]` over the window that starts at position `start`. With
/// overlap, lane A of the previous window's tokens and lane B of this window's take part.
fn pool_window(
    row: &mut [f32],
    kv: Recent<'_>,
    score: Recent<'_>,
    start: u32,
    ratio: usize,
    space: &mut [f32],
) {
    let dim = row.len();
    let n = u32::try_from(ratio).expect("checked by Dims");
    let overlap = Dims::comp_lanes(ratio) == 2;
    debug_assert!(overlap == (ratio == INDEXED_RATIO));
    let from = if overlap && start > 0 { start - n } else { start };
    // Channels of lane A for tokens before the window, of the last lane for its own.
    let lane = |pos: u32| if overlap && pos >= start { dim..2 * dim } else { 0..dim };
    let (max, sum) = space[..2 * dim].split_at_mut(dim);
    max.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    row.fill(0.0);
    for pos in from..start + n {
        vec_ops::max_each(max, &score.row(pos)[lane(pos)]);
    }
    for pos in from..start + n {
        let (score, kv) = (&score.row(pos)[lane(pos)], &kv.row(pos)[lane(pos)]);
        vec_ops::softmax_term(row, sum, max, score, kv);
    }
    for (v, sum) in row.iter_mut().zip(sum) {
        *v /= *sum;
    }
}
