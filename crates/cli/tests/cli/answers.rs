//! One-shot answers of the built-in model.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::run::{NANO, command, ds4, file, model};

const SHORT: [&str; 8] = ["-p", "What is the time?", "-n", "12", "--temp", "0", "-c", "512"];

fn with(args: &[&str]) -> Vec<String> {
    SHORT.iter().chain(args).map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn the_answer_is_on_stdout_and_the_rest_on_stderr() {
    let run = ds4(&with(&["--nothink"]));
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.out.ends_with('\n') && run.out.trim().len() > 1, "{:?}", run.out);
    assert!(!run.out.contains("<think>"), "{}", run.out);
    let lines: Vec<&str> = run.err.lines().collect();
    assert!(lines[0].starts_with("ds4: no model given and no ./ds4flash.gguf"), "{}", lines[0]);
    assert!(lines[1].starts_with("ds4: model: "), "{}", lines[1]);
    assert!(lines[2].starts_with("ds4: backend: CPU, "), "{}", lines[2]);
    assert!(!run.err.contains("GPU"), "there is none to speak of: {}", run.err);
    assert!(lines[3].starts_with("ds4: context: 512 tokens, "), "{}", lines[3]);
    let speeds = lines[4].strip_prefix("ds4: prefill: ").unwrap();
    let (prefill, generation) = speeds.split_once(" t/s, generation: ").unwrap();
    let generation = generation.strip_suffix(" t/s").unwrap();
    for speed in [prefill, generation] {
        assert!(speed.parse::<f64>().unwrap() > 0.0, "{speed}");
        assert_eq!(speed.split_once('.').unwrap().1.len(), 2, "{speed}");
    }
}

#[test]
fn the_same_file_gives_the_same_answer_as_the_built_in_model() {
    let built_in = ds4(&with(&["--nothink"])).ok();
    let run = ds4(&with(&["--nothink", "-m", NANO, "-t", "1", "--cpu", "--warm-weights"]));
    assert!(!run.err.contains("no model given"), "{}", run.err);
    assert!(run.err.contains("backend: CPU, 1 threads"), "{}", run.err);
    assert_eq!(run.ok(), built_in);
}

#[test]
fn thinking_is_set_apart() {
    let out = ds4(&with(&[])).ok();
    assert!(out.starts_with("<think>"), "{out}");
    assert!(out.contains("</think>"), "{out}");
    // The context is too short for the maximum: a warning, and thinking as usual.
    let run = ds4(&with(&["--think-max"]));
    assert!(run.err.contains("maximum thinking needs --ctx 393216"), "{}", run.err);
    assert_eq!(run.ok(), out);
}

#[test]
fn drafts_do_not_change_what_a_seed_gives() {
    let sampled = |args: &[&str]| {
        let mut all = vec!["-p", "Tell me", "-n", "20", "--seed", "9", "--nothink", "-c", "512"];
        all.extend(args);
        ds4(&all)
    };
    let plain = sampled(&["--mtp-draft", "0"]);
    assert!(!plain.err.contains("drafts accepted"), "{}", plain.err);
    let drafted = sampled(&["--mtp-draft", "3"]);
    assert!(drafted.err.contains("ds4: drafts accepted by position: "), "{}", drafted.err);
    let plain = plain.ok();
    assert_eq!(drafted.ok(), plain);
    let other = sampled(&["--seed", "10"]);
    assert_eq!(other.code, 2, "a flag given twice");
    let env = command()
        .env("DS4_MTP_SPEC_DISABLE", "1")
        .args(["-p", "Tell me", "-n", "20", "--seed", "9", "--nothink", "-c", "512"])
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&env.stderr).contains("drafts accepted"));
    assert_eq!(String::from_utf8_lossy(&env.stdout), plain);
}

#[test]
fn a_rendered_prompt_is_taken_as_it_is() {
    let said = ds4(&with(&["--nothink", "-sys", "Be brief."])).ok();
    let rendered =
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>What is the time?<｜Assistant｜></think>";
    let args =
        |prompt: &str| ["-n", "12", "--temp", "0", "-c", "512", "-p", prompt].map(str::to_owned);
    assert_eq!(ds4(&args(rendered)).ok(), said);
    // From a file, and with thinking as the prompt has it.
    let path = file("rendered.txt", rendered.replace("</think>", "<think>"));
    let out = ds4(&["-n", "12", "--temp", "0", "-c", "512", "--prompt-file", &path]).ok();
    assert!(out.starts_with("<think>"), "{out}");
    // Elsewhere in the text the literal is a text.
    let inside = format!("x{rendered}");
    let tokens = ds4(&["-p", &inside, "--dump-tokens"]).ok();
    assert!(tokens.contains("     0  <｜begin▁of▁sentence｜>"), "{tokens}");
    assert_ne!(ds4(&args(&inside)).ok(), said);
}

#[test]
fn an_answer_ends_where_the_context_ends() {
    let path = crate::run::dir().join("context-end.json");
    let path = path.to_str().unwrap();
    let args = ["-m", model(), "-p", "Hi", "--nothink", "-sys", "", "--dump-logprobs", path, "-c"];
    let n_steps = |ctx: &str| {
        ds4(&[&args[..], &[ctx]].concat()).ok();
        let json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        // What fits after the prompt, and one token more, which needs no place.
        let prompt = json["prompt_tokens"].as_u64().unwrap();
        (json["steps"].as_array().unwrap().len() as u64, prompt)
    };
    for ctx in [24, 40] {
        let (steps, prompt) = n_steps(&ctx.to_string());
        assert_eq!(steps, ctx - prompt + 1);
    }
}

#[test]
fn a_shape_without_whole_blocks_runs_with_a_note() {
    let oracle = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/oracle/micro");
    let (model, mtp) = (format!("{oracle}/model.gguf"), format!("{oracle}/mtp.gguf"));
    let run = ds4(&["-m", &model, "--mtp", &mtp, "-p", "Hi", "-n", "6", "-c", "256"]);
    assert!(run.err.contains("unpublished shape of the DeepSeek V4 family"), "{}", run.err);
    assert!(run.err.contains(", MTP block"), "{}", run.err);
    assert!(run.err.contains("note: computing without the roundings"), "{}", run.err);
    run.ok();
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer_and_nothing_else() {
    // The weights are random: the answer would go on to the end of the context.
    let mut child = command()
        .args(["-m", model(), "-p", "Hi", "--nothink", "-c", "30000", "--temp", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.lines().any(|line| line.starts_with("ds4: prefill: ")), "{err}");
    assert!(output.stdout.ends_with(b"\n"));
}
