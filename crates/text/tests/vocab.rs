//! Vocabularies: what a file must have, and what is refused with which words.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{tokenizer, vocab_lines, vocab_parts};
use ds4_gguf::write::Draft;
use ds4_gguf::{Gguf, Value};
use ds4_text::{Error, Tokenizer, Vocab};

/// The smallest vocabulary: control tokens, the single bytes, three merges and a filler, as the
/// small models of the test suite have it.
fn small() -> (Vec<String>, Vec<i32>, Vec<String>) {
    let lines = vocab_lines();
    let is_byte = |line: &&[String; 3]| line[1] == "1" && line[2] == "-";
    let names =
        ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"];
    let control = names.into_iter().chain(["<think>", "</think>", "｜DSML｜"]);
    let mut tokens: Vec<String> = control.map(str::to_owned).collect();
    let mut types = vec![3, 3, 4, 4, 4, 4, 4];
    for line in lines.iter().filter(is_byte) {
        tokens.push(line[0].clone());
        types.push(1);
    }
    assert_eq!(tokens.len(), 7 + 256);
    let merges = ["Ġ t", "h e", "Ġt he"].map(str::to_owned);
    for merge in &merges {
        tokens.push(merge.replace(' ', ""));
        types.push(1);
    }
    tokens.push("<|fill_266|>".to_owned());
    types.push(5);
    (tokens, types, merges.to_vec())
}

fn error(change: impl FnOnce(&mut Vec<String>, &mut Vec<i32>, &mut Vec<String>)) -> String {
    let (mut tokens, mut types, mut merges) = small();
    change(&mut tokens, &mut types, &mut merges);
    let error = Vocab::new(&tokens, &types, &merges).and_then(Tokenizer::new).map(|_| ());
    let text = error.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_small_vocabulary_works() {
    let (tokens, types, merges) = small();
    let tokenizer = Tokenizer::new(Vocab::new(&tokens, &types, &merges).unwrap()).unwrap();
    let the = tokens.iter().position(|t| t == "Ġthe").unwrap();
    assert_eq!(tokenizer.encode_plain(" the"), [u32::try_from(the).unwrap()]);
    assert_eq!(tokenizer.decode(&tokenizer.encode_plain("é the 中")).unwrap(), "é the 中");
    // A filler decodes, but no text becomes it.
    let filler = u32::try_from(tokens.len() - 1).unwrap();
    assert_eq!(tokenizer.decode(&[filler]).unwrap(), "<|fill_266|>");
    assert!(!tokenizer.encode_with_control("<|fill_266|>").contains(&filler));
    let outside = tokenizer.decode(&[filler + 1]).unwrap_err();
    assert!(matches!(outside, Error::TokenId { n_vocab: 267, .. }), "{outside}");
}

#[test]
fn broken_vocabularies_are_refused() {
    for (found, expected) in [
        (error(|t, _, _| t[0].push('x')), "no control token \"<｜begin▁of▁sentence｜>\""),
        (error(|t, y, _| (t[9], y[9]) = ("filler".into(), 5)), "no token for the single byte 0x23"),
        (error(|t, _, _| t[265] = "Ġ".into()), "tokens 227 and 265 are both \"Ġ\""),
        (error(|t, _, _| t[265] = String::new()), "token 265 (\"\") is empty"),
        (error(|t, _, _| t[265] = "a b".into()), "is not written in the byte alphabet"),
        (error(|_, y, _| y[8] = 2), "has type 2"),
        (error(|_, y, _| y.truncate(5)), "267 tokens but 5 token types"),
        (error(|_, _, m| m[1] = "he".into()), "merge 1 (\"he\") is not two tokens"),
        (error(|_, _, m| m[1] = "h zz".into()), "names \"hzz\", which is not a token"),
        (error(|_, _, m| m[2] = "Ġt x".into()), "names \"Ġtx\", which is not a token"),
    ] {
        assert!(found.contains(expected), "{found:?} does not say {expected:?}");
    }
}

fn file(change: impl FnOnce(&mut Draft)) -> Gguf {
    let (tokens, types, merges) = small();
    let mut draft = Draft::new("test.gguf");
    draft.set("tokenizer.ggml.model", Value::Str("gpt2")).unwrap();
    draft.set("tokenizer.ggml.pre", Value::Str("joyai-llm")).unwrap();
    draft.set_strs("tokenizer.ggml.tokens", tokens.iter().map(String::as_str));
    draft.set_i32s("tokenizer.ggml.token_type", &types);
    draft.set_strs("tokenizer.ggml.merges", merges.iter().map(String::as_str));
    change(&mut draft);
    draft.layout().unwrap().in_memory(|_, _| {}).unwrap()
}

#[test]
fn reads_the_keys_of_a_file() {
    let tokenizer = Tokenizer::from_gguf(&file(|_| {})).unwrap();
    assert_eq!(tokenizer.vocab().len(), 267);
    for (key, value) in [("model", "llama"), ("pre", "qwen2")] {
        let key = format!("tokenizer.ggml.{key}");
        let file = file(|draft| draft.set(&key, Value::Str(value)).unwrap());
        let error = Tokenizer::from_gguf(&file).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&key) && error.contains(value), "{error}");
    }
}

#[test]
fn every_added_token_of_the_real_vocabulary_is_found() {
    let lines = vocab_lines();
    let (tokens, types, merges) = vocab_parts(&lines);
    assert_eq!((tokens.len(), merges.len()), (129_280, 127_741));
    let user = tokenizer().specials().user;
    let mut n_added = 0;
    for (id, token) in (0u32..).zip(&tokens).filter(|(id, _)| types[*id as usize] != 1) {
        n_added += 1;
        let text = format!("<｜User｜>{token}<｜User｜>");
        assert_eq!(tokenizer().encode_with_control(&text), [user, id, user], "{text}");
        let plain = tokenizer().encode_plain(&text);
        assert!(plain.iter().all(|&id| !tokenizer().vocab().is_added(id)), "{text}");
        assert_eq!(tokenizer().decode(&plain).unwrap(), text);
    }
    assert_eq!(n_added, 1283);
}

#[test]
fn long_pieces_merge_like_short_ones() {
    // Pieces beyond the length that is searched end to end, against the plain definition.
    let (tokens, types, merges) = small();
    let tokenizer = Tokenizer::new(Vocab::new(&tokens, &types, &merges).unwrap()).unwrap();
    let mut state = 7u32;
    for len in 1..200 {
        let text: String = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ['t', 'h', 'e', 'x'][(state >> 24) as usize % 4]
            })
            .collect();
        let ids = tokenizer.encode_plain(&format!(" {text}"));
        let symbols: Vec<&str> = ids.iter().map(|&id| tokens[id as usize].as_str()).collect();
        assert_eq!(symbols, defined(&format!("Ġ{text}"), &merges), "{text}");
    }
}

/// Merges by the definition: the lowest rank, the leftmost, again and again.
fn defined(text: &str, merges: &[String]) -> Vec<String> {
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let rank = |i: usize| {
            let pair = format!("{} {}", symbols[i], symbols[i + 1]);
            merges.iter().position(|merge| *merge == pair)
        };
        let n = symbols.len().saturating_sub(1);
        let Some((_, i)) = (0..n).filter_map(|i| Some((rank(i)?, i))).min() else { return symbols };
        let right = symbols.remove(i + 1);
        symbols[i].push_str(&right);
    }
}
