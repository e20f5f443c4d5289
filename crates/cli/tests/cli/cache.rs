//! `ds4 cache` on a directory with every kind of file.

use std::fs;
use std::path::Path;

use ds4_kvstore::{Identity, KvStore, Options, Reason, Snapshot, ToolEntry, key_name};
use serde_json::Value;

use crate::run::ds4;

/// Two whole files, one damaged inside, one another engine's, one set aside, one half written.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        budget_bytes: 1 << 20,
        tokens_min: 1,
        identity: Identity { model: [0xAB; 32], family: [1; 32] },
        accepts_family: false,
        quant_bits: 2,
        ctx: 4096,
        n_vocab: 8,
        hourly_bytes_max: 0,
        queue_bytes_max: 1 << 20,
    };
    let store = KvStore::open(dir.path(), options).unwrap();
    for key in ["first", "second", "broken"] {
        store.save(Snapshot {
            reason: Reason::Cold,
            key: key.into(),
            text: format!("You are {key}\u{1b}[31m\nand more"),
            tokens: vec![1, 2, 3],
            logits: Vec::new(),
            tools: vec![ToolEntry { id: "call_7".into(), dsml: b"\n\n<block>".to_vec() }],
            state: format!("state of {key}").into_bytes(),
            replaces: None,
            trimmed: 0,
        });
    }
    store.flush();
    let path = |name: &str| dir.path().join(name);
    let broken = path(&format!("{}.kv", key_name(b"broken")));
    let mut bytes = fs::read(&broken).unwrap();
    let at = bytes.windows(8).rposition(|w| w == b"state of").unwrap();
    bytes[at] ^= 1;
    fs::write(&broken, &bytes).unwrap();
    let at = bytes.windows(4).position(|w| w == b"DS4R").unwrap();
    bytes[at..at + 4].copy_from_slice(b"DSV4");
    fs::write(path(&format!("{}.kv", "a".repeat(40))), &bytes).unwrap();
    fs::write(path(&format!("{}.kv.bad", "b".repeat(40))), b"x").unwrap();
    fs::write(path(&format!("{}.kv.tmp.1.1", "c".repeat(40))), b"x").unwrap();
    dir
}

fn json(args: &[&str], dir: &Path) -> Value {
    let out = ds4(&[args, &[dir.to_str().unwrap(), "--json"]].concat()).ok();
    serde_json::from_str(&out).unwrap()
}

#[test]
fn ls_lists_all_and_show_one() {
    let dir = directory();
    let place = dir.path().to_str().unwrap();
    let table = ds4(&["cache", "ls", place]).ok();
    assert_eq!(table.lines().count(), 8, "{table}");
    assert!(table.contains("foreign: payload of another engine"), "{table}");
    assert!(table.contains("You are first\\u{1b}[31m\\nand more"), "{table}");
    assert!(table.contains("\n6 files, "), "{table}");
    let all = json(&["cache", "ls"], dir.path());
    let states: Vec<&str> =
        all.as_array().unwrap().iter().map(|f| f["state"].as_str().unwrap()).collect();
    for state in ["whole", "foreign", "set aside", "temporary"] {
        assert!(states.contains(&state), "{states:?}");
    }
    let name = key_name(b"first");
    let shown = ds4(&["cache", "show", &name[..6], place]).ok();
    assert!(shown.contains("tokens        3 of a context of 4096"), "{shown}");
    assert!(shown.contains("  | You are first\\u{1b}[31m\n  | and more"), "{shown}");
    assert!(shown.contains("call_7  \\n\\n<block>"), "{shown}");
    let by_path = dir.path().join(format!("{name}.kv"));
    let shown = ds4(&["cache", "show", by_path.to_str().unwrap(), "--json"]).ok();
    let file: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&file["tokens"], &file["reason"]), (&3.into(), &"cold".into()));
    assert_eq!(file["model"], "ab".repeat(32));
    assert_eq!(file["tools"][0]["id"], "call_7");
    assert_eq!(ds4(&["cache", "show", "--kv-disk-dir", place, &name]).code, 0);
}

#[test]
fn verify_finds_what_is_damaged() {
    let dir = directory();
    let place = dir.path().to_str().unwrap();
    let run = ds4(&["cache", "verify", place]);
    assert_eq!((run.code, run.err.as_str()), (1, "ds4: 1 file is damaged\n"));
    let broken = key_name(b"broken");
    assert!(run.out.contains(&format!("{broken}.kv: checksum of section Sequence is wrong")));
    assert_eq!(run.out.lines().filter(|l| l.starts_with("ok ")).count(), 2);
    let first = key_name(b"first");
    assert_eq!(ds4(&["cache", "verify", place, &first]).ok(), format!("ok         {first}\n"));
    // Nothing was changed by looking.
    assert!(dir.path().join(format!("{broken}.kv")).exists());
}

#[test]
fn rm_removes_what_it_is_told_to() {
    let dir = directory();
    let place = dir.path().to_str().unwrap();
    let left = || fs::read_dir(dir.path()).unwrap().count();
    let error = ds4(&["cache", "rm", place]).fails(2);
    assert_eq!(error, "ds4: specify which files to remove, --bad or --all");
    assert!(ds4(&["cache", "rm", place, "--bad"]).ok().starts_with("removed 1 file"));
    assert!(ds4(&["cache", "rm", place, &key_name(b"first")[..5]]).ok().starts_with("removed 1"));
    assert_eq!(left(), 4);
    let removed = json(&["cache", "rm", "--all"], dir.path());
    assert_eq!((&removed["removed"], left()), (&3.into(), 1));
    // Another engine's file goes by its name alone.
    assert!(ds4(&["cache", "rm", place, "aaaa"]).ok().starts_with("removed 1 file"));
    assert_eq!(left(), 0);
    assert_eq!(ds4(&["cache", "ls", place]).ok().lines().last(), Some("0 files, 0.0 KiB"));
}

#[test]
fn mistakes_are_one_line() {
    let dir = directory();
    let place = dir.path().to_str().unwrap();
    assert!(ds4(&["cache", "ls"]).fails(2).contains("--kv-disk-dir"));
    assert!(ds4(&["cache", "ls", "nowhere"]).fails(1).contains("nowhere: no such directory"));
    assert!(ds4(&["cache", "ls", "/no/where"]).fails(1).contains("/no"));
    assert!(ds4(&["cache", "show", place]).fails(2).contains("which file"));
    assert!(ds4(&["cache", "show", place, "ffff"]).fails(1).contains("no cache file begins"));
    assert!(ds4(&["cache", "show", place, "bbbb"]).fails(1).contains("set aside"));
    assert!(ds4(&["cache"]).fails(2).contains("cache"));
    assert!(ds4(&["cache", "fly"]).fails(2).contains("fly"));
}
