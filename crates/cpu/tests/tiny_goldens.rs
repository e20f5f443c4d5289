//! TINY against the published goldens (§8.2): every kind of layer, with and without the simulated
//! roundings, and the MTP block.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod common;

use std::fmt::Write as _;

use common::{argmax, feed, ids, runner, tiny};
use ds4_model::{Numerics, Recorder, Runner};
use serde_json::Value;

/// Tokens, and per mode `position → {argmax, first6, l2}`.
fn goldens() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/golden_tiny.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Largest difference of a row of logits from its golden; also compares the argmax.
fn difference(row: &[f32], golden: &Value) -> f64 {
    assert_eq!(argmax(row) as u64, golden["argmax"].as_u64().unwrap(), "argmax");
    let l2 = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut worst = (l2 - golden["l2"].as_f64().unwrap()).abs();
    let first = golden["first6"].as_array().unwrap();
    for (x, g) in row.iter().zip(first) {
        worst = worst.max((f64::from(*x) - g.as_f64().unwrap()).abs());
    }
    worst
}

/// Differences of every golden of a mode: position or MTP position, and the difference.
fn differences(mode: &str, numerics: Numerics) -> Vec<(String, f64)> {
    let goldens = goldens();
    let tokens = goldens["tokens"].as_array().unwrap();
    let tokens = ids(tokens.iter().map(|t| u32::try_from(t.as_u64().unwrap()).unwrap()));
    let mut r = runner(&tiny(), numerics);
    let recorder = Recorder::new();
    r.set_probe(Some(Box::new(recorder.clone())));
    let seq = r.open_seq(64).unwrap();
    let logits = feed(&mut r, seq, &tokens);
    let hidden = &recorder.take()["L5.hidden"];
    let pairs = tokens.len() - 1;
    let drafts = r.mtp_forward(&hidden.data[..pairs * hidden.width()], &tokens[1..]).unwrap();
    let n = r.dims().n_vocab;
    let mut found = Vec::new();
    for (key, golden) in goldens[mode].as_object().unwrap() {
        let (table, pos) = match key.strip_prefix("mtp") {
            Some(pos) => (&drafts, pos),
            None => (&logits, key.as_str()),
        };
        let pos: usize = pos.parse().unwrap();
        found.push((key.clone(), difference(&table[pos * n..][..n], golden)));
    }
    found
}

fn table(mode: &str, found: &[(String, f64)]) -> String {
    let mut text = format!("TINY {mode}: largest difference per golden\n");
    for (key, d) in found {
        writeln!(text, "{key:>6} {d:9.2e}").unwrap();
    }
    text
}

#[test]
fn plain() {
    let found = differences("plain", Numerics::PLAIN);
    print!("{}", table("plain", &found));
    assert_eq!(found.len(), 14, "11 positions and 3 pairs");
    assert!(found.iter().all(|(_, d)| *d < 1e-4), "{}", table("plain", &found));
}

#[test]
fn simulated_roundings() {
    let found = differences("sim", Numerics::OFFICIAL);
    print!("{}", table("sim", &found));
    assert_eq!(found.len(), 14, "11 positions and 3 pairs");
    let close = found.iter().filter(|(_, d)| *d < 2e-3).count();
    let all = found.iter().all(|(_, d)| *d < 2e-2);
    assert!(all && close * 10 >= found.len() * 9, "{}", table("sim", &found));
}

/// The choice of rows begins exactly where there are more rows than are chosen: a model that
/// chooses one row more computes the same up to there.
#[test]
fn the_indexer_chooses_from_the_first_row_too_many_on() {
    let few = tiny();
    let mut more = ds4_model::ModelFile::clone(&few);
    more.dims.index_top_k += 1;
    let tokens = common::some_tokens(40, 64, 1);
    let rows = [few, std::sync::Arc::new(more)].map(|model| {
        let mut r = runner(&model, Numerics::PLAIN);
        let seq = r.open_seq(64).unwrap();
        feed(&mut r, seq, &tokens)
    });
    let differs = |pos: usize| rows[0][pos * 64..][..64] != rows[1][pos * 64..][..64];
    // Four rows are complete with the 16th token.
    let first = (0..tokens.len()).find(|pos| differs(*pos));
    assert_eq!(first, Some(15));
}
