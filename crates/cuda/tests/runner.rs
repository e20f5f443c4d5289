//! The contract of `Runner` on the emulator, against the CPU runner: one sequence, several at once,
//! chunks, going back, states on disk, drafts.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "tests print what they measured")]

mod common;

use std::sync::Arc;

use common::emulated;
use ds4_cpu::{CpuOptions, CpuRunner};
use ds4_cuda::CudaRunner;
use ds4_model::testing::quant;
use ds4_model::{Error, Numerics, Runner, SeqId, Span, TokenId};

const NUMERICS: Numerics = Numerics::PROFILE_G;

fn cpu() -> CpuRunner {
    let options = CpuOptions { threads: 1, numerics: NUMERICS, ..CpuOptions::default() };
    CpuRunner::new(&Arc::new(quant()), &options).unwrap()
}

fn gpu() -> CudaRunner {
    emulated(&quant(), NUMERICS)
}

fn tokens(n: u32, seed: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId((i * 37 + seed * 101 + i * i * 7) % 288)).collect()
}

/// Appends `tokens` in calls of `chunk`; logits of all.
fn feed(r: &mut dyn Runner, seq: SeqId, tokens: &[TokenId], chunk: usize) -> Vec<f32> {
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for tokens in tokens.chunks(chunk) {
        r.forward(&[Span { seq, tokens, n_logits: tokens.len() }], &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

/// Relative error of each row of logits, sorted. A rounding of a layer goes the other way where a
/// sum was made in another order: an activation moves by 1/127 of its block's largest, with it a
/// compressed row, and with that every later token that sees the row; near ties of experts or index
/// rows move single rows far. Layer by layer (`parity.rs`) the median row differs by 1e-7.
fn errors(a: &[f32], b: &[f32]) -> Vec<f64> {
    assert_eq!(a.len(), b.len());
    let norm = |rows: &mut dyn Iterator<Item = f32>| -> f64 {
        rows.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let row = |(a, b): (&[f32], &[f32])| {
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
    };
    let mut all: Vec<f64> = a.chunks(N_VOCAB).zip(b.chunks(N_VOCAB)).map(row).collect();
    all.sort_by(f64::total_cmp);
    all
}

const N_VOCAB: usize = 288;

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    let e = errors(a, b);
    let (median, p90, worst) = (e[e.len() / 2], e[e.len() * 9 / 10], e[e.len() - 1]);
    println!(
        "{what}: relative error of rows: median {median:.1e}, p90 {p90:.1e}, worst {worst:.1e}"
    );
    assert!(median < 5e-2 && p90 < 0.4, "{what}: median {median:.2e}, p90 {p90:.2e}");
}

#[test]
fn as_the_cpu_runner_in_chunks_of_any_size() {
    let ids = tokens(70, 1);
    let mut c = cpu();
    let seq = c.open_seq(200).unwrap();
    let expected = feed(&mut c, seq, &ids, 70);
    for chunk in [64, 20, 3, 1] {
        let mut g = gpu();
        let seq = g.open_seq(200).unwrap();
        let found = feed(&mut g, seq, &ids, chunk);
        assert_close(&found, &expected, &format!("chunks of {chunk}"));
        assert_eq!(g.seq_len(seq).unwrap(), 70);
    }
}

#[test]
fn several_sequences_in_one_call_are_as_alone() {
    let lists = [tokens(30, 2), tokens(25, 3), tokens(40, 4)];
    let (mut g, mut alone) = (gpu(), Vec::new());
    for ids in &lists {
        let seq = g.open_seq(100).unwrap();
        alone.push(feed(&mut g, seq, ids, 64));
        g.close_seq(seq);
    }
    let seqs: Vec<SeqId> = lists.iter().map(|_| g.open_seq(100).unwrap()).collect();
    let spans = |from: usize, to: usize| -> Vec<Span<'_>> {
        let lists = seqs.iter().zip(&lists);
        lists.map(|(&seq, ids)| Span { seq, tokens: &ids[from..to], n_logits: to - from }).collect()
    };
    let mut logits = Vec::new();
    let mut together: Vec<Vec<f32>> = vec![Vec::new(); 3];
    for (from, to) in (0..20).map(|i| (i, i + 1)).chain([(20, 25)]) {
        g.forward(&spans(from, to), &mut logits).unwrap();
        let width = logits.len() / 3;
        for (all, own) in together.iter_mut().zip(logits.chunks(width)) {
            all.extend_from_slice(own);
        }
    }
    for (i, (a, b)) in together.iter().zip(&alone).enumerate() {
        assert_close(a, &b[..a.len()], &format!("sequence {i}"));
    }
}

#[test]
fn going_back_and_marks_and_forks() {
    let ids = tokens(60, 5);
    let mut g = gpu();
    let seq = g.open_seq(200).unwrap();
    feed(&mut g, seq, &ids[..40], 40);
    let mark = g.mark(seq).unwrap().unwrap();
    let first = feed(&mut g, seq, &ids[40..], 20);
    g.truncate(seq, 40).unwrap();
    assert_close(&feed(&mut g, seq, &ids[40..], 20), &first, "after truncate");
    feed(&mut g, seq, &tokens(90, 6), 64);
    assert!(matches!(g.truncate(seq, 40), Err(Error::NeedsReplay { .. })));
    let fork = g.fork(seq, &mark, 300).unwrap();
    assert_close(&feed(&mut g, fork, &ids[40..], 20), &first, "of a fork");
    g.rewind(seq, &mark).unwrap();
    assert_eq!(g.seq_len(seq).unwrap(), 40);
    assert_close(&feed(&mut g, seq, &ids[40..], 5), &first, "after rewind");
}

#[test]
fn states_are_interchangeable_with_the_cpu() {
    let ids = tokens(60, 7);
    let (mut c, mut g) = (cpu(), gpu());
    let (a, b) = (c.open_seq(100).unwrap(), g.open_seq(100).unwrap());
    feed(&mut c, a, &ids[..45], 45);
    feed(&mut g, b, &ids[..45], 45);
    let (mut of_cpu, mut of_gpu) = (Vec::new(), Vec::new());
    c.save_seq(a, &mut of_cpu).unwrap();
    g.save_seq(b, &mut of_gpu).unwrap();
    assert_eq!(of_cpu.len(), of_gpu.len());
    let expected = feed(&mut c, a, &ids[45..], 15);
    let loaded = g.load_seq(&mut &of_cpu[..], 80).unwrap();
    let mut again = Vec::new();
    g.save_seq(loaded, &mut again).unwrap();
    assert!(again == of_cpu, "the device's rows lose something");
    assert_close(&feed(&mut g, loaded, &ids[45..], 1), &expected, "the CPU's state on the device");
    let loaded = c.load_seq(&mut &of_gpu[..], 80).unwrap();
    assert_close(&feed(&mut c, loaded, &ids[45..], 15), &expected, "the device's state on the CPU");
    assert!(matches!(g.load_seq(&mut &of_cpu[..100], 80), Err(Error::State(_))));
    assert!(matches!(g.load_seq(&mut &of_cpu[..], 10), Err(Error::State(_))));
}

#[test]
fn drafts_are_the_cpus() {
    let ids = tokens(50, 8);
    let (mut c, mut g) = (cpu(), gpu());
    let (a, b) = (c.open_seq(100).unwrap(), g.open_seq(100).unwrap());
    let mut same = 0;
    for (i, part) in ids.chunks(10).enumerate() {
        feed(&mut c, a, part, 10);
        feed(&mut g, b, part, if i % 2 == 0 { 10 } else { 1 });
        let (mut x, mut y) = ([TokenId(0); 3], [TokenId(0); 3]);
        assert_eq!(c.draft(a, TokenId(7), &mut x).unwrap(), 3);
        assert_eq!(g.draft(b, TokenId(7), &mut y).unwrap(), 3);
        same += x.iter().zip(&y).filter(|(x, y)| x == y).count();
    }
    assert!(same >= 11, "{same} of 15 drafts are equal");
}

#[test]
fn wrong_calls_change_nothing() {
    let mut g = gpu();
    let seq = g.open_seq(10).unwrap();
    let mut logits = Vec::new();
    let mut call = |g: &mut CudaRunner, seq, ids: &[TokenId], n_logits| {
        g.forward(&[Span { seq, tokens: ids, n_logits }], &mut logits)
    };
    assert!(matches!(call(&mut g, seq, &[], 0), Err(Error::Span(_))));
    assert!(matches!(call(&mut g, seq, &tokens(11, 1), 0), Err(Error::ContextFull { .. })));
    assert!(matches!(call(&mut g, seq, &tokens(2, 1), 3), Err(Error::Span(_))));
    assert!(matches!(call(&mut g, seq, &[TokenId(288)], 1), Err(Error::TokenRange { .. })));
    assert!(matches!(call(&mut g, SeqId(99), &tokens(1, 1), 1), Err(Error::NoSequence(99))));
    assert_eq!(g.seq_len(seq).unwrap(), 0);
    assert!(matches!(g.open_seq(0), Err(Error::Unsupported(_))));
}

/// More pairs of the MTP block in a step than one sequence's ring holds.
#[test]
fn many_tokens_of_several_sequences() {
    let lists = [tokens(100, 2), tokens(60, 3), tokens(3, 4)];
    let options =
        ds4_cuda::CudaOptions { numerics: NUMERICS, chunk_max: 256, ..Default::default() };
    let mut g = ds4_cuda::open_emulated(&Arc::new(quant()), &options).unwrap();
    let draft = |g: &mut CudaRunner, seq| {
        let mut out = [TokenId(0); 3];
        assert_eq!(g.draft(seq, TokenId(7), &mut out).unwrap(), 3);
        out
    };
    let (mut alone, mut drafts) = (Vec::new(), Vec::new());
    for ids in &lists {
        let seq = g.open_seq(100).unwrap();
        alone.extend(feed(&mut g, seq, ids, 256));
        drafts.push(draft(&mut g, seq));
        g.close_seq(seq);
    }
    let seqs: Vec<SeqId> = lists.iter().map(|_| g.open_seq(100).unwrap()).collect();
    let spans: Vec<Span<'_>> = seqs
        .iter()
        .zip(&lists)
        .map(|(&seq, tokens)| Span { seq, tokens, n_logits: tokens.len() })
        .collect();
    let mut together = Vec::new();
    g.forward(&spans, &mut together).unwrap();
    assert_close(&together, &alone, "together");
    let found: Vec<_> = seqs.iter().map(|&seq| draft(&mut g, seq)).collect();
    let pairs = found.iter().flatten().zip(drafts.iter().flatten());
    let same = pairs.filter(|(a, b)| a == b).count();
    assert!(same >= 6, "{same} of 9 drafts are equal");
}
