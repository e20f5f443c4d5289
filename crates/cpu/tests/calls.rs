//! Calls that cannot be served: each gives its own error and changes nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod common;

use common::{assert_same_bits, feed, ids, runner, some_tokens, tiny};
use ds4_cpu::{CpuOptions, CpuRunner};
use ds4_model::{Error, Numerics, Runner, SeqId, Span, TokenId};

fn tiny_runner() -> CpuRunner {
    runner(&tiny(), Numerics::PLAIN)
}

/// Calls `forward` with a good span of sequence `a` and a bad one; both must stay as they are.
fn refused(r: &mut CpuRunner, a: SeqId, bad: Span<'_>) -> Error {
    let lens = [a, bad.seq].map(|s| r.seq_len(s).ok());
    let good = Span { seq: a, tokens: &[TokenId(1)], n_logits: 1 };
    let mut logits = vec![7.0];
    let error = r.forward(&[good, bad], &mut logits).unwrap_err();
    assert_eq!([a, bad.seq].map(|s| r.seq_len(s).ok()), lens, "{error}");
    assert_eq!(logits, [7.0], "{error}");
    error
}

#[test]
fn bad_spans() {
    let mut r = tiny_runner();
    let (a, b) = (r.open_seq(20).unwrap(), r.open_seq(20).unwrap());
    feed(&mut r, b, &some_tokens(18, 64, 1));
    let three = ids([1, 2, 3]);
    let span = |tokens, n_logits| Span { seq: b, tokens, n_logits };
    let message = |r: &mut CpuRunner, span| refused(r, a, span).to_string();

    assert_eq!(message(&mut r, span(&[], 0)), "invalid span: it has no tokens");
    assert_eq!(
        message(&mut r, span(&three[..1], 2)),
        "invalid span: logits of 2 of 1 tokens wanted"
    );
    let full = message(&mut r, span(&three, 1));
    assert!(full.starts_with("context is full: 18 tokens and 3 more do not fit into 20"), "{full}");
    let wrong = ids([1, 64]);
    assert_eq!(
        message(&mut r, span(&wrong, 1)),
        "token id 64 is outside the vocabulary of 64 tokens"
    );
    let twice = Span { seq: a, tokens: &three, n_logits: 0 };
    assert_eq!(refused(&mut r, a, twice).to_string(), "invalid span: sequence 0 appears twice");
    let unknown = Span { seq: SeqId(99), tokens: &three, n_logits: 0 };
    assert_eq!(refused(&mut r, a, unknown).to_string(), "sequence 99 is not open");

    // What fits still fits, to the last token.
    feed(&mut r, b, &three[..2]);
    assert!(matches!(
        refused(&mut r, a, span(&three[..1], 1)),
        Error::ContextFull { len: 20, more: 1, cap: 20 }
    ));
}

#[test]
fn spans_longer_than_a_step() {
    let options =
        CpuOptions { threads: 1, numerics: Numerics::PLAIN, chunk_max: 4, ..CpuOptions::default() };
    let mut r = common::with_options(&tiny(), &options);
    let (a, b) = (r.open_seq(20).unwrap(), r.open_seq(20).unwrap());
    let tokens = some_tokens(5, 64, 1);
    let error = refused(&mut r, a, Span { seq: b, tokens: &tokens, n_logits: 0 });
    assert_eq!(error.to_string(), "invalid span: 5 tokens, but a call takes at most 4");
}

#[test]
fn sequences_are_closed_once_and_ids_are_not_reused() {
    let mut r = tiny_runner();
    let (a, b) = (r.open_seq(20).unwrap(), r.open_seq(20).unwrap());
    let alone = feed(&mut r, b, &ids([1, 2, 3]));
    r.close_seq(a);
    r.close_seq(a);
    let error = "sequence 0 is not open";
    assert_eq!(r.seq_len(a).unwrap_err().to_string(), error);
    assert_eq!(r.truncate(a, 0).unwrap_err().to_string(), error);
    assert_eq!(r.save_seq(a, &mut Vec::new()).unwrap_err().to_string(), error);
    assert_eq!(r.mark(a).unwrap_err().to_string(), error);
    assert_eq!(r.draft(a, TokenId(0), &mut [TokenId(0)]).unwrap_err().to_string(), error);
    let c = r.open_seq(20).unwrap();
    assert!(c != a && c != b);
    assert_same_bits(&feed(&mut r, c, &ids([1, 2, 3])), &alone, "a sequence opened later");
    assert_eq!(r.seq_len(b).unwrap(), 3);
}

#[test]
fn contexts_outside_the_model() {
    let mut r = tiny_runner();
    for cap in [0, 1_048_577, u32::MAX] {
        let error = r.open_seq(cap).unwrap_err().to_string();
        assert_eq!(error, format!("a context of {cap} tokens; use 1 to 1048576"));
    }
    assert!(r.seq_bytes(1000) > r.seq_bytes(100));
}

#[test]
fn no_spans_no_logits() {
    let mut r = tiny_runner();
    let mut logits = vec![1.0];
    r.forward(&[], &mut logits).unwrap();
    assert!(logits.is_empty());
    let seq = r.open_seq(20).unwrap();
    let tokens = ids([1, 2]);
    r.forward(&[Span { seq, tokens: &tokens, n_logits: 0 }], &mut logits).unwrap();
    assert!(logits.is_empty());
    assert_eq!(r.seq_len(seq).unwrap(), 2);
}

#[test]
fn drafts_need_a_state_and_a_token_of_the_vocabulary() {
    let mut r = tiny_runner();
    let seq = r.open_seq(20).unwrap();
    let mut out = [TokenId(0); 40];
    assert_eq!(r.draft(seq, TokenId(1), &mut out).unwrap(), 0, "nothing to start from");
    feed(&mut r, seq, &ids([1, 2, 3]));
    assert!(matches!(r.draft(seq, TokenId(64), &mut out), Err(Error::TokenRange { .. })));
    assert_eq!(r.draft(seq, TokenId(1), &mut []).unwrap(), 0);
    assert_eq!(r.draft(seq, TokenId(1), &mut out).unwrap(), 16, "the longest proposal");
    assert_eq!(r.seq_len(seq).unwrap(), 3);
    assert!(r.mtp_forward(&[0.0; 5], &ids([1])).is_err());
}

/// Numerics whose blocks do not fit the shape are refused when the model is opened.
#[test]
fn shapes_without_whole_blocks() {
    let error = ds4_cpu::open(&tiny(), &CpuOptions::default()).err().unwrap().to_string();
    assert!(error.contains("int8 activations need blocks of 256"), "{error}");
}
