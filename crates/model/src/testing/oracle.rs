//! Oracle models: a model and what an independent implementation computes with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::npy::Array;
use crate::{ModelFile, Numerics, Place, Result, Stage, Stages, TokenId, testing};

/// A model with its references.
#[derive(Debug)]
pub struct Oracle {
    /// Where it comes from.
    pub name: String,
    /// The model with its MTP block.
    pub model: ModelFile,
    /// One per mode that was computed.
    pub references: Vec<Reference>,
}

/// What the reference computed in one mode.
#[derive(Clone, Debug)]
pub struct Reference {
    /// `plain`, `official` or `ds4`.
    pub mode: &'static str,
    /// The same as a switch.
    pub numerics: Numerics,
    /// Prompt, computed at once.
    pub tokens: Vec<TokenId>,
    /// Tokens that follow, one by one.
    pub decode: Vec<TokenId>,
    /// Logits of `tokens`, `[tokens, n_vocab]`.
    pub logits: Array,
    /// Logits of `decode`, `[decode, n_vocab]`.
    pub decode_logits: Array,
    /// Stages of `tokens`, and of the MTP block over all pairs of a state and the next token.
    pub stages: Stages,
}

/// The modes of the reference, as in the names of its files.
const MODES: [(&str, Numerics); 3] =
    [("plain", Numerics::PLAIN), ("official", Numerics::OFFICIAL), ("ds4", Numerics::DS4)];

impl Oracle {
    /// A folder written by `make_tiny.py`: `model.gguf`, `mtp.gguf`, and `ref_*.npz` of one or
    /// more modes.
    pub fn open(dir: &Path) -> Result<Self> {
        let model = ModelFile::open(&dir.join("model.gguf"), Some(&dir.join("mtp.gguf")))?;
        Self::new(dir, model)
    }

    /// The committed model with float weights and few Sinkhorn iterations: plain and official.
    ///
    /// # Panics
    /// If the committed files are damaged.
    pub fn micro() -> Self {
        Self::open(&testdata("micro")).expect("testdata/oracle/micro is committed")
    }

    /// The model in the formats of the published files, made in memory: plain, official and ds4.
    ///
    /// # Panics
    /// If the committed files are damaged.
    pub fn quant() -> Self {
        let references = Self::new(&testdata("quant"), testing::quant());
        references.expect("testdata/oracle/quant is committed")
    }

    /// The reference of a mode, if it was computed.
    pub fn reference(&self, mode: &str) -> Option<&Reference> {
        self.references.iter().find(|r| r.mode == mode)
    }

    fn new(dir: &Path, model: ModelFile) -> Result<Self> {
        let mut references = Vec::new();
        for (mode, numerics) in MODES {
            let path = dir.join(format!("ref_{mode}.npz"));
            if path.exists() {
                references.push(Reference::read(&path, mode, numerics)?);
            }
        }
        if references.is_empty() {
            let what = format!("{}: no ref_plain, ref_official or ref_ds4 .npz", dir.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what).into());
        }
        Ok(Self { name: dir.display().to_string(), model, references })
    }
}

impl Reference {
    fn read(path: &Path, mode: &'static str, numerics: Numerics) -> Result<Self> {
        let mut all = read_npz(path)?;
        let mut take = |name: &str| {
            let missing = || invalid(format!("{}: no array {name}", path.display()));
            all.remove(name).ok_or_else(missing)
        };
        let (tokens, decode) = (ids(&take("tokens")?), ids(&take("decode_tokens")?));
        let (logits, decode_logits) = (take("logits")?, take("decode_logits")?);
        all.retain(|name, _| Place::parse(name).is_some());
        Ok(Self { mode, numerics, tokens, decode, logits, decode_logits, stages: all })
    }

    /// Output states of the trunk's layers, for [`crate::Recorder::forcing`]; empty when they were
    /// not kept.
    pub fn hidden(&self) -> Vec<Array> {
        let name = |layer| Place::Layer(layer).name(Stage::Hidden);
        (0..).map_while(|layer| self.stages.get(&name(layer)).cloned()).collect()
    }
}

/// All arrays of a `.npz` archive by name.
pub fn read_npz(path: &Path) -> io::Result<Stages> {
    let mut zip = ZipArchive::new(File::open(path)?).map_err(|e| damaged(path, &e))?;
    let mut all = Stages::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(|e| damaged(path, &e))?;
        let name = entry.name().map_err(|e| damaged(path, &e))?;
        let name = name.trim_end_matches(".npy").to_owned();
        // Whole first: the archive's check sum is verified at its end.
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let array = Array::read(&mut bytes.as_slice());
        all.insert(name, array.map_err(|e| damaged(path, &e))?);
    }
    Ok(all)
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> io::Error {
    invalid(format!("{}: {why}", path.display()))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ids are small integers held as floats"
)]
fn ids(array: &Array) -> Vec<TokenId> {
    array.data.iter().map(|x| TokenId(*x as u32)).collect()
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/oracle").join(name)
}
