//! Files that are wrong in one place: every message names that place.

use std::sync::Arc;

use ds4_gguf::{Gguf, TensorType};

use crate::metadata::{full, key};
use crate::synthetic::{Meta, Part, Types, build, metadata, parts};
use crate::{Dims, Error, ModelFile, Weights, layout, shapes};

/// The smallest shape with every kind of layer.
fn dims() -> Dims {
    let n_layer = 4;
    Dims {
        n_embd: 32,
        n_vocab: 40,
        n_head: 2,
        head_dim: 48,
        rope_dim: 16,
        q_rank: 32,
        n_out_group: 2,
        out_rank: 16,
        window: 8,
        ratios: vec![0, 4, 8, 4],
        n_index_head: 2,
        index_dim: 32,
        index_top_k: 2,
        n_expert: 4,
        n_expert_used: 2,
        n_ff: 32,
        n_hash_layer: 1,
        ..shapes::flash_with(n_layer)
    }
}

type Pairs = Vec<(String, Meta)>;

fn meta() -> Pairs {
    metadata(&dims(), "adversarial")
}

fn trunk() -> Vec<Part> {
    parts(layout::trunk(&dims()), Types::F32)
}

fn mtp() -> Vec<Part> {
    parts(layout::mtp(&dims()), Types::F32)
}

/// A file of zeros, which are values of every type.
fn gguf(meta: &[(String, Meta)], parts: &[Part]) -> Gguf {
    build("test.gguf", meta, parts, |_, _, _| {}).unwrap()
}

fn mtp_meta(arch: &str) -> Pairs {
    vec![("general.architecture".to_owned(), Meta::Str(arch.to_owned()))]
}

fn open(meta: &[(String, Meta)], parts: &[Part]) -> crate::Result<ModelFile> {
    ModelFile::new(gguf(meta, parts), None)
}

/// The error of this metadata, which names the file and all of `names` on one line.
fn refused(meta: &[(String, Meta)], names: &[&str]) -> Error {
    let error = Dims::from_gguf(&gguf(meta, &[])).expect_err(names[0]);
    assert_names(&error, names);
    error
}

fn assert_names(error: &Error, names: &[&str]) {
    let text = error.to_string();
    assert!(text.contains("test.gguf"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    for name in names {
        assert!(text.contains(name), "{name} is not in: {text}");
    }
}

fn with(key: &str, value: Meta) -> Pairs {
    let mut all = meta();
    match all.iter_mut().find(|(k, _)| k == key) {
        Some((_, v)) => *v = value,
        None => all.push((key.to_owned(), value)),
    }
    all
}

#[test]
fn the_base_is_accepted() {
    let model = open(&meta(), &trunk()).unwrap();
    assert_eq!(model.dims, dims());
    assert!(!model.has_mtp());
    assert!(model.description.starts_with("unpublished shape"));
    let both: Vec<Part> = trunk().into_iter().chain(mtp()).collect();
    assert!(open(&meta(), &both).unwrap().has_mtp());
    let file = gguf(&mtp_meta("deepseek4_mtp_support"), &mtp());
    let model = ModelFile::new(gguf(&meta(), &trunk()), Some(file)).unwrap();
    assert!(model.has_mtp());
    let classes = model.classes();
    assert_eq!(classes.iter().map(|(_, n, _)| n).sum::<usize>(), trunk().len() + 32);
    assert_eq!(classes.iter().map(|(_, _, bytes)| bytes).sum::<u64>(), model.tensor_bytes());
}

#[test]
fn optional_keys_may_be_absent() {
    let optional = [key::CTX, key::EXPERT_GATING, key::N_NEXTN, key::ROPE_SCALING].map(full);
    let mut some = meta();
    some.retain(|(k, _)| !optional.contains(k) && k != "general.name");
    let model = open(&some, &trunk()).unwrap();
    assert_eq!(model.dims, dims());
    assert_eq!(model.name, "test.gguf");
    for missing in some.iter().map(|(k, _)| k) {
        let rest: Pairs = some.iter().filter(|(k, _)| k != missing).cloned().collect();
        refused(&rest, &[missing, "nothing"]);
    }
}

#[test]
fn integers_of_any_width_are_accepted() {
    let mut wide = meta();
    for (_, value) in &mut wide {
        if let Meta::U32(n) = value {
            *value = Meta::U64(u64::from(*n));
        }
    }
    assert_eq!(Dims::from_gguf(&gguf(&wide, &[])).unwrap(), dims());
    refused(&with(&full(key::N_EMBD), Meta::U64(1 << 32)), &[key::N_EMBD]);
}

#[test]
fn every_key_of_the_wrong_type_is_named() {
    for (key, value) in meta().into_iter().filter(|(k, _)| k != "general.name") {
        let wrong = match value {
            Meta::Str(_) => Meta::U32(7),
            _ => Meta::Str("seven".to_owned()),
        };
        refused(&with(&key, wrong), &[&key]);
    }
    let text = || Meta::Str("10".to_owned());
    refused(&with(&full(key::CLAMP_SHARED), text()), &[key::CLAMP_SHARED]);
    refused(&with(&full(key::N_EXPERT_GROUP), text()), &[key::N_EXPERT_GROUP]);
}

#[test]
fn sizes_out_of_range_are_named() {
    const BIG: u32 = u32::MAX;
    let cases: &[(&str, &[u32])] = &[
        (key::N_LAYER, &[0, 3, 5, 100, 600, BIG]),
        (key::CTX, &[0, BIG]),
        (key::N_EMBD, &[0, BIG]),
        (key::N_VOCAB, &[0, BIG]),
        (key::N_HEAD, &[0, 1 << 20, BIG]),
        (key::N_HEAD_KV, &[0, 2]),
        (key::HEAD_DIM, &[0, 47]),
        (key::VALUE_DIM, &[0, 47]),
        (key::ROPE_DIM, &[0, 15, 48, 64, BIG]),
        (key::Q_RANK, &[0, BIG]),
        (key::OUT_RANK, &[0, BIG]),
        (key::N_OUT_GROUP, &[0, 3, BIG]),
        (key::WINDOW, &[0, BIG]),
        (key::N_INDEX_HEAD, &[0, 1 << 19, BIG]),
        (key::INDEX_DIM, &[0, 8, BIG]),
        (key::INDEX_TOP_K, &[0, BIG]),
        (key::YARN_CTX, &[0, BIG]),
        (key::N_EXPERT, &[0, BIG]),
        (key::N_EXPERT_USED, &[0, 5]),
        (key::N_EXPERT_SHARED, &[0, 2]),
        (key::N_FF, &[0, BIG]),
        (key::EXPERT_GATING, &[0, 2]),
        (key::N_HASH_LAYER, &[5]),
        (key::N_NEXTN, &[3]),
        (key::N_HC, &[0, 17, BIG]),
        (key::SINKHORN, &[0, BIG]),
        (key::N_EXPERT_GROUP, &[8]),
        (key::N_EXPERT_GROUP_USED, &[4]),
    ];
    for (key, values) in cases {
        for value in *values {
            let error = Dims::from_gguf(&gguf(&with(&full(key), Meta::U32(*value)), &[]));
            let error = error.expect_err(key).to_string();
            // A wrong number of layers shows in the lists that have one value per layer.
            let lists = [key::CLAMP, key::RATIOS].iter().any(|list| error.contains(list));
            let lists = *key == key::N_LAYER && lists;
            // A width of heads shows where it is first compared.
            let pair = *key == key::HEAD_DIM && error.contains(key::VALUE_DIM);
            assert!(error.contains(*key) || lists || pair, "{key} {value}: {error}");
        }
    }
}

#[test]
fn floats_out_of_range_are_named() {
    for key in [
        key::ROPE_BASE_COMP,
        key::RMS_EPS,
        key::ROPE_BASE,
        key::YARN_FACTOR,
        key::YARN_BETA_FAST,
        key::YARN_BETA_SLOW,
        key::EXPERT_SCALE,
        key::HC_EPS,
    ] {
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            refused(&with(&full(key), Meta::F32(value)), &[key, "positive finite"]);
        }
    }
    refused(&with(&full(key::ROPE_BASE), Meta::F32(1.0)), &[key::ROPE_BASE, "more than 1"]);
    for key in [key::CLAMP, key::CLAMP_SHARED] {
        refused(&with(&full(key), Meta::F32s(vec![10.0; 3])), &[key, "3 values"]);
        refused(&with(&full(key), Meta::F32s(vec![10.0, 0.0, 1.0, 1.0])), &[key]);
        refused(&with(&full(key), Meta::F32s(vec![f32::NAN; 4])), &[key]);
    }
    refused(&with(&full(key::EXPERT_NORM), Meta::Bool(false)), &[key::EXPERT_NORM, "true"]);
    let linear = Meta::Str("linear".to_owned());
    refused(&with(&full(key::ROPE_SCALING), linear), &[key::ROPE_SCALING, "yarn"]);
}

#[test]
fn ratios_are_checked_one_by_one() {
    let ratios = |all: &[i32]| with(&full(key::RATIOS), Meta::I32s(all.to_vec()));
    assert!(Dims::from_gguf(&gguf(&ratios(&[0, 4, 8, 4]), &[])).is_ok());
    refused(&ratios(&[0, 4, 8]), &[key::RATIOS, "3 values"]);
    refused(&ratios(&[0, 4, 8, 4, 0, 0]), &[key::RATIOS, "6 values"]);
    refused(&ratios(&[0, 4, 1, 4, 0]), &[key::RATIOS, "1 in layer 2"]);
    refused(&ratios(&[0, 4, -4, 4, 0]), &[key::RATIOS]);
    refused(&ratios(&[0, 4, 1 << 20, 4, 0]), &[key::RATIOS, "in layer 2"]);
    refused(&ratios(&[0, 4, 8, 4, 4]), &[key::RATIOS, "MTP"]);
    let later = refused(&ratios(&[0, 4, 8, 4, 0, 0, 0]), &[key::RATIOS, "0731"]);
    assert!(matches!(later, Error::Unsupported(_)));
}

#[test]
fn other_architectures_say_what_to_do() {
    let arch = |name: &str| with("general.architecture", Meta::Str(name.to_owned()));
    for (name, advice) in
        [("llama", "Flash only"), ("deepseek4_mtp_support", "--mtp"), ("deepseek_v41", "V4.1")]
    {
        let error = refused(&arch(name), &[name, advice]);
        assert!(matches!(error, Error::Unsupported(_)));
    }
}

#[test]
fn every_tensor_is_checked() {
    let all: Vec<Part> = trunk().into_iter().chain(mtp()).collect();
    for i in 0..all.len() {
        let name = all[i].spec.name.as_str();
        let check = |what: &str, change: &dyn Fn(&mut Vec<Part>)| {
            let mut changed = all.clone();
            change(&mut changed);
            let error = open(&meta(), &changed).expect_err(what);
            assert_names(&error, &[name, what]);
        };
        check("no such tensor", &|all| drop(all.remove(i)));
        check("found [", &|all| all[i].spec.dims[0] += 1);
        check("found [", &|all| all[i].spec.dims.push(2));
        check("found [", &|all| *all[i].spec.dims.last_mut().unwrap() += 1);
        let ids = all[i].ty == TensorType::I32;
        let wrong = if ids { TensorType::F32 } else { TensorType::I32 };
        check(&format!("of type {wrong}, expected"), &|all| all[i].ty = wrong);
    }
}

#[test]
fn dimensions_of_one_may_be_left_out() {
    let mut all = trunk();
    for part in &mut all {
        part.spec.dims.push(1);
    }
    open(&meta(), &all).unwrap();
}

#[test]
fn unexpected_tensors_are_named() {
    let extra = |name: &str| {
        let mut all = trunk();
        let mut part = all[0].clone();
        part.spec.name = name.to_owned();
        all.push(part);
        let error = open(&meta(), &all).expect_err(name);
        assert_names(&error, &[name]);
        error.to_string()
    };
    assert!(extra("blk.0.attn_q_c.weight").contains("no tensor of this name"));
    assert!(extra("blk.4.attn_norm.weight").contains("no tensor of this name"));
    assert!(extra("blk.0.exp_probs_b.bias").contains("no tensor of this name"));
    assert!(extra("blk.4.nextn.eh_proj.weight").contains("--mtp"));
    assert!(extra("mtp.1.e_proj.weight").contains("0731"));
    // One tensor of an MTP block asks for the others.
    let mut all = trunk();
    all.extend(mtp().into_iter().take(1));
    assert_names(&open(&meta(), &all).unwrap_err(), &["mtp.0.", "no such tensor"]);
}

#[test]
fn values_that_decide_are_checked() {
    let fill = |target: &str, bytes: [u8; 4]| {
        let built = build("test.gguf", &meta(), &trunk(), |part, _, out| {
            if part.spec.name == target {
                out[4..8].copy_from_slice(&bytes);
            }
        });
        let error = ModelFile::new(built.unwrap(), None).expect_err(target);
        assert_names(&error, &[target, " at 1"]);
    };
    fill("blk.0.ffn_gate_tid2eid.weight", 4i32.to_le_bytes());
    fill("blk.0.ffn_gate_tid2eid.weight", (-1i32).to_le_bytes());
    fill("output_norm.weight", f32::NAN.to_le_bytes());
    fill("blk.1.attn_sinks.weight", f32::INFINITY.to_le_bytes());
    fill("blk.2.attn_compressor_ape.weight", f32::NEG_INFINITY.to_le_bytes());
}

#[test]
fn gate_and_up_have_one_type() {
    let mut all = trunk();
    let up = all.iter_mut().find(|p| p.spec.name == "blk.3.ffn_up_exps.weight").unwrap();
    up.ty = TensorType::Q8_0;
    assert_names(&open(&meta(), &all).unwrap_err(), &["blk.3.ffn_up_exps.weight", "Q8_0", "F32"]);
}

#[test]
fn every_dense_type_is_bound() {
    for ty in [TensorType::F32, TensorType::F16, TensorType::Bf16, TensorType::Q8_0] {
        let mut all = trunk();
        for part in &mut all {
            let ok = part.spec.form.types().contains(&ty);
            // Rows must be whole blocks.
            let whole = part.spec.dims[0].is_multiple_of(ty.block_elems() as u64);
            if ok && whole {
                part.ty = ty;
            }
        }
        let model = open(&meta(), &all).unwrap();
        assert_eq!(model.weights.layers[1].q_a.ty, ty);
        assert_eq!(model.weights.layers[1].experts.down.ty, ty);
    }
}

#[test]
fn wrong_mtp_files_are_named() {
    let main = Arc::new(gguf(&meta(), &trunk()));
    let bind = |parts: &[Part]| {
        let file = Arc::new(gguf(&mtp_meta("deepseek4_mtp_support"), parts));
        Weights::bind(&main, Some(&file), &dims()).expect_err("a wrong MTP file")
    };
    assert_names(&bind(&[]), &["no MTP block"]);
    assert_names(&bind(&trunk()), &["no MTP block"]);
    let mut more = mtp();
    more.push(trunk().swap_remove(0));
    assert_names(&bind(&more), &["token_embd.weight"]);
    let mut narrow = mtp();
    let e_proj = narrow.iter_mut().find(|p| p.spec.name == "mtp.0.e_proj.weight").unwrap();
    e_proj.spec.dims = vec![64, 64];
    assert_names(&bind(&narrow), &["mtp.0.e_proj.weight", "[64, 64]", "[32, 32]"]);
}

#[test]
fn numerics_need_whole_blocks() {
    use crate::Numerics;
    let small = dims();
    assert!(small.check_numerics(&Numerics::PLAIN).is_ok());
    let error = small.check_numerics(&Numerics::OFFICIAL).unwrap_err().to_string();
    assert!(error.contains("32 channels are not rotated"), "{error}");
    let fp8 = Dims { head_dim: 80, ..small };
    assert!(fp8.check_numerics(&Numerics::OFFICIAL).is_ok());
    let error = fp8.check_numerics(&Numerics::DS4).unwrap_err().to_string();
    assert!(error.contains("256"), "{error}");
    let odd = Dims { index_dim: 96, ..fp8 };
    let error = odd.check_numerics(&Numerics::OFFICIAL).unwrap_err().to_string();
    assert!(error.contains("96"), "{error}");
    let no_index = Dims { ratios: vec![0, 8, 8, 0], ..odd };
    assert!(no_index.check_numerics(&Numerics::OFFICIAL).is_ok());
    assert_eq!(shapes::flash().profile_g(), Numerics::PROFILE_G);
    let fp4_only = Numerics { kv_fp8: false, act_q8: false, ..Numerics::PROFILE_G };
    assert_eq!(dims().profile_g(), fp4_only);
}

/// Damage anywhere in metadata and directory is an error or a model, never a panic.
#[test]
fn damaged_headers_never_panic() {
    let whole: Vec<Part> = trunk().into_iter().chain(mtp()).collect();
    let file = gguf(&meta(), &whole);
    let (bytes, header) = (file.data(), file.data_start());
    let mut rng = crate::synthetic::Rng::new(11);
    let mut refused = 0;
    for _ in 0..1500 {
        let mut damaged = bytes.to_vec();
        for _ in 0..=rng.next() % 3 {
            let at = usize::try_from(rng.next() % header as u64).unwrap();
            damaged[at] = rng.next().to_le_bytes()[0];
        }
        if let Err(error) = ModelFile::from_bytes("test.gguf", damaged) {
            assert_names(&error, &[]);
            refused += 1;
        }
    }
    assert!(refused > 1000, "{refused} of 1500");
}
