//! Where a model runs, on a machine without a GPU.

use std::path::Path;
use std::process::Command;

use crate::run::{NANO, Run, command, dir, ds4, file};

#[test]
fn a_gpu_that_is_not_there_is_an_error_only_for_who_asked_for_it() {
    let text = file("backend.txt", "What is the time? ".repeat(40));
    let ids = file("backend.json", "[0, 5, 7]");
    let out = dir().join("backend.npy");
    let prefix = dir().join("backend-kernels");
    let (out, prefix) = (out.to_str().unwrap(), prefix.to_str().unwrap());
    let bench = ["bench", "-m", NANO, "--prompt-file", &text, "--ctx-start", "9", "--ctx-max", "9"];
    let kernels = [&bench[..], &["--kernels", prefix]].concat();
    for command in [
        &["-p", "hi"][..],
        &["-m", NANO, "-p", "hi"],
        &["--perplexity-file", &text],
        &bench,
        &kernels,
        &["bench", "--synthetic", "--layers", "1"],
        &["eval", "-m", NANO, "--only", "copy", "--limit", "1"],
        &["logits", "--tokens", &ids, "--out", out],
        &["serve", "--port", "0"],
    ] {
        for flag in [&["--cuda"][..], &["--backend", "cuda"]] {
            let run = ds4(&[command, flag].concat());
            assert_eq!((run.code, &run.out[..]), (1, ""), "{command:?}: {}", run.err);
            let line = run.err.lines().last().unwrap();
            assert!(
                line.ends_with("no NVIDIA driver or no GPU was found; use --backend cpu"),
                "{command:?}: {}",
                run.err
            );
        }
    }
}

#[test]
fn what_only_the_cpu_can_is_refused_on_a_gpu() {
    let prompts = file("backend-only.txt", "What is the time?");
    let out = dir().join("backend-only.dat");
    let out = out.to_str().unwrap();
    let imatrix = ["--cuda", "--imatrix-dataset", &prompts, "--imatrix-out", out];
    let line = ds4(&imatrix).fails(1);
    assert!(line.contains("--imatrix-dataset works on the CPU only for now"), "{line}");
}

#[test]
fn without_a_gpu_the_choice_is_silent() {
    for flags in [&[][..], &["--cpu"], &["--ram-gb", "64"], &["--no-lock"]] {
        let run = ds4(&[&["-p", "hi", "-n", "1", "-c", "512"], flags].concat());
        assert!(run.err.contains("ds4: backend: CPU, "), "{}", run.err);
        assert!(!run.err.contains("GPU"), "{flags:?}: {}", run.err);
        run.ok();
    }
}

/// A word of the demo model where a library of ours stands in for a driver of CUDA 12.4.
fn with_old_driver(folder: &Path, flags: &[&str]) -> Run {
    let mut command = command();
    command.args(flags).args(["-p", "hi", "-n", "1", "-c", "512"]);
    let output = command.env("LD_LIBRARY_PATH", folder).output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
#[cfg(target_os = "linux")]
fn an_old_driver_is_named() {
    let folder = dir().join("old-driver");
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("driver.cpp");
    let code = r#"extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuDriverGetVersion(int* version) { *version = 12040; return 0; }
"#;
    std::fs::write(&source, code).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        let mut compiler = Command::new("g++");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.join(name)).arg(&source);
        assert!(compiler.status().expect("g++ is installed").success());
    }
    let asked = with_old_driver(&folder, &["--backend", "cuda"]).fails(1);
    assert!(asked.contains("CUDA 12.4") && asked.contains("--backend cpu"), "{asked}");
    let auto = with_old_driver(&folder, &[]);
    assert!(auto.err.contains("CUDA 12.4"), "{}", auto.err);
    auto.ok();
}
