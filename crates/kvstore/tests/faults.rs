//! What may happen to a directory: damage, kills, a full disk, other processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{encoding, files, load, only_file, open, options, save, snapshot};
use ds4_kvstore::{KvStore, Miss, Reason, Skip, Snapshot, list, verify_file};

/// Tells a test's own process that it is a writer, and where.
const WRITER_DIR: &str = "DS4_TEST_WRITER_DIR";

#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    save(&open(dir.path()), &[0, 1, 2], b"state bytes");
    let path = only_file(dir.path());
    let good = fs::read(&path).unwrap();
    let payload = good.windows(4).position(|w| w == b"DS4R").unwrap();
    let map = good.windows(3).rposition(|w| w == b"KTM").unwrap();
    for (at, bit) in (0..good.len()).flat_map(|at| [1, 0x40, 0x80].map(|bit| (at, bit))) {
        let mut bad = good.clone();
        bad[at] ^= bit;
        fs::write(&path, &bad).unwrap();
        let loaded = load(&open(dir.path()), &[0, 1, 2, 3]);
        if let Some((tokens, state)) = &loaded {
            assert_eq!(state, b"state bytes", "byte {at}");
            assert_eq!(tokens, &[0, 1, 2], "byte {at}");
        }
        // Magic, version, token count and lengths; then all of the payload but the family, which
        // counts only where other quantisations are accepted, and the words that must be 0.
        let in_header = matches!(at, 0..4 | 8..12 | 40..52);
        let of_family = (payload + 40..payload + 72).contains(&at);
        let in_payload = (payload..map).contains(&at) && !of_family;
        if in_header || in_payload {
            assert!(loaded.is_none(), "byte {at} of {}, bit {bit:#x}", good.len());
        }
        for file in files(dir.path()) {
            fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn pipes_under_names_of_files_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let names = [format!("{}.kv", "a".repeat(40)), format!("{}.kv.tmp.1.1", "b".repeat(40))];
    for name in &names {
        let made = Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap();
        assert!(made.success());
    }
    let (sender, opened) = std::sync::mpsc::channel();
    let theirs = dir.path().to_owned();
    std::thread::spawn(move || {
        let store = open(&theirs);
        let found = store.find(&encoding(&[0, 1, 2, 3])).unwrap_err();
        sender.send((found, store.stats().set_aside)).unwrap();
    });
    let (found, set_aside) = opened.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((found, set_aside), (Miss::Empty, 0));
    assert!(names.iter().all(|name| dir.path().join(name).exists()));
}

#[test]
fn every_truncation_is_set_aside_once() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Snapshot { tools: Vec::new(), ..snapshot(&[0, 1, 2], b"state bytes") };
    common::try_save(&open(dir.path()), whole).unwrap();
    let path = only_file(dir.path());
    let good = fs::read(&path).unwrap();
    for n in 0..good.len() {
        fs::write(&path, &good[..n]).unwrap();
        let store = open(dir.path());
        assert_eq!(store.find(&encoding(&[0, 1, 2, 3])).unwrap_err(), Miss::Empty, "{n} bytes");
        assert!(path.with_extension("kv.bad").exists(), "{n} bytes");
        assert!(!path.exists());
        assert_eq!(store.stats().set_aside, 1);
        assert_eq!(open(dir.path()).stats().set_aside, 0, "only once");
    }
    // One byte more than a whole file is damage as well.
    fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    assert!(load(&open(dir.path()), &[0, 1, 2, 3]).is_none());
}

#[test]
fn a_truncated_map_leaves_the_sequence_usable() {
    let dir = tempfile::tempdir().unwrap();
    save(&open(dir.path()), &[0, 1, 2], b"state bytes");
    let path = only_file(dir.path());
    let good = fs::read(&path).unwrap();
    let map = good.windows(3).rposition(|w| w == b"KTM").unwrap();
    for n in map..good.len() {
        fs::write(&path, &good[..n]).unwrap();
        assert_eq!(load(&open(dir.path()), &[0, 1, 2, 3]).unwrap().1, b"state bytes", "{n} bytes");
    }
}

#[test]
fn damage_that_appears_later_is_noticed_at_the_hit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    save(&store, &[0, 1], b"short");
    save(&store, &[0, 1, 2], b"state bytes");
    let path = dir.path().join(format!("{}.kv", ds4_kvstore::key_name(&encoding(&[0, 1, 2]))));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).rposition(|w| w == b"state").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let prompt = [0, 1, 2, 3];
    assert!(load(&store, &prompt).is_none());
    assert!(path.with_extension("kv.bad").exists());
    // The next best is found; the damaged one is not tried again.
    assert_eq!(load(&store, &prompt).unwrap().1, b"short");
    // What only the runner can judge is set aside at its word.
    let hit = store.find(&encoding(&prompt)).unwrap();
    store.refuse(&hit, "state of another version");
    assert!(store.find(&encoding(&prompt)).is_err());
    assert_eq!(store.stats().set_aside, 2);
}

#[test]
fn another_engine_s_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    save(&open(dir.path()), &[0, 1, 2], b"state bytes");
    let path = only_file(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"DS4R").unwrap();
    bytes[at..at + 4].copy_from_slice(b"DSV4");
    fs::write(&path, &bytes).unwrap();
    let small = ds4_kvstore::Options { budget_bytes: 10, ..options() };
    let store = KvStore::open(dir.path(), small).unwrap();
    assert_eq!(store.find(&encoding(&[0, 1, 2, 3])).unwrap_err(), Miss::Empty);
    assert_eq!(fs::read(only_file(dir.path())).unwrap(), bytes);
}

#[test]
fn leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay() {
    let dir = tempfile::tempdir().unwrap();
    let name = "a".repeat(40);
    let stale = dir.path().join(format!("{name}.kv.tmp.999999999.1"));
    fs::write(&stale, b"half").unwrap();
    let living = dir.path().join(format!("{name}.kv.tmp.999999999.2"));
    let file = fs::File::create(&living).unwrap();
    file.lock().unwrap();
    open(dir.path());
    assert!(!stale.exists());
    assert!(living.exists(), "its writer holds the lock");
}

#[test]
fn a_disk_that_fills_up_ends_caching_with_one_warning() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = SmallDisk::mount(dir.path()) else {
        eprintln!("not run: no right to mount a small file system");
        return;
    };
    let store = open(&small.0);
    save(&store, &[0, 1, 2], &vec![1; 30_000]);
    save(&store, &[0, 1, 3], &vec![1; 90_000]);
    let stats = store.stats();
    assert_eq!((stats.stored, stats.failed, stats.is_off), (1, 1, true));
    let key = encoding(&[0, 1, 4]);
    assert_eq!(store.check(&key, 3, Reason::Shutdown, 10), Err(Skip::Off));
    // What was stored is still of use, and nothing half-written is left.
    assert_eq!(load(&store, &[0, 1, 2]).unwrap().1.len(), 30_000);
    verify_file(&only_file(&small.0)).unwrap();
}

/// A file system of 96 KiB.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=96k", "none"]).arg(at).stderr(Stdio::null());
        mount.status().ok()?.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_directory_that_vanishes_ends_caching_after_a_few_failures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let store = open(&path);
    fs::remove_dir_all(&path).unwrap();
    for n in 1..=3 {
        save(&store, &[0, 1, n], b"x");
    }
    assert_eq!((store.stats().failed, store.stats().is_off), (3, true));
}

/// The body of a writer process: stores one file after the other until it is killed.
#[test]
fn writer_process() {
    let Ok(dir) = std::env::var(WRITER_DIR) else { return };
    let store = open(Path::new(&dir));
    for n in 0u32.. {
        let tokens: Vec<u32> =
            (0..3 + n % 50).map(|i| (i * i + n + std::process::id()) % 8).collect();
        store.save(snapshot(&tokens, &vec![n.to_le_bytes()[0]; 20_000]));
        store.add_tools(&encoding(&tokens), vec![tool(n)]);
    }
}

fn tool(n: u32) -> ds4_kvstore::ToolEntry {
    ds4_kvstore::ToolEntry { id: format!("call_{n}"), dsml: vec![7; 100] }
}

fn writer(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture"])
        .env(WRITER_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How often a writer is killed; the long run is `DS4_TEST_KILLS=1000`.
fn kills() -> u64 {
    std::env::var("DS4_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn a_kill_at_any_moment_leaves_only_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut checked = 0;
    for n in 0..kills() {
        let before = files(dir.path()).len();
        let mut child = writer(dir.path());
        // Until it has begun to write, then for a time that differs each round.
        let deadline = Instant::now() + Duration::from_secs(20);
        while files(dir.path()).len() <= before.min(3) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(n * 7919 % 20_000));
        kill(&mut child);
        for file in files(dir.path()) {
            if file.extension().is_some_and(|e| e == "kv") {
                verify_file(&file).unwrap();
                checked += 1;
            }
        }
        let store = open(dir.path());
        assert_eq!(store.stats().set_aside, 0, "round {n}");
        assert!(store.stats().bytes <= options().budget_bytes);
        let leftovers = list(dir.path()).unwrap();
        assert!(leftovers.iter().all(|i| matches!(i.what, ds4_kvstore::Listed::Whole(_))));
        if n % 10 == 9 {
            for file in files(dir.path()) {
                fs::remove_file(file).unwrap();
            }
        }
    }
    eprintln!("{} kills, {checked} files checked, {:?}", kills(), began.elapsed());
    assert!(checked > kills());
}

#[test]
fn two_processes_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut writers = [writer(dir.path()), writer(dir.path())];
    let end = Instant::now() + Duration::from_millis(1500);
    let (mut loads, mut n) = (0, 0);
    let store = open(dir.path());
    while Instant::now() < end {
        n += 1;
        for entry in store.entries() {
            let path = dir.path().join(format!("{}.kv", entry.name));
            // A file may be evicted by the others while it is read, but never be half a file.
            match verify_file(&path) {
                Ok(_) => loads += 1,
                Err(ds4_kvstore::Error::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => panic!("{e}"),
            }
        }
        let _ = store.find(&encoding(&[0, 1, 2, n % 8]));
    }
    writers.iter_mut().for_each(kill);
    assert!(loads > 10, "{loads} files read");
    assert_eq!(store.stats().set_aside, 0);
    assert!(open(dir.path()).stats().bytes <= options().budget_bytes);
}
