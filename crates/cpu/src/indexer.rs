//! The choice of compressed rows in indexed layers (§2.8).

use ds4_model::{Dims, INDEXED_RATIO, Numerics, Place, Stage};

use crate::batch::Part;
use crate::fp_sim::{f16_round_trip, fp4_round_trip, hadamard};
use crate::layer::Block;
use crate::rope::rotate;
use crate::scratch::{AttnScratch, Local, Scratch};
use crate::seq::{Rows, Seq};
use crate::step::Step;
use crate::{row_ops, vec_ops};

/// Rows that one unit of work scores when tokens are fewer than threads.
const ROWS_PER_UNIT: usize = 128;
/// Rows that all heads visit before the next ones: they stay in the first-level cache.
const TILE: usize = 16;

/// Whether any token has more rows than it may see; else all are chosen and nothing is scored.
/// An observer sees the scores in any case.
pub(crate) fn needed(step: &Step<'_>) -> bool {
    let top_k = step.model.dims.index_top_k;
    let rows = |part: &Part| Dims::n_comp(INDEXED_RATIO, part.end() - 1);
    step.observed() || step.batch.parts.iter().any(|part| rows(part) > top_k)
}

/// How an index row is stored.
pub(crate) fn round_row(numerics: Numerics, _rope_dim: usize, row: &mut [f32]) {
    if numerics.index_fp4 {
        hadamard(row);
        fp4_round_trip(row);
    }
    if numerics.kv_f16 {
        f16_round_trip(row);
    }
}

/// Writes the rows each token sees to `s.attn.chosen`, ascending; tokens with few rows are left
/// out.
pub(crate) fn choose(step: &mut Step<'_>, b: &Block<'_>, seqs: &[Seq], s: &mut Scratch) {
    let (dims, batch) = (&step.model.dims, step.batch);
    let AttnScratch { index_q, index_w, chosen, .. } = &mut s.attn;
    queries(step, index_q, index_w);
    let (index_q, index_w) = (&*index_q, &*index_w);
    let (per_q, heads) = (dims.n_index_head * dims.index_dim, dims.n_index_head);
    let query = |t: usize| Query {
        heads: &index_q[t * per_q..][..per_q],
        weights: &index_w[t * heads..][..heads],
        rows: Dims::n_comp(INDEXED_RATIO, batch.pos[t]),
    };
    let rows = |t: usize| index_rows(b, &seqs[batch.part(t).seq]);
    let top_k = dims.index_top_k;
    let chosen = &mut chosen[..batch.len() * top_k];
    if batch.len() >= step.pool.threads() {
        step.pool.for_chunks_with("indexer", &mut s.locals, chosen, top_k, |local, t, chosen| {
            let q = query(t);
            if q.rows > top_k {
                let scores = &mut local.scores[..q.rows];
                q.score(rows(t), 0, scores);
                select(scores, &mut local.keys, chosen);
            }
        });
    } else {
        let Local { scores, keys, .. } = &mut s.locals[0];
        for (t, chosen) in chosen.chunks_exact_mut(top_k).enumerate() {
            let q = query(t);
            if q.rows > top_k {
                let scores = &mut scores[..q.rows];
                step.pool.for_chunks("indexer", scores, ROWS_PER_UNIT, |i, scores| {
                    q.score(rows(t), i * ROWS_PER_UNIT, scores);
                });
                select(scores, keys, chosen);
            }
        }
    }
    if step.observed() {
        record(step, b.place, query, rows, chosen);
    }
}

/// Rotates and rounds the index queries; scales the heads' weights by `1/√(heads · dim)`.
fn queries(step: &Step<'_>, q: &mut [f32], w: &mut [f32]) {
    let (dims, batch) = (&step.model.dims, step.batch);
    let (heads, dim) = (dims.n_index_head, dims.index_dim);
    let q = &mut q[..batch.len() * heads * dim];
    let together = if heads.is_multiple_of(8) { 8 } else { heads };
    step.pool.for_chunks("indexer", q, together * dim, |i, q| {
        let turns = batch.turns(INDEXED_RATIO, i * together / heads);
        for head in q.chunks_exact_mut(dim) {
            rotate(head, turns);
            if step.model.numerics.index_fp4 {
                hadamard(head);
                fp4_round_trip(head);
            }
        }
    });
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the definition")]
    let scale = (1.0 / ((heads * dim) as f64).sqrt()) as f32;
    vec_ops::scale(&mut w[..batch.len() * heads], scale);
}

/// The sequence's index rows of this layer.
fn index_rows<'a>(b: &Block<'_>, seq: &'a Seq) -> &'a Rows {
    let Place::Layer(il) = b.place else { unreachable!("the MTP block has no indexer") };
    &seq.layers[il].index.as_ref().expect("an indexed layer").rows
}

/// One token's index query.
#[derive(Clone, Copy)]
struct Query<'a> {
    heads: &'a [f32],
    weights: &'a [f32],
    /// Rows visible to it.
    rows: usize,
}

impl Query<'_> {
    /// `score[w] = Σ_h weight[h]·max(0, q_h·k_w)` of rows `from..from + scores.len()`.
    fn score(&self, rows: &Rows, from: usize, scores: &mut [f32]) {
        for (first, scores) in (from..).step_by(TILE).zip(scores.chunks_mut(TILE)) {
            let mut tile: [&[f32]; TILE] = [&[]; TILE];
            let tile = &mut tile[..scores.len()];
            for (w, row) in (first..).zip(tile.iter_mut()) {
                *row = rows.row(w);
            }
            row_ops::relu_scores(self.heads, self.weights, tile, scores);
        }
    }
}

/// Numbers of the `chosen.len()` largest scores, ascending; of equal ones the lower number.
fn select(scores: &[f32], keys: &mut [u64], chosen: &mut [u32]) {
    let (n, k) = (scores.len(), chosen.len());
    debug_assert!(n > k);
    for ((w, score), key) in (0u32..).zip(scores).zip(keys.iter_mut()) {
        *key = u64::from(ascending(*score)) << 32 | u64::from(u32::MAX - w);
    }
    let (best, _, _) = keys[..n].select_nth_unstable_by(k, |a, b| b.cmp(a));
    for (c, key) in chosen.iter_mut().zip(best) {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is the row")]
        let low = *key as u32;
        *c = u32::MAX - low;
    }
    chosen.sort_unstable();
}

/// Unsigned numbers in the order of the floats; both zeros are one.
fn ascending(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Shows the observer every score and choice, also where all rows are chosen.
fn record<'a>(
    step: &mut Step<'_>,
    place: Place,
    query: impl Fn(usize) -> Query<'a>,
    rows: impl Fn(usize) -> &'a Rows,
    chosen: &[u32],
) {
    let top_k = step.model.dims.index_top_k;
    for part in &step.batch.parts {
        let seen = Dims::n_comp(INDEXED_RATIO, part.end() - 1);
        let mut scores = vec![f32::NEG_INFINITY; part.n * seen];
        let mut picks = vec![-1.0; part.n * top_k];
        for i in 0..part.n {
            let (t, q) = (part.start + i, query(part.start + i));
            q.score(rows(t), 0, &mut scores[i * seen..][..q.rows]);
            let own = &mut picks[i * top_k..][..top_k];
            let all = q.rows <= top_k;
            for (k, pick) in own.iter_mut().enumerate().take(q.rows) {
                *pick = if all { k as f32 } else { chosen[t * top_k + k] as f32 };
            }
        }
        let Some(probe) = step.probe.as_deref_mut() else { return };
        probe.record(place, Stage::IndexScores, part.pos0, &[part.n, seen], &scores);
        probe.record(place, Stage::IndexTopk, part.pos0, &[part.n, top_k], &picks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scores: &[f32], expected: &[u32]) {
        let mut chosen = vec![0; expected.len()];
        select(scores, &mut vec![0; scores.len()], &mut chosen);
        assert_eq!(chosen, expected, "{scores:?}");
    }

    #[test]
    fn the_largest_are_chosen_and_the_lower_row_wins_ties() {
        check(&[1.0, 3.0, 2.0, 4.0], &[1, 3]);
        check(&[-1.0, -3.0, -2.0, -4.0], &[0, 2]);
        check(&[0.0, -0.0, 0.0, -1.0], &[0, 1]);
        check(&[-0.0, 0.0, 5.0, 0.0, 0.0], &[0, 1, 2]);
        check(&[f32::NEG_INFINITY, -1.0, f32::MIN], &[1]);
    }

    #[test]
    fn many_random_scores_as_a_full_sort_orders_them() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((seed >> 60) as f32) - 8.0
        };
        for n in [2, 10, 100] {
            let scores: Vec<f32> = (0..n).map(|_| next()).collect();
            for k in 1..n {
                let mut order: Vec<u32> = (0..u32::try_from(n).unwrap()).collect();
                order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
                order.truncate(k);
                order.sort_unstable();
                check(&scores, &order);
            }
        }
    }
}
