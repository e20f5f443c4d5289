//! The committed oracle models load through the normal path and their references are whole.

use ds4_model::testing::{Bounds, Oracle, Parity, quant};
use ds4_model::{Fingerprint, Place, Recorder, Stage};
use sha2::{Digest, Sha256};

#[test]
fn committed_references_are_whole() {
    for (oracle, modes) in [
        (Oracle::micro(), &["plain", "official"][..]),
        (Oracle::quant(), &["plain", "official", "ds4"]),
    ] {
        let found: Vec<_> = oracle.references.iter().map(|r| r.mode).collect();
        assert_eq!(found, modes, "{}", oracle.name);
        assert!(oracle.model.has_mtp());
        for r in &oracle.references {
            let dims = &oracle.model.dims;
            assert_eq!(r.logits.shape, [r.tokens.len(), dims.n_vocab]);
            assert_eq!(r.decode_logits.shape, [r.decode.len(), dims.n_vocab]);
            assert_eq!(r.stages["mtp.logits"].shape, [r.tokens.len() - 1, dims.n_vocab]);
            assert!(r.tokens.len() > dims.window, "more tokens than the window");
            assert!(r.tokens.len() / 4 > dims.index_top_k, "the index really chooses");
        }
    }
}

#[test]
fn a_reference_agrees_with_itself_and_not_with_another() {
    let oracle = Oracle::micro();
    let (plain, official) = (&oracle.references[0], &oracle.references[1]);
    let weights = &oracle.model.weights;
    let tight = |_: Place, _: Stage| Bounds { median: 1e-4, p99: 1e-4 };
    let same = Parity::new(&plain.stages, plain, weights, 0.0);
    same.check(tight).unwrap();
    assert!(same.n_choices > 0 && same.missing.is_empty());
    let other = Parity::new(&official.stages, plain, weights, 0.0);
    let wrong = other.check(tight).unwrap_err();
    assert!(wrong.contains("L1.kv_raw"), "{wrong}");
    assert!(other.to_string().contains("L3.hidden"));
    let missing = Parity::new(&Recorder::new().take(), plain, weights, 0.0);
    assert!(missing.check(tight).unwrap_err().contains("L0.hidden: not recorded"));
    assert_eq!(plain.hidden().len(), oracle.model.dims.n_layer);
}

/// The references belong to exactly these weights: whoever changes how they are made makes the
/// references again (`testdata/oracle/README.md`).
#[test]
fn the_quantised_model_is_the_one_of_its_references() {
    let hex = Fingerprint(Sha256::digest(quant().gguf.data()).into()).to_string();
    assert_eq!(hex, "3624a2ad9d2432f7ca640002971a71e677a9b791aed408ac0a4915fa288baf08");
}
