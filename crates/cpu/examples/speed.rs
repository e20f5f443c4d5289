//! Prefill and decode speed of a model file on this machine, and the memory beside the mapped
//! file.
//!
//! ```text
//! cargo run --release -p ds4-cpu --example speed -- FILE [prompt tokens] [decoded tokens] [threads] [chunk]
//! ```
//! Token ids are pseudo-random; the last line is a hash of all logits, equal in every run.

#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Instant;

use ds4_cpu::{CpuOptions, CpuRunner};
use ds4_model::{ModelFile, Result, Runner, Span, TokenId};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, default| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (prompt, decoded, threads) = (number(2, 64), number(3, 32), number(4, 0));
    let file = args.get(1).map_or("model.gguf", String::as_str);
    let model = Arc::new(ModelFile::open(std::path::Path::new(file), None)?);
    let options =
        CpuOptions { threads, chunk_max: number(5, ds4_cpu::CHUNK_MAX), ..CpuOptions::default() };
    let mut r = CpuRunner::new(&model, &options)?;
    println!("{}: {} threads, {}", model.name, r.threads(), model.description);

    let cap = u32::try_from(prompt + decoded).expect("a small context");
    let seq = r.open_seq(cap)?;
    let tokens: Vec<TokenId> = some_tokens(prompt + decoded, r.dims().n_vocab);
    let (prompt, rest) = tokens.split_at(prompt);
    let mut hash = std::hash::DefaultHasher::new();
    let mut logits = Vec::new();
    // Touches the file once, so that the disk is not measured.
    let warm = r.open_seq(cap)?;
    for tokens in prompt.chunks(r.chunk_max()) {
        r.forward(&[Span { seq: warm, tokens, n_logits: 0 }], &mut logits)?;
    }
    r.close_seq(warm);

    let start = Instant::now();
    for tokens in prompt.chunks(r.chunk_max()) {
        r.forward(&[Span { seq, tokens, n_logits: 1 }], &mut logits)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("prefill {:7.2} tokens/s ({} tokens)", prompt.len() as f64 / seconds, prompt.len());
    let mut times = Vec::new();
    let sections = r.pool().sections();
    for token in rest {
        let start = Instant::now();
        r.forward(&[Span { seq, tokens: &[*token], n_logits: 1 }], &mut logits)?;
        times.push(start.elapsed().as_secs_f64());
        assert!(logits.iter().all(|x| x.is_finite()), "logits of a real model are finite");
        for x in &logits {
            hash.write_u32(x.to_bits());
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    println!("decode  {:7.2} tokens/s (median of {} tokens)", 1.0 / median, rest.len());
    let sections = r.pool().sections().wrapping_sub(sections) as usize;
    println!("joins   {:7.2} per token and layer", per_layer(sections, rest.len(), &r));
    memory(&r, cap);
    println!("logits  {:016x}", hash.finish());
    Ok(())
}

/// Of sections of some tokens.
fn per_layer(sections: usize, tokens: usize, r: &CpuRunner) -> f64 {
    sections as f64 / (tokens.max(1) * r.dims().n_layer) as f64
}

/// Resident memory that is not the mapped file, where the system tells.
fn memory(r: &CpuRunner, cap: u32) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let step = ds4_cpu::step_bytes(r.dims(), r.chunk_max());
    println!(
        "planned: steps at most {:.0} MiB, sequence {:.1} MiB",
        mib(step),
        mib(r.seq_bytes(cap))
    );
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    for key in ["RssAnon", "RssFile", "VmHWM"] {
        let line = status.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        println!("{}", line.replace('\t', " "));
    }
}

/// `n` pseudo-random tokens.
fn some_tokens(n: usize, n_vocab: usize) -> Vec<TokenId> {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((state >> 33) as usize % n_vocab).expect("a token id")
    };
    (0..n).map(|_| TokenId(next())).collect()
}
