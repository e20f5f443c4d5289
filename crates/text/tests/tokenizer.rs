//! The tokenizer against the vectors made with the model's own tokenizer file.

mod common;

use std::fmt::Write;

use common::{cases, ids, tokenizer};
use ds4_text::Detok;

#[test]
fn encodes_as_the_reference() {
    let (chosen, random) = (cases("tokenizer_encode.json"), cases("random_tokens.json"));
    assert_eq!((chosen.len(), random.len()), (247, 120));
    for case in chosen.iter().chain(&random) {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer().encode_with_control(text), ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer().encode_plain(text), ids(&case["ids_plain"]), "{text:?}");
    }
}

#[test]
fn decodes_as_the_reference() {
    let cases = cases("tokenizer_decode.json");
    assert_eq!(cases.len(), 168);
    for case in cases {
        let mut detok = Detok::new(tokenizer());
        for (i, id) in ids(&case["ids"]).into_iter().enumerate() {
            let bytes = tokenizer().token_bytes(id).unwrap();
            assert_eq!(hex(bytes), case["token_bytes_hex"][i], "{}", case["id"]);
            assert_eq!(detok.push(id).unwrap(), case["stream_chunks"][i], "{}", case["id"]);
        }
        assert_eq!(hex(detok.pending()), case["pending_hex"], "{}", case["id"]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
