//! A limit on the memory of weights changes what is in memory, and nothing else.

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{assert_same_bits, feed, feed_chunks, some_tokens, with_options};
use ds4_cpu::{CpuOptions, CpuRunner, Placement};
use ds4_model::testing::{QUANT_SEED, quant_gguf};
use ds4_model::{ModelFile, Residency, Runner, TokenId};

/// The quantised oracle model as a file of its own for each test.
fn file(name: &str) -> (PathBuf, Arc<ModelFile>) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.gguf"));
    let gguf = quant_gguf(QUANT_SEED).expect("the oracle model fits into memory");
    std::fs::write(&path, gguf.data()).expect("the folder of tests is writable");
    let file = ModelFile::open(&path, None).expect("it is a model");
    (path, Arc::new(file))
}

fn limited(file: &Arc<ModelFile>, threads: usize, limit: Option<u64>) -> CpuRunner {
    let options = CpuOptions { threads, weights_bytes_max: limit, ..CpuOptions::default() };
    with_options(file, &options)
}

/// Room for the experts of the widest block and a few more.
fn tight(file: &ModelFile) -> u64 {
    let place = Placement::of(file);
    place.full_bytes + (place.expert_bytes / 5) / 2
}

/// Logits of a prompt, of single tokens after it, and of drafts; and how the experts were found.
fn run(runner: &mut CpuRunner) -> (Vec<f32>, Vec<TokenId>, Option<Residency>) {
    let tokens = some_tokens(60, runner.dims().n_vocab, 5);
    let seq = runner.open_seq(100).expect("a small context");
    let mut logits = feed_chunks(runner, seq, &tokens, &[40, 1]);
    let mut drafts = vec![TokenId(0); 4];
    let n = runner.draft(seq, TokenId(7), &mut drafts).expect("a valid token");
    drafts.truncate(n);
    logits.extend(feed(runner, seq, &drafts));
    (logits, drafts, runner.residency())
}

#[test]
fn logits_are_the_same_and_experts_come_and_go() {
    let (path, file) = file("residency-same");
    let (expected, drafts, none) = run(&mut limited(&file, 1, None));
    assert_eq!((none, drafts.len()), (None, 4));
    for threads in [1, 3] {
        let limit = tight(&file);
        let (found, same, stats) = run(&mut limited(&file, threads, Some(limit)));
        assert_same_bits(&found, &expected, "with a limit");
        assert_eq!(same, drafts);
        let stats = stats.expect("it is limited");
        let place = Placement::of(&file);
        assert_eq!((stats.limit_bytes, stats.kept_bytes), (limit, place.kept_bytes));
        assert!(stats.kept_bytes + stats.expert_bytes <= limit, "{stats:?}");
        assert!(stats.hits > 0 && stats.evictions > 0, "{stats:?}");
        let one = place.expert_bytes / (5 * file.dims.n_expert as u64);
        // Blocks may have experts of different sizes: the trunk's are smaller than the average.
        assert!(stats.read_bytes > stats.misses * one / 2, "{stats:?}");
        assert!(stats.misses >= stats.evictions, "{stats:?}");
    }
    std::fs::remove_file(path).expect("it is there");
}

#[test]
fn a_limit_that_holds_all_weights_is_none() {
    let (path, file) = file("residency-all");
    let all = limited(&file, 1, Some(file.tensor_bytes()));
    assert_eq!(all.residency(), None);
    // Memory that is not a file's cannot be given back.
    let in_memory = common::quant();
    assert_eq!(limited(&in_memory, 1, Some(1)).residency(), None);
    std::fs::remove_file(path).expect("it is there");
}

#[test]
fn steps_are_no_larger_than_their_experts_fit() {
    let (path, file) = file("residency-small");
    let place = Placement::of(&file);
    let fails = |limit| {
        let options = CpuOptions { weights_bytes_max: Some(limit), ..CpuOptions::default() };
        CpuRunner::new(&file, &options).map(|r| r.chunk_max()).map_err(|e| e.to_string())
    };
    let error = fails(place.least_bytes - 1).expect_err("too small");
    assert!(error.contains("this model needs"), "{error}");
    // Seventeen tokens may well choose all of the eight experts.
    assert_eq!(place.least_bytes, place.full_bytes);
    assert_eq!(fails(place.least_bytes), Ok(ds4_cpu::CHUNK_MAX));
    std::fs::remove_file(path).expect("it is there");
}
