//! `ds4 logits` against the committed references.

use std::fs::File;
use std::path::Path;

use ds4_model::npy::Array;
use ds4_model::testing::Oracle;
use serde_json::json;

use crate::run::{dir, ds4, file, model};

fn read(path: &Path) -> Array {
    Array::read(&mut File::open(path).unwrap()).unwrap()
}

#[test]
fn plain_logits_equal_the_reference_in_any_chunks() {
    let oracle = Oracle::quant();
    let reference = oracle.reference("plain").unwrap();
    let ids: Vec<u32> = reference.tokens.iter().map(|token| token.0).collect();
    let array = file("ids-array.json", json!(ids).to_string());
    let object = file("ids-object.json", json!({"prompt": ids, "decode": [1]}).to_string());
    let stages = dir().join("stages");
    let stages = stages.to_str().unwrap();
    let mut all = Vec::new();
    for (name, ids, more) in
        [("whole.npy", &array, &["--stages", stages][..]), ("cut.npy", &object, &["--chunk", "5"])]
    {
        let out = dir().join(name);
        let out_arg = out.to_str().unwrap();
        let args = ["logits", "-m", model(), "--tokens", ids, "--out", out_arg, "--numerics"];
        let run = ds4(&[&args[..], &["plain"], more].concat());
        assert_eq!((run.code, &run.out[..]), (0, ""), "{}", run.err);
        let logits = read(&out);
        assert_eq!(logits.shape, reference.logits.shape);
        let far = logits.data.iter().zip(&reference.logits.data).map(|(a, b)| (a - b).abs());
        let far = far.fold(0.0, f32::max);
        assert!(far < 1e-4, "{name}: off by {far}");
        all.push(logits);
    }
    assert_eq!(all[0].data, all[1].data, "chunks change nothing");
    for (name, theirs) in &reference.stages {
        let ours = read(&Path::new(stages).join(format!("{name}.npy")));
        assert_eq!(ours.shape, theirs.shape, "{name}");
        let far = ours.data.iter().zip(&theirs.data).map(|(a, b)| (a - b).abs());
        assert!(far.fold(0.0, f32::max) < 1e-4, "{name}");
    }
    assert!(reference.stages.contains_key("mtp.logits"));
}

#[test]
fn the_modes_differ() {
    let ids = file("ids-modes.json", "[0, 3, 80, 90, 4, 6]");
    let mode = |numerics: &[&str]| {
        let out = dir().join(format!("mode{}.npy", numerics.concat()));
        let args = ["logits", "-m", model(), "--tokens", &ids, "--out", out.to_str().unwrap()];
        ds4(&[&args[..], numerics].concat()).ok();
        read(&out).data
    };
    let modes =
        [&["--numerics", "plain"][..], &["--numerics", "official"], &["--numerics", "ds4"], &[]];
    let logits = modes.map(mode);
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        assert_ne!(logits[a], logits[b], "{:?} and {:?}", modes[a], modes[b]);
    }
}
