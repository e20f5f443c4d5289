//! The output head: streams to one vector, norm, logits (§2.10).

use ds4_model::{HyperWeights, Place, Stage};

use crate::matmul::matmul;
use crate::scratch::Scratch;
use crate::step::Step;
use crate::{hyper, norm, vec_ops};

/// Appends the logits of the wanted tokens to `logits`, `[wanted, n_vocab]`. `place` is
/// [`Place::Head`], or [`Place::Mtp`] with the gates and the norm of the MTP block.
pub(crate) fn head(
    step: &mut Step<'_>,
    place: Place,
    hc: &HyperWeights,
    weight: &[f32],
    s: &mut Scratch,
    logits: &mut Vec<f32>,
) {
    let (model, batch) = (step.model, step.batch);
    let (dims, wanted) = (&model.dims, &batch.wanted);
    if wanted.is_empty() {
        return;
    }
    let (n, embd, eps) = (dims.n_hc, dims.n_embd, dims.rms_eps);
    let mix = &mut s.mix[..wanted.len() * n];
    step.prepare(&mut s.streams, [&hc.mix]);
    matmul(step.pool, &mut [step.job(&hc.mix, &s.streams, mix).tokens(wanted)]);
    let (streams, mix) = (&s.streams, &*mix);
    let x = s.x.rows_mut(wanted.len(), embd);
    step.pool.for_chunks("hyper-connection", x, embd, |i, x| {
        let streams = streams.row(wanted[i] as usize);
        let mut pre = [0.0; ds4_model::limits::HC_MAX];
        let pre = &mut pre[..n];
        pre.copy_from_slice(&mix[i * n..][..n]);
        vec_ops::scale(pre, vec_ops::inv_rms(streams, eps));
        hyper::split_head(pre, &hc.base, &hc.scale, dims);
        hyper::gather(streams, pre, x);
        norm::rms_weighted(x, weight, eps);
    });
    let from = logits.len();
    logits.resize(from + wanted.len() * dims.n_vocab, 0.0);
    step.product(&model.weights.output, &mut s.x, &mut logits[from..]);
    if place == Place::Head {
        record(step, place, Stage::FinalNorm, embd, s.x.rows());
    }
    record(step, place, Stage::Logits, dims.n_vocab, &logits[from..]);
}

/// Shows the observer rows of the wanted tokens only.
fn record(step: &mut Step<'_>, place: Place, stage: Stage, width: usize, mut data: &[f32]) {
    for part in step.batch.parts.iter().filter(|p| p.n_logits > 0) {
        let own;
        (own, data) = data.split_at(part.n_logits * width);
        let unwanted = u32::try_from(part.n - part.n_logits).expect("few tokens");
        step.record_rows(place, stage, part.pos0 + unwanted, width, own);
    }
}
