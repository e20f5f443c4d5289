//! Memory of a mapped file that is given back is gone from the process, and reads the same again.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};

use ds4_gguf::Gguf;

/// Bytes of zeros behind the header: many times what the system maps around an access.
const DATA: usize = 16 << 20;

/// A file with one tensor of `DATA` bytes.
fn file(name: &str) -> PathBuf {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(b"x");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend((DATA as u64 / 4).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend((0..DATA).map(|i| u8::try_from(i / 4096 % 251).expect("below 251")));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).expect("the folder of tests is writable");
    path
}

/// Bytes of `path` in this process's memory.
fn in_memory(path: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
    let name = path.to_str().expect("a plain name");
    let mut rss = maps.lines().skip_while(|line| !line.ends_with(name));
    let rss = rss.find_map(|line| line.strip_prefix("Rss:")).expect("it is mapped");
    let kib: usize = rss.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

#[test]
fn memory_is_given_back_to_the_page_and_read_again() {
    let path = file("evict.gguf");
    let gguf = Gguf::open(&path).expect("it is a container");
    assert!(gguf.is_mapped_file());
    let range = gguf.tensors()[0].range.clone();
    let sum = || gguf.data()[range.clone()].iter().map(|b| u64::from(*b)).sum::<u64>();
    let expected = sum();
    assert!(in_memory(&path) >= DATA);
    // Neither end is a page's.
    let part = range.start + (4 << 20) + 5..range.end - 7;
    gguf.evict(part.clone()).expect("the pages are not locked");
    let left = in_memory(&path);
    assert!(left <= DATA - part.len() + 4096, "{left} left");
    assert_eq!(sum(), expected);
    gguf.evict(7..7).expect("nothing to do");
    std::fs::remove_file(path).expect("it is there");
}

#[test]
fn memory_that_is_not_a_files_stays() {
    let bytes = std::fs::read(file("stays.gguf")).expect("it is there");
    let gguf = Gguf::from_bytes("in memory", bytes.clone()).expect("it is a container");
    assert!(!gguf.is_mapped_file());
    gguf.evict(0..bytes.len()).expect("nothing to do");
    assert!(gguf.data() == bytes);
}
