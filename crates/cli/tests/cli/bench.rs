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
