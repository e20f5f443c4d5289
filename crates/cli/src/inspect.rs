//! `ds4 inspect`: what a model file contains, and what it takes to run it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use ds4_cpu::Placement;
use ds4_gguf::{Array, Gguf, Value};
use ds4_model::memory::SeqPlan;
use ds4_model::{Class, Dims, ModelFile};
use serde_json::{Map, Value as Json, json};

use crate::load;
use crate::machine::gib;
use crate::options::Source;
use crate::read_bytes;

/// Context lengths to show the memory for.
const CONTEXTS: [u32; 4] = [8192, 32_768, 131_072, 1_048_576];
/// Elements of an array shown in full.
const ARRAY_SHOWN: usize = 64;

/// Runs the command.
pub(crate) fn run(
    source: &Source,
    mtp: Option<&Path>,
    ctx: Option<u32>,
    is_json: bool,
) -> Result<()> {
    let gguf = load::open_gguf(source)?;
    let mtp = mtp.map(Gguf::open).transpose()?;
    let facts = facts(&gguf);
    // A file that is no runnable model, such as the MTP block alone, is shown all the same.
    let model = ModelFile::new(gguf, mtp);
    let mut contexts = CONTEXTS.to_vec();
    contexts.extend(ctx);
    contexts.sort_unstable();
    contexts.dedup();
    let out = &mut io::stdout().lock();
    if is_json {
        let mut object = facts;
        match &model {
            Ok(model) => object.extend(model_json(model, &contexts)),
            Err(error) => {
                object.insert("not_runnable".to_owned(), json!(error.to_string()));
            }
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&Json::Object(object))?)?;
        return Ok(());
    }
    write_facts(out, &facts)?;
    match &model {
        Ok(model) => write_model(out, model, &contexts)?,
        Err(error) => writeln!(out, "\nnot runnable   {error}")?,
    }
    Ok(())
}

/// Everything the container says, model or not.
fn facts(gguf: &Gguf) -> Map<String, Json> {
    let metadata: Map<String, Json> =
        gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value_json(&value))).collect();
    let tensor = |t: &ds4_gguf::TensorInfo| {
        json!({
            "name": t.name, "dims": t.dims, "type": t.ty.name(),
            "offset": t.range.start, "bytes": t.range.len(),
        })
    };
    let tensors: Vec<Json> = gguf.tensors().iter().map(tensor).collect();
    let mut types: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let (n, bytes) = types.entry(tensor.ty.name()).or_default();
        *n += 1;
        *bytes += tensor.range.len() as u64;
    }
    let types: Vec<Json> = types
        .iter()
        .map(|(name, (n, bytes))| json!({"type": name, "tensors": n, "bytes": bytes}))
        .collect();
    let mut object = Map::new();
    object.insert("file".to_owned(), json!(gguf.name()));
    object.insert("bytes".to_owned(), json!(gguf.data().len()));
    object.insert("alignment".to_owned(), json!(gguf.alignment()));
    object.insert("metadata".to_owned(), Json::Object(metadata));
    object.insert("types".to_owned(), Json::Array(types));
    object.insert("tensors".to_owned(), Json::Array(tensors));
    object
}

/// A metadata value; long arrays only by type and length.
fn value_json(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(b) => json!(b),
        Value::Str(s) => json!(s),
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::Array(array) if array.len() > ARRAY_SHOWN => {
            json!({"array": array.elem().to_string(), "len": array.len()})
        }
        Value::Array(array) => Json::Array(elements(array)),
        other => match other.as_int().map(i64::try_from) {
            Some(Ok(n)) => json!(n),
            _ => json!(other.to_string()),
        },
    }
}

fn elements(array: &Array<'_>) -> Vec<Json> {
    array.iter().map(|value| value_json(&value)).collect()
}

/// What follows from the container being a model.
fn model_json(model: &ModelFile, contexts: &[u32]) -> Map<String, Json> {
    let context = |&tokens: &u32| {
        let bytes = SeqPlan::new(&model.dims, tokens, model.has_mtp()).bytes();
        json!({
            "tokens": tokens, "bytes": bytes.total(), "raw": bytes.raw, "comp": bytes.comp,
            "index": bytes.index, "rings": bytes.rings, "mtp": bytes.mtp,
        })
    };
    let contexts: Vec<Json> = contexts.iter().map(context).collect();
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(model.name));
    object.insert("description".to_owned(), json!(model.description));
    object.insert("fingerprint".to_owned(), json!(model.fingerprint.to_string()));
    object.insert("dims".to_owned(), dims_json(&model.dims));
    object.insert("has_mtp".to_owned(), json!(model.has_mtp()));
    let class = |(class, n, bytes): (Class, usize, u64)| {
        let class = class.to_string();
        json!({"class": class, "tensors": n, "bytes": bytes})
    };
    let classes: Vec<Json> = model.classes().into_iter().map(class).collect();
    object.insert("classes".to_owned(), Json::Array(classes));
    let read = read_bytes::weights(&model.weights, &model.dims);
    object.insert("bytes_read_per_token".to_owned(), json!(read));
    object.insert("contexts".to_owned(), Json::Array(contexts));
    let place = Placement::of(model);
    let placement = json!({
        "kept_bytes": place.kept_bytes, "expert_bytes": place.expert_bytes,
        "least_bytes": place.least_bytes, "full_bytes": place.full_bytes,
    });
    object.insert("placement".to_owned(), placement);
    object
}

fn dims_json(d: &Dims) -> Json {
    json!({
        "n_layer": d.n_layer, "n_embd": d.n_embd, "n_vocab": d.n_vocab, "n_head": d.n_head,
        "head_dim": d.head_dim, "rope_dim": d.rope_dim, "q_rank": d.q_rank,
        "n_out_group": d.n_out_group, "out_rank": d.out_rank, "window": d.window,
        "ratios": d.ratios, "n_index_head": d.n_index_head, "index_dim": d.index_dim,
        "index_top_k": d.index_top_k, "n_expert": d.n_expert, "n_expert_used": d.n_expert_used,
        "n_ff": d.n_ff, "n_hash_layer": d.n_hash_layer, "n_hc": d.n_hc, "ctx_max": d.ctx_max,
    })
}

fn write_facts(out: &mut dyn Write, facts: &Map<String, Json>) -> io::Result<()> {
    let bytes = facts["bytes"].as_u64().unwrap_or_default();
    let list = |key: &str| facts[key].as_array().map_or(&[][..], Vec::as_slice);
    let tensors = list("tensors");
    writeln!(out, "file           {}", text(&facts["file"]))?;
    writeln!(out, "size           {}, {} tensors", gib(bytes), tensors.len())?;
    writeln!(out, "\nmetadata")?;
    for (key, value) in facts["metadata"].as_object().into_iter().flatten() {
        writeln!(out, "  {} = {}", short(key, 255), short(&text(value), 100))?;
    }
    writeln!(out, "\ntensors")?;
    for tensor in tensors {
        let (name, ty) = (short(&text(&tensor["name"]), 255), text(&tensor["type"]));
        let dims = tensor["dims"].to_string();
        writeln!(out, "  {name:40} {ty:8} {dims:20} {:>14}", tensor["bytes"].to_string())?;
    }
    writeln!(out, "\ntypes")?;
    for ty in list("types") {
        let bytes = ty["bytes"].as_u64().unwrap_or_default();
        let n = ty["tensors"].to_string();
        writeln!(out, "  {:8} {n:>6} tensors {:>14}", text(&ty["type"]), gib(bytes))?;
    }
    Ok(())
}

fn write_model(out: &mut dyn Write, model: &ModelFile, contexts: &[u32]) -> io::Result<()> {
    let d = &model.dims;
    let count = |wanted: &dyn Fn(usize) -> bool| d.ratios.iter().filter(|r| wanted(**r)).count();
    writeln!(out, "\nmodel          {}", short(&model.name, 100))?;
    writeln!(out, "shape          {}", model.description)?;
    writeln!(
        out,
        "layers         {}: {} window, {} indexed, {} dense-compressed",
        d.n_layer,
        count(&|r| r == 0),
        count(&|r| r == ds4_model::INDEXED_RATIO),
        count(&|r| r > ds4_model::INDEXED_RATIO)
    )?;
    writeln!(out, "experts        {} of {} a layer", d.n_expert_used, d.n_expert)?;
    writeln!(out, "MTP block      {}", if model.has_mtp() { "loaded" } else { "none" })?;
    writeln!(out, "fingerprint    {}", model.fingerprint)?;
    writeln!(out, "weights        {}", gib(model.tensor_bytes()))?;
    let read = read_bytes::weights(&model.weights, d);
    writeln!(out, "read per token {}", gib(read))?;
    let Placement { kept_bytes, expert_bytes, least_bytes, full_bytes } = Placement::of(model);
    writeln!(
        out,
        "memory         {} stay, {} of experts are read as chosen where --ram-gb or memory is less",
        gib(kept_bytes),
        gib(expert_bytes)
    )?;
    writeln!(
        out,
        "--ram-gb       at least {:.2}; from {:.2} on prompts are computed in full steps",
        ceil_gib(least_bytes),
        ceil_gib(full_bytes)
    )?;
    writeln!(out, "\nclasses")?;
    for (class, n, bytes) in model.classes() {
        writeln!(out, "  {class:22} {n:>6} tensors {:>14}", gib(bytes))?;
    }
    writeln!(out, "\nmemory of a context, besides the weights")?;
    for &tokens in contexts {
        let bytes = SeqPlan::new(d, tokens, model.has_mtp()).bytes().total();
        writeln!(out, "  {tokens:>8} tokens {:>12}", gib(bytes))?;
    }
    Ok(())
}

/// GiB, rounded up to what the flag takes.
fn ceil_gib(bytes: u64) -> f64 {
    (bytes as f64 / (1u64 << 30) as f64 * 100.0).ceil() / 100.0
}

/// A JSON value for people: strings without quotes.
fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// At most `max` characters on one line.
fn short(text: &str, max: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= max {
        return line;
    }
    line.chars().take(max).chain("…".chars()).collect()
}
