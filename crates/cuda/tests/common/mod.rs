//! What the tests of the GPU runner share.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::sync::Arc;

use ds4_cuda::{CudaOptions, CudaRunner, open_emulated};
use ds4_model::npy::Array;
use ds4_model::testing::{Oracle, Parity, Reference, run};
use ds4_model::{ModelFile, Numerics, Place, Recorder, Runner, Stage};

/// A runner on the emulator.
pub(crate) fn emulated(model: &ModelFile, numerics: Numerics) -> CudaRunner {
    let options = CudaOptions { numerics, chunk_max: 64, ..CudaOptions::default() };
    open_emulated(&Arc::new(model.clone()), &options).expect("the shape has kernels")
}

/// A runner on the emulator with `inside` experts of each layer on it, the others on the processor.
pub(crate) fn hybrid(model: &ModelFile, numerics: Numerics, inside: usize) -> CudaRunner {
    let vram_bytes = Some(inside as u64);
    let options = CudaOptions { numerics, chunk_max: 64, vram_bytes, threads: 2, seq_bytes: 0 };
    open_emulated(&Arc::new(model.clone()), &options).expect("the shape has kernels")
}

/// Choices whose scores differ by less are ties: of a rounding step taken differently earlier.
const MARGIN: f32 = 1e-2;

/// Runs the reference's tokens in spans of `chunk`; every layer and the MTP block get the
/// reference's state as their input. Also gives the largest difference of the prompt's logits and
/// of those decoded after it.
pub(crate) fn compare(
    runner: &mut CudaRunner,
    oracle: &Oracle,
    r: &Reference,
    chunk: usize,
) -> (Parity, [f64; 2]) {
    let hidden = r.hidden();
    let last = hidden.last().cloned().expect("it has layers");
    let recorder = Recorder::forcing(hidden);
    runner.set_probe(Some(Box::new(recorder.clone())));
    let seq = runner.open_seq(1000).expect("it is small");
    let logits = run(runner, seq, &r.tokens, chunk).expect("the tokens fit");
    let mut stages = recorder.take();
    let pairs = r.tokens.len() - 1;
    let states = &last.data[..pairs * last.width()];
    runner.mtp_forward(states, &r.tokens[1..]).expect("the oracle has an MTP block");
    stages.extend(recorder.take());
    runner.set_probe(None);
    let decoded = run(runner, seq, &r.decode, 1).expect("the tokens fit");
    let parity = Parity::new(&stages, r, &oracle.model.weights, MARGIN);
    (parity, [max_diff(&logits, &r.logits), max_diff(&decoded, &r.decode_logits)])
}

/// The largest absolute difference; not-a-number counts as infinite.
pub(crate) fn max_diff(ours: &Array, theirs: &Array) -> f64 {
    assert_eq!(ours.shape, theirs.shape);
    let diff = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
    let found = ours.data.iter().zip(&theirs.data).map(diff);
    found.fold(0.0, |m, d| if d <= m { m } else { d })
}

/// The name of a place's states.
pub(crate) fn hidden_of(layer: usize) -> String {
    Place::Layer(layer).name(Stage::Hidden)
}
