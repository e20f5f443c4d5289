//! Attention over raw rows of the window and compressed rows, with sinks (§2.6).

use ds4_model::{Dims, INDEXED_RATIO, IndexerWeights, Numerics, Place, Stage};

use crate::acts::ActForm;
use crate::compressor::{add_ape, compress};
use crate::fp_sim::{f16_round_trip, fp8_round_trip};
use crate::layer::Block;
use crate::matmul::matmul;
use crate::rope::{rotate, rotate_back};
use crate::scratch::{AttnScratch, Local, Scratch};
use crate::seq::{Recent, Rows, Seq};
use crate::step::Step;
use crate::{indexer, norm, row_ops, vec_ops};

/// Rows that all heads of a unit visit before the next ones: few enough for the second-level cache.
const TILE: usize = 64;

/// The attention sublayer: `s.x` in, `s.y` out; every sequence's state grows by its tokens.
pub(crate) fn attention(step: &mut Step<'_>, b: &Block<'_>, seqs: &mut [Seq], s: &mut Scratch) {
    let indexed = b.ratio == INDEXED_RATIO && indexer::needed(step);
    project(step, b, indexed, s);
    raw_rows(step, b, &mut s.attn);
    step.record(b.place, Stage::KvRaw, &[step.model.dims.head_dim], &s.attn.raw);
    compressed_rows(step, b, seqs, s);
    if indexed {
        indexer::choose(step, b, seqs, s);
    }
    heads(step, b, seqs, s);
    store_raw_rows(step, b.place, seqs, &s.attn);
    output(step, b, s);
}

/// Every product with the sublayer's input, then those with the query's low-rank form.
fn project(step: &Step<'_>, b: &Block<'_>, indexed: bool, s: &mut Scratch) {
    let (dims, w, t) = (&step.model.dims, b.w, step.batch.len());
    let a = &mut s.attn;
    let of = |m: &ds4_model::Matrix| t * m.rows;
    let comp = w.comp.as_ref();
    let index = w.indexer.as_ref();
    let comps = comp.into_iter().chain(index.map(|i| &i.comp));
    let inputs = comps.flat_map(|c| [&c.kv, &c.gate]).chain(index.map(|i| &i.proj));
    step.prepare(&mut s.x, inputs.chain([&w.q_a, &w.kv]));
    let mut jobs = s.jobs.take();
    let x = &s.x;
    jobs.push(step.job(&w.q_a, x, a.qr.rows_mut(t, dims.q_rank)));
    jobs.push(step.job(&w.kv, x, &mut a.raw[..of(&w.kv)]));
    if let Some(c) = comp {
        jobs.push(step.job(&c.kv, x, &mut a.comp.kv[..of(&c.kv)]));
        jobs.push(step.job(&c.gate, x, &mut a.comp.score[..of(&c.gate)]));
    }
    if let Some(i) = index {
        jobs.push(step.job(&i.comp.kv, x, &mut a.index.kv[..of(&i.comp.kv)]));
        jobs.push(step.job(&i.comp.gate, x, &mut a.index.score[..of(&i.comp.gate)]));
        if indexed {
            jobs.push(step.job(&i.proj, x, &mut a.index_w[..of(&i.proj)]));
        }
    }
    matmul(step.pool, &mut jobs);
    s.jobs.give(jobs);

    let (rank, eps) = (dims.q_rank, dims.rms_eps);
    step.pool.for_chunks("norm", a.qr.rows_mut(t, rank), rank, |_, qr| {
        norm::rms_weighted(qr, &w.q_a_norm, eps);
    });
    step.prepare(&mut a.qr, [&w.q_b].into_iter().chain(index.map(|i| &i.q_b)));
    let mut jobs = s.jobs.take();
    // Rows of one output group each, so that the group's product finds its input whole.
    let group = dims.n_head * dims.head_dim / dims.n_out_group;
    jobs.push(step.job(&w.q_b, &a.qr, a.heads.rows_mut(t * dims.n_out_group, group)));
    if let (Some(i), true) = (index, indexed) {
        jobs.push(step.job(&i.q_b, &a.qr, &mut a.index_q[..of(&i.q_b)]));
    }
    matmul(step.pool, &mut jobs);
    s.jobs.give(jobs);
}

/// The tokens' own rows: norm, rotation, storage rounding, in this order.
pub(crate) fn raw_rows(step: &Step<'_>, b: &Block<'_>, a: &mut AttnScratch) {
    let (model, batch) = (step.model, step.batch);
    let (dim, eps) = (model.dims.head_dim, model.dims.rms_eps);
    step.pool.for_chunks("raw rows", &mut a.raw[..batch.len() * dim], dim, |t, row| {
        norm::rms_weighted(row, &b.w.kv_norm, eps);
        rotate(row, batch.turns(b.ratio, t));
        round_row(model.numerics, model.dims.rope_dim, row);
    });
}

/// How an attention row is stored: all but the rotated channels on the E4M3 grid, then f16.
fn round_row(numerics: Numerics, rope_dim: usize, row: &mut [f32]) {
    if numerics.kv_fp8 {
        let plain = row.len() - rope_dim;
        fp8_round_trip(&mut row[..plain]);
    }
    if numerics.kv_f16 {
        f16_round_trip(row);
    }
}

/// Runs the layer's compressors: a row completed by a token is visible to it.
fn compressed_rows(step: &mut Step<'_>, b: &Block<'_>, seqs: &mut [Seq], s: &mut Scratch) {
    let (Some(w), Place::Layer(il)) = (&b.w.comp, b.place) else { return };
    let AttnScratch { comp, index, .. } = &mut s.attn;
    add_ape(step, &w.ape, w.kv.rows, comp);
    for part in &step.batch.parts {
        let state = seqs[part.seq].layers[il].comp.as_mut().expect("a compressed layer");
        let first = compress(step, w, state, part, comp, round_row, &mut s.locals);
        let rows = &state.rows;
        step.record_rows(b.place, Stage::CompRows, part.pos0, rows.width(), rows.tail(first));
    }
    let Some(IndexerWeights { comp: w, .. }) = &b.w.indexer else { return };
    add_ape(step, &w.ape, w.kv.rows, index);
    for part in &step.batch.parts {
        let state = seqs[part.seq].layers[il].index.as_mut().expect("an indexed layer");
        let first = compress(step, w, state, part, index, indexer::round_row, &mut s.locals);
        let rows = &state.rows;
        step.record_rows(b.place, Stage::IndexRows, part.pos0, rows.width(), rows.tail(first));
    }
}

/// Keeps the step's raw rows for later steps.
pub(crate) fn store_raw_rows(step: &Step<'_>, place: Place, seqs: &mut [Seq], a: &AttnScratch) {
    for part in &step.batch.parts {
        let ring = seqs[part.seq].raw_mut(place);
        ring.extend(part.pos0, part.rows(&a.raw, ring.width()));
    }
}

/// Attention of every head of every token; queries are replaced by outputs.
fn heads(step: &Step<'_>, b: &Block<'_>, seqs: &[Seq], s: &mut Scratch) {
    let (dims, batch) = (&step.model.dims, step.batch);
    let AttnScratch { heads, raw, chosen, .. } = &mut s.attn;
    let (raw, chosen) = (&*raw, &*chosen);
    let block = heads_per_unit(dims.n_head, batch.len(), step.pool.threads());
    let units = dims.n_head / block;
    let (n, width) = (heads.n(), heads.cols());
    let all = heads.rows_mut(n, width);
    step.pool.for_chunks_with(
        "attention",
        &mut s.locals,
        all,
        block * dims.head_dim,
        |local, i, q| {
            let (t, first) = (i / units, i % units * block);
            let part = batch.part(t);
            let seq = &seqs[part.seq];
            let chunk = part.rows(raw, dims.head_dim);
            let pos = batch.pos[t];
            let seen = Seen {
                raw: Recent { ring: seq.raw(b.place), chunk, pos0: part.pos0 },
                from: first_seen(dims, b.place, seq, pos),
                pos,
                comp: comp_rows(b, seq),
                chosen: chosen_rows(dims, b.ratio, pos, t, chosen),
            };
            let turns = batch.turns(b.ratio, t);
            for head in q.chunks_exact_mut(dims.head_dim) {
                norm::rms(head, dims.rms_eps);
                rotate(head, turns);
            }
            attend(q, &b.w.sinks[first..first + block], &seen, local);
            for head in q.chunks_exact_mut(dims.head_dim) {
                rotate_back(head, turns);
            }
        },
    );
}

/// Heads that one unit of work takes together: all of a token, fewer when tokens are few.
fn heads_per_unit(n_head: usize, tokens: usize, threads: usize) -> usize {
    let mut block = n_head;
    while block.is_multiple_of(2) && tokens * (n_head / block) < threads {
        block /= 2;
    }
    block
}

/// First raw row in the window of the token at `pos`.
fn first_seen(dims: &Dims, place: Place, seq: &Seq, pos: u32) -> u32 {
    let window = u32::try_from(dims.window).expect("checked by Dims");
    let from = (pos + 1).saturating_sub(window);
    match (place, &seq.mtp) {
        (Place::Mtp, Some(mtp)) => from.max(mtp.pairs_from),
        _ => from,
    }
}

/// The sequence's compressed rows of this layer.
fn comp_rows<'a>(b: &Block<'_>, seq: &'a Seq) -> Option<&'a Rows> {
    let Place::Layer(il) = b.place else { return None };
    seq.layers[il].comp.as_ref().map(|c| &c.rows)
}

/// Which compressed rows token `t` at `pos` sees.
fn chosen_rows<'a>(dims: &Dims, ratio: usize, pos: u32, t: usize, chosen: &'a [u32]) -> Chosen<'a> {
    let n = Dims::n_comp(ratio, pos);
    if ratio != INDEXED_RATIO || n <= dims.index_top_k {
        return Chosen::First(n);
    }
    Chosen::Some(&chosen[t * dims.index_top_k..][..dims.index_top_k])
}

/// Compressed rows that a token sees.
#[derive(Clone, Copy)]
enum Chosen<'a> {
    /// The first so many.
    First(usize),
    /// Those with these numbers, ascending.
    Some(&'a [u32]),
}

/// Every row that one token sees.
struct Seen<'a> {
    raw: Recent<'a>,
    /// First raw row.
    from: u32,
    /// Last raw row: the token's own.
    pos: u32,
    comp: Option<&'a Rows>,
    chosen: Chosen<'a>,
}

impl Seen<'_> {
    fn len(&self) -> usize {
        let comp = match self.chosen {
            Chosen::First(n) => n,
            Chosen::Some(rows) => rows.len(),
        };
        (self.pos + 1 - self.from) as usize + if self.comp.is_some() { comp } else { 0 }
    }

    /// The `j`th row: raw ones first, each kind in ascending order.
    fn row(&self, j: usize) -> &[f32] {
        let raw = (self.pos + 1 - self.from) as usize;
        let Some(w) = j.checked_sub(raw) else {
            return self.raw.row(self.from + u32::try_from(j).expect("within the window"));
        };
        let comp = self.comp.expect("a row beyond the raw ones");
        match self.chosen {
            Chosen::First(_) => comp.row(w),
            Chosen::Some(rows) => comp.row(rows[w] as usize),
        }
    }

    /// Calls `f` with the number of a tile's first row and the tile's rows, for all rows in order.
    fn for_tiles(&self, mut f: impl FnMut(usize, &[&[f32]])) {
        let n = self.len();
        for first in (0..n).step_by(TILE) {
            let mut rows: [&[f32]; TILE] = [&[]; TILE];
            let rows = &mut rows[..TILE.min(n - first)];
            for (j, row) in (first..).zip(rows.iter_mut()) {
                *row = self.row(j);
            }
            f(first, rows);
        }
    }
}

/// `o_h = Σ exp(s_j − M)·R_j / (exp(sink_h − M) + Σ exp(s_j − M))` for some heads of one token,
/// in place of their queries.
fn attend(q: &mut [f32], sinks: &[f32], seen: &Seen<'_>, local: &mut Local) {
    let (n, dim) = (seen.len(), q.len() / sinks.len());
    let scale = 1.0 / (dim as f32).sqrt();
    let scores = &mut local.scores[..sinks.len() * n];
    seen.for_tiles(|j, rows| row_ops::scores(q, rows, scale, &mut scores[j..], n));
    let sums = &mut local.sums[..q.len()];
    sums.fill(0.0);
    for (scores, sink) in scores.chunks_exact_mut(n).zip(sinks) {
        let max = vec_ops::max(scores).max(*sink);
        let den = vec_ops::exp_sum(scores, max) + (sink - max).exp();
        vec_ops::scale(scores, 1.0 / den);
    }
    seen.for_tiles(|j, rows| row_ops::add_rows(sums, rows, &scores[j..], n));
    q.copy_from_slice(sums);
}

/// `y = Wo_b · concat(A_g · o_g)` (§2.6 step 9).
fn output(step: &Step<'_>, b: &Block<'_>, s: &mut Scratch) {
    let (dims, w, t) = (&step.model.dims, b.w, step.batch.len());
    let AttnScratch { heads, low, .. } = &mut s.attn;
    step.prepare(heads, [&w.out_a]);
    let rank = dims.n_out_group * dims.out_rank;
    let job = step.job(&w.out_a, heads, low.rows_mut(t, rank));
    matmul(step.pool, &mut [job.groups(dims.n_out_group)]);
    debug_assert!(heads.has(ActForm::F32));
    step.product(&w.out_b, low, &mut s.y[..t * dims.n_embd]);
}
