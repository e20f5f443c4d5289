//! `ds4 bench`: prefill and generation speed at growing context lengths.
//!
//! One sequence walks the context lengths. At each, only the tokens since the last one are
//! prefilled; then the sequence is marked, decodes greedily with the end token skipped, and is set
//! back.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ds4_cpu::{CpuRunner, speed};
use ds4_engine::{Cancel, Dialogue, Sequence, Snapshot, argmax, per_second};
use ds4_model::memory::SeqPlan;
use ds4_model::{ModelFile, TokenId, shapes, synthetic};
use ds4_text::Tokenizer;

use crate::backend::{Engine, Needs};
use crate::bench_report::{Report, Row, Wide};
use crate::kernel_files::{self, Recorded};
use crate::kernels::{Known, Limits, Phase};
use crate::machine::{self, gib};
use crate::options::{Backend, Bench, Subject};
use crate::{launches, load, read_bytes, terminal};

/// Seed of synthetic weights and tokens: equal runs measure equal work.
const SEED: u64 = 1;

/// Runs the command.
pub(crate) fn run(tool: &str, options: &Bench) -> Result<()> {
    let (mut engine, file) = open(options)?;
    let cap = options.ctx_alloc;
    engine.room()?.plan(engine.runner(), cap, "use a smaller --ctx-max")?;
    let tokens = tokens(options, &file)?;
    let needed = *options.frontiers.last().expect("there is a first one") as usize;
    if tokens.len() < needed {
        let have = tokens.len();
        bail!("the prompt has {have} tokens, --ctx-max is {needed}: use a longer prompt file");
    }
    let is_measured = options.is_wide || options.kernels.is_some();
    let bandwidth = if is_measured { read_bandwidth(&mut engine)? } else { None };
    let mut report = Report::new(tool, options, &engine, &file, bandwidth)?;
    let eos = load::tokenizer(&file.gguf).ok().map(|text| TokenId(text.specials().eos));
    let (engine, is_wide) = (&mut engine, options.is_wide);
    let mut bench =
        Walk { engine, seq: None, file: &file, eos, is_wide, bandwidth, plain: [0.0; 2] };
    for &frontier in &options.frontiers {
        let prompt = &tokens[..frontier as usize];
        let is_last = frontier as usize == needed;
        let from = if is_last && options.kernels.is_some() { bench.snapshot()? } else { None };
        report.row(bench.measure(prompt, cap, options.gen_tokens)?)?;
        if let (true, Some(prefix)) = (is_last, &options.kernels) {
            let phases = bench.kernels(prompt, from, options.gen_tokens, prefix)?;
            report.kernels(tool, phases)?;
        }
    }
    let residency = bench.engine.runner().residency();
    report.finish(tool, residency)
}

/// Bytes per second that the machine reads from the memory in which the weights are; `None` on a
/// device that does not time.
fn read_bandwidth(engine: &mut Engine) -> Result<Option<f64>> {
    let rate = match engine {
        Engine::Cpu(runner) => speed::read_bandwidth(runner.pool()),
        Engine::Cuda(runner) => runner.read_bandwidth()?,
    };
    Ok((rate > 0.0).then_some(rate))
}

fn open(options: &Bench) -> Result<(Engine, Arc<ModelFile>)> {
    let needs = Needs::seq(options.ctx_alloc);
    let Subject::Synthetic { n_layer } = options.subject else {
        return load::open_engine(&options.model, needs);
    };
    let file = Arc::new(synthetic_file(options, n_layer)?);
    Ok((load::start(&file, &options.model, needs)?, file))
}

/// Random weights in memory, if they fit.
fn synthetic_file(options: &Bench, n_layer: usize) -> Result<ModelFile> {
    let wanted = synthetic::flash_bytes(n_layer);
    let dims = shapes::flash_with(n_layer);
    let besides = match options.model.backend {
        // The context and the steps need their share, too.
        Backend::Cpu | Backend::Auto => {
            SeqPlan::new(&dims, options.ctx_alloc, false).bytes().total()
                + ds4_cpu::step_bytes(&dims, ds4_cpu::CHUNK_MAX)
        }
        Backend::Cuda => 0,
    };
    let free = machine::available_bytes().saturating_sub(besides);
    if wanted > free {
        let advice = match synthetic::layers_that_fit(free) {
            Some(n) => format!("--layers {n} is the most that fits"),
            None => "not even one layer fits".to_owned(),
        };
        let (wanted, besides, free) = (gib(wanted), gib(besides), gib(free + besides));
        bail!(
            "out of memory: {n_layer} layers take {wanted} and {besides} to compute, {free} are \
             free; {advice}"
        );
    }
    eprintln!("ds4: making {n_layer} layers of random weights, {}", gib(wanted));
    Ok(ModelFile::new(synthetic::flash(n_layer, SEED)?, None)?)
}

/// The tokens to prefill.
fn tokens(options: &Bench, file: &ModelFile) -> Result<Vec<TokenId>> {
    let text = |path: &std::path::Path| -> Result<(Tokenizer, String)> {
        Ok((load::tokenizer(&file.gguf)?, load::read_text(path)?))
    };
    let ids = match &options.subject {
        Subject::Text(path) => {
            let (tokenizer, text) = text(path)?;
            tokenizer.encode_with_control(&text)
        }
        Subject::Chat { file, system } => {
            let (tokenizer, text) = text(file)?;
            return first_turn(&tokenizer, system, &text);
        }
        Subject::Synthetic { .. } => {
            let n = *options.frontiers.last().expect("there is a first one");
            let n_vocab = file.dims.n_vocab as u64;
            let id = |i: u32| u32::try_from(splitmix(SEED, i) % n_vocab).expect("below n_vocab");
            (0..n).map(id).collect()
        }
    };
    Ok(ids.into_iter().map(TokenId).collect())
}

/// A user's message under a system prompt, up to where the model begins to think.
fn first_turn(tokenizer: &Tokenizer, system: &str, user: &str) -> Result<Vec<TokenId>> {
    let mut dialogue = Dialogue::new(system);
    dialogue.ask(user, true);
    Ok(dialogue.prompt(tokenizer, false)?)
}

/// Number `i` of the splitmix64 stream of `seed`.
fn splitmix(seed: u64, i: u32) -> u64 {
    let z = seed.wrapping_add(u64::from(i).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A sequence on its way through the context lengths.
struct Walk<'a> {
    engine: &'a mut Engine,
    seq: Option<Sequence>,
    file: &'a ModelFile,
    /// Skipped while decoding; a synthetic model has none.
    eos: Option<TokenId>,
    /// Whether more columns are wanted.
    is_wide: bool,
    /// Bytes per second from memory, where they were measured.
    bandwidth: Option<f64>,
    /// Seconds of the last prefill and of the median token decoded after it.
    plain: [f64; 2],
}

/// Tokens that are recorded one by one while decoding, at most.
const RECORDED_MAX: usize = 16;

impl Walk<'_> {
    /// Prefills up to the end of `prompt`, then decodes and goes back.
    fn measure(&mut self, prompt: &[TokenId], cap: u32, gen_tokens: usize) -> Result<Row> {
        let mut seq = match self.seq.take() {
            Some(seq) => seq,
            None => Sequence::open(self.engine.runner(), cap)?,
        };
        let from = seq.tokens().len();
        let bar = terminal::progress_bar("prefill", prompt.len() - from, "tokens");
        let start = Instant::now();
        seq.sync(self.engine.runner(), prompt, &Cancel::default(), &mut |n| {
            bar.set_position((n - from) as u64);
        })?;
        let prefill = start.elapsed();
        bar.finish_and_clear();
        let kvcache_bytes = self.engine.runner().save_seq(seq.id(), &mut std::io::sink())?;
        let latencies = self.decode(&mut seq, gen_tokens)?;
        self.seq = Some(seq);
        self.plain = [prefill.as_secs_f64(), median(&latencies).as_secs_f64()];
        let new = prompt.len() - from;
        let generation = latencies.iter().sum();
        Ok(Row {
            ctx_tokens: prompt.len(),
            prefill_tokens: new,
            prefill_tps: per_second(new, prefill),
            gen_tokens: latencies.len(),
            gen_tps: per_second(latencies.len(), generation),
            kvcache_bytes,
            wide: self.is_wide.then(|| self.wide(prompt.len(), prefill, latencies)),
        })
    }

    /// The present end, to begin a prefill again; `None` before the first.
    fn snapshot(&mut self) -> Result<Option<Snapshot>> {
        let seq = self.seq.as_ref();
        Ok(seq.map(|seq| seq.snapshot(self.engine.runner())).transpose()?)
    }

    /// Prefills to the end of `prompt` from an earlier end again and decodes some tokens, all of it
    /// recorded; writes the files beginning with `prefix`.
    fn kernels(
        &mut self,
        prompt: &[TokenId],
        from: Option<Snapshot>,
        n: usize,
        prefix: &Path,
    ) -> Result<Vec<Phase>> {
        let mut seq = self.go_back(from)?;
        let (first, n) = (seq.tokens().len(), n.min(RECORDED_MAX));
        let (calls, phases) = if let Engine::Cuda(runner) = &mut *self.engine {
            let calls = launches::record(runner, &seq, prompt, n, self.eos)?;
            let phases = launches::phases(&calls, prompt.len() - first, self.plain, self.bandwidth);
            (calls, phases)
        } else {
            let calls = self.record(&mut seq, prompt, n)?;
            let phases = self.phases(&calls, first..prompt.len());
            (calls, phases)
        };
        kernel_files::write(prefix, &calls, &phases)?;
        Ok(phases)
    }

    /// The sequence as it was before the last prefill.
    fn go_back(&mut self, from: Option<Snapshot>) -> Result<Sequence> {
        let mut seq = self.seq.take().context("no context length was measured")?;
        if let Some(snapshot) = from {
            seq.restore(self.engine.runner(), snapshot)?;
            return Ok(seq);
        }
        let cap = seq.cap();
        seq.close(self.engine.runner());
        Ok(Sequence::open(self.engine.runner(), cap)?)
    }

    /// What recorded calls on the CPU cost: the prefill of some positions, then single tokens.
    fn phases(&self, calls: &[Recorded], new: Range<usize>) -> Vec<Phase> {
        let (Some(cpu), Some(bandwidth)) = (self.cpu(), self.bandwidth) else { return Vec::new() };
        let (dims, end, n_new) = (&self.file.dims, new.end, new.len());
        let limits = &mut Limits::new(cpu.pool(), bandwidth);
        let row_macs = new.map(|pos| read_bytes::row_macs(dims, pos)).sum();
        let known = Known { row_bytes: 0, row_macs };
        let plain = self.plain;
        let mut phases = vec![Phase::new("prefill", n_new, plain[0], &calls[0], known, limits)];
        if let Some(token) = kernel_files::middle(&calls[1..]) {
            let row_bytes = read_bytes::rows(dims, end);
            let known = Known { row_bytes, row_macs: read_bytes::row_macs(dims, end) };
            phases.push(Phase::new("decode", 1, plain[1], token, known, limits));
        }
        phases
    }

    /// Records a prefill to the end of `prompt` on the CPU, then `n` single tokens.
    fn record(
        &mut self,
        seq: &mut Sequence,
        prompt: &[TokenId],
        n: usize,
    ) -> Result<Vec<Recorded>> {
        let new = prompt.len() - seq.tokens().len();
        let mut calls = Vec::new();
        let name = format!("prefill of {new} tokens");
        calls.push(self.recorded(name, |walk| {
            seq.sync(walk.engine.runner(), prompt, &Cancel::default(), &mut |_| {})?;
            Ok(())
        })?);
        for ix in 0..n {
            let name = format!("token {ix}");
            calls.push(self.recorded(name, |walk| walk.append_best(seq))?);
        }
        Ok(calls)
    }

    /// The runner whose threads can be recorded.
    fn cpu(&self) -> Option<&CpuRunner> {
        match &*self.engine {
            Engine::Cpu(runner) => Some(runner),
            Engine::Cuda(_) => None,
        }
    }

    fn recorded(
        &mut self,
        name: String,
        f: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Recorded> {
        if let Some(cpu) = self.cpu() {
            cpu.start_trace();
        }
        let start = Instant::now();
        let done = f(self);
        let seconds = start.elapsed().as_secs_f64();
        let events = self.cpu().map_or_else(Vec::new, CpuRunner::stop_trace);
        done.map(|()| Recorded { name, seconds, events })
    }

    /// Appends the most probable token that is not the end.
    fn append_best(&mut self, seq: &mut Sequence) -> Result<()> {
        let mut next = argmax(seq.logits())?;
        if Some(next) == self.eos {
            // Rare: the row is copied only then.
            let mut row = seq.logits().to_vec();
            row[next.0 as usize] = f32::NEG_INFINITY;
            next = argmax(&row)?;
        }
        Ok(seq.append(self.engine.runner(), &[next], 1)?)
    }

    /// Decodes `n` tokens greedily and sets the sequence back; returns the time of each.
    fn decode(&mut self, seq: &mut Sequence, n: usize) -> Result<Vec<Duration>> {
        let snapshot = seq.snapshot(self.engine.runner())?;
        let mut latencies = Vec::with_capacity(n);
        for _ in 0..n {
            let start = Instant::now();
            self.append_best(seq)?;
            latencies.push(start.elapsed());
        }
        seq.restore(self.engine.runner(), snapshot)
            .context("cannot go back to the context length")?;
        Ok(latencies)
    }

    fn wide(&self, len: usize, ttft: Duration, mut all: Vec<Duration>) -> Wide {
        let mean = all.iter().sum::<Duration>().as_secs_f64() / all.len().max(1) as f64;
        all.sort_unstable();
        let at = |share: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "an index into `all`")]
            #[expect(clippy::cast_sign_loss, reason = "a share is positive")]
            let ix = ((all.len().saturating_sub(1)) as f64 * share).round() as usize;
            all.get(ix).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let bytes_per_token = read_bytes::weights(&self.file.weights, &self.file.dims)
            + read_bytes::rows(&self.file.dims, len);
        let rate = if mean > 0.0 { bytes_per_token as f64 / mean } else { 0.0 };
        Wide {
            ttft_ms: ttft.as_secs_f64() * 1e3,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            bytes_per_token,
            gb_per_s: rate / 1e9,
            bandwidth_share: self.bandwidth.filter(|_| self.is_of_one_memory()).map(|l| rate / l),
        }
    }

    /// Whether all weights are in the memory whose bandwidth was measured.
    fn is_of_one_memory(&self) -> bool {
        match &*self.engine {
            Engine::Cpu(_) => true,
            Engine::Cuda(runner) => runner.device_experts() >= self.file.dims.n_expert,
        }
    }
}

/// The upper median; zero for none.
fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Room;

    #[test]
    fn a_gpu_is_measured_as_the_cpu_is() {
        let file = Arc::new(ds4_model::testing::quant());
        let options = ds4_cuda::CudaOptions::default();
        let runner = ds4_cuda::open_emulated(&file, &options).unwrap();
        let mut engine = Engine::Cuda(Box::new(runner));
        assert_eq!((engine.name(), &engine.device().unwrap().name[..]), ("cuda", "emulator"));
        let room = engine.room().unwrap();
        room.plan(engine.runner(), 64, "").unwrap();
        let none = Room::Device { free_bytes: 0 }.plan(engine.runner(), 64, "use less");
        assert!(none.unwrap_err().to_string().ends_with("the GPU has 0.0 KiB for it; use less"));
        let tokens: Vec<TokenId> = (0..20).map(TokenId).collect();
        let (engine, plain) = (&mut engine, [0.0; 2]);
        let (is_wide, bandwidth) = (true, Some(1e9));
        let mut walk =
            Walk { engine, seq: None, file: &file, eos: None, is_wide, bandwidth, plain };
        let short = walk.measure(&tokens[..12], 64, 2).unwrap();
        let long = walk.measure(&tokens, 64, 2).unwrap();
        assert_eq!((short.prefill_tokens, long.prefill_tokens, long.gen_tokens), (12, 8, 2));
        assert!(long.kvcache_bytes > short.kvcache_bytes);
        let wide = long.wide.unwrap();
        assert!((wide.bandwidth_share.unwrap() / wide.gb_per_s - 1.0).abs() < 1e-9);
        // The emulator times nothing; all else is as on a GPU.
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("x");
        let phases = walk.kernels(&tokens, None, 3, &prefix).unwrap();
        let names: Vec<_> = phases.iter().map(|p| (p.name, p.tokens)).collect();
        assert_eq!(names, [("prefill", 20), ("decode", 1)]);
        assert!(phases.iter().all(|p| p.components.is_empty() && p.seconds > 0.0));
        let trace = std::fs::read_to_string(dir.path().join("x.trace.json")).unwrap();
        let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
        assert_eq!(trace["traceEvents"].as_array().unwrap().len(), 1 + 3, "calls, no launches");
        assert!(dir.path().join("x.svg").is_file());
    }

    #[test]
    fn synthetic_tokens_are_fixed() {
        // The published first output of splitmix64 with seed 0 is e220a8397b1dcdaf.
        assert_eq!(splitmix(0, 0), 0xE220_A839_7B1D_CDAF);
    }
}
