//! The comparison of a backend with a reference, over any `Runner`.

use std::fmt::{self, Write as _};

use crate::compare::{ErrorTable, StageError, wrong_experts, wrong_rows};
use crate::npy::Array;
use crate::testing::Reference;
use crate::{Place, Result, Router, Runner, SeqId, Span, Stage, Stages, TokenId, Weights};

/// Appends `tokens` to a sequence in spans of at most `chunk`; logits of all of them.
pub fn run(runner: &mut dyn Runner, seq: SeqId, tokens: &[TokenId], chunk: usize) -> Result<Array> {
    let mut all = Vec::new();
    let mut logits = Vec::new();
    for tokens in tokens.chunks(chunk.clamp(1, runner.chunk_max())) {
        runner.forward(&[Span { seq, tokens, n_logits: tokens.len() }], &mut logits)?;
        all.extend_from_slice(&logits);
    }
    Ok(Array::new(vec![tokens.len(), runner.dims().n_vocab], all))
}

/// Recorded stages held against a reference.
#[derive(Clone, Debug, Default)]
pub struct Parity {
    /// Every stage that both sides have, in the order of computation.
    pub errors: Vec<(Place, Stage, StageError)>,
    /// Tokens whose choice of experts or index rows differs by more than the margin.
    pub wrong_choices: Vec<(Place, Stage, Vec<usize>)>,
    /// Choices compared.
    pub n_choices: usize,
    /// Stages that the reference kept and we did not record.
    pub missing: Vec<String>,
}

/// Largest relative errors of a stage: of the median row, and of all but one in a hundred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// For [`StageError::median`].
    pub median: f64,
    /// For [`StageError::p99`].
    pub p99: f64,
}

impl Parity {
    /// Compares recorded stages with those of a reference.
    ///
    /// Choices by score (experts, index rows) count as wrong where the reference's scores differ
    /// by `margin` or more; without scores, and where experts are chosen by token id, choices must
    /// be equal. The experts' scores include the bias from `weights`.
    pub fn new(ours: &Stages, reference: &Reference, weights: &Weights, margin: f32) -> Self {
        let mut parity = Self::default();
        let known = |name: &String| Place::parse(name);
        let mut names: Vec<_> = reference.stages.keys().filter_map(known).collect();
        names.sort_unstable();
        for (place, stage) in names {
            let name = place.name(stage);
            let theirs = &reference.stages[&name];
            let Some(ours) = ours.get(&name) else {
                parity.missing.push(name);
                continue;
            };
            let kept = |stage| reference.stages.get(&place.name(stage));
            let wrong = match stage {
                Stage::RouterIds => match (router(weights, place), kept(Stage::RouterProbs)) {
                    (Router::Score(bias), Some(probs)) => {
                        wrong_experts(ours, theirs, &biased(probs, bias), margin)
                    }
                    (Router::Score(_), None) | (Router::Hash(_), _) => unequal(ours, theirs),
                },
                Stage::IndexTopk => match kept(Stage::IndexScores) {
                    Some(scores) => wrong_rows(ours, theirs, scores, margin),
                    None => unequal(ours, theirs),
                },
                _ => {
                    parity.errors.push((place, stage, StageError::new(&name, ours, theirs)));
                    continue;
                }
            };
            parity.n_choices += theirs.rows();
            if !wrong.is_empty() {
                parity.wrong_choices.push((place, stage, wrong));
            }
        }
        parity
    }

    /// Fails with every stage beyond its bounds, every wrong choice and every missing stage.
    pub fn check(
        &self,
        bounds: impl Fn(Place, Stage) -> Bounds,
    ) -> std::result::Result<(), String> {
        let mut text = String::new();
        for (place, stage, e) in &self.errors {
            let b = bounds(*place, *stage);
            if !(e.median <= b.median && e.p99 <= b.p99) {
                let (name, median, p99) = (&e.name, e.median, e.p99);
                let _ = writeln!(text, "{name}: median {median:.2e}, p99 {p99:.2e}; allowed {b:?}");
            }
        }
        for (place, stage, tokens) in &self.wrong_choices {
            let _ = writeln!(text, "{}: wrong for tokens {tokens:?}", place.name(*stage));
        }
        for name in &self.missing {
            let _ = writeln!(text, "{name}: not recorded");
        }
        if text.is_empty() { Ok(()) } else { Err(text) }
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.iter().map(|(_, _, e)| e.clone()).collect();
        let wrong: usize = self.wrong_choices.iter().map(|(_, _, tokens)| tokens.len()).sum();
        write!(f, "{}", ErrorTable(errors))?;
        writeln!(f, "choices compared: {}, wrong: {wrong}", self.n_choices)
    }
}

fn router(weights: &Weights, place: Place) -> &Router {
    match place {
        Place::Layer(layer) => &weights.layers[layer].router,
        Place::Mtp | Place::Head => {
            &weights.mtp.as_ref().expect("the reference has an MTP block").block.router
        }
    }
}

/// Scores by which experts are chosen.
fn biased(probs: &Array, bias: &[f32]) -> Array {
    let data = probs.data.iter().zip(bias.iter().cycle()).map(|(p, b)| p + b).collect();
    Array::new(probs.shape.clone(), data)
}

/// Rows that are not the same.
fn unequal(ours: &Array, theirs: &Array) -> Vec<usize> {
    assert_eq!(ours.shape, theirs.shape, "shape of the choices");
    (0..theirs.rows()).filter(|row| ours.row(*row) != theirs.row(*row)).collect()
}
