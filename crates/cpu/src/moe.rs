//! The FFN sublayer: router, routed experts, shared expert (§2.9).

use ds4_model::{ExpertInputs, Place, Router, Stage};

use crate::acts::ActForm;
use crate::layer::Block;
use crate::matmul::{Job, matmul};
use crate::model::mat_of;
use crate::scratch::{FfnScratch, Scratch};
use crate::step::Step;
use crate::{router, vec_ops};

/// The FFN sublayer: `s.x` in, `s.y` out.
pub(crate) fn ffn(step: &mut Step<'_>, b: &Block<'_>, s: &mut Scratch) {
    scores(step, b, s);
    choose(step, b, &mut s.ffn);
    sort_by_expert(step, &mut s.ffn);
    if let Some(tiers) = &step.model.tiers {
        tiers.want(step.pool, b.place, &s.ffn.first);
    }
    gate_and_up(step, b, s);
    activate(step, b, &mut s.ffn);
    show_inputs(step, b.place, s);
    down(step, b, s);
}

/// Router scores. Prepares the input for all experts.
fn scores(step: &Step<'_>, b: &Block<'_>, s: &mut Scratch) {
    let (dims, w, t) = (&step.model.dims, b.w, step.batch.len());
    step.prepare(&mut s.x, [&w.router_in, &w.shared.gate, &w.shared.up]);
    s.x.quantise(step.pool, &[step.model.expert_form()]);
    let job = step.job(&w.router_in, &s.x, &mut s.ffn.probs[..t * dims.n_expert]);
    matmul(step.pool, &mut [job]);
}

/// Experts and weights of every token.
fn choose(step: &mut Step<'_>, b: &Block<'_>, f: &mut FfnScratch) {
    let (dims, batch) = (&step.model.dims, step.batch);
    let (n, used, t) = (dims.n_expert, dims.n_expert_used, batch.len());
    let probs = &mut f.probs[..t * n];
    step.pool.for_chunks("router", probs, n, |_, probs| router::scores(probs));
    let probs = &*probs;
    for t in 0..t {
        let probs = &probs[t * n..][..n];
        let ids = &mut f.ids[t * used..][..used];
        match &b.w.router {
            Router::Hash(table) => {
                ids.copy_from_slice(&table[batch.ids[t].0 as usize * used..][..used]);
            }
            Router::Score(bias) => router::best(probs, bias, ids),
        }
        router::weights(probs, ids, dims.expert_scale, &mut f.weights[t * used..][..used]);
    }
    record_choice(step, b.place, f);
}

/// Gives every choice a slot, expert by expert, tokens in order.
fn sort_by_expert(step: &Step<'_>, f: &mut FfnScratch) {
    let used = step.model.dims.n_expert_used;
    let choices = step.batch.len() * used;
    f.first.fill(0);
    for id in &f.ids[..choices] {
        f.first[usize::from(*id) + 1] += 1;
    }
    for e in 1..f.first.len() {
        f.first[e] += f.first[e - 1];
    }
    // While slots are given out, `first[e]` is the expert's next slot; afterwards it is the next
    // expert's first one, so everything moves one up at the end.
    for (c, id) in f.ids[..choices].iter().enumerate() {
        let next = &mut f.first[usize::from(*id)];
        let slot = *next as usize;
        *next += 1;
        f.slot_of[c] = u32::try_from(slot).expect("slots of a chunk are few");
        f.token_of[slot] = u32::try_from(c / used).expect("tokens of a chunk are few");
        f.weight_of[slot] = f.weights[c];
    }
    f.first.rotate_right(1);
    f.first[0] = 0;
}

/// Gate and up of every slot and of the shared expert in one go: all read the same input.
fn gate_and_up(step: &Step<'_>, b: &Block<'_>, s: &mut Scratch) {
    let (dims, form) = (&step.model.dims, step.model.expert_form());
    let (f, t) = (&mut s.ffn, step.batch.len());
    let slots = t * dims.n_expert_used;
    let mut mid = f.mid.rows_mut(slots, dims.n_ff);
    let mut up = &mut f.up[..slots * dims.n_ff];
    let mut jobs = s.jobs.take();
    for (e, bounds) in f.first.windows(2).enumerate() {
        let (first, end) = (bounds[0] as usize, bounds[1] as usize);
        if first == end {
            continue;
        }
        let tokens = &f.token_of[first..end];
        let (gate_out, up_out);
        (gate_out, mid) = mid.split_at_mut(tokens.len() * dims.n_ff);
        (up_out, up) = up.split_at_mut(tokens.len() * dims.n_ff);
        let experts = &b.w.experts;
        jobs.push(Job::new(mat_of(&experts.gate, e), &s.x, form, gate_out).tokens(tokens));
        jobs.push(Job::new(mat_of(&experts.up, e), &s.x, form, up_out).tokens(tokens));
    }
    let shared = &b.w.shared;
    jobs.push(step.job(&shared.gate, &s.x, f.shared_mid.rows_mut(t, dims.n_ff)));
    jobs.push(step.job(&shared.up, &s.x, &mut f.shared_up[..t * dims.n_ff]));
    matmul(step.pool, &mut jobs);
    s.jobs.give(jobs);
}

/// SwiGLU with clamps; the router's weight enters before the down projection.
fn activate(step: &Step<'_>, b: &Block<'_>, f: &mut FfnScratch) {
    let (dims, t) = (&step.model.dims, step.batch.len());
    let (up, weight_of, shared_up) = (&f.up, &f.weight_of, &f.shared_up);
    let slots = t * dims.n_expert_used;
    step.pool.for_chunks("swiglu", f.mid.rows_mut(slots, dims.n_ff), dims.n_ff, |slot, mid| {
        vec_ops::swiglu(mid, &up[slot * dims.n_ff..][..dims.n_ff], b.clamp);
        vec_ops::scale(mid, weight_of[slot]);
    });
    step.pool.for_chunks("swiglu", f.shared_mid.rows_mut(t, dims.n_ff), dims.n_ff, |t, mid| {
        vec_ops::swiglu(mid, &shared_up[t * dims.n_ff..][..dims.n_ff], b.clamp_shared);
    });
    f.mid.quantise(step.pool, &[step.model.expert_form()]);
    step.prepare(&mut f.shared_mid, [&b.w.shared.down]);
}

/// Shows the observer what the experts read.
fn show_inputs(step: &mut Step<'_>, place: Place, s: &Scratch) {
    let slots = step.batch.len() * step.model.dims.n_expert_used;
    let Some(probe) = step.probe.as_deref_mut() else { return };
    let f = &s.ffn;
    let inputs = ExpertInputs {
        bounds: &f.first,
        token_of: &f.token_of[..slots],
        gate_up: s.x.rows(),
        down: f.mid.rows(),
    };
    probe.experts(place, inputs);
}

/// Down projections, and the sum of a token's experts.
fn down(step: &Step<'_>, b: &Block<'_>, s: &mut Scratch) {
    let (dims, form, t) = (&step.model.dims, step.model.expert_form(), step.batch.len());
    let (embd, used) = (dims.n_embd, dims.n_expert_used);
    let f = &mut s.ffn;
    debug_assert!(f.shared_mid.has(ActForm::F32));
    let y = &mut s.y[..t * embd];
    let mut out = &mut f.down[..t * used * embd];
    let mut jobs = s.jobs.take();
    for (e, bounds) in f.first.windows(2).enumerate() {
        let slots = &f.slots[bounds[0] as usize..bounds[1] as usize];
        if slots.is_empty() {
            continue;
        }
        let own;
        (own, out) = out.split_at_mut(slots.len() * embd);
        jobs.push(Job::new(mat_of(&b.w.experts.down, e), &f.mid, form, own).tokens(slots));
    }
    jobs.push(step.job(&b.w.shared.down, &f.shared_mid, y));
    matmul(step.pool, &mut jobs);
    s.jobs.give(jobs);
    let (down, slot_of) = (&f.down, &f.slot_of);
    step.pool.for_chunks("expert sum", &mut s.y[..t * embd], embd, |t, y| {
        for slot in &slot_of[t * used..][..used] {
            vec_ops::axpy(1.0, &down[*slot as usize * embd..][..embd], y);
        }
    });
}

/// Shows the observer the router's view.
fn record_choice(step: &mut Step<'_>, place: Place, f: &FfnScratch) {
    if !step.observed() {
        return;
    }
    let (n, used) = (step.model.dims.n_expert, step.model.dims.n_expert_used);
    let ids: Vec<f32> = f.ids.iter().map(|id| f32::from(*id)).collect();
    step.record(place, Stage::RouterProbs, &[n], &f.probs);
    step.record(place, Stage::RouterIds, &[used], &ids);
    step.record(place, Stage::RouterWeights, &[used], &f.weights);
}
