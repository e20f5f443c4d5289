//! Any bytes as a file of the cache directory: refused, or loaded as what was stored.
//!
//! The first byte chooses: the rest as it is, or the rest with the checksums of its sections made
//! right, so that what lies behind them is reached.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::io::Read;

use ds4_kvstore::{
    Identity, KvStore, Options, Reason, Snapshot, ToolEntry, key_name, list, read_file, verify_file,
};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

const KEY: &[u8] = b"You are a system text.";
const VOCAB: u32 = 16;

fn options() -> Options {
    Options {
        budget_bytes: 1 << 30,
        tokens_min: 1,
        identity: Identity { model: [7; 32], family: [8; 32] },
        accepts_family: true,
        quant_bits: 2,
        ctx: 1 << 20,
        n_vocab: VOCAB,
        hourly_bytes_max: 0,
        queue_bytes_max: 1 << 20,
    }
}

/// A directory and a whole file in it, to be damaged.
struct Place {
    dir: tempfile::TempDir,
    whole: Vec<u8>,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = KvStore::open(dir.path(), options()).expect("it opens");
    store.save(Snapshot {
        reason: Reason::Cold,
        key: KEY.to_vec(),
        text: "You are".into(),
        tokens: vec![1, 2, 3, 4, 5],
        logits: vec![0.5; VOCAB as usize],
        tools: vec![ToolEntry { id: "call_1".into(), dsml: b"block".to_vec() }],
        state: b"the state of a sequence".to_vec(),
        replaces: None,
        trimmed: 0,
    });
    store.flush();
    let whole = fs::read(dir.path().join(format!("{}.kv", key_name(KEY)))).expect("written");
    Place { dir, whole }
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new(place());
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, bytes @ ..] = bytes else { return };
    PLACE.with_borrow(|place| {
        let mut file = match choice % 4 {
            0 | 1 => bytes.to_vec(),
            _ => edit(&place.whole, bytes),
        };
        if choice % 2 == 1 {
            make_right(&mut file);
        }
        try_file(place, &file);
    });
});

/// The whole file with some bytes changed: pairs of a place (two bytes) and a value.
fn edit(whole: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut file = whole.to_vec();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % (file.len() + 1);
        match file.get_mut(at) {
            Some(byte) => *byte = edit[2],
            None => file.truncate(usize::from(edit[2])),
        }
    }
    file
}

/// Writes the right checksum into every section that can be found.
fn make_right(file: &mut [u8]) {
    let Some(at) = file.windows(4).position(|w| w == b"DS4R") else { return };
    let mut at = at + 80;
    for _ in 0..4 {
        let Some(head) = file.get(at..at + 24) else { return };
        let len = u64::from_le_bytes(head[8..16].try_into().expect("8 bytes"));
        let Some(end) = usize::try_from(len).ok().and_then(|n| n.checked_add(at + 24)) else {
            return;
        };
        let Some(bytes) = file.get(at + 24..end) else { return };
        let hash = xxh3_64(bytes).to_le_bytes();
        file[at + 16..at + 24].copy_from_slice(&hash);
        at = end;
    }
}

fn try_file(place: &Place, file: &[u8]) {
    let path = place.dir.path().join(format!("{}.kv", key_name(KEY)));
    fs::write(&path, file).expect("room for a small file");
    let verified = verify_file(&path);
    for error in [verified.as_ref().err(), read_file(&path).as_ref().err()].into_iter().flatten() {
        assert!(!error.to_string().contains('\n'));
    }
    assert_eq!(list(place.dir.path()).expect("it lists").len(), 1);
    let store = KvStore::open(place.dir.path(), options()).expect("it opens");
    let prompt = [KEY, b" And a user."].concat();
    let _ = store.find_tools(&["call_1"]);
    if let Ok(hit) = store.find(&prompt)
        && let Ok(mut loaded) = store.load(&hit, &prompt)
    {
        assert!(verified.is_ok(), "loaded, but {verified:?}");
        assert!(loaded.tokens.iter().all(|&t| t < VOCAB));
        assert!(matches!(loaded.logits.len(), 0 | 16) && loaded.logits.iter().all(|x| !x.is_nan()));
        let mut state = Vec::new();
        loaded.sequence().expect("it is open").read_to_end(&mut state).expect("bounded");
        assert!(state.len() <= file.len());
        store.used(&hit, &prompt);
    }
    for item in list(place.dir.path()).expect("it lists") {
        fs::remove_file(item.path).expect("ours");
    }
}
