//! The saved form of a sequence: damage of any kind is an error, never a panic or a wrong state.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod common;

use common::{feed, runner, some_tokens, tiny};
use ds4_cpu::CpuRunner;
use ds4_model::{Error, ModelFile, Numerics, Runner, TokenId};

/// A runner of TINY and the saved state of a sequence of `n` tokens.
fn saved(n: usize, numerics: Numerics) -> (CpuRunner, Vec<u8>) {
    let mut r = runner(&tiny(), numerics);
    let seq = r.open_seq(100).unwrap();
    if n > 0 {
        feed(&mut r, seq, &some_tokens(n, 64, 1));
    }
    let mut bytes = Vec::new();
    r.save_seq(seq, &mut bytes).unwrap();
    r.close_seq(seq);
    (r, bytes)
}

/// The message of the error that loading these bytes gives.
fn refusal(r: &mut CpuRunner, bytes: &[u8]) -> String {
    match r.load_seq(&mut &*bytes, 100).expect_err("it is damaged") {
        Error::State(what) => what,
        other => panic!("another kind of error: {other}"),
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (mut r, bytes) = saved(13, Numerics::OFFICIAL);
    let mut copy = bytes.clone();
    // All of the header and of the ends of the sections; every 5th byte between.
    for at in (0..bytes.len()).filter(|i| *i < 200 || i % 5 == 0 || bytes.len() - i < 200) {
        copy[at] ^= 1 << (at % 8);
        refusal(&mut r, &copy);
        copy[at] = bytes[at];
    }
    r.load_seq(&mut &bytes[..], 100).unwrap();
}

#[test]
fn every_cut_is_noticed() {
    let (mut r, bytes) = saved(6, Numerics::OFFICIAL);
    for len in (0..bytes.len()).filter(|i| *i < 300 || i % 37 == 0 || bytes.len() - i < 300) {
        assert_eq!(refusal(&mut r, &bytes[..len]), "it is cut off", "{len} of {}", bytes.len());
    }
}

#[test]
fn bytes_after_the_state_are_left_alone() {
    let (mut r, mut bytes) = saved(9, Numerics::PLAIN);
    bytes.extend(b"more");
    let mut rest = &bytes[..];
    r.load_seq(&mut rest, 100).unwrap();
    assert_eq!(rest, b"more");
}

#[test]
fn a_state_of_something_else_is_refused() {
    let (mut r, bytes) = saved(5, Numerics::PLAIN);
    assert_eq!(refusal(&mut r, &[0; 300]), "it is not a saved sequence");
    let (mut sim, _) = saved(0, Numerics::OFFICIAL);
    assert_eq!(refusal(&mut sim, &bytes), "it was computed with other --numerics");
    let other = ds4_model::testing::quant_gguf(7).unwrap();
    let other = std::sync::Arc::new(ModelFile::new(other, None).unwrap());
    let mut other = runner(&other, Numerics::PLAIN);
    assert_eq!(refusal(&mut other, &bytes), "it belongs to another model file");
    let error = r.load_seq(&mut &bytes[..], 4).unwrap_err().to_string();
    assert_eq!(error, "saved state: it holds 5 tokens, more than a context of 4");
}

/// Rows that the numerics round to f16 are stored as f16.
#[test]
fn size_follows_the_numerics() {
    let (_, plain) = saved(90, Numerics::PLAIN);
    let f16 = Numerics { kv_f16: true, ..Numerics::PLAIN };
    let (_, half) = saved(90, f16);
    let d = ds4_model::testing::tiny_dims();
    let comp = 2 * (90 / 4) + 2 * (90 / 8);
    let raw = (d.n_layer + 1) * (d.window - 1);
    let rows = d.head_dim * (raw + comp) + d.index_dim * 2 * (90 / 4);
    assert_eq!(plain.len() - half.len(), 2 * rows);
}

/// The MTP block's part of a state is optional on both sides.
#[test]
fn with_and_without_the_mtp_block() {
    let with = tiny();
    let mut without = ModelFile::clone(&with);
    without.weights.mtp = None;
    let without = std::sync::Arc::new(without);
    let (mut with, mut without) =
        (runner(&with, Numerics::PLAIN), runner(&without, Numerics::PLAIN));
    let prompt = some_tokens(30, 64, 2);
    let (long, short) = (with.open_seq(100).unwrap(), without.open_seq(100).unwrap());
    let row = [feed(&mut with, long, &prompt), feed(&mut without, short, &prompt)];
    common::assert_same_bits(&row[0], &row[1], "the trunk does not know of the block");
    assert!(without.seq_bytes(100) < with.seq_bytes(100));

    let (mut a, mut b) = (Vec::new(), Vec::new());
    with.save_seq(long, &mut a).unwrap();
    without.save_seq(short, &mut b).unwrap();
    assert!(b.len() < a.len());
    let a = without.load_seq(&mut &a[..], 100).unwrap();
    let b = with.load_seq(&mut &b[..], 100).unwrap();
    let next = some_tokens(5, 64, 3);
    let expected = feed(&mut with, long, &next);
    common::assert_same_bits(&feed(&mut without, a, &next), &expected, "loaded without the block");

    let mut out = [TokenId(0); 2];
    assert_eq!(without.draft(a, TokenId(1), &mut out).unwrap(), 0, "no block");
    assert_eq!(with.draft(b, TokenId(1), &mut out).unwrap(), 0, "no state to start from");
    common::assert_same_bits(&feed(&mut with, b, &next), &expected, "loaded with the block");
    assert_eq!(with.draft(b, TokenId(1), &mut out).unwrap(), 2);
    // Once the window has passed the gap, drafts are those of the whole sequence.
    let more = some_tokens(10, 64, 4);
    for seq in [long, b] {
        feed(&mut with, seq, &more);
    }
    let mut drafts = [[TokenId(0); 2]; 2];
    for (seq, out) in [long, b].into_iter().zip(&mut drafts) {
        with.draft(seq, TokenId(1), out).unwrap();
    }
    assert_eq!(drafts[0], drafts[1]);
}
