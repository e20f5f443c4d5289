//! A small tokenizer for models made in memory: control tokens, all bytes, a few merges.

use crate::synthetic::Meta;

/// Control tokens of the published vocabulary that a small one needs, in the order of their ids.
const CONTROL: [&str; 8] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
];

/// Merges, best first; `Ġ` stands for a space.
const MERGES: [&str; 14] = [
    "Ġ t", "h e", "i n", "Ġt he", "a n", "e r", "o n", "Ġ a", "r e", "Ġ w", "l l", "h i", "Ġ s",
    "Ġ o",
];

/// Smallest vocabulary that holds them all.
pub const VOCAB_MIN: usize = CONTROL.len() + 256 + MERGES.len();

/// Tokenizer keys (§5.6) of a vocabulary of `n_vocab` tokens, the last of which are never used.
pub(crate) fn byte_vocab(n_vocab: usize) -> Vec<(String, Meta)> {
    assert!(n_vocab >= VOCAB_MIN, "{n_vocab} tokens");
    let mut tokens: Vec<String> = CONTROL.map(str::to_owned).to_vec();
    tokens.extend(byte_letters().map(String::from));
    tokens.extend(MERGES.map(|m| m.replace(' ', "")));
    let fill = tokens.len()..n_vocab;
    tokens.extend(fill.map(|i| format!("<|fill_{i}|>")));
    // 3 control, 4 user-defined, 1 normal, 5 unused (§5.6).
    let kind = |i: usize| match i {
        0..3 => 3,
        3..8 => 4,
        _ if i < VOCAB_MIN => 1,
        _ => 5,
    };
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    vec![
        (key("model"), Meta::Str("gpt2".to_owned())),
        (key("pre"), Meta::Str("joyai-llm".to_owned())),
        (key("tokens"), Meta::Strs(tokens)),
        (key("token_type"), Meta::I32s((0..n_vocab).map(kind).collect())),
        (key("merges"), Meta::Strs(MERGES.map(str::to_owned).to_vec())),
        (key("bos_token_id"), Meta::U32(0)),
        (key("eos_token_id"), Meta::U32(1)),
        (key("padding_token_id"), Meta::U32(1)),
        (key("add_bos_token"), Meta::Bool(false)),
        (key("add_eos_token"), Meta::Bool(false)),
    ]
}

/// The letter that stands for each byte: itself where it is printable, else one from U+0100 on.
fn byte_letters() -> impl Iterator<Item = char> {
    let mut others = ('\u{100}'..).take(68);
    (0..=255u8).map(move |b| match b {
        33..=126 | 161..=172 | 174.. => char::from(b),
        _ => others.next().expect("68 bytes are not printable"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_letters_of_gpt2() {
        let letters: Vec<char> = byte_letters().collect();
        assert_eq!(letters.len(), 256);
        assert_eq!((letters[0], letters[32], letters[33]), ('Ā', 'Ġ', '!'));
        assert_eq!((letters[127], letters[173], letters[255]), ('ġ', 'Ń', 'ÿ'));
    }
}
