//! What `draft` proposes is what the MTP block computes over the true pairs of the whole sequence
//! (§4), continued with its own states.

mod common;

use std::sync::Arc;

use common::{argmax, feed, feed_chunks, quant, runner, some_tokens, tiny};
use ds4_cpu::CpuRunner;
use ds4_model::{ModelFile, Numerics, Recorder, Runner, TokenId};

/// The block over all pairs `(hidden[i], next[i])`: the choice at the last one, and its states.
fn step(r: &mut CpuRunner, hidden: &[f32], next: &[TokenId]) -> (TokenId, Vec<f32>) {
    let recorder = Recorder::new();
    r.set_probe(Some(Box::new(recorder.clone())));
    let logits = r.mtp_forward(hidden, next).expect("there is an MTP block");
    r.set_probe(None);
    let states = &recorder.take()["mtp.hidden"];
    let last = &logits[logits.len() - r.dims().n_vocab..];
    let choice = TokenId(u32::try_from(argmax(last)).expect("a token id"));
    (choice, states.row(next.len() - 1).to_vec())
}

/// Three tokens after `tokens`, the last of which is not yet in the sequence.
fn expected(r: &mut CpuRunner, hidden: &[f32], tokens: &[TokenId]) -> Vec<TokenId> {
    let width = r.dims().n_hc * r.dims().n_embd;
    let mut hidden = hidden[..(tokens.len() - 1) * width].to_vec();
    let mut next = tokens[1..].to_vec();
    let mut found = Vec::new();
    for _ in 0..3 {
        let (token, state) = step(r, &hidden, &next);
        found.push(token);
        next.push(token);
        hidden.extend(state);
    }
    found
}

fn check(name: &str, model: &Arc<ModelFile>, numerics: Numerics) {
    let mut r = runner(model, numerics);
    let tokens = some_tokens(140, model.dims.n_vocab, 11);
    let recorder = Recorder::new();
    r.set_probe(Some(Box::new(recorder.clone())));
    let seq = r.open_seq(200).expect("a small context");
    feed(&mut r, seq, &tokens);
    r.set_probe(None);
    let last = format!("L{}.hidden", model.dims.n_layer - 1);
    let hidden = &recorder.take()[&last].data;
    for n in [1, 2, 7, 8, 13, 30, 139] {
        let expected = expected(&mut r, hidden, &tokens[..=n]);
        for sizes in [&[1][..], &[200], &[5, 2, 90], &[n - n / 2]] {
            let seq = r.open_seq(200).expect("a small context");
            feed_chunks(&mut r, seq, &tokens[..n], sizes);
            for asked in [1, 3] {
                let mut found = vec![TokenId(0); asked];
                assert_eq!(r.draft(seq, tokens[n], &mut found).expect("a valid token"), asked);
                assert_eq!(found, expected[..asked], "{name}, after {n} tokens in {sizes:?}");
            }
            r.close_seq(seq);
        }
    }
}

#[test]
fn tiny_plain() {
    check("tiny plain", &tiny(), Numerics::PLAIN);
}

#[test]
fn tiny_with_simulated_roundings() {
    check("tiny sim", &tiny(), Numerics::OFFICIAL);
}

#[test]
fn quantised_profile_g() {
    check("quant", &quant(), Numerics::PROFILE_G);
}
