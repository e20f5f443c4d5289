//! Help, and what happens to typing mistakes.

use crate::run::{command, ds4};

#[test]
fn help_is_on_stdout() {
    for args in [&["-h"][..], &["--help"], &["bench", "-h"], &["inspect", "--help"]] {
        let run = ds4(args);
        assert_eq!((run.code, &run.err[..]), (0, ""), "{args:?}");
        assert!(run.out.contains("Usage: ds4"), "{}", run.out);
    }
    let help = ds4(&["--help"]).ok();
    for flag in [
        "-m, --model",
        "--mtp ",
        "--mtp-draft",
        "--mtp-margin",
        "-t, --threads",
        "--backend",
        "--cpu",
        "--cuda",
        "--metal",
        "--quality",
        "--warm-weights",
        "-p, --prompt",
        "--prompt-file",
        "-sys",
        "--system",
        "-c, --ctx",
        "-n, --tokens",
        "--temp",
        "--top-p",
        "--top-k",
        "--min-p",
        "--seed",
        "--think ",
        "--think-max",
        "--nothink",
        "--inspect",
        "--dump-tokens",
        "--dump-logprobs",
        "--logprobs-top-k",
        "--perplexity-file",
        "--dir-steering-file",
        "--dir-steering-ffn",
        "--dir-steering-attn",
        "--imatrix-dataset",
        "--imatrix-out",
        "--imatrix-max-prompts",
        "--imatrix-max-tokens",
    ] {
        assert!(help.contains(flag), "{flag} is missing:\n{help}");
    }
    // What this build refuses is not offered.
    for flag in ["head-test", "first-token-test", "metal-graph"] {
        assert!(!help.contains(flag), "{flag}");
    }
    assert_eq!(ds4(&["--version"]).ok(), format!("ds4 {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn mistakes_are_one_line_and_status_2() {
    for (args, want) in [
        (&["--no-such-option"][..], "unexpected argument '--no-such-option'"),
        (&["no-such-command"], "unrecognized subcommand 'no-such-command'"),
        (&["-n"], "a value is required for '--tokens <N>'"),
        (&["-n", "many"], "invalid value 'many' for '--tokens <N>'"),
        (&["-c", "0"], "0 is not in 1.."),
        (&["--temp", "hot"], "invalid value 'hot' for '--temp <F>'"),
        (&["--temp", "-1"], "temperature must be between 0 and 100, not -1"),
        (&["--mtp-margin", "2000"], "must be between 0 and 1000"),
        (&["--logprobs-top-k", "129"], "129 is not in 1..=128"),
        (&["--think", "--nothink"], "cannot be used with"),
        (&["-p", "a", "--prompt-file", "b"], "specify only one prompt source"),
        (&["--cpu", "--vram-gb", "4", "-p", "a"], "--vram-gb limits a GPU"),
        (&["--cuda", "--ram-gb", "4", "-p", "a"], "--ram-gb keeps a part of the weights in memory"),
        (&["--metal"], "--metal is not available in this build"),
        (&["--head-test"], "--head-test is not available in this build"),
        (&["--dir-steering-ffn", "1"], "not provided: --dir-steering-file <FILE>"),
        (&["--dir-steering-file", "f", "--dir-steering-ffn", "101"], "between -100 and 100"),
        (&["--imatrix-dataset", "f"], "not provided: --imatrix-out <FILE>"),
        (&["--dump-tokens"], "--dump-tokens needs -p or --prompt-file"),
        (&["logits", "-m", "f"], "not provided: --tokens <FILE> --out <FILE>"),
        (&["-m", "f", "parse", "--json"], "the subcommand 'parse' cannot be used with"),
        (&["parse"], "add --json"),
        (&["render", "--json", "--profile", "2605"], "invalid value '2605'"),
        (&["bench"], "specify --prompt-file, --chat-prompt-file or --synthetic"),
    ] {
        let line = ds4(args).fails(2);
        assert!(line.contains(want), "{args:?}: {line}");
    }
}

#[test]
fn an_environment_variable_is_checked_like_its_flag() {
    let output = command().env("DS4_THREADS", "none").arg("-p").arg("a").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.starts_with("ds4: invalid value 'none' for '--threads <N>'"), "{err}");
}

#[cfg(unix)]
#[test]
fn a_link_called_ds4_bench_is_the_bench() {
    let link = crate::run::dir().join("ds4-bench");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ds4"), &link).unwrap();
    let output = std::process::Command::new(&link).arg("--ctx-max").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.starts_with("ds4-bench: a value is required for '--ctx-max <N>'"), "{err}");
}
