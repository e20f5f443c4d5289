//! What the tests of this crate and of `ds4-api` share: the real vocabulary and the fixture files.
#![expect(clippy::unwrap_used, reason = "a broken fixture is a failed test")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;

use ds4_text::{Tokenizer, Vocab};
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/protocol").join(name)
}

/// The cases of a fixture file.
pub(crate) fn cases(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(path(name)).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    match file["cases"].take() {
        Value::Array(cases) => cases,
        other => panic!("{name}: no cases but {other}"),
    }
}

/// The lines of the packed vocabulary: text, type, third field (see `pack_vocab.py`).
pub(crate) fn vocab_lines() -> Vec<[String; 3]> {
    let mut text = String::new();
    let file = fs::File::open(path("vocab.txt.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let fields = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        [fields[0].to_owned(), fields[1].to_owned(), fields[2].to_owned()]
    };
    text.lines().map(fields).collect()
}

/// The parts of a vocabulary, as `Vocab::new` takes them.
pub(crate) fn vocab_parts(lines: &[[String; 3]]) -> (Vec<String>, Vec<i32>, Vec<String>) {
    let tokens = lines.iter().map(|l| l[0].clone()).collect();
    let types = lines.iter().map(|l| l[1].parse().unwrap()).collect();
    let merge = |l: &[String; 3]| {
        let left: usize = l[2].parse().ok()?;
        let at = l[0].char_indices().nth(left)?.0;
        Some(format!("{} {}", &l[0][..at], &l[0][at..]))
    };
    let merges = lines.iter().filter(|l| l[1] == "1").filter_map(merge).collect();
    (tokens, types, merges)
}

/// The tokenizer of the real model.
pub(crate) fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let (tokens, types, merges) = vocab_parts(&vocab_lines());
        Tokenizer::new(Vocab::new(&tokens, &types, &merges).unwrap()).unwrap()
    })
}

/// Token ids in a JSON array.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| u32::try_from(v.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(id).collect()
}
