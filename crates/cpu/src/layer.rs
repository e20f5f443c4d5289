//! The forward pass in the order of the paper: embedding, layers, each a pair of sublayers between
//! hyper-connections (§2.1–§2.4).

use ds4_model::{BlockWeights, HyperWeights, Place, Stage, Steering};

use crate::scratch::Scratch;
use crate::seq::Seq;
use crate::step::Step;
use crate::{attention, hyper, moe, norm, vec_ops};

/// One transformer block: a trunk layer or the MTP block.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// Which.
    pub place: Place,
    /// Its weights.
    pub w: &'a BlockWeights,
    /// Compression ratio: 0 window only, 4 indexed, else dense-compressed.
    pub ratio: usize,
    /// SwiGLU clamp of the routed experts.
    pub clamp: f32,
    /// SwiGLU clamp of the shared expert.
    pub clamp_shared: f32,
}

/// Embeds the step's tokens and runs them through every trunk layer; the final hyper-connection
/// state is left in `s.streams`.
pub(crate) fn trunk(step: &mut Step<'_>, seqs: &mut [Seq], s: &mut Scratch) {
    let model = step.model;
    embed(step, s);
    for (il, w) in model.weights.layers.iter().enumerate() {
        let dims = &model.dims;
        force(step, il, s);
        let b = Block {
            place: Place::Layer(il),
            w,
            ratio: dims.ratios[il],
            clamp: dims.swiglu_clamp[il],
            clamp_shared: dims.swiglu_clamp_shared[il],
        };
        block(step, &b, seqs, s);
    }
}

/// `X ← hc_post(Attn(rmsnorm(hc_pre(X))), X)`, then the same with the FFN (§2.4).
pub(crate) fn block(step: &mut Step<'_>, b: &Block<'_>, seqs: &mut [Seq], s: &mut Scratch) {
    let embd = step.model.dims.n_embd;

    hc_pre(step, &b.w.hc_attn, &b.w.attn_norm, Some(b.place), s);
    attention::attention(step, b, seqs, s);
    steer(step, b.place, |steering| steering.attn, &mut s.y);
    step.record(b.place, Stage::AttnOut, &[embd], &s.y);
    hc_post(step, s);

    hc_pre(step, &b.w.hc_ffn, &b.w.ffn_norm, None, s);
    step.record(b.place, Stage::FfnNorm, &[embd], s.x.rows());
    moe::ffn(step, b, s);
    steer(step, b.place, |steering| steering.ffn, &mut s.y);
    step.record(b.place, Stage::FfnOut, &[embd], &s.y);
    hc_post(step, s);

    step.record(b.place, Stage::Hidden, &[step.model.dims.n_hc, embd], s.streams.rows());
}

/// `y −= scale·v·(v·y)` for every token, where the model is steered; the MTP block never is.
fn steer(step: &Step<'_>, place: Place, scale: fn(&Steering) -> f32, y: &mut [f32]) {
    let (Some(steering), Place::Layer(il)) = (step.model.file.steering(), place) else { return };
    let (scale, v) = (scale(steering), steering.direction(il));
    if scale == 0.0 {
        return;
    }
    for y in y.chunks_exact_mut(v.len()).take(step.batch.len()) {
        let share: f64 = v.iter().zip(&*y).map(|(v, y)| f64::from(*v) * f64::from(*y)).sum();
        #[expect(clippy::cast_possible_truncation, reason = "summed in f64, used in f32")]
        vec_ops::axpy(-scale * share as f32, v, y);
    }
}

/// Every stream of a token starts as its embedding (§2.1).
fn embed(step: &Step<'_>, s: &mut Scratch) {
    let (dims, table) = (&step.model.dims, &step.model.weights.embd);
    let width = dims.n_hc * dims.n_embd;
    let streams = s.streams.rows_mut(step.batch.len(), width);
    step.pool.for_chunks("embedding", streams, width, |t, streams| {
        let (first, rest) = streams.split_at_mut(dims.n_embd);
        ds4_gguf::dequantize_row(table.ty, table.row(step.batch.ids[t].0 as usize), first);
        for stream in rest.chunks_exact_mut(dims.n_embd) {
            stream.copy_from_slice(first);
        }
    });
}

/// The sublayer's normed input in `s.x`, and the gates of its output in `s.mix` (§2.2).
pub(crate) fn hc_pre(
    step: &mut Step<'_>,
    hc: &HyperWeights,
    weight: &[f32],
    observe: Option<Place>,
    s: &mut Scratch,
) {
    let dims = &step.model.dims;
    let (t, n, embd, eps) = (step.batch.len(), dims.hc_mix(), dims.n_embd, dims.rms_eps);
    let mix = &mut s.mix[..t * n];
    step.product(&hc.mix, &mut s.streams, mix);
    let streams = &s.streams;
    // The norm of the mix's input is a factor of its output.
    step.pool.for_chunks("hyper-connection", mix, n, |t, mix| {
        vec_ops::scale(mix, vec_ops::inv_rms(streams.row(t), eps));
        hyper::split(mix, &hc.base, &hc.scale, dims);
    });
    let mix = &*mix;
    let pre = |t: usize| &mix[t * n..][..dims.n_hc];
    if let (Some(place), true) = (observe, step.observed()) {
        for (t, y) in s.y.chunks_exact_mut(embd).take(t).enumerate() {
            hyper::gather(streams.row(t), pre(t), y);
        }
        record_gates(step, place, mix, &s.y);
    }
    let x = s.x.rows_mut(t, embd);
    step.pool.for_chunks("hyper-connection", x, embd, |t, x| {
        hyper::gather(streams.row(t), pre(t), x);
        norm::rms_weighted(x, weight, eps);
    });
}

/// Spreads the sublayer's output `s.y` over the streams (§2.3).
fn hc_post(step: &Step<'_>, s: &mut Scratch) {
    let dims = &step.model.dims;
    let (n, h, embd) = (dims.hc_mix(), dims.n_hc, dims.n_embd);
    let (streams, mix, y) = (&s.streams, &s.mix, &s.y);
    let next = s.next.rows_mut(step.batch.len(), h * embd);
    step.pool.for_chunks("hyper-connection", next, h * embd, |t, next| {
        let (post, comb) = mix[t * n..][h..n].split_at(h);
        hyper::spread(streams.row(t), &y[t * embd..][..embd], post, comb, next);
    });
    std::mem::swap(&mut s.streams, &mut s.next);
}

/// Shows the observer the gates of an attention hyper-connection and what they let in.
fn record_gates(step: &mut Step<'_>, place: Place, mix: &[f32], x: &[f32]) {
    let dims = &step.model.dims;
    let h = dims.n_hc;
    let gates = |from: usize, to: usize| -> Vec<f32> {
        mix.chunks_exact(dims.hc_mix()).flat_map(|m| m[from..to].iter().copied()).collect()
    };
    let (post, comb) = (gates(h, 2 * h), gates(2 * h, dims.hc_mix()));
    step.record(place, Stage::AttnHcIn, &[dims.n_embd], x);
    step.record(place, Stage::AttnHcPost, &[h], &post);
    step.record(place, Stage::AttnHcComb, &[h, h], &comb);
}

/// Lets the observer replace the input of layer `il`.
fn force(step: &mut Step<'_>, il: usize, s: &mut Scratch) {
    let Some(probe) = step.probe.as_deref_mut() else { return };
    let (t, width) = (s.streams.n(), s.streams.cols());
    for part in &step.batch.parts {
        let Some(forced) = probe.force_hidden(il, part.pos0, part.n) else { continue };
        assert_eq!(forced.len(), part.n * width, "values forced into layer {il}");
        let mut all = s.streams.rows().to_vec();
        all[part.start * width..][..forced.len()].copy_from_slice(&forced);
        s.streams.rows_mut(t, width).copy_from_slice(&all);
    }
}
