//! Files read back, and damaged files refused.
#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "test helpers; exact values")]

use std::path::Path;

use std::io::Write;

use ds4_gguf::write::{Draft, replace_file};
use ds4_gguf::{Error, Gguf, TensorType, Value, ValueType, dequantize_row};
use proptest::prelude::*;

fn python() -> Gguf {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/gguf/python.gguf");
    Gguf::open(Path::new(path)).unwrap()
}

#[test]
fn a_file_of_the_python_package_is_read() {
    let g = python();
    let m = g.metadata();
    assert_eq!(m.str("general.architecture").unwrap(), "test");
    let ints: Vec<i128> = ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"]
        .map(|t| m.get(&format!("a.{t}")).unwrap().as_int().unwrap())
        .to_vec();
    let expected =
        [200, -100, 60_000, -30_000, 4_000_000_000, -2_000_000_000, 1i128 << 63, -(1i128 << 62)];
    assert_eq!(ints, expected);
    assert_eq!((m.f32("a.f32").unwrap(), m.f32("a.f64").unwrap()), (0.1, 1e-6));
    assert!(m.bool("a.bool").unwrap());
    assert_eq!(m.str("a.str").unwrap(), "mañana 毕");
    assert_eq!(m.i32s("b.i32").unwrap(), [1, -2, 3]);
    assert_eq!(m.f32s("b.f32").unwrap(), [0.5, 1.5]);
    assert_eq!(m.strs("b.str").unwrap().collect::<Vec<_>>(), ["", "a", "héllo"]);
    let shapes: Vec<(&str, &[u64], TensorType)> =
        g.tensors().iter().map(|t| (t.name.as_str(), t.dims.as_slice(), t.ty)).collect();
    let expected: [(&str, &[u64], TensorType); 6] = [
        ("plain.f32", &[256, 2], TensorType::F32),
        ("plain.f16", &[6, 2], TensorType::F16),
        ("plain.i32", &[5], TensorType::I32),
        ("q8_0", &[256, 2], TensorType::Q8_0),
        ("mxfp4", &[256, 2], TensorType::Mxfp4),
        ("last", &[5, 1, 3, 2], TensorType::F32),
    ];
    assert_eq!(shapes, expected);
    let tensor = g.tensor("plain.f16").unwrap();
    assert_eq!((tensor.cols(), tensor.rows(), tensor.elems()), (6, 2, 12));
    let mut x = [0.0; 12];
    dequantize_row(tensor.ty, g.tensor_bytes(tensor), &mut x);
    assert_eq!(x[5..7], [5.0 / 256.0 - 1.0, 0.0]);
    assert!(g.tensor("absent").is_none());
}

#[test]
fn the_writer_repeats_that_file_byte_for_byte() {
    let g = python();
    let mut draft = Draft::new("copy");
    draft.set_all(g.metadata()).unwrap();
    for t in g.tensors() {
        draft.tensor(&t.name, &t.dims, t.ty).unwrap();
    }
    let layout = draft.layout().unwrap();
    assert_eq!(layout.file_bytes(), g.data().len());
    assert_eq!(layout.tensors(), g.tensors());
    let memory = layout.clone().in_memory(|t, bytes| {
        bytes.copy_from_slice(&g.data()[t.range.clone()]);
    });
    assert_eq!(memory.unwrap().data(), g.data());
    let mut writer = layout.write(Vec::new()).unwrap();
    for t in g.tensors() {
        for piece in g.tensor_bytes(t).chunks(7) {
            writer.write(&t.name, piece).unwrap();
        }
    }
    assert_eq!(writer.finish().unwrap(), g.data());
}

/// A small file with everything that is checked.
fn small() -> Draft {
    let mut draft = Draft::new("small");
    draft.set("n", Value::U32(7)).unwrap();
    draft.set("s", Value::Str("text")).unwrap();
    draft.set("flag", Value::Bool(true)).unwrap();
    draft.set_strs("words", ["a", "bc"].into_iter());
    draft.set_i32s("ints", &[1, 2, -3]);
    draft.tensor("a", &[32, 2], TensorType::Q8_0).unwrap();
    draft.tensor("b", &[3], TensorType::F32).unwrap();
    draft
}

fn small_bytes() -> Vec<u8> {
    let mut writer = small().layout().unwrap().write(Vec::new()).unwrap();
    writer.write("a", &[1; 68]).unwrap();
    writer.write("b", &[2; 12]).unwrap();
    writer.finish().unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Gguf, Error> {
    Gguf::from_bytes("test.gguf", bytes)
}

/// The message about `bytes`: one line that begins with the file's name.
fn refused(bytes: Vec<u8>) -> String {
    let text = open(bytes).expect_err("damaged").to_string();
    assert!(text.starts_with("test.gguf: ") && !text.contains('\n'), "{text}");
    text
}

/// `bytes` with the first occurrence of `from` replaced.
fn replaced(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes.splice(at..at + from.len(), to.iter().copied());
    bytes
}

#[test]
fn what_is_written_is_read() {
    let g = open(small_bytes()).unwrap();
    let m = g.metadata();
    assert_eq!((m.u32("n").unwrap(), m.u64("n").unwrap()), (7, 7));
    assert_eq!(m.i32s("ints").unwrap(), [1, 2, -3]);
    assert_eq!(m.iter().map(|(k, _)| k).collect::<Vec<_>>(), ["n", "s", "flag", "words", "ints"]);
    assert_eq!(g.tensor_bytes(g.tensor("b").unwrap()), [2; 12]);
    assert_eq!((g.alignment(), g.data_start() % 32), (32, 0));
    let lines: Vec<String> = m.iter().map(|(_, v)| v.to_string()).collect();
    let expected =
        ["7", "\"text\"", "true", "[string; 2] = [\"a\", \"bc\"]", "[i32; 3] = [1, 2, -3]"];
    assert_eq!(lines, expected);
}

#[test]
fn setting_a_key_again_replaces_its_value() {
    let mut draft = small();
    draft.set("n", Value::F64(0.5)).unwrap();
    let g = draft.layout().unwrap().in_memory(|_, _| ()).unwrap();
    assert_eq!(g.metadata().f32("n").unwrap(), 0.5);
    assert_eq!(g.metadata().len(), 5);
}

#[test]
fn other_alignments_are_kept() {
    let mut draft = small();
    assert!(draft.set("general.alignment", Value::U32(48)).is_err());
    draft.set("general.alignment", Value::U32(64)).unwrap();
    let g = draft.layout().unwrap().in_memory(|_, _| ()).unwrap();
    assert_eq!(g.alignment(), 64);
    assert!(g.tensors().iter().all(|t| t.range.start % 64 == 0));
}

#[test]
fn a_draft_refuses_what_the_reader_would() {
    let mut draft = small();
    let mut text = |dims: &[u64], ty, name| draft.tensor(name, dims, ty).unwrap_err().to_string();
    assert!(text(&[3], TensorType::F32, "b").contains("added twice"));
    assert!(text(&[], TensorType::F32, "c").contains("0 dimensions"));
    assert!(text(&[33], TensorType::Q8_0, "c").contains("not a multiple of 32"));
    assert!(text(&[3, 0], TensorType::F32, "c").contains("a dimension is 0"));
    assert!(text(&[1 << 40, 1 << 40], TensorType::F32, "c").contains("overflows"));
    assert!(text(&[3], TensorType::F32, &"c".repeat(256)).contains("256 bytes"));
}

#[test]
fn typed_look_ups_say_what_they_found() {
    let g = open(small_bytes()).unwrap();
    let m = g.metadata();
    let cases = [
        (
            m.u32("absent").unwrap_err(),
            "absent: expected an integer from 0 to 4294967295, found nothing",
        ),
        (
            m.u32("s").unwrap_err(),
            "s: expected an integer from 0 to 4294967295, found string \"text\"",
        ),
        (m.str("n").unwrap_err(), "n: expected a string, found u32 7"),
        (m.f32("n").unwrap_err(), "n: expected a float, found u32 7"),
        (m.bool("n").unwrap_err(), "n: expected a bool, found u32 7"),
        (
            m.u32s("ints").unwrap_err(),
            "ints: expected an array of integers from 0 to 4294967295, \
             found array [i32; 3] = [1, 2, -3]",
        ),
        (
            m.strs("ints").unwrap_err(),
            "ints: expected an array of strings, found array [i32; 3] = [1, 2, -3]",
        ),
        (m.i32s("n").unwrap_err(), "n: expected an array of 32-bit integers, found u32 7"),
    ];
    for (error, expected) in cases {
        assert_eq!(error.to_string(), format!("test.gguf: metadata key {expected}"));
    }
}

#[test]
fn foreign_and_old_files_are_named() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html>", "web page"),
        (b"GGU", "truncated"),
        (b"ggml\x01\0\0\0", "not a GGUF file: it begins with \"ggml\""),
        (b"GGUF\x02\0\0\0", "GGUF version 2, only 3 is supported"),
        (b"GGUF\0\0\0\x03", "big-endian"),
    ];
    for (bytes, expected) in cases {
        let text = refused(bytes.to_vec());
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn opening_needs_a_regular_readable_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = |path: &Path| Gguf::open(path).unwrap_err().to_string();
    assert!(text(&dir.path().join("absent")).contains("absent: No such file"));
    assert!(text(dir.path()).contains("not a regular file"));
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    assert!(text(&dir.path().join("empty")).contains("the file is empty"));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small_bytes();
    let data_end = open(bytes.clone()).unwrap().tensor("b").unwrap().range.end;
    for n in 0..data_end {
        let text = refused(bytes[..n].to_vec());
        assert!(n == 0 || text.contains("truncated"), "{n}: {text}");
    }
    assert!(refused(bytes[..data_end - 5].to_vec()).contains("5 bytes are missing"));
    // The padding behind the last tensor holds nothing.
    assert!(open(bytes[..data_end].to_vec()).is_ok());
}

#[test]
fn huge_counts_are_refused_before_anything_is_reserved() {
    let bytes = small_bytes();
    let with_u64 = |at: usize, n: u64| {
        let mut b = bytes.clone();
        b[at..at + 8].copy_from_slice(&n.to_le_bytes());
        b
    };
    let find = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle).unwrap();
    for n in [1u64 << 17, u64::MAX] {
        assert!(refused(with_u64(8, n)).contains("number of tensors is"));
        assert!(refused(with_u64(16, n)).contains("number of metadata keys is"));
    }
    // Within the limit, but more than there is.
    assert!(open(with_u64(8, 60_000)).is_err() && open(with_u64(16, 60_000)).is_err());
    let key = find(b"words");
    assert!(refused(with_u64(key - 8, u64::MAX)).contains("length of metadata key"));
    let count = key + 5 + 4 + 4;
    for (n, text) in [(u64::MAX, "length of array \"words\" is"), (1 << 28, "string")] {
        assert!(refused(with_u64(count, n)).contains(text));
    }
    for (n, text) in [(u64::MAX, "length of string 0 of \"words\" is"), (1 << 20, "truncated")] {
        assert!(refused(with_u64(count + 8, n)).contains(text));
    }
    // The name of tensor "a" is followed by the number of its dimensions.
    let name = find(b"\x01\0\0\0\0\0\0\0a\x02\0\0\0\x20");
    assert!(refused(with_u64(name + 13, 33)).contains("is not a multiple of 32"));
    assert!(refused(with_u64(name + 13, 1 << 63)).contains("overflows"));
    assert!(refused(with_u64(name + 13, 0)).contains("a dimension is 0"));
    assert!(refused(with_u64(name + 21, 1 << 40)).contains("bytes are missing"));
    assert!(refused(with_u64(name + 33, 31)).contains("not a multiple of 32"));
    assert!(refused(with_u64(name + 33, u64::MAX - 31)).contains("overflows"));
}

#[test]
fn wrong_types_duplicates_and_overlaps_are_refused() {
    let b = small_bytes;
    let cases: [(Vec<u8>, &str); 10] = [
        (replaced(b(), b"n\x04\0\0\0", b"n\x0d\0\0\0"), "unknown value type 13"),
        (replaced(b(), b"words\x09\0\0\0\x08", b"words\x09\0\0\0\x09"), "array of arrays"),
        (replaced(b(), b"words\x09\0\0\0\x08", b"words\x09\0\0\0\x77"), "unknown element type 119"),
        (replaced(b(), b"flag\x07\0\0\0\x01", b"flag\x07\0\0\0\x02"), "bool in \"flag\" is 2"),
        (replaced(b(), b"text", b"te\xfft"), "\"s\" is not valid UTF-8"),
        (replaced(b(), b"\0s\x08", b"\0n\x08"), "\"n\" appears twice"),
        (replaced(b(), b"\0b\x01", b"\0a\x01"), "\"a\" appears twice"),
        (replaced(b(), b"\0b\x01\0\0\0", b"\0b\x05\0\0\0"), "has 5 dimensions"),
        (
            replaced(
                b(),
                b"a\x02\0\0\0\x20\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x08",
                b"a\x02\0\0\0\x20\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x0e",
            ),
            "type Q6_K; supported are",
        ),
        // "b" begins at 96; 64 lies inside "a" (68 bytes).
        (
            replaced(
                b(),
                b"\0b\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\x60",
                b"\0b\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\x40",
            ),
            "tensors \"a\" and \"b\" overlap",
        ),
    ];
    for (bytes, expected) in cases {
        let text = refused(bytes);
        assert!(text.contains(expected), "{text} | {expected}");
    }
}

#[test]
fn messages_stay_short() {
    let mut draft = small();
    draft.set(&"k\n".repeat(20_000), Value::Str(&"v".repeat(100_000))).unwrap();
    let mut writer = draft.layout().unwrap().write(Vec::new()).unwrap();
    writer.write("a", &[0; 68]).unwrap();
    writer.write("b", &[0; 12]).unwrap();
    let bytes =
        replaced(writer.finish().unwrap(), b"vvvvvvvv", b"\xff\xff\xff\xff\xff\xff\xff\xff");
    assert!(refused(bytes).len() < 300);
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, b"old").unwrap();
    let fail = |_: &mut std::fs::File| {
        Err(Error::Io { file: "x".into(), source: std::io::Error::other("full") })
    };
    assert!(replace_file(&path, fail).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    replace_file(&path, |file| {
        let mut writer = small().layout()?.write(std::io::BufWriter::new(file))?;
        writer.write("a", &[1; 68])?;
        writer.write("b", &[2; 12])?;
        writer.finish().map(drop)
    })
    .unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), small_bytes());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // Advice changes no byte.
    let g = Gguf::open(&path).unwrap();
    let all = 0..g.data().len();
    g.advise_willneed(all.clone()).unwrap();
    g.advise_random(all.clone()).unwrap();
    g.advise_sequential(40..80).unwrap();
    g.release(all).unwrap();
    assert_eq!(g.data(), small_bytes());
}

/// A link stays a link, a pipe stays a pipe.
#[cfg(unix)]
#[test]
fn only_files_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&file, b"old").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    let new = |file: &mut std::fs::File| {
        let write = file.write_all(b"new");
        write.map_err(|source| Error::Io { file: "x".into(), source })
    };
    replace_file(&link, new).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(&file).unwrap(), b"new");

    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    replace_file(&pipe, new).unwrap();
    assert_eq!(reader.join().unwrap(), b"new");
    assert!(!pipe.symlink_metadata().unwrap().is_file());

    let error = replace_file(dir.path(), new).unwrap_err().to_string();
    assert!(error.contains("Is a directory") && !error.contains(".part"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
#[should_panic(expected = "\"b\" is written, Some(\"a\") is next")]
fn tensors_come_in_order() {
    let _ = small().layout().unwrap().write(Vec::new()).unwrap().write("b", &[0]);
}

#[test]
fn releasing_memory_that_is_no_file_keeps_it() {
    let g = small().layout().unwrap().in_memory(|_, bytes| bytes.fill(9)).unwrap();
    g.release(0..g.data().len()).unwrap();
    assert_eq!(g.tensor_bytes(&g.tensors()[0]), [9; 68]);
}

/// Reads all that a damaged file still offers; must not panic.
fn walk(g: &Gguf) {
    for (key, value) in g.metadata().iter() {
        let _ = value.to_string();
        let _ = (g.metadata().u32(key), g.metadata().i32s(key), g.metadata().f32s(key));
        if let Value::Array(a) = value {
            assert_eq!(a.iter().count(), a.len());
            assert!(a.elem() != ValueType::Array);
        }
    }
    for t in g.tensors() {
        let row = t.ty.row_bytes(t.cols()).unwrap();
        let mut x = vec![0.0; t.cols()];
        for bytes in g.tensor_bytes(t).chunks(row) {
            dequantize_row(t.ty, bytes, &mut x);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 4096,
        ..ProptestConfig::default()
    })]

    #[test]
    fn flipped_bits_never_panic(
        flips in proptest::collection::vec((0usize..1 << 20, 0u8..8), 1..6),
    ) {
        let mut bytes = small_bytes();
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        match open(bytes) {
            Ok(g) => walk(&g),
            Err(e) => prop_assert!(!e.to_string().contains('\n'), "{e}"),
        }
    }

    #[test]
    fn overwritten_numbers_never_panic(
        at in 0usize..1 << 20,
        n in prop_oneof![0..300u64, any::<u64>()],
        wide: bool,
    ) {
        let mut bytes = small_bytes();
        let len = if wide { 8 } else { 4 };
        let at = at % (bytes.len() - len);
        bytes[at..at + len].copy_from_slice(&n.to_le_bytes()[..len]);
        if let Ok(g) = open(bytes) {
            walk(&g);
        }
    }
}
