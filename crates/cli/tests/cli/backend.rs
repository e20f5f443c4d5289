//! Where a model runs, on a machine without a GPU.

use crate::run::{NANO, dir, ds4, file};

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
