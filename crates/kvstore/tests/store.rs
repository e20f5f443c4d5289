//! The store as a server uses it: round trips, misses, budgets, names of calls.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::time::Duration;

use common::{
    MINE, VOCAB, encoding, files, load, only_file, open, options, save, snapshot, try_save,
};
use ds4_kvstore::{
    Identity, KvStore, Listed, Miss, Options, Reason, Skip, Snapshot, ToolEntry, key_name, list,
    read_file, verify_file,
};

#[test]
fn the_longest_prefix_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    save(&store, &[0, 1, 2], b"short");
    save(&store, &[0, 1, 2, 3, 4], b"long");
    drop(store);

    let store = open(dir.path());
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
    store.used(&hit, &prompt);
    drop(store);
    let hits: Vec<u32> = open(dir.path()).entries().iter().map(|e| e.header.hits).collect();
    assert!(hits.contains(&1), "the use is in the file: {hits:?}");
}

#[test]
fn a_prompt_that_differs_in_one_byte_or_ends_earlier_misses() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    save(&store, &[0, 1, 2], b"x");
    let key = encoding(&[0, 1, 2]);
    assert!(store.find(&key).is_ok());
    assert!(store.find(&[&key[..], b"more"].concat()).is_ok());
    assert!(store.find(&key[..key.len() - 1]).is_err());
    for at in 0..key.len() {
        let mut other = key.clone();
        other[at] ^= 1;
        assert!(store.find(&other).is_err(), "byte {at}");
    }
}

#[test]
fn misses_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.find(b"abc").unwrap_err(), Miss::Empty);
    save(&store, &[0, 1, 2], b"x");
    assert_eq!(store.find(&encoding(&[0])).unwrap_err(), Miss::TooShort);
    let other = encoding(&[0, 1, 3, 1]);
    assert_eq!(store.find(&other).unwrap_err(), Miss::NoPrefix { files: 1, nearest: None });
    let nearest = store.nearest(&other).unwrap();
    assert_eq!((nearest.shared_bytes, nearest.key_bytes), (9, 11));
    drop(store);
    let store = KvStore::open(dir.path(), Options { ctx: 3, ..options() }).unwrap();
    let prompt = encoding(&[0, 1, 2, 3]);
    assert_eq!(store.find(&prompt).unwrap_err(), Miss::TooLong { tokens: 3 });
}

#[test]
fn files_of_another_model_are_left_alone_and_quantisations_by_wish() {
    let dir = tempfile::tempdir().unwrap();
    save(&open(dir.path()), &[0, 1, 2], b"x");
    let other = Identity { model: [8; 32], ..MINE };
    let with = |identity, accepts_family| {
        KvStore::open(dir.path(), Options { identity, accepts_family, ..options() }).unwrap()
    };
    let prompt = encoding(&[0, 1, 2, 3]);
    // Alone in its directory it is as good as absent.
    assert_eq!(with(other, false).find(&prompt).unwrap_err(), Miss::Empty);
    assert_eq!(with(other, true).find(&prompt).unwrap().tokens, 3);
    let stranger = Identity { family: [2; 32], ..other };
    assert!(with(stranger, true).find(&prompt).is_err());
    // Beside files of one's own the reason is known.
    let store = with(other, false);
    save(&store, &[0, 5, 5], b"own");
    assert!(matches!(store.find(&prompt).unwrap_err(), Miss::Foreign(_)));
    assert_eq!(files(dir.path()).len(), 2);
    // Stored under the same name, the later file wins.
    save(&store, &[0, 1, 2], b"mine");
    assert_eq!(load(&store, &[0, 1, 2]).unwrap().1, b"mine");
    assert!(open(dir.path()).find(&prompt).is_err());
}

#[test]
fn a_snapshot_can_be_found_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 3..40 {
        let tokens: Vec<u32> = (0..n).map(|i| i % 7).collect();
        store.save(snapshot(&tokens, &[1; 10_000]));
        let (found, state) = load(&store, &tokens).unwrap();
        assert_eq!((found, state.len()), (tokens, 10_000));
    }
    store.flush();
    assert_eq!(store.stats().stored, 37);
}

#[test]
fn what_is_not_worth_storing_is_refused_before_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Options { hourly_bytes_max: 3000, queue_bytes_max: 4000, ..options() };
    let store = KvStore::open(dir.path(), limits).unwrap();
    let check =
        |tokens: &[u32], reason, bytes| store.check(&encoding(tokens), tokens.len(), reason, bytes);
    assert_eq!(check(&[0], Reason::Cold, 10), Err(Skip::TooFew));
    assert_eq!(check(&[0, 1], Reason::Cold, 1 << 20), Err(Skip::TooLarge));
    save(&store, &[0, 1, 2], &[1; 1000]);
    assert_eq!(check(&[0, 1, 2], Reason::Cold, 10), Err(Skip::Stored));
    assert_eq!(check(&[0, 1, 3], Reason::Cold, 2000), Err(Skip::WornOut));
    assert_eq!(check(&[0, 1, 3], Reason::Shutdown, 2000), Ok(()));
    assert_eq!(store.stats().skipped, 4);
}

#[test]
fn a_busy_writer_makes_only_those_wait_that_lose_their_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Options { queue_bytes_max: 100, ..options() };
    let store = KvStore::open(dir.path(), limits).unwrap();
    let (mut busy, mut n) = (0, 0);
    while busy == 0 {
        n += 1;
        assert!(n < 1000, "the writer is never busy");
        let tokens = [0, 1, n % 8, n / 8 % 8, n / 64 % 8];
        store.save(snapshot(&tokens, &[0; 5000]));
        let other = encoding(&[0, 7, 7, 7]);
        busy += usize::from(store.check(&other, 4, Reason::Cold, 10) == Err(Skip::Busy));
        // Waits until there is room.
        assert_eq!(store.check(&other, 4, Reason::Evict, 10), Ok(()));
    }
}

#[test]
fn the_budget_holds_and_used_files_stay_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    save(&store, &[0, 1, 2], &[1; 1000]);
    load(&store, &[0, 1, 2, 3]).unwrap();
    save(&store, &[0, 2, 2], &[2; 1000]);
    let size = store.stats().bytes / 2;
    drop(store);
    let small = Options { budget_bytes: 2 * size + 100, ..options() };
    let store = KvStore::open(dir.path(), small).unwrap();
    save(&store, &[0, 3, 3], &[3; 1000]);
    let names: Vec<String> = store.entries().into_iter().map(|e| e.name).collect();
    assert!(!names.contains(&key_name(&encoding(&[0, 2, 2]))), "the unused one went");
    assert_eq!((store.stats().evicted, names.len()), (1, 2));
    assert!(store.stats().bytes <= 2 * size + 100);
    assert_eq!(try_save(&store, snapshot(&[0, 4, 4], &[4; 9000])), Err(Skip::TooLarge));
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn a_budget_of_nothing_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let none = Options { budget_bytes: 0, ..options() };
    let store = KvStore::open(dir.path(), none).unwrap();
    assert_eq!(try_save(&store, snapshot(&[0, 1, 2], b"x")), Err(Skip::TooLarge));
    // And what lies there from better days goes.
    save(&open(dir.path()), &[0, 1, 2], b"x");
    KvStore::open(dir.path(), Options { budget_bytes: 0, ..options() }).unwrap();
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_file_just_written_survives_at_the_edge_of_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    save(&store, &[0, 1, 2], &[1; 1000]);
    let size = store.stats().bytes;
    drop(store);
    let edge = Options { budget_bytes: size + size / 100 + 1, ..options() };
    let store = KvStore::open(dir.path(), edge).unwrap();
    load(&store, &[0, 1, 2]).unwrap();
    save(&store, &[0, 3, 3], &[3; 1000]);
    assert_eq!(store.entries()[0].name, key_name(&encoding(&[0, 3, 3])));
    assert_eq!(store.entries().len(), 1);
}

#[test]
fn shorter_files_of_a_conversation_go_first_but_not_its_anchor() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let anchor = Snapshot { reason: Reason::Cold, ..snapshot(&[0, 1], &[1; 1000]) };
    try_save(&store, anchor).unwrap();
    save(&store, &[0, 1, 2], &[1; 1000]);
    save(&store, &[0, 1, 2, 3], &[1; 1000]);
    save(&store, &[0, 6, 6], &[1; 1000]);
    let covered: Vec<String> =
        store.entries().into_iter().filter(|e| e.is_covered).map(|e| e.name).collect();
    assert_eq!(covered, [key_name(&encoding(&[0, 1, 2]))]);
    // Asked for alone, it counts again.
    load(&store, &[0, 1, 2, 7]).unwrap();
    assert!(store.entries().iter().all(|e| !e.is_covered));
}

#[test]
fn a_successor_takes_its_predecessor_s_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    save(&store, &[0, 1, 2], b"before");
    let old = key_name(&encoding(&[0, 1, 2]));
    let longer = Snapshot { replaces: Some(old.clone()), ..snapshot(&[0, 1, 2, 3], b"after") };
    try_save(&store, longer).unwrap();
    assert_eq!(only_file(dir.path()).file_stem().unwrap(), &*key_name(&encoding(&[0, 1, 2, 3])));
    // If the successor cannot be written the predecessor stays.
    let same = Snapshot { replaces: Some(old), ..snapshot(&[0, 1, 2, 3], b"again") };
    assert_eq!(try_save(&store, same), Err(Skip::Stored));
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn calls_are_found_on_disk_and_added_to_files_that_exist() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    save(&store, &[0, 1, 2], b"state");
    assert_eq!(store.find_tools(&["call_1"]).len(), 1);
    assert!(store.find_tools(&["call_2"]).is_empty());
    let more = vec![ToolEntry { id: "call_2".into(), dsml: b"other block".to_vec() }];
    store.add_tools(&encoding(&[0, 1, 2]), more.clone());
    store.flush();
    let (tokens, tools) = store.find_tools(&["call_2"]).remove(0);
    assert_eq!(tokens, [0, 1, 2]);
    assert_eq!(tools.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["call_1", "call_2"]);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.find_tools(&["call_2"]).len(), 1);
    assert_eq!(load(&store, &[0, 1, 2]).unwrap().1, b"state");
    verify_file(&only_file(dir.path())).unwrap();
    // A file that had no map gets one.
    let bare = Snapshot { tools: Vec::new(), ..snapshot(&[0, 5, 5], b"bare") };
    try_save(&store, bare).unwrap();
    store.add_tools(&encoding(&[0, 5, 5]), vec![ToolEntry { id: "c3".into(), dsml: vec![1] }]);
    store.flush();
    assert_eq!(store.find_tools(&["c3"])[0].0, [0, 5, 5]);
}

#[test]
fn verify_reads_any_model() {
    let dir = tempfile::tempdir().unwrap();
    save(&open(dir.path()), &[0, 1, 2], b"state");
    let path = only_file(dir.path());
    let v = verify_file(&path).unwrap();
    assert_eq!((v.header.tokens, v.text.as_str(), v.tools.len()), (3, "human text", 1));
    assert_eq!((v.identity, v.section_bytes[3]), (MINE, 5));
    let renamed = dir.path().join(format!("{}.kv", "a".repeat(40)));
    fs::copy(&path, &renamed).unwrap();
    assert!(verify_file(&renamed).unwrap_err().to_string().contains("SHA-1"));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|w| w == b"state").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(verify_file(&path).unwrap_err().to_string().contains("checksum"));
    read_file(&path).unwrap();
}

#[test]
fn a_directory_is_listed_whoever_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    save(&open(dir.path()), &[0, 1, 2], b"state");
    let name = |c: &str| c.repeat(40);
    fs::write(dir.path().join(format!("{}.kv", name("a"))), b"short").unwrap();
    fs::write(dir.path().join(format!("{}.kv.bad", name("b"))), b"x").unwrap();
    fs::write(dir.path().join(format!("{}.kv.tmp.1.1", name("c"))), b"x").unwrap();
    fs::write(dir.path().join("README"), b"x").unwrap();
    let kinds: Vec<&str> = list(dir.path())
        .unwrap()
        .iter()
        .map(|item| match item.what {
            Listed::Whole(_) => "whole",
            Listed::Refused(_) => "refused",
            Listed::Bad => "bad",
            Listed::Temporary => "temporary",
        })
        .collect();
    let mut sorted = kinds.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["bad", "refused", "temporary", "whole"]);
    assert!(list(&dir.path().join("absent")).is_err());
}

#[test]
fn the_directory_is_private_and_made_with_its_parents() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    save(&open(&path), &[0, 1, 2], b"x");
    let mode = |p: &std::path::Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&only_file(&path)), 0o600);
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(KvStore::open(&file, options()).is_err());
}

#[test]
fn two_stores_see_each_other_s_files() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(dir.path()), open(dir.path()));
    // The directory's clock is coarse: a change within its tick is seen with the next one.
    let tick = || std::thread::sleep(Duration::from_millis(20));
    save(&a, &[0, 1, 2], b"from a");
    tick();
    assert_eq!(load(&b, &[0, 1, 2, 3]).unwrap().1, b"from a");
    tick();
    a.remove(&key_name(&encoding(&[0, 1, 2])));
    tick();
    assert!(load(&b, &[0, 1, 2, 3]).is_none());
}
