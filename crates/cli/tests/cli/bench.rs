//! `ds4 bench` on the oracle model.

use serde_json::Value;

use crate::run::{dir, ds4, file, model};

const FRONTIERS: [&str; 8] =
    ["--ctx-start", "16", "--ctx-max", "40", "--step-incr", "16", "--gen-tokens", "3"];

#[test]
fn rows_are_csv_at_every_context_length() {
    let text = file("bench.txt", "the other hand is in the water and the sun is on ".repeat(2));
    let run = ds4(&[&["bench", "-m", model(), "--prompt-file", &text], &FRONTIERS[..]].concat());
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("ds4: machine: "), "{}", run.err);
    let mut lines = run.out.lines();
    assert_eq!(
        lines.next().unwrap(),
        "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes"
    );
    let rows: Vec<Vec<f64>> =
        lines.map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect();
    let counts: Vec<[f64; 3]> = rows.iter().map(|row| [row[0], row[1], row[3]]).collect();
    assert_eq!(counts, [[16.0, 16.0, 3.0], [32.0, 16.0, 3.0], [40.0, 8.0, 3.0]]);
    assert!(rows.iter().all(|row| row[2] > 0.0 && row[4] > 0.0), "{}", run.out);
    assert!(rows.windows(2).all(|pair| pair[0][5] < pair[1][5]), "states grow: {}", run.out);
}

#[test]
fn a_wide_run_goes_to_files() {
    let text = file("bench-chat.txt", "the other hand is in the water");
    let (csv, json) = (dir().join("bench.csv"), dir().join("bench.json"));
    let (csv, json) = (csv.to_str().unwrap(), json.to_str().unwrap());
    let files = ["--chat-prompt-file", &text, "--csv", csv, "--json", json, "--wide"];
    let run = ds4(&[&["bench", "-m", model()], &files[..], &FRONTIERS].concat());
    assert_eq!((run.code, &run.out[..]), (0, ""), "{}", run.err);
    let csv = std::fs::read_to_string(csv).unwrap();
    let header = csv.lines().next().unwrap();
    assert!(
        header.ends_with(
            "kvcache_bytes,ttft_ms,p50_ms,p99_ms,bytes_per_token,gb_per_s,bandwidth_share"
        )
    );
    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), csv.lines().count() - 1);
    for (row, line) in rows.iter().zip(csv.lines().skip(1)) {
        assert_eq!(line.split(',').count(), header.split(',').count());
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("bytes_per_token") > 1e6);
        let share = number("gb_per_s") / json["read_bandwidth_gb_per_s"].as_f64().unwrap();
        assert!((share / number("bandwidth_share") - 1.0).abs() < 1e-6, "{row}");
        assert!(number("p50_ms") <= number("p99_ms"));
    }
    assert!(json["machine"]["n_cpu"].as_u64().unwrap() > 0);
    assert_eq!(json["model"]["is_synthetic"], false);
}

#[test]
fn a_prompt_must_be_long_enough() {
    let text = file("bench-short.txt", "the");
    let args = ["bench", "-m", model(), "--prompt-file", &text, "--ctx-start", "16"];
    let line = ds4(&[&args[..], &["--ctx-max", "16"]].concat()).fails(1);
    assert!(line.contains("the prompt has 2 tokens, --ctx-max is 16"), "{line}");
}

/// Complete events of a recorded call: name, thread, begin and end in microseconds, bytes.
fn events(trace: &Value, call: &str) -> Vec<(String, u64, f64, f64, u64)> {
    let all = trace["traceEvents"].as_array().unwrap();
    let is_it = |e: &&Value| e["ph"] == "M" && e["args"]["name"] == call;
    let pid = &all.iter().find(is_it).unwrap_or_else(|| panic!("no {call}"))["pid"];
    let own = all.iter().filter(|e| e["ph"] == "X" && &e["pid"] == pid);
    own.map(|e| {
        let (ts, dur) = (e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap());
        let bytes = e["args"]["bytes"].as_u64().unwrap_or(0);
        (e["name"].as_str().unwrap().to_owned(), e["tid"].as_u64().unwrap(), ts, ts + dur, bytes)
    })
    .collect()
}

#[test]
fn kernels_are_shown_recorded_and_drawn() {
    let text =
        file("bench-kernels.txt", "the other hand is in the water and the sun is on ".repeat(2));
    let (json, prefix) = (dir().join("kernels.json"), dir().join("kernels"));
    let (json, prefix) = (json.to_str().unwrap(), prefix.to_str().unwrap());
    let args = ["bench", "-m", model(), "--prompt-file", &text, "--json", json, "-t", "2"];
    let run = ds4(&[&args[..], &["--kernels", prefix], &FRONTIERS].concat());
    assert_eq!(run.code, 0, "{}", run.err);
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let json: Value = serde_json::from_str(&read(json)).unwrap();
    let trace: Value = serde_json::from_str(&read(&format!("{prefix}.trace.json"))).unwrap();
    let phases = json["kernels"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill", "decode"]);
    assert_eq!((&phases[0]["tokens"], &phases[1]["tokens"]), (&Value::from(8), &Value::from(1)));
    // The prefill's components are the sums over its events.
    let all = events(&trace, "prefill of 8 tokens");
    for phase in phases {
        assert!(run.err.contains(&format!("ds4: {}: ", phase["phase"].as_str().unwrap())));
        let parts = phase["components"].as_array().unwrap();
        let sum = |key: &str| parts.iter().map(|p| p[key].as_f64().unwrap()).sum::<f64>();
        let number = |key: &str| phase[key].as_f64().unwrap();
        assert!((sum("share") - 1.0).abs() < 1e-9);
        assert!((sum("floor_seconds") / number("floor_seconds") - 1.0).abs() < 1e-9);
        assert!((number("seconds") / number("floor_seconds") / number("ratio") - 1.0).abs() < 1e-9);
        let pieces = sum("seconds") + number("between_seconds");
        assert!(pieces > 0.0 && pieces <= number("recorded_seconds"), "{phase}");
        for name in ["attn_q_b", "ffn_gate_exps", "ffn_down_shexp", "attention", "router"] {
            assert!(parts.iter().any(|p| p["name"] == name), "no {name} in {phase}");
        }
    }
    let part = |name: &str| {
        let parts = phases[0]["components"].as_array().unwrap();
        parts.iter().find(|p| p["name"] == name).unwrap().clone()
    };
    let is_of = |event: &str, name: &str| {
        let inner = event.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        inner.is_some_and(|(_, inner)| inner.strip_suffix(".weight") == Some(name))
    };
    let bytes = |name: &str| all.iter().filter(|e| is_of(&e.0, name)).map(|e| e.4).sum::<u64>();
    for name in ["attn_q_b", "ffn_gate_exps"] {
        assert_eq!(part(name)["bytes"].as_u64().unwrap(), bytes(name), "{name}");
        assert!(part(name)["floor_seconds"].as_f64().unwrap() > 0.0);
    }
    // A thread does one thing at a time.
    for thread in [0, 1] {
        let mut own: Vec<_> = all.iter().filter(|e| e.1 == thread).collect();
        own.sort_by(|a, b| a.2.total_cmp(&b.2));
        assert!(own.len() > 10, "thread {thread}");
        assert!(own.windows(2).all(|pair| pair[0].3 <= pair[1].2 + 0.01), "thread {thread}");
    }
    assert!(!events(&trace, "token 2").is_empty());
    let svg = read(&format!("{prefix}.svg"));
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("<title>routed experts: ") && svg.contains("<title>attn_q_b Q8_0: "));
    assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());

    let args = [&args[..], &["--kernels", "/no/such/x"], &FRONTIERS].concat();
    let run = ds4(&args);
    assert_eq!(run.code, 1);
    assert!(
        run.err.contains("ds4: cannot write /no/such/x.trace.json: No such file"),
        "{}",
        run.err
    );
}

#[test]
fn a_limit_of_memory_is_told_with_what_it_costs() {
    let text =
        file("bench-limit.txt", "the other hand is in the water and the sun is on ".repeat(2));
    let inspected: Value =
        serde_json::from_str(&ds4(&["inspect", model(), "--json"]).ok()).unwrap();
    let bytes = |key: &str| inspected["placement"][key].as_u64().unwrap();
    let gib = |bytes: u64| format!("{}", bytes as f64 / f64::from(1 << 30));
    let limit = gib(bytes("full_bytes") + (64 << 10));
    let json = dir().join("limit.json");
    let args = ["bench", "-m", model(), "--prompt-file", &text, "--json", json.to_str().unwrap()];
    let run = ds4(&[&args[..], &["--ram-gb", &limit], &FRONTIERS].concat());
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("ds4: memory: weights may take "), "{}", run.err);
    assert!(run.err.contains("ds4: experts: "), "{}", run.err);
    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let number = |key: &str| json["residency"][key].as_u64().unwrap();
    assert_eq!(number("kept_bytes"), bytes("kept_bytes"));
    assert!(number("kept_bytes") + number("expert_bytes") <= number("limit_bytes"));
    assert!(number("misses") > 0 && number("evictions") > 0);

    let small = gib(bytes("least_bytes") - 4096);
    let run = ds4(&["-p", "hi", "-m", model(), "--ram-gb", &small]);
    assert!(run.fails(1).contains("--ram-gb: "), "too small");
}

#[test]
fn answers_do_not_depend_on_the_limit() {
    let inspected: Value =
        serde_json::from_str(&ds4(&["inspect", model(), "--json"]).ok()).unwrap();
    let full = inspected["placement"]["full_bytes"].as_u64().unwrap();
    let limit = format!("{}", full as f64 / f64::from(1 << 30) + 1e-6);
    let ask = |more: &[&str]| {
        let args = ["-p", "the other hand", "-m", model(), "--temp", "0", "-n", "8", "-c", "256"];
        ds4(&[&args[..], more].concat())
    };
    let (plain, limited) = (ask(&[]), ask(&["--ram-gb", &limit]));
    assert!(limited.err.contains("ds4: experts: "), "{}", limited.err);
    assert!(!plain.err.contains("experts: "), "{}", plain.err);
    assert_eq!(plain.ok(), limited.ok());
}
