//! `ds4 logits`: the logits of every position of a given list of tokens, for comparison.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ds4_engine::{Sequence, check_ids};
use ds4_model::npy::{Elem, header};
use ds4_model::{Place, Recorder, Runner, Stage, Stages, TokenId};
use serde_json::Value;

use crate::backend::Needs;
use crate::load;
use crate::options::Logits;

/// Tokens in a call unless asked otherwise: bounds the rows of logits kept at once.
const CHUNK: usize = 64;

/// Runs the command.
pub(crate) fn run(options: &Logits) -> Result<()> {
    let tokens = read_ids(&options.tokens)?;
    let cap = u32::try_from(tokens.len()).context("too many tokens")?;
    let needs = Needs { numerics: options.numerics, ..Needs::seq(cap) };
    let (mut engine, file) = load::open_engine(&options.model, needs)?;
    let room = engine.room()?;
    let runner = engine.runner();
    let n_vocab = runner.dims().n_vocab;
    check_ids(&tokens, n_vocab)?;
    room.plan(runner, cap, "use fewer tokens")?;
    let recorder = Recorder::new();
    if options.stages.is_some() {
        runner.set_probe(Some(Box::new(recorder.clone())));
    }
    let chunk = options.chunk.unwrap_or(CHUNK).min(runner.chunk_max());
    let shape = [tokens.len(), n_vocab];
    write_logits(runner, &tokens, chunk, &options.out, &header(Elem::F32, &shape)?)?;
    eprintln!("ds4: wrote logits of {} tokens to {}", tokens.len(), options.out.display());
    let Some(dir) = &options.stages else { return Ok(()) };
    let mut stages = recorder.take();
    if file.has_mtp() && tokens.len() > 1 {
        // As the references do it: every state with the token that follows it.
        let hidden = &stages[&Place::Layer(file.dims.n_layer - 1).name(Stage::Hidden)];
        let pairs = tokens.len() - 1;
        engine.mtp_forward(&hidden.data[..pairs * hidden.width()], &tokens[1..])?;
        stages.extend(recorder.take());
    }
    write_stages(&stages, dir)?;
    eprintln!("ds4: wrote {} stages to {}", stages.len(), dir.display());
    Ok(())
}

/// Computes and writes row by row: all logits of a long prompt would not fit into memory.
fn write_logits(
    runner: &mut dyn Runner,
    tokens: &[TokenId],
    chunk: usize,
    path: &Path,
    header: &[u8],
) -> Result<()> {
    let cannot_write = || format!("cannot write {}", path.display());
    let mut seq = Sequence::open(runner, u32::try_from(tokens.len())?)?;
    let mut out = BufWriter::new(File::create(path).with_context(cannot_write)?);
    out.write_all(header).with_context(cannot_write)?;
    for span in tokens.chunks(chunk) {
        seq.append(runner, span, span.len())?;
        for row in 0..span.len() {
            let bytes: Vec<u8> = seq.row(row).iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes).with_context(cannot_write)?;
        }
    }
    out.flush().with_context(cannot_write)
}

/// Writes `<name>.npy` for every stage.
fn write_stages(stages: &Stages, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, array) in stages {
        let path = dir.join(format!("{name}.npy"));
        let cannot_write = || format!("cannot write {}", path.display());
        let (_, stage) = Place::parse(name).expect("the recorder's own name");
        let mut out = BufWriter::new(File::create(&path).with_context(cannot_write)?);
        array.write(stage.elem(), &mut out).with_context(cannot_write)?;
        out.flush().with_context(cannot_write)?;
    }
    Ok(())
}

/// A JSON array of ids, or an object whose `prompt` is one.
fn read_ids(path: &Path) -> Result<Vec<TokenId>> {
    let name = path.display();
    let bytes = load::read_file(path)?;
    let mut json: Value = serde_json::from_slice(&bytes).with_context(|| name.to_string())?;
    if let Some(prompt) = json.get_mut("prompt") {
        json = prompt.take();
    }
    let Value::Array(items) = json else {
        bail!("{name}: expected an array of token ids, or an object with \"prompt\"");
    };
    if items.is_empty() {
        bail!("{name}: the list of token ids is empty");
    }
    let id = |(ix, item): (usize, Value)| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(TokenId).ok_or_else(|| anyhow!("{name}: item {ix} is {item}, not a token id"))
    };
    items.into_iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_an_array_or_a_prompt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            let ids = read_ids(&path).map_err(|e| format!("{e:#}"))?;
            Ok::<_, String>(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        };
        assert_eq!(read("[0, 5, 7]").unwrap(), [0, 5, 7]);
        assert_eq!(read("{\"decode\": [1], \"prompt\": [3, 4]}").unwrap(), [3, 4]);
        for (text, want) in [
            ("[]", "empty"),
            ("7", "expected an array"),
            ("{}", "expected an array"),
            ("[1, -2]", "item 1 is -2"),
            ("[1.5]", "item 0 is 1.5"),
            ("[4294967296]", "item 0"),
            ("[1", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(want) && error.contains("ids.json"), "{text}: {error}");
        }
    }
}
