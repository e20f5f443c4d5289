//! What the tests of the runner share.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::sync::Arc;

use ds4_cpu::{CpuOptions, CpuRunner};
use ds4_model::{ModelFile, Numerics, Runner, SeqId, Span, TokenId};

/// A runner of `model` on two threads.
pub(crate) fn runner(model: &Arc<ModelFile>, numerics: Numerics) -> CpuRunner {
    with_options(model, &CpuOptions { threads: 1, numerics, ..CpuOptions::default() })
}

/// A runner of `model` with these options.
pub(crate) fn with_options(model: &Arc<ModelFile>, options: &CpuOptions) -> CpuRunner {
    CpuRunner::new(model, options).expect("the shape fits the numerics")
}

/// TINY.
pub(crate) fn tiny() -> Arc<ModelFile> {
    Arc::new(ds4_model::testing::tiny())
}

/// The quantised oracle model.
pub(crate) fn quant() -> Arc<ModelFile> {
    Arc::new(ds4_model::testing::quant())
}

/// Token ids.
pub(crate) fn ids(tokens: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
    tokens.into_iter().map(TokenId).collect()
}

/// `n` tokens below `n_vocab`, different for every seed.
pub(crate) fn some_tokens(n: usize, n_vocab: usize, seed: u64) -> Vec<TokenId> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % u32::try_from(n_vocab).expect("a small vocabulary")
    };
    ids((0..n).map(|_| next()))
}

/// Appends `tokens` to `seq` in one call; returns the logits of all of them.
pub(crate) fn feed(r: &mut dyn Runner, seq: SeqId, tokens: &[TokenId]) -> Vec<f32> {
    let mut logits = Vec::new();
    r.forward(&[Span { seq, tokens, n_logits: tokens.len() }], &mut logits).expect("a valid span");
    logits
}

/// Appends `tokens` in calls of these sizes, the last one again and again; all logits.
pub(crate) fn feed_chunks(
    r: &mut dyn Runner,
    seq: SeqId,
    mut tokens: &[TokenId],
    sizes: &[usize],
) -> Vec<f32> {
    let mut all = Vec::new();
    let mut sizes =
        sizes.iter().copied().chain(std::iter::repeat(*sizes.last().expect("at least one size")));
    while !tokens.is_empty() {
        let n = sizes.next().expect("it is endless").min(tokens.len());
        let (now, rest) = tokens.split_at(n);
        all.extend(feed(r, seq, now));
        tokens = rest;
    }
    all
}

/// The index of the largest value.
pub(crate) fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Fails with the place of the first difference.
pub(crate) fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits(), "{what}: value {i} is {f}, expected {e}");
    }
}
