//! Routed experts alone: the part of a layer that a hybrid runner leaves to the processor while a
//! device does the rest.

use std::sync::Arc;

use ds4_model::{Error, ModelFile, Numerics, Result};

use crate::acts::Acts;
use crate::matmul::{Job, matmul};
use crate::model::{Model, mat_of};
use crate::pool::Pool;
use crate::scratch::Jobs;
use crate::vec_ops;

/// One expert chosen by one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// Row of the input.
    pub token: u32,
    /// Expert of the layer.
    pub expert: u16,
    /// The router's weight.
    pub weight: f32,
}

/// The routed experts of every trunk layer, computed from the file's pages.
#[derive(Debug)]
pub struct HostExperts {
    model: Model,
    pool: Pool,
    x: Acts,
    mid: Acts,
    up: Vec<f32>,
    down: Vec<f32>,
    jobs: Jobs,
    slots: Vec<u32>,
    tokens: Vec<u32>,
}

impl HostExperts {
    /// Of a model; 0 threads takes the machine's physical cores.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the shape has no whole blocks for the roundings.
    pub fn new(file: &Arc<ModelFile>, numerics: Numerics, threads: usize) -> Result<Self> {
        Ok(Self {
            model: Model::new(Arc::clone(file), numerics, None)?,
            pool: Pool::new(threads),
            x: Acts::new(),
            mid: Acts::new(),
            up: Vec::new(),
            down: Vec::new(),
            jobs: Jobs::default(),
            slots: Vec::new(),
            tokens: Vec::new(),
        })
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// `y[t] = Σ weight · expert(x[t])` over the choices of each token, in layer `il`. `x` and `y`
    /// are `[t, n_embd]`; rows of `y` without a choice become 0. `choices` are sorted by expert.
    ///
    /// # Errors
    /// [`Error::Span`] for choices that are not sorted or name no expert or token.
    pub fn run(&mut self, il: usize, x: &[f32], choices: &[Chosen], y: &mut [f32]) -> Result<()> {
        let dims = &self.model.dims;
        let (embd, n_ff) = (dims.n_embd, dims.n_ff);
        let t = x.len() / embd;
        let in_range = |c: &Chosen| (c.token as usize) < t && usize::from(c.expert) < dims.n_expert;
        if !choices.is_sorted_by_key(|c| c.expert) || !choices.iter().all(in_range) {
            return Err(Error::Span(
                "choices of experts are not sorted or out of range".to_owned(),
            ));
        }
        y.fill(0.0);
        let n = choices.len();
        if n == 0 {
            return Ok(());
        }
        let form = self.model.expert_form();
        self.x.set(&self.pool, x, t, embd, &[form]);
        self.tokens.clear();
        self.tokens.extend(choices.iter().map(|c| c.token));
        self.slots.clear();
        self.slots.extend(0..u32::try_from(n).expect("choices of a step are few"));
        if self.up.len() < n * n_ff {
            self.up.resize(n * n_ff, 0.0);
            self.down.resize(n * embd, 0.0);
        }
        let w = &self.model.weights.layers[il].experts;
        let mut jobs = self.jobs.take();
        let (mut mid, mut up) = (self.mid.rows_mut(n, n_ff), &mut self.up[..n * n_ff]);
        for (range, e) in groups(choices) {
            let (gate_out, up_out);
            (gate_out, mid) = mid.split_at_mut(range.len() * n_ff);
            (up_out, up) = up.split_at_mut(range.len() * n_ff);
            let tokens = &self.tokens[range];
            jobs.push(Job::new(mat_of(&w.gate, e), &self.x, form, gate_out).tokens(tokens));
            jobs.push(Job::new(mat_of(&w.up, e), &self.x, form, up_out).tokens(tokens));
        }
        matmul(&self.pool, &mut jobs);
        self.jobs.give(jobs);

        let (up, clamp) = (&self.up, dims.swiglu_clamp[il]);
        self.pool.for_chunks("swiglu", self.mid.rows_mut(n, n_ff), n_ff, |slot, mid| {
            vec_ops::swiglu(mid, &up[slot * n_ff..][..n_ff], clamp);
            vec_ops::scale(mid, choices[slot].weight);
        });
        self.mid.quantise(&self.pool, &[form]);

        let mut jobs = self.jobs.take();
        let mut out = &mut self.down[..n * embd];
        for (range, e) in groups(choices) {
            let own;
            (own, out) = out.split_at_mut(range.len() * embd);
            jobs.push(
                Job::new(mat_of(&w.down, e), &self.mid, form, own).tokens(&self.slots[range]),
            );
        }
        matmul(&self.pool, &mut jobs);
        self.jobs.give(jobs);
        for (c, down) in choices.iter().zip(self.down.chunks_exact(embd)) {
            vec_ops::axpy(1.0, down, &mut y[c.token as usize * embd..][..embd]);
        }
        Ok(())
    }
}

/// Runs of choices of one expert.
fn groups(choices: &[Chosen]) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> + '_ {
    let mut at = 0;
    choices.chunk_by(|a, b| a.expert == b.expert).map(move |run| {
        let range = at..at + run.len();
        at = range.end;
        (range, usize::from(run[0].expert))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ds4_model::testing::quant;

    /// A choice alone is the expert times its weight, so a sum of two is the sum of each.
    #[test]
    fn choices_add_up() {
        let file = Arc::new(quant());
        let mut experts = HostExperts::new(&file, Numerics::PROFILE_G, 2).unwrap();
        let embd = file.dims.n_embd;
        let x: Vec<f32> = (0..3 * embd).map(|i| (0.37 * i as f32).sin()).collect();
        let choice = |token, expert, weight| Chosen { token, expert, weight };
        let all = [choice(2, 0, 0.5), choice(0, 3, 1.0), choice(2, 3, 0.25), choice(0, 7, 0.75)];
        let mut together = vec![1.0; 3 * embd];
        experts.run(1, &x, &all, &mut together).unwrap();
        assert!(together[embd..2 * embd].iter().all(|v| *v == 0.0), "token 1 chose nothing");
        let mut sum = vec![0.0; 3 * embd];
        for c in all {
            let mut one = vec![0.0; 3 * embd];
            experts.run(1, &x, &[c], &mut one).unwrap();
            assert!(one.iter().any(|v| *v != 0.0), "{c:?}");
            sum.iter_mut().zip(one).for_each(|(s, v)| *s += v);
        }
        for (a, b) in together.iter().zip(&sum) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        let unsorted = [choice(0, 3, 1.0), choice(0, 1, 1.0)];
        assert!(experts.run(1, &x, &unsorted, &mut sum).is_err());
        assert!(experts.run(1, &x, &[choice(3, 0, 1.0)], &mut sum).is_err());
    }
}
