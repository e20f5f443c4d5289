//! A file may be well-formed and full of nonsense: infinities, not-a-number, huge scales. The
//! results are nonsense then, but nothing panics and every choice stays a valid one.

mod common;

use std::sync::Arc;

use common::{feed, ids, some_tokens};
use ds4_gguf::TensorType;
use ds4_model::testing::{quant_gguf, tiny_gguf};
use ds4_model::{ModelFile, Numerics, Runner, TokenId};

/// The model with every byte of its matrices replaced by what `byte` gives. Vectors are checked
/// when a model is opened.
fn damaged(gguf: &ds4_gguf::Gguf, mut byte: impl FnMut() -> u8) -> Arc<ModelFile> {
    let mut bytes = gguf.data().to_vec();
    for tensor in gguf.tensors() {
        let checked = tensor.ty == TensorType::I32 || tensor.dims.len() == 1;
        if !checked && !tensor.name.contains("_ape") {
            bytes[tensor.range.clone()].fill_with(&mut byte);
        }
    }
    Arc::new(ModelFile::from_bytes("damaged", bytes).expect("its form is intact"))
}

/// Prefill, decode, drafts, a way back, save and load.
fn use_it(model: &Arc<ModelFile>, numerics: Numerics) {
    let mut r = common::runner(model, numerics);
    let seq = r.open_seq(100).expect("a small context");
    let n_vocab = model.dims.n_vocab;
    feed(&mut r, seq, &some_tokens(40, n_vocab, 1));
    feed(&mut r, seq, &ids([1]));
    let mut out = [TokenId(0); 2];
    r.draft(seq, TokenId(3), &mut out).expect("a valid token");
    assert!(out.iter().all(|id| (id.0 as usize) < n_vocab));
    r.truncate(seq, 38).expect("within the margin");
    feed(&mut r, seq, &some_tokens(20, n_vocab, 2));
    let mut bytes = Vec::new();
    r.save_seq(seq, &mut bytes).expect("memory is enough");
    r.load_seq(&mut &bytes[..], 100).expect("just saved");
}

#[test]
fn random_bytes() {
    for seed in 1..4u64 {
        let mut state = seed;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        let gguf = quant_gguf(seed).expect("it fits into memory");
        use_it(&damaged(&gguf, &mut noise), Numerics::PROFILE_G);
        let gguf = tiny_gguf().expect("it fits into memory");
        use_it(&damaged(&gguf, &mut noise), Numerics::OFFICIAL);
    }
}

#[test]
fn every_bit_set_or_none() {
    for byte in [0xff, 0x00] {
        let gguf = quant_gguf(1).expect("it fits into memory");
        use_it(&damaged(&gguf, || byte), Numerics::PROFILE_G);
        use_it(&damaged(&gguf, || byte), Numerics::PLAIN);
        let gguf = tiny_gguf().expect("it fits into memory");
        use_it(&damaged(&gguf, || byte), Numerics::OFFICIAL);
    }
}
