//! What the tests of the store share.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};

use ds4_kvstore::{Identity, KeyBuilder, KvStore, Options, Reason, Skip, Snapshot, ToolEntry};

/// Tokens of the vocabulary.
pub(crate) const VOCAB: u32 = 8;

pub(crate) const MINE: Identity = Identity { model: [7; 32], family: [1; 32] };

pub(crate) fn options() -> Options {
    Options {
        budget_bytes: 1 << 20,
        tokens_min: 2,
        identity: MINE,
        accepts_family: false,
        quant_bits: 2,
        ctx: 1000,
        n_vocab: VOCAB,
        hourly_bytes_max: 0,
        queue_bytes_max: 1 << 20,
    }
}

pub(crate) fn open(dir: &Path) -> KvStore {
    KvStore::open(dir, options()).unwrap()
}

/// Token 0 is control, others are text.
pub(crate) fn encoding(tokens: &[u32]) -> Vec<u8> {
    let mut key = KeyBuilder::new();
    for &t in tokens {
        if t == 0 {
            key.control(t)
        } else {
            key.plain(format!("t{t};").as_bytes())
        };
    }
    key.into_bytes()
}

pub(crate) fn snapshot(tokens: &[u32], state: &[u8]) -> Snapshot {
    Snapshot {
        reason: Reason::Continued,
        key: encoding(tokens),
        text: "human text".into(),
        tokens: tokens.to_vec(),
        logits: vec![0.5; VOCAB as usize],
        tools: vec![ToolEntry { id: "call_1".into(), dsml: b"block".to_vec() }],
        state: state.to_vec(),
        replaces: None,
        trimmed: 0,
    }
}

/// Stores as a scheduler does: asks first, then waits for the writer.
pub(crate) fn try_save(store: &KvStore, snapshot: Snapshot) -> Result<(), Skip> {
    store.check(&snapshot.key, snapshot.tokens.len(), snapshot.reason, snapshot.bytes())?;
    store.save(snapshot);
    store.flush();
    Ok(())
}

pub(crate) fn save(store: &KvStore, tokens: &[u32], state: &[u8]) {
    try_save(store, snapshot(tokens, state)).unwrap();
}

/// The state of the longest stored prefix of these tokens.
pub(crate) fn load(store: &KvStore, tokens: &[u32]) -> Option<(Vec<u32>, Vec<u8>)> {
    let prompt = encoding(tokens);
    let hit = store.find(&prompt).ok()?;
    let mut loaded = store.load(&hit, &prompt).ok()?;
    let mut state = Vec::new();
    loaded.sequence().unwrap().read_to_end(&mut state).unwrap();
    store.used(&hit, &prompt);
    Some((loaded.tokens, state))
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

pub(crate) fn only_file(dir: &Path) -> PathBuf {
    let mut files = files(dir);
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}
