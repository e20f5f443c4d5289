//! Whole files through the converter.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use ds4_gguf::write::Draft;
use ds4_gguf::{Gguf, TensorType, quantize_row};
use ds4_model::ModelFile;
use ds4_quantize::{Error, Imatrix, Options, Override, Recipe, convert};

/// Deterministic noise, roughly normal.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed;
    let mut unit = move || {
        s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (s >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..4).map(|_| unit()).sum::<f32>() * 0.1).collect()
}

/// A file with one tensor of each kind, all F32.
fn source() -> Gguf {
    let tensors: [(&str, &[u64]); 6] = [
        ("token_embd.weight", &[256, 8]),
        ("output_norm.weight", &[256]),
        ("blk.3.attn_q_a.weight", &[256, 16]),
        ("blk.3.ffn_gate_exps.weight", &[256, 4, 3]),
        ("blk.3.ffn_down_exps.weight", &[256, 4, 3]),
        ("mtp.0.ffn_gate_inp.weight", &[256, 4]),
    ];
    let mut draft = Draft::new("source");
    draft.set("general.architecture", ds4_gguf::Value::Str("deepseek4")).unwrap();
    for (name, dims) in tensors {
        draft.tensor(name, dims, TensorType::F32).unwrap();
    }
    let mut seed = 0;
    draft
        .layout()
        .unwrap()
        .in_memory(|info, bytes| {
            seed += 1;
            let n = usize::try_from(info.elems()).unwrap();
            quantize_row(TensorType::F32, &noise(n, seed), None, bytes).unwrap();
        })
        .unwrap()
}

fn options(recipe: Recipe) -> Options {
    Options { recipe, overrides: Vec::new(), imatrix: None, threads: None }
}

fn types(file: &Path) -> Vec<TensorType> {
    Gguf::open(file).unwrap().tensors().iter().map(|t| t.ty).collect()
}

#[test]
fn recipes_give_the_published_types() {
    use TensorType::{F16, F32, Iq2Xxs, Q2K, Q4K, Q8_0};
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    for (recipe, want) in [
        (Recipe::Q2, [F16, F32, Q8_0, Iq2Xxs, Q2K, F32]),
        (Recipe::Q4, [F16, F32, Q8_0, Q4K, Q4K, F32]),
        (Recipe::Q8, [Q8_0, F32, Q8_0, Q8_0, Q8_0, F16]),
        (Recipe::F16, [F16, F32, F16, F16, F16, F16]),
        (Recipe::F32, [F32; 6]),
    ] {
        let report = convert(&source(), &out, &options(recipe), &mut |_| {}).unwrap();
        assert_eq!(types(&out), want, "{}", recipe.name());
        assert_eq!(report.file_bytes, std::fs::metadata(&out).unwrap().len());
        for t in &report.tensors {
            let most = match t.to {
                F32 => 0.0,
                F16 => 1e-3,
                Q8_0 => 0.01,
                Q4K => 0.09,
                _ => 0.4,
            };
            assert!(t.rel_rmse() <= most, "{} {}: {}", t.name, t.to, t.rel_rmse());
        }
    }
}

#[test]
fn equal_types_are_copied_and_threads_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
    let one = Options { threads: std::num::NonZero::new(1), ..options(Recipe::Q2) };
    convert(&source(), &a, &one, &mut |_| {}).unwrap();
    convert(&source(), &b, &options(Recipe::Q2), &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    convert(&Gguf::open(&a).unwrap(), &c, &options(Recipe::Q2), &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&c).unwrap());
}

#[test]
fn the_last_matching_override_wins() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let overrides = ["exps=q8_0", "down_exps=q4_k", "norm=q8_0"];
    let overrides = overrides.iter().map(|o| Override::parse(o).unwrap()).collect();
    let options = Options { overrides, ..options(Recipe::F16) };
    convert(&source(), &out, &options, &mut |_| {}).unwrap();
    let types = types(&out);
    // Norms stay F32 whatever is wished.
    assert_eq!(types[1], TensorType::F32);
    assert_eq!((types[3], types[4]), (TensorType::Q8_0, TensorType::Q4K));
}

/// An importance matrix in which only the first half of the columns matters.
fn half_matters() -> Imatrix {
    let name = "blk.3.ffn_down_exps.weight";
    let mut b = 1i32.to_le_bytes().to_vec();
    b.extend(i32::try_from(name.len()).unwrap().to_le_bytes());
    b.extend(name.as_bytes());
    b.extend(1i32.to_le_bytes());
    b.extend((3 * 256i32).to_le_bytes());
    for i in 0..3 * 256 {
        let w: f32 = if i % 256 < 128 { 1.0 } else { 0.001 };
        b.extend(w.to_le_bytes());
    }
    Imatrix::parse("test", &b).unwrap()
}

#[test]
fn what_matters_is_kept_better() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, weighted) = (dir.path().join("p"), dir.path().join("w"));
    let with = Options { imatrix: Some(half_matters()), ..options(Recipe::Q2) };
    convert(&source(), &plain, &options(Recipe::Q2), &mut |_| {}).unwrap();
    convert(&source(), &weighted, &with, &mut |_| {}).unwrap();
    let error = |file: &Path| {
        let (file, source) = (Gguf::open(file).unwrap(), source());
        let read = |g: &Gguf| {
            let t = g.tensor("blk.3.ffn_down_exps.weight").unwrap();
            let mut out = vec![0f32; 256 * 12];
            let bytes = g.tensor_bytes(t);
            for (bytes, out) in bytes.chunks(bytes.len() / 12).zip(out.chunks_mut(256)) {
                ds4_gguf::dequantize_row(t.ty, bytes, out);
            }
            out
        };
        let pairs = read(&file).into_iter().zip(read(&source)).enumerate();
        pairs.filter(|(i, _)| i % 256 < 128).map(|(_, (a, b))| (a - b).powi(2)).sum::<f32>()
    };
    assert!(error(&weighted) <= error(&plain), "{} {}", error(&weighted), error(&plain));
}

#[test]
fn what_cannot_be_done_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let mut draft = Draft::new("odd");
    draft.tensor("blk.0.ffn_up_exps.weight", &[96, 2, 2], TensorType::F32).unwrap();
    let odd = draft.layout().unwrap().in_memory(|_, b| b.fill(0)).unwrap();
    let e = convert(&odd, &out, &options(Recipe::Q2), &mut |_| {}).unwrap_err();
    assert!(matches!(e, Error::Shape { .. }), "{e}");
    let mut draft = Draft::new("nan");
    draft.tensor("output.weight", &[32, 2], TensorType::F32).unwrap();
    let nan = draft.layout().unwrap().in_memory(|_, b| b.fill(0xFF)).unwrap();
    let e = convert(&nan, &out, &options(Recipe::Q2), &mut |_| {}).unwrap_err();
    assert!(matches!(e, Error::Encode { .. }), "{e}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn a_converted_model_loads() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.gguf");
    let source = ds4_model::testing::quant_gguf(1).unwrap();
    for recipe in [Recipe::F32, Recipe::Q8, Recipe::Q4, Recipe::Q2] {
        convert(&source, &out, &options(recipe), &mut |_| {}).unwrap();
        ModelFile::open(&out, None).unwrap();
    }
}
