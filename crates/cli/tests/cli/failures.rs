//! Files, sizes and pipes that are not what they should be: one line, an exit status, no panic.

use std::fs;
use std::process::Stdio;

use crate::run::{command, ds4, file, model};

#[test]
fn models_that_cannot_be_used_are_named() {
    let whole = fs::read(model()).unwrap();
    let cut = file("cut.gguf", &whole[..whole.len() / 2]);
    let text = file("text.gguf", "not a model");
    let empty = file("empty.gguf", "");
    for (path, want) in [
        ("no-such.gguf", "no-such.gguf"),
        (&cut[..], "truncated"),
        (&text, "not a GGUF file"),
        (&empty, "empty"),
        ("/", "/"),
    ] {
        for args in [&["-m", path, "-p", "hi"][..], &["inspect", path]] {
            let line = ds4(args).fails(1);
            assert!(line.contains(want), "{args:?}: {line}");
        }
    }
    let line = ds4(&["-m", model(), "--mtp", "no-such.gguf", "-p", "hi"]).fails(1);
    assert!(line.contains("no-such.gguf"), "{line}");
}

/// A GGUF with one tensor of this name and no metadata.
fn one_tensor(name: &str) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(4_u64.to_le_bytes());
    bytes.extend([0; 4 + 8 + 128]);
    bytes
}

#[test]
fn a_file_is_named_once_and_cannot_control_the_terminal() {
    let path = file("control.gguf", one_tensor("a\n\u{1b}[31mred"));
    let line = ds4(&["tokenize", "-m", &path, "--json"]).fails(1);
    assert_eq!(line.matches("control.gguf").count(), 1, "{line}");
    let shown = ds4(&["inspect", &path]).ok();
    assert!(shown.contains("  a  [31mred") && !shown.contains('\u{1b}'), "{shown}");
}

/// Under every limit of the address space the program works, or says in one line that it is out of
/// memory: an allocation that fails would abort it.
#[cfg(target_os = "linux")]
#[test]
fn too_little_address_space_is_an_error() {
    let program = env!("CARGO_BIN_EXE_ds4");
    let mut n_refused = 0;
    for kib in (20_000..400_000).step_by(5_000) {
        let script = format!("ulimit -v {kib}; exec {program} -m {} -p hi -n 2 -c 4096", model());
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(1) => {
                n_refused += 1;
                let last = err.lines().last().unwrap();
                // The second is the system's answer to mapping a file.
                let says = ["ds4: out of memory: ", "Cannot allocate memory"];
                assert!(says.iter().any(|text| last.contains(text)), "{kib} KiB: {err}");
            }
            // Not even the system's libraries fit: the program has not begun.
            _ => assert!(
                !err.starts_with("ds4: ") && !err.contains("allocation"),
                "{kib} KiB: {err}"
            ),
        }
    }
    assert!(n_refused > 0);
}

#[cfg(unix)]
#[test]
fn a_dangling_default_model_is_named() {
    let dir = crate::run::dir().join("dangling");
    fs::create_dir_all(&dir).unwrap();
    let link = dir.join("ds4flash.gguf");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("gone.gguf", &link).unwrap();
    let output = command().current_dir(&dir).args(["-p", "hi"]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("ds4: ds4flash.gguf: "), "{err}");
}

#[test]
fn prompts_that_cannot_be_used_are_named() {
    let latin1 = file("latin1.txt", b"caf\xe9 au lait");
    let line = ds4(&["--prompt-file", &latin1]).fails(1);
    assert!(line.contains("latin1.txt: not UTF-8 at byte 3"), "{line}");
    let line = ds4(&["--prompt-file", "no-such.txt"]).fails(1);
    assert!(line.contains("cannot read no-such.txt"), "{line}");
    let line = ds4(&["-p", ""]).fails(1);
    assert!(line.contains("the prompt is empty"), "{line}");
    let long = "word ".repeat(80);
    let line = ds4(&["-p", &long, "-c", "64"]).fails(1);
    assert!(line.contains("context is full") && line.contains("--ctx"), "{line}");
}

#[test]
fn a_context_beyond_memory_is_refused() {
    let line = ds4(&["-p", "hi", "-c", "4294967295"]).fails(1);
    assert!(line.contains("4294967295 tokens"), "{line}");
}

#[test]
fn token_ids_outside_the_vocabulary_are_refused() {
    let ids = file("ids-range.json", "[1, 288]");
    let out = crate::run::dir().join("range.npy");
    let out = out.to_str().unwrap();
    let line = ds4(&["logits", "-m", model(), "--tokens", &ids, "--out", out]).fails(1);
    assert!(line.contains("token id 288 is outside the vocabulary of 288 tokens"), "{line}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported() {
    let ids = file("ids-full.json", "[1, 2]");
    let text = file("full.txt", "the other hand is in the water and the sun is on the hill ");
    for args in [
        &["logits", "-m", model(), "--tokens", &ids, "--out", "/dev/full"][..],
        &["-p", "hi", "-n", "2", "-c", "256", "--dump-logprobs", "/dev/full"],
        &[
            "bench",
            "-m",
            model(),
            "--prompt-file",
            &text,
            "--ctx-start",
            "8",
            "--ctx-max",
            "8",
            "--csv",
            "/dev/full",
        ],
    ] {
        let run = ds4(args);
        assert_eq!(run.code, 1, "{args:?}: {}", run.err);
        let last = run.err.lines().last().unwrap();
        assert!(last.contains("/dev/full: No space left on device"), "{args:?}: {last}");
    }
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    for args in [&["inspect", model()][..], &["--dump-tokens", "-p", "hi"]] {
        let output = command().args(args).stdout(full()).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains("No space left on device"), "{args:?}: {err}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    for args in [
        &["inspect", model(), "--json"][..],
        &["--help"],
        &["-p", "hi", "-n", "50", "-c", "256", "--temp", "0"],
    ] {
        let mut child =
            command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
        assert!(!err.contains("panicked") && !err.contains("Broken pipe"), "{args:?}: {err}");
    }
}
