//! `ds4 setup`: what it prints and writes, and what it leaves alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::run::{Run, command, dir};

/// A home directory of its own for a test.
fn home(name: &str) -> PathBuf {
    let home = dir().join(format!("setup-{name}"));
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).unwrap();
    home
}

fn setup(home: &Path, args: &[&str]) -> Run {
    let mut command = command();
    command.arg("setup").args(args).env("HOME", home);
    for name in ["CODEX_HOME", "XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "PI_CODING_AGENT_DIR"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn nothing_is_written_unasked() {
    let home = home("print");
    for client in ["claude", "codex", "opencode", "pi"] {
        let out = setup(&home, &[client, "--ctx", "100000"]).ok();
        assert!(out.contains("http://127.0.0.1:8000") && out.contains("100000"), "{out}");
        assert!(out.contains(&format!("\n{client} ")) && out.contains("add --write"), "{out}");
    }
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
}

#[test]
fn files_are_written_and_found_as_they_should_be() {
    let home = home("write");
    let args = ["--write", "--url", "http://host:9/v1/", "--key", "k\"ey", "--ctx", "50000"];
    for (client, file) in [
        ("claude", ".claude/ds4.settings.json"),
        ("codex", ".codex/ds4.config.toml"),
        ("opencode", ".config/opencode/opencode.json"),
        ("pi", ".pi/agent/models.json"),
    ] {
        let out = setup(&home, &[&[client], &args[..]].concat()).ok();
        assert!(out.ends_with("# written\n"), "{out}");
        let text = fs::read_to_string(home.join(file)).unwrap();
        assert!(text.contains("http://host:9") && text.contains("k\\\"ey"), "{text}");
        let again = setup(&home, &[&[client], &args[..]].concat()).ok();
        assert!(again.contains("the file says so already"), "{again}");
    }
    let settings = json(&home.join(".claude/ds4.settings.json"));
    assert_eq!(settings["env"]["ANTHROPIC_BASE_URL"], "http://host:9");
    // Of a model that it does not know it assumes a window of a million tokens.
    assert_eq!(settings["env"]["CLAUDE_CODE_MAX_CONTEXT_TOKENS"], "50000");
    let codex = fs::read_to_string(home.join(".codex/ds4.config.toml")).unwrap();
    let codex: toml::Table = codex.parse().unwrap();
    assert_eq!(codex["model_providers"]["ds4"]["base_url"].as_str(), Some("http://host:9/v1"));
    assert_eq!(codex["model_context_window"].as_integer(), Some(50_000));
}

#[test]
fn what_was_there_stays() {
    let home = home("merge");
    let file = home.join(".pi/agent/models.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let old = r#"{"providers": {"other": {"baseUrl": "x"}, "ds4": {"headers": {"a": "b"}}}}"#;
    fs::write(&file, old).unwrap();
    let out = setup(&home, &["pi", "--write", "--ctx", "9000"]).ok();
    assert!(out.contains("models.json.before-ds4-1"), "{out}");
    let new = json(&file);
    assert_eq!(new["providers"]["other"]["baseUrl"], "x");
    assert_eq!(new["providers"]["ds4"]["headers"]["a"], "b");
    assert_eq!(new["providers"]["ds4"]["models"][0]["contextWindow"], 9000);
    let copy = file.with_file_name("models.json.before-ds4-1");
    assert_eq!(fs::read_to_string(copy).unwrap(), old);
    fs::write(&file, "{ // a comment\n}").unwrap();
    let failed = setup(&home, &["pi", "--write", "--ctx", "9000"]);
    assert_eq!(failed.code, 1);
    assert!(failed.err.contains("is not plain JSON"), "{}", failed.err);
    assert_eq!(fs::read_to_string(&file).unwrap(), "{ // a comment\n}");
}
