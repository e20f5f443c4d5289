//! What a GPU has to show: parity with references and with the CPU, and speed.
//!
//! ```text
//! check parity
//! check stages FILE TOKENS
//! check greedy FILE TOKENS PROMPTS
//! check drift FILE TOKENS PROMPTS
//! check speed FILE CONTEXT[,CONTEXT…] [SEQUENCES]
//! check hybrid FILE GIB[,GIB…]
//! ```
//! With `emulated` as the last word, the kernels run on the processor.
//! `bench/cuda/run.sh` is the script that calls it.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool that prints tables")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ds4_cpu::{CpuOptions, CpuRunner, Isa};
use ds4_cuda::{CudaOptions, CudaRunner};
use ds4_model::npy::Array;
use ds4_model::testing::{Bounds, Oracle, Parity, Reference, run};
use ds4_model::{
    ModelFile, Numerics, Place, Probe, Recorder, Runner, SeqId, Span, Stage, Stages, TokenId,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args[i].parse::<usize>().unwrap();
    match args[0].as_str() {
        "parity" => parity(),
        "stages" => stages(Path::new(&args[1]), number(2)),
        "greedy" => greedy(Path::new(&args[1]), number(2), Path::new(&args[3])),
        "drift" => drift(Path::new(&args[1]), number(2), Path::new(&args[3])),
        "speed" => {
            let contexts: Vec<usize> = args[2].split(',').map(|c| c.parse().unwrap()).collect();
            speed(Path::new(&args[1]), &contexts, args.get(3).map_or(1, |s| s.parse().unwrap()));
        }
        "hybrid" => {
            let limits: Vec<f64> = args[2].split(',').map(|c| c.parse().unwrap()).collect();
            hybrid(Path::new(&args[1]), &limits);
        }
        other => panic!("unknown check {other}"),
    }
}

fn open(file: &Arc<ModelFile>, numerics: Numerics) -> CudaRunner {
    let options = CudaOptions { numerics, ..CudaOptions::default() };
    let runner = if std::env::args().next_back().is_some_and(|word| word == "emulated") {
        ds4_cuda::open_emulated(file, &CudaOptions { chunk_max: 64, ..options }).unwrap()
    } else {
        ds4_cuda::open(file, &options, &mut |_| {}).unwrap()
    };
    println!("device: {:?}", runner.device());
    runner
}

/// As the CPU's suite has them.
fn bounds(_: Place, stage: Stage) -> Bounds {
    match stage {
        Stage::AttnHcIn | Stage::AttnHcPost | Stage::AttnHcComb => {
            Bounds { median: 2e-6, p99: 1e-4 }
        }
        _ => Bounds { median: 2e-3, p99: 5e-2 },
    }
}

/// The quantised oracle model against its reference, layer by layer.
fn parity() {
    let oracle = Oracle::quant();
    let r = oracle.reference("ds4").unwrap();
    compare(&Arc::new(oracle.model.clone()), r, &[1, 5, 40]);
}

/// A model of any size against the CPU, layer by layer.
fn stages(path: &Path, n: usize) {
    let file = Arc::new(ModelFile::open(path, None).unwrap());
    let vocab = u32::try_from(file.dims.n_vocab).unwrap();
    let id = |i: u32| TokenId((i * 7919 + 13) % vocab);
    let tokens: Vec<TokenId> = (0..u32::try_from(n).unwrap()).map(id).collect();
    let mut cpu = CpuRunner::new(&file, &CpuOptions::default()).unwrap();
    let recorder = Recorder::new();
    cpu.set_probe(Some(Box::new(recorder.clone())));
    let seq = cpu.open_seq(u32::try_from(n).unwrap()).unwrap();
    let logits = run(&mut cpu, seq, &tokens, n).unwrap();
    drop(cpu);
    let none = Array::new(vec![0, file.dims.n_vocab], Vec::new());
    let reference = Reference {
        mode: "ds4",
        numerics: Numerics::PROFILE_G,
        tokens,
        decode: Vec::new(),
        logits,
        decode_logits: none,
        stages: recorder.take(),
    };
    // What right implementations differ by: attention's sums in another order, and inputs of layers
    // that differ as little as they can.
    let best = Isa::current();
    Isa::select(Isa::Scalar);
    let without = cpu_stages(&file, &reference.tokens, reference.hidden());
    Isa::select(best);
    judge("the CPU without vector instructions", &without, &reference, &file);
    let mut hidden = reference.hidden();
    for (i, v) in hidden.iter_mut().flat_map(|h| &mut h.data).enumerate() {
        *v = f32::from_bits(v.to_bits() ^ u32::from(i.wrapping_mul(0x9e37_79b9) >> 13 & 1 == 1));
    }
    let nudged = cpu_stages(&file, &reference.tokens, hidden);
    judge(
        "the CPU, half of every layer's input moved by one unit in the last place",
        &nudged,
        &reference,
        &file,
    );
    compare(&file, &reference, &[1, 5, n]);
}

/// The CPU's stages where layers have these inputs.
fn cpu_stages(file: &Arc<ModelFile>, tokens: &[TokenId], hidden: Vec<Array>) -> Stages {
    let mut cpu = CpuRunner::new(file, &CpuOptions::default()).unwrap();
    let recorder = Recorder::forcing(hidden);
    cpu.set_probe(Some(Box::new(recorder.clone())));
    let seq = cpu.open_seq(u32::try_from(tokens.len()).unwrap()).unwrap();
    run(&mut cpu, seq, tokens, tokens.len()).unwrap();
    recorder.take()
}

/// Each layer on the reference's input, in chunks of so many tokens.
fn compare(model: &Arc<ModelFile>, r: &Reference, chunks: &[usize]) {
    for &chunk in chunks {
        let mut runner = open(model, r.numerics);
        let hidden = r.hidden();
        let last = hidden.last().cloned().unwrap();
        let recorder = Recorder::forcing(hidden);
        runner.set_probe(Some(Box::new(recorder.clone())));
        let seq = runner.open_seq(u32::try_from(r.tokens.len()).unwrap().max(1000)).unwrap();
        run(&mut runner, seq, &r.tokens, chunk).unwrap();
        let mut stages = recorder.take();
        if model.weights.mtp.is_some() {
            let pairs = r.tokens.len() - 1;
            runner.mtp_forward(&last.data[..pairs * last.width()], &r.tokens[1..]).unwrap();
            stages.extend(recorder.take());
        }
        runner.set_probe(None);
        judge(&format!("chunks of {chunk}"), &stages, r, model);
    }
}

/// Prints how far stages are from the reference's.
fn judge(what: &str, stages: &Stages, r: &Reference, model: &ModelFile) {
    let parity = Parity::new(stages, r, &model.weights, 1e-2);
    let mut worst: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (_, stage, e) in &parity.errors {
        let w = worst.entry(stage.name()).or_default();
        *w = (w.0.max(e.median), w.1.max(e.p99));
    }
    println!("{what}: stage, median row, 99th percentile (worst layer)");
    for (stage, (median, p99)) in worst {
        println!("  {stage:16} {median:9.1e} {p99:9.1e}");
    }
    let wrong: usize = parity.wrong_choices.iter().map(|(_, _, tokens)| tokens.len()).sum();
    println!("  choices compared: {}, wrong: {wrong}", parity.n_choices);
    match parity.check(bounds) {
        Ok(()) => println!("{what}: within the suite's limits"),
        Err(beyond) => println!("{what}: beyond the suite's limits\n{beyond}"),
    }
}

/// In two passes, the first of which the compiler makes wide: as the engine's own.
fn argmax(row: &[f32]) -> usize {
    let mut highs = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (high, x) in highs.iter_mut().zip(chunk) {
            *high = if *x > *high { *x } else { *high };
        }
    }
    let high = highs.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    row.iter().position(|x| *x >= high).unwrap_or(0)
}

/// Largest and second largest value's difference.
fn margin(row: &[f32]) -> f32 {
    let best = argmax(row);
    let second = (0..row.len()).filter(|i| *i != best).map(|i| row[i]).fold(f32::MIN, f32::max);
    row[best] - second
}

fn forward(r: &mut dyn Runner, seq: SeqId, tokens: &[TokenId]) -> Vec<f32> {
    let mut logits = Vec::new();
    let chunk = r.chunk_max();
    for part in tokens.chunks(chunk) {
        r.forward(&[Span { seq, tokens: part, n_logits: 1 }], &mut logits).unwrap();
    }
    logits
}

/// Greedy text after prompts (a line of token ids each) on CPU and GPU, up to the first position where
/// they differ.
fn greedy(path: &Path, n: usize, prompts: &Path) {
    let file = Arc::new(ModelFile::open(path, None).unwrap());
    let mut cpu = CpuRunner::new(&file, &CpuOptions::default()).unwrap();
    let mut gpu = open(&file, Numerics::PROFILE_G);
    let prompts = read_prompts(prompts);
    let all = prompts.len();
    let (mut equal, mut ties) = (0, 0);
    for (p, prompt) in prompts.iter().enumerate() {
        let (a, b) = (cpu.open_seq(2048).unwrap(), gpu.open_seq(2048).unwrap());
        let (mut x, mut y) = (forward(&mut cpu, a, prompt), forward(&mut gpu, b, prompt));
        let mut same = 0;
        while same < n && argmax(&x) == argmax(&y) {
            let next = [TokenId(u32::try_from(argmax(&x)).unwrap())];
            (x, y) = (forward(&mut cpu, a, &next), forward(&mut gpu, b, &next));
            same += 1;
        }
        if same == n {
            equal += 1;
        } else {
            let m = margin(&x);
            ties += usize::from(m < 0.05);
            let (ours, theirs) = (argmax(&x), argmax(&y));
            println!(
                "prompt {p}: equal for {same} tokens; the CPU's margin there is {m:.4}: its token leads the \
                 GPU's by {:.4} on the CPU, by {:.4} on the GPU; logits differ by {:.4} (rms)",
                x[ours] - x[theirs],
                y[ours] - y[theirs],
                distance(&x, &y)
            );
        }
        cpu.close_seq(a);
        gpu.close_seq(b);
    }
    println!(
        "greedy: {equal} of {all} equal for {n} tokens, {ties} others part at a margin below 0.05"
    );
}

/// Prompts of a file: a line of token ids each.
fn read_prompts(path: &Path) -> Vec<Vec<TokenId>> {
    let text = std::fs::read_to_string(path).unwrap();
    let ids = |line: &str| line.split(' ').map(|id| TokenId(id.parse().unwrap())).collect();
    text.lines().map(ids).collect()
}

/// Root of the mean squared difference.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

/// Logits after each of `texts`' tokens but the last, of all prompts: the texts are continued greedily
/// to `n` tokens where they are shorter.
fn forced(
    r: &mut dyn Runner,
    prompts: &[Vec<TokenId>],
    texts: &mut [Vec<TokenId>],
    n: usize,
) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    for (prompt, text) in prompts.iter().zip(texts) {
        let seq = r.open_seq(2048).unwrap();
        rows.push(forward(r, seq, prompt));
        for i in 0..n - 1 {
            if text.len() == i {
                text.push(TokenId(u32::try_from(argmax(&rows[rows.len() - 1])).unwrap()));
            }
            rows.push(forward(r, seq, &text[i..=i]));
        }
        r.close_seq(seq);
    }
    rows
}

/// Moves about half of the values between layers by one unit in the last place: what a correct
/// implementation with another order of sums does at least.
struct Nudge {
    last: Vec<f32>,
    seed: u64,
}

impl Probe for Nudge {
    fn record(&mut self, _: Place, stage: Stage, _: u32, _: &[usize], data: &[f32]) {
        if stage == Stage::Hidden {
            self.last = data.to_vec();
        }
    }

    fn force_hidden(&mut self, layer: usize, _: u32, _: usize) -> Option<Vec<f32>> {
        for v in if layer == 0 { &mut [] } else { &mut self.last[..] } {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            let bits = v.to_bits();
            *v = f32::from_bits(match self.seed >> 62 {
                0 => bits + 1,
                1 => bits.saturating_sub(1),
                _ => bits,
            });
        }
        (layer > 0).then(|| self.last.clone())
    }
}

/// How far logits are from the CPU's when all read the CPU's greedy text: those of the GPU, and, as a
/// measure for them, those of the CPU itself with other roundings of its sums. A difference of one unit
/// in the last place moves an int8 activation by a whole step now and then; that differs by so much that
/// more of them move, and the rows of the sequence keep it. So the distance hardly depends on how small
/// the first differences were: without int8 activations the same units move logits by 1e-6.
fn drift(path: &Path, n: usize, prompts: &Path) {
    let file = Arc::new(ModelFile::open(path, None).unwrap());
    let prompts = read_prompts(prompts);
    let mut texts = vec![Vec::new(); prompts.len()];
    let cpu = || CpuRunner::new(&file, &CpuOptions::default()).unwrap();
    let expected = forced(&mut cpu(), &prompts, &mut texts, n);
    let mut compare = |what: &str, r: &mut dyn Runner| {
        let found = forced(r, &prompts, &mut texts, n);
        let mut far: Vec<f64> = expected.iter().zip(&found).map(|(x, y)| distance(x, y)).collect();
        // The first tokens at which the choices differ: where greedy texts would part.
        let parts = |(x, y): (&[Vec<f32>], &[Vec<f32>])| {
            (0..n).find(|&i| argmax(&x[i]) != argmax(&y[i])).map(|i| margin(&x[i]))
        };
        let margins: Vec<f32> = expected.chunks(n).zip(found.chunks(n)).filter_map(parts).collect();
        let ties = margins.iter().filter(|m| **m < 0.05).count();
        let widest = margins.iter().fold(0.0, |m: f32, v| m.max(*v));
        let quiet = far.iter().filter(|d| **d < 1e-4).count();
        far.sort_by(f64::total_cmp);
        println!(
            "{what}: rms difference of logits: median {:.4}, 90% below {:.4}; {quiet} of {} tokens \
             below 0.0001. {} texts equal, {ties} part at a margin below 0.05, {} at up to {widest:.3}",
            far[far.len() / 2],
            far[far.len() * 9 / 10],
            far.len(),
            prompts.len() - margins.len(),
            margins.len() - ties
        );
    };
    let best = Isa::current();
    Isa::select(Isa::Scalar);
    compare("CPU without vector instructions (attention's products are not fused)", &mut cpu());
    Isa::select(best);
    let mut nudged = cpu();
    nudged.set_probe(Some(Box::new(Nudge { last: Vec::new(), seed: 7 })));
    compare(
        "CPU, half of the values between layers moved by one unit in the last place",
        &mut nudged,
    );
    compare("GPU", &mut open(&file, Numerics::PROFILE_G));
}

/// Load, prefill and decode.
fn speed(path: &Path, contexts: &[usize], n_seq: usize) {
    let start = Instant::now();
    let file = Arc::new(ModelFile::open(path, None).unwrap());
    let mut r = open(&file, Numerics::PROFILE_G);
    let layers = file.dims.n_layer;
    println!(
        "load: {:.2} s, {layers} layers, {} MiB free",
        start.elapsed().as_secs_f64(),
        r.free_bytes().unwrap() >> 20
    );
    let vocab = u32::try_from(file.dims.n_vocab).unwrap();
    let id = |i: usize| TokenId(u32::try_from(i * 7919 % 100_003).unwrap() % vocab);
    let last = *contexts.last().unwrap();
    let cap = u32::try_from(last + 600).unwrap();
    let seq = r.open_seq(cap).unwrap();
    let mut at = 0;
    let warm = r.open_seq(600).unwrap();
    forward(&mut r, warm, &(0..512).map(id).collect::<Vec<_>>());
    r.close_seq(warm);
    for &context in contexts {
        let tokens: Vec<TokenId> = (at..context).map(id).collect();
        let start = Instant::now();
        let mut row = forward(&mut r, seq, &tokens);
        let s = start.elapsed().as_secs_f64();
        println!(
            "prefill {at}..{context}: {:.1} tok/s ({:.1} ms)",
            (context - at) as f64 / s,
            s * 1e3
        );
        at = context;
        let mark = r.mark(seq).unwrap().unwrap();
        let mut times = Vec::new();
        for _ in 0..96 {
            let next = TokenId(u32::try_from(argmax(&row)).unwrap());
            let start = Instant::now();
            row = forward(&mut r, seq, &[next]);
            times.push(start.elapsed().as_secs_f64());
        }
        times.drain(..8);
        times.sort_by(f64::total_cmp);
        println!(
            "decode at {context}: median {:.3} ms = {:.1} tok/s, best {:.3} ms",
            times[44] * 1e3,
            1.0 / times[44],
            times[0] * 1e3
        );
        r.rewind(seq, &mark).unwrap();
    }
    kernels(&mut r, seq, "decode", &[id(5)]);
    let chunk: Vec<TokenId> = (0..r.chunk_max().min(500)).map(id).collect();
    kernels(&mut r, seq, "prefill of 500", &chunk);
    let long = r.open_seq(5000).unwrap();
    let chunk: Vec<TokenId> = (0..r.chunk_max()).map(id).collect();
    forward(&mut r, long, &chunk);
    kernels(&mut r, long, "prefill of a whole chunk after another", &chunk);
    r.close_seq(long);
    r.close_seq(seq);
    if n_seq > 1 {
        batched(&mut r, n_seq, &id);
    }
}

/// Time of each kernel in one call.
fn kernels(r: &mut CudaRunner, seq: SeqId, what: &str, tokens: &[TokenId]) {
    let mut logits = Vec::new();
    let spans = [Span { seq, tokens, n_logits: 1 }];
    let times = r.forward_timed(&spans, &mut logits).unwrap();
    let mut sums: BTreeMap<&str, (usize, f32)> = BTreeMap::new();
    for t in &times {
        let s = sums.entry(t.kernel).or_default();
        *s = (s.0 + 1, s.1 + t.ms);
    }
    let total: f32 = times.iter().map(|t| t.ms).sum();
    println!("{what}: {} launches, {total:.3} ms one by one", times.len());
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (name, (n, ms)) in sums {
        println!("  {name:24} {n:5} x {:8.2} us = {ms:8.3} ms", ms * 1e3 / n as f32);
    }
}

/// Several sequences in one step.
fn batched(r: &mut CudaRunner, n: usize, id: &dyn Fn(usize) -> TokenId) {
    let seqs: Vec<SeqId> = (0..n).map(|_| r.open_seq(2400).unwrap()).collect();
    for (i, &seq) in seqs.iter().enumerate() {
        forward(r, seq, &(0..2048).map(|t| id(t + i * 31)).collect::<Vec<_>>());
    }
    let vocab = r.dims().n_vocab;
    let mut next: Vec<TokenId> = (0..n).map(id).collect();
    let mut logits = Vec::new();
    let mut times = Vec::new();
    for _ in 0..48 {
        let start = Instant::now();
        let spans: Vec<Span<'_>> = seqs
            .iter()
            .zip(&next)
            .map(|(&seq, t)| Span { seq, tokens: std::slice::from_ref(t), n_logits: 1 })
            .collect();
        r.forward(&spans, &mut logits).unwrap();
        next =
            logits.chunks(vocab).map(|row| TokenId(u32::try_from(argmax(row)).unwrap())).collect();
        times.push(start.elapsed().as_secs_f64());
    }
    times.drain(..8);
    times.sort_by(f64::total_cmp);
    println!(
        "{n} sequences: median {:.2} ms a step = {:.0} tok/s in sum",
        times[20] * 1e3,
        n as f64 / times[20]
    );
    let spans: Vec<Span<'_>> = seqs
        .iter()
        .zip(&next)
        .map(|(&seq, t)| Span { seq, tokens: std::slice::from_ref(t), n_logits: 1 })
        .collect();
    let times = r.forward_timed(&spans, &mut logits).unwrap();
    let mut sums: BTreeMap<&str, (usize, f32)> = BTreeMap::new();
    for t in &times {
        let s = sums.entry(t.kernel).or_default();
        *s = (s.0 + 1, s.1 + t.ms);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (name, (n, ms)) in sums.into_iter().take(12) {
        println!("  {name:24} {n:5} x {:8.2} us = {ms:8.3} ms", ms * 1e3 / n as f32);
    }
}

/// Decoding with a part of the experts outside the GPU, and how far its logits are from the CPU's.
fn hybrid(path: &Path, limits: &[f64]) {
    let file = Arc::new(ModelFile::open(path, None).unwrap());
    let vocab = u32::try_from(file.dims.n_vocab).unwrap();
    let prompt: Vec<TokenId> = (0..64).map(|i| TokenId((i * 7919 + 13) % vocab)).collect();
    let mut cpu = CpuRunner::new(&file, &CpuOptions::default()).unwrap();
    let seq = cpu.open_seq(256).unwrap();
    let expected = forward(&mut cpu, seq, &prompt);
    drop(cpu);
    for &gib in limits {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "gibibytes")]
        let vram_bytes = Some((gib * f64::from(1 << 30)) as u64);
        let options = CudaOptions { vram_bytes, seq_bytes: 1 << 29, ..CudaOptions::default() };
        let mut r = match ds4_cuda::open(&file, &options, &mut |_| {}) {
            Ok(r) => r,
            Err(e) => {
                println!("--vram-gb {gib}: {e}");
                continue;
            }
        };
        let seq = r.open_seq(2048).unwrap();
        let start = Instant::now();
        let mut row = forward(&mut r, seq, &prompt);
        let prefill = start.elapsed().as_secs_f64();
        let norm =
            |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let e = norm(&mut row.iter().zip(&expected).map(|(a, b)| a - b))
            / norm(&mut expected.iter().copied());
        let mut times = Vec::new();
        for _ in 0..24 {
            let next = TokenId(u32::try_from(argmax(&row)).unwrap());
            let start = Instant::now();
            row = forward(&mut r, seq, &[next]);
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        println!(
            "--vram-gb {gib}: {} of {} experts on the GPU; prefill of 64: {:.1} tok/s, decode {:.1} tok/s; \
             relative error of the logits against the CPU {e:.1e}",
            r.device_experts(),
            file.dims.n_expert,
            64.0 / prefill,
            1.0 / times[12]
        );
    }
}
