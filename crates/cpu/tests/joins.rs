//! The threads of a decode step meet a few times per layer.

mod common;

use common::{quant, some_tokens, with_options};
use ds4_cpu::CpuOptions;
use ds4_model::{Runner, Span};

/// Both hyper-connections' mixes, four products of attention and itself, the router, the experts'
/// two products and their activation make 11 sections per layer; the choice of compressed rows
/// makes another one where there are many; the head makes two.
#[test]
fn threads_meet_a_few_times_per_layer() {
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    let mut r = with_options(&quant(), &options);
    let seq = r.open_seq(40).expect("a small context");
    let tokens = some_tokens(33, r.dims().n_vocab, 1);
    let mut logits = Vec::new();
    r.forward(&[Span { seq, tokens: &tokens[..32], n_logits: 0 }], &mut logits).expect("a span");
    let before = r.pool().sections();
    r.forward(&[Span { seq, tokens: &tokens[32..], n_logits: 1 }], &mut logits).expect("a span");
    let sections = r.pool().sections().wrapping_sub(before) as usize;
    assert!(sections > 0 && sections <= 12 * r.dims().n_layer + 2, "{sections} sections");
}
