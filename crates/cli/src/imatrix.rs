//! `--imatrix-dataset`: runs prompts through the model and writes how much each input column of the
//! routed experts is used, for `ds4 quantize --imatrix`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use ds4_engine::Sequence;
use ds4_gguf::write::replace_file;
use ds4_model::{Dims, ExpertInputs, Place, Probe, Stage, TokenId, Weights};
use ds4_quantize::Imatrix;
use ds4_text::{BOS, Tokenizer};

use crate::backend::Needs;
use crate::load::{self, Loaded};
use crate::options::Model;
use crate::terminal;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Collect {
    /// The model.
    pub model: Model,
    /// Rendered prompts, each from its BOS on.
    pub dataset: PathBuf,
    /// File to write.
    pub out: PathBuf,
    /// Prompts to run at most.
    pub max_prompts: Option<usize>,
    /// Tokens to run at most, all prompts together.
    pub max_tokens: Option<usize>,
}

/// Runs the command.
pub(crate) fn run(options: &Collect) -> Result<()> {
    let text = load::read_text(&options.dataset)?;
    // Only the CPU tells what its experts are given.
    let needs = Needs { only_cpu: Some("--imatrix-dataset"), ..Needs::seq(1) };
    let mut loaded = load::open(&options.model, needs)?;
    let tokenizer = load::tokenizer(&loaded.file.gguf)?;
    let prompts = prompts(&tokenizer, &text, options);
    let total: usize = prompts.iter().map(Vec::len).sum();
    if total == 0 {
        bail!("{}: no prompt", options.dataset.display());
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
    let cap = u32::try_from(longest).context("a prompt is too long")?;
    loaded.plan(cap, "use shorter prompts")?;
    let calls = u32::try_from(prompts.len())?;
    // The file is tried before hours of work, not after them.
    replace_file(&options.out, |file| {
        let sums = collect(&mut loaded, &prompts, cap)?;
        let bytes = sums.imatrix(&loaded.file.weights).to_bytes(calls)?;
        file.write_all(&bytes).with_context(|| format!("cannot write {}", options.out.display()))
    })?;
    let out = options.out.display();
    terminal::note(&format!("wrote the importance of {calls} prompts, {total} tokens, to {out}"));
    Ok(())
}

/// Runs every prompt in a sequence of its own.
fn collect(loaded: &mut Loaded, prompts: &[Vec<TokenId>], cap: u32) -> Result<Sums> {
    let sums = Sums::new(&loaded.file.dims);
    let runner = &mut *loaded.runner;
    runner.set_probe(Some(Box::new(sums.clone())));
    let total: usize = prompts.iter().map(Vec::len).sum();
    let bar = terminal::progress_bar("collecting", total, "tokens");
    let cancel = terminal::interrupt()?;
    let working = terminal::Working::start();
    let mut before = 0;
    for prompt in prompts {
        let mut seq = Sequence::open(runner, cap)?;
        let mut progress = |done: usize| bar.set_position((before + done) as u64);
        let synced = seq.sync(runner, prompt, &cancel, &mut progress);
        seq.close(runner);
        synced?;
        before += prompt.len();
    }
    drop(working);
    bar.finish_and_clear();
    Ok(sums)
}

/// The data set's prompts: a text for each BOS literal, as far as the limits allow.
fn prompts(tokenizer: &Tokenizer, text: &str, options: &Collect) -> Vec<Vec<TokenId>> {
    let mut left = options.max_tokens.unwrap_or(usize::MAX);
    let starts = text.match_indices(BOS).map(|(at, _)| at);
    let starts: Vec<usize> = starts.chain([text.len()]).collect();
    let before = text[..starts[0]].trim();
    // A text without any BOS is one prompt.
    let whole = (starts.len() == 1 && !before.is_empty()).then_some(text);
    let each = starts.windows(2).map(|at| &text[at[0]..at[1]]);
    let mut prompts = Vec::new();
    for prompt in whole.into_iter().chain(each).take(options.max_prompts.unwrap_or(usize::MAX)) {
        let ids = tokenizer.encode_with_control(prompt.trim_end());
        let n = ids.len().min(left);
        if n == 0 {
            break;
        }
        left -= n;
        prompts.push(ids.into_iter().take(n).map(TokenId).collect());
    }
    prompts
}

/// Sums of squared inputs; clones share them.
#[derive(Clone)]
struct Sums {
    layers: Arc<Mutex<Vec<LayerSums>>>,
    n_embd: usize,
    n_ff: usize,
}

/// Of one layer.
#[derive(Clone)]
struct LayerSums {
    /// Of gate's and up's input, `[n_expert, n_embd]`.
    gate_up: Vec<f32>,
    /// Of down's input, `[n_expert, n_ff]`.
    down: Vec<f32>,
    /// Tokens of each expert.
    n: Vec<u32>,
}

impl Sums {
    fn new(dims: &Dims) -> Self {
        let layer = LayerSums {
            gate_up: vec![0.0; dims.n_expert * dims.n_embd],
            down: vec![0.0; dims.n_expert * dims.n_ff],
            n: vec![0; dims.n_expert],
        };
        let layers = Arc::new(Mutex::new(vec![layer; dims.n_layer]));
        Self { layers, n_embd: dims.n_embd, n_ff: dims.n_ff }
    }

    /// Means by tensor.
    fn imatrix(&self, weights: &Weights) -> Imatrix {
        let layers = self.layers.lock().expect("no holder panics");
        let mut out = Imatrix::default();
        for (layer, sums) in weights.layers.iter().zip(&*layers) {
            let experts = &layer.experts;
            let gate_up = means(&sums.gate_up, &sums.n);
            out.insert(&experts.gate.name, gate_up.clone());
            out.insert(&experts.up.name, gate_up);
            out.insert(&experts.down.name, means(&sums.down, &sums.n));
        }
        out
    }
}

impl Probe for Sums {
    fn record(&mut self, _: Place, _: Stage, _: u32, _: &[usize], _: &[f32]) {}

    fn experts(&mut self, place: Place, inputs: ExpertInputs<'_>) {
        let Place::Layer(il) = place else { return };
        let sums = &mut self.layers.lock().expect("no holder panics")[il];
        for (e, bounds) in inputs.bounds.windows(2).enumerate() {
            for slot in bounds[0] as usize..bounds[1] as usize {
                let token = inputs.token_of[slot] as usize;
                let x = &inputs.gate_up[token * self.n_embd..][..self.n_embd];
                add_squares(&mut sums.gate_up[e * self.n_embd..][..self.n_embd], x);
                let mid = &inputs.down[slot * self.n_ff..][..self.n_ff];
                add_squares(&mut sums.down[e * self.n_ff..][..self.n_ff], mid);
            }
            sums.n[e] += bounds[1] - bounds[0];
        }
    }
}

fn add_squares(sums: &mut [f32], x: &[f32]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum += x * x;
    }
}

/// Means over each expert's tokens; an expert that no token used gets the mean of all of them.
fn means(sums: &[f32], n: &[u32]) -> Vec<f32> {
    let width = sums.len() / n.len();
    let total: u32 = n.iter().sum();
    let mut all = vec![0.0; width];
    for sums in sums.chunks_exact(width) {
        all.iter_mut().zip(sums).for_each(|(all, sum)| *all += sum / total.max(1) as f32);
    }
    let mean = |(sums, n): (&[f32], &u32)| -> Vec<f32> {
        match n {
            0 => all.clone(),
            n => sums.iter().map(|sum| sum / *n as f32).collect(),
        }
    };
    sums.chunks_exact(width).zip(n).flat_map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_experts_get_the_mean_of_all() {
        let sums = [2.0, 4.0, 0.0, 0.0, 6.0, 2.0];
        assert_eq!(means(&sums, &[1, 0, 3]), [2.0, 4.0, 2.0, 1.5, 2.0, 2.0 / 3.0]);
    }
}
