//! Any bytes as token ids, and as text: streams lose nothing, and text survives its tokens.
//!
//! The first byte chooses: ids for the detokenizer, or text for the tokenizer.
#![no_main]

use std::sync::LazyLock;

use ds4_text::{Detok, Tokenizer, Vocab};
use libfuzzer_sys::fuzz_target;

/// A small vocabulary: control tokens, all single bytes, some merges.
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut tokens: Vec<String> = [
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<think>",
        "</think>",
        "｜DSML｜",
        "<thi",
        "｜>",
    ]
    .map(str::to_owned)
    .into();
    let mut types = vec![3, 3, 4, 4, 4, 4, 4, 4, 3];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        tokens.push(char::from_u32(code).expect("below the surrogates").to_string());
        types.push(1);
    }
    let merges: Vec<String> = [
        "Ġ t", "h e", "Ġt he", "e r", "Ċ Ċ", "Ġ Ġ", "ä ¸", "ä¸ Ń", "ð Ł", "ðŁ ĺ", "a a", "aa aa",
        "aaaa aaaa", "1 2", "12 3", ". a",
    ]
    .map(str::to_owned)
    .into();
    for merge in &merges {
        tokens.push(merge.replace(' ', ""));
        types.push(1);
    }
    let vocab = Vocab::new(&tokens, &types, &merges).expect("a sound vocabulary");
    Tokenizer::new(vocab).expect("it has the control tokens")
});

fuzz_target!(|bytes: &[u8]| {
    let [choice, bytes @ ..] = bytes else { return };
    if choice % 2 == 0 {
        decode(bytes);
    } else if let Ok(text) = std::str::from_utf8(bytes) {
        for ids in [TOKENIZER.encode_plain(text), TOKENIZER.encode_with_control(text)] {
            assert_eq!(TOKENIZER.decode(&ids).expect("ids of the vocabulary"), text);
        }
        assert!(TOKENIZER.encode_plain(text).iter().all(|&id| !TOKENIZER.vocab().is_added(id)));
    }
});

/// Two bytes for each id; some are outside the vocabulary.
fn decode(bytes: &[u8]) {
    let mut detok = Detok::new(&TOKENIZER);
    let (mut text, mut all) = (String::new(), Vec::new());
    for pair in bytes.chunks_exact(2) {
        let id = u32::from(u16::from_le_bytes([pair[0], pair[1]])) % 300;
        match TOKENIZER.token_bytes(id) {
            Ok(bytes) => all.extend_from_slice(bytes),
            Err(e) => {
                assert!(detok.push(id).is_err() && !e.to_string().contains('\n'));
                continue;
            }
        }
        text.push_str(&detok.push(id).expect("inside the vocabulary"));
        assert!(detok.pending().len() < 4);
        assert!(all.starts_with(text.as_bytes()) || text.contains('\u{fffd}'));
    }
    text.push_str(&detok.finish());
    assert_eq!(text, String::from_utf8_lossy(&all));
}
