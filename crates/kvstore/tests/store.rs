//! The store as a server uses it: round trips, kills, damage, budgets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use ds4_kvstore::{
    Error, KeyBuilder, KvStore, Miss, Options, Reason, Saved, Snapshot, ToolEntry, verify_file,
};

const VOCAB: u32 = 8;

fn options() -> Options {
    Options {
        budget_bytes: 1 << 20,
        tokens_min: 2,
        fingerprint: [7; 32],
        quant_bits: 2,
        ctx: 1000,
        n_vocab: VOCAB,
    }
}

fn encoding(tokens: &[u32]) -> Vec<u8> {
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

fn save(store: &mut KvStore, tokens: &[u32], state: &[u8]) -> Saved {
    let key = encoding(tokens);
    let tools = [ToolEntry { id: "call_1".into(), dsml: b"block".to_vec() }];
    let snapshot = Snapshot {
        reason: Reason::Cold,
        key: &key,
        text: "human text",
        tokens,
        logits: &[0.5; VOCAB as usize],
        tools: &tools,
    };
    store.save(&snapshot, &mut |w| w.write_all(state).map_err(|e| e.to_string())).unwrap()
}

fn only_file(dir: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn the_longest_prefix_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    save(&mut store, &[0, 1, 2], b"short");
    save(&mut store, &[0, 1, 2, 3, 4], b"long");
    drop(store);

    let mut store = KvStore::open(dir.path(), options()).unwrap();
    let prompt = encoding(&[0, 1, 2, 3, 4, 5]);
    let hit = store.find(&prompt).unwrap();
    assert_eq!(hit.tokens, 5);
    let mut loaded = store.load(&hit, &prompt).unwrap();
    let mut state = Vec::new();
    loaded.sequence().unwrap().read_to_end(&mut state).unwrap();
    assert_eq!(state, b"long");
    assert_eq!(loaded.tokens, [0, 1, 2, 3, 4]);
    assert_eq!(loaded.logits.len(), VOCAB as usize);
    assert_eq!(loaded.tools[0].id, "call_1");
    let hits: Vec<u32> = store.entries().iter().map(|e| e.header.hits).collect();
    assert!(hits.contains(&1));
}

#[test]
fn misses_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    assert_eq!(store.find(b"abc").unwrap_err(), Miss::Empty);
    save(&mut store, &[0, 1, 2], b"x");
    assert_eq!(store.find(&encoding(&[0])).unwrap_err(), Miss::TooShort);
    let other = encoding(&[0, 3, 2, 1]);
    assert_eq!(store.find(&other).unwrap_err(), Miss::NoPrefix { files: 1 });
    drop(store);
    let store = KvStore::open(dir.path(), Options { ctx: 3, ..options() }).unwrap();
    let prompt = encoding(&[0, 1, 2, 3]);
    assert_eq!(store.find(&prompt).unwrap_err(), Miss::TooLong { tokens: 3 });
}

#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    save(&mut store, &[0, 1, 2], b"state bytes");
    let path = only_file(dir.path());
    let good = fs::read(&path).unwrap();
    let prompt = encoding(&[0, 1, 2, 3]);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        fs::write(&path, &bad).unwrap();
        let mut store = KvStore::open(dir.path(), options()).unwrap();
        if let Ok(hit) = store.find(&prompt)
            && let Ok(mut loaded) = store.load(&hit, &prompt)
        {
            let mut state = Vec::new();
            loaded.sequence().unwrap().read_to_end(&mut state).unwrap();
            assert_eq!(state, b"state bytes", "byte {at}");
            assert_eq!(loaded.tokens, [0, 1, 2], "byte {at}");
        }
        for f in fs::read_dir(dir.path()).unwrap() {
            fs::remove_file(f.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn every_truncation_is_set_aside_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    save(&mut store, &[0, 1, 2], b"state bytes");
    let path = only_file(dir.path());
    let good = fs::read(&path).unwrap();
    let prompt = encoding(&[0, 1, 2, 3]);
    // The last bytes are the tool map, which may be cut without harm to the sequence.
    for n in 0..good.len() - 40 {
        fs::write(&path, &good[..n]).unwrap();
        let store = KvStore::open(dir.path(), options()).unwrap();
        assert!(store.find(&prompt).is_err(), "{n} bytes");
        assert!(path.with_extension("kv.bad").exists(), "{n} bytes");
        assert!(!path.exists());
    }
}

#[test]
fn files_of_another_model_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    save(&mut store, &[0, 1, 2], b"x");
    let other = KvStore::open(dir.path(), Options { fingerprint: [8; 32], ..options() }).unwrap();
    assert!(other.entries().is_empty());
    assert!(only_file(dir.path()).extension().is_some_and(|e| e == "kv"));
}

#[test]
fn leftovers_of_a_killed_writer_go() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join(format!("{}.kv.tmp.999999999.1", "a".repeat(40)));
    fs::write(&stale, b"half").unwrap();
    let store = KvStore::open(dir.path(), options()).unwrap();
    assert!(!stale.exists());
    assert!(store.entries().is_empty());
}

#[test]
fn the_budget_holds_and_used_files_stay_longer() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    save(&mut store, &[0, 1, 2], &[1; 1000]);
    let prompt = encoding(&[0, 1, 2, 3]);
    let hit = store.find(&prompt).unwrap();
    store.load(&hit, &prompt).unwrap();
    save(&mut store, &[0, 2, 2], &[2; 1000]);
    let size = store.bytes() / 2;
    drop(store);
    let small = Options { budget_bytes: 2 * size + 100, ..options() };
    let mut store = KvStore::open(dir.path(), small).unwrap();
    let Saved::Written { evicted, .. } = save(&mut store, &[0, 3, 3], &[3; 1000]) else { panic!() };
    assert_eq!(evicted, [ds4_kvstore::key_name(&encoding(&[0, 2, 2]))]);
    assert!(store.bytes() <= 2 * size + 100);
    assert!(matches!(save(&mut store, &[0, 4, 4], &[4; 9000]), Saved::Skipped(_)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_failing_runner_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    let key = encoding(&[0, 1, 2]);
    let snapshot = Snapshot {
        reason: Reason::Evict,
        key: &key,
        text: "",
        tokens: &[0, 1, 2],
        logits: &[],
        tools: &[],
    };
    let failed = store.save(&snapshot, &mut |w: &mut dyn Write| {
        w.write_all(b"part").map_err(|e| e.to_string())?;
        Err("device lost".into())
    });
    assert!(matches!(failed, Err(Error::Sequence(what)) if what == "device lost"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_recognised() {
    let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert!(Error::Io { path: "x".into(), source: io }.is_disk_full());
}

#[test]
fn verify_reads_any_model() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = KvStore::open(dir.path(), options()).unwrap();
    save(&mut store, &[0, 1, 2], b"state");
    let path = only_file(dir.path());
    let v = verify_file(&path).unwrap();
    assert_eq!((v.header.tokens, v.text.as_str(), v.tools), (3, "human text", 1));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|w| w == b"state").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(verify_file(&path).is_err());
}
