//! A runner against the references of an oracle model.

use ds4_cpu::{CpuOptions, CpuRunner};
use ds4_model::npy::Array;
use ds4_model::testing::{Oracle, Parity, Reference, run};
use ds4_model::{Place, Recorder, Runner, Stage, Stages};

/// Choices whose scores differ by less than this in the reference are ties: the error of f32, or
/// of a rounding step that was taken differently earlier in the layer.
fn margin(forced: bool) -> f32 {
    if forced { 1e-2 } else { 1e-5 }
}

/// Everything that one comparison gives.
pub(crate) struct Outcome {
    /// Stages, layer by layer.
    pub parity: Parity,
    /// Largest difference of the logits of the prompt, and of the tokens decoded after it.
    pub logits: [f64; 2],
}

/// Runs the reference's tokens in spans of `chunk`. With `forced`, every layer and the MTP block
/// get the reference's state as their input, so that each is compared on its own.
pub(crate) fn compare(oracle: &Oracle, r: &Reference, chunk: usize, forced: bool) -> Outcome {
    let options = CpuOptions { threads: 2, numerics: r.numerics, ..CpuOptions::default() };
    let model = std::sync::Arc::new(oracle.model.clone());
    let mut runner = CpuRunner::new(&model, &options).expect("the oracle's shape fits");
    let hidden = if forced { r.hidden() } else { Vec::new() };
    let last = hidden.last().cloned();
    let recorder = if forced { Recorder::forcing(hidden) } else { Recorder::new() };
    runner.set_probe(Some(Box::new(recorder.clone())));
    let seq = runner.open_seq(1000).expect("it is small");
    let logits = run(&mut runner, seq, &r.tokens, chunk).expect("the tokens fit");
    let mut stages = recorder.take();
    let own = Place::Layer(runner.dims().n_layer - 1).name(Stage::Hidden);
    stages.extend(mtp(&mut runner, &recorder, r, &last.unwrap_or_else(|| stages[&own].clone())));
    runner.set_probe(None);
    let decoded = run(&mut runner, seq, &r.decode, 1).expect("the tokens fit");
    let parity = Parity::new(&stages, r, &oracle.model.weights, margin(forced));
    let logits = [max_diff(&logits, &r.logits), max_diff(&decoded, &r.decode_logits)];
    Outcome { parity, logits }
}

/// Stages of the MTP block over all pairs of a state and the next token.
fn mtp(runner: &mut CpuRunner, recorder: &Recorder, r: &Reference, hidden: &Array) -> Stages {
    let pairs = r.tokens.len() - 1;
    let states = &hidden.data[..pairs * hidden.width()];
    runner.mtp_forward(states, &r.tokens[1..]).expect("the oracle has an MTP block");
    recorder.take()
}

/// The largest absolute difference; not-a-number counts as infinite.
fn max_diff(ours: &Array, theirs: &Array) -> f64 {
    assert_eq!(ours.shape, theirs.shape);
    let diff = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
    let worst = |m: f64, d: f64| if d <= m { m } else { d };
    let found = ours.data.iter().zip(&theirs.data).map(diff).fold(0.0, worst);
    if found.is_nan() { f64::INFINITY } else { found }
}
