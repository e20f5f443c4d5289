//! Runs the program in an empty directory and collects what it says.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ds4_model::testing::{QUANT_SEED, quant_gguf};

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    /// Stdout of a run that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out
    }

    /// Stderr of a run that must have failed with this status and one line.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert_eq!(self.out, "", "a failure says nothing on stdout");
        assert!(!self.err.contains("panicked"), "{}", self.err);
        let mut lines = self.err.lines().filter(|line| !is_startup(line));
        let line = lines.next().unwrap_or_default().to_owned();
        assert_eq!(lines.next(), None, "one line: {}", self.err);
        assert!(line.starts_with("ds4: "), "{line}");
        line
    }
}

/// Lines that say what is being loaded.
fn is_startup(line: &str) -> bool {
    ["model: ", "backend: ", "context: ", "no model given"]
        .iter()
        .any(|start| line.strip_prefix("ds4: ").is_some_and(|rest| rest.starts_with(start)))
}

/// The program, with nothing of this environment that it would obey.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
    command
        .current_dir(empty_dir())
        .env_remove("DS4_THREADS")
        // No GPU, whatever this machine has.
        .env("CUDA_VISIBLE_DEVICES", "")
        .env_remove("DS4_MTP_SPEC_DISABLE")
        .env("HOME", empty_dir())
        .stdin(Stdio::null());
    command
}

/// Runs it with these arguments and nothing on stdin.
pub(crate) fn ds4<S: AsRef<OsStr>>(args: &[S]) -> Run {
    let output = command().args(args).output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs it with this text on stdin.
pub(crate) fn ds4_with<S: AsRef<OsStr>>(args: &[S], stdin: &str) -> Run {
    let mut child = command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may exit without reading.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A directory for this test program's files.
pub(crate) fn dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A directory in which there is no model.
fn empty_dir() -> PathBuf {
    let path = dir().join("empty");
    fs::create_dir_all(&path).unwrap();
    path
}

/// Writes a file for a test and returns its path.
pub(crate) fn file(name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = dir().join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The built-in model as a file.
pub(crate) const NANO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano.gguf");

/// The quantised oracle model as a file: random weights, tokens that are bytes.
pub(crate) fn model() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| file("quant.gguf", quant_gguf(QUANT_SEED).unwrap().data()))
}
