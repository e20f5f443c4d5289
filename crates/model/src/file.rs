//! A model's files, opened and checked: what a backend is made from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ds4_gguf::{Bytes, Gguf};
use sha2::{Digest, Sha256};

use crate::layout::{self, Class};
use crate::{Dims, Result, Steering, Weights};

/// A model ready to be given to a backend.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// The main file.
    pub gguf: Arc<Gguf>,
    /// The file with the MTP block, if one was given.
    pub mtp: Option<Arc<Gguf>>,
    /// The model's numbers.
    pub dims: Dims,
    /// The weights, checked against `dims`.
    pub weights: Weights,
    /// `general.name`, or the path.
    pub name: String,
    /// The published name of the shape, or what it is instead.
    pub description: String,
    /// Identity of the main file's contents and of the steering; ties saved sequences to a model.
    pub fingerprint: Fingerprint,
    /// Moves the layers' outputs; see [`ModelFile::steer`].
    steering: Option<Steering>,
}

impl ModelFile {
    /// Maps and checks a model, and the MTP file if one is given.
    pub fn open(model: &Path, mtp: Option<&Path>) -> Result<Self> {
        let mtp = mtp.map(Gguf::open).transpose()?;
        Self::new(Gguf::open(model)?, mtp)
    }

    /// Checks a model that is in memory; `name` stands for the path in messages.
    pub fn from_bytes(name: &str, model: impl Into<Bytes>) -> Result<Self> {
        Self::new(Gguf::from_bytes(name, model)?, None)
    }

    /// Checks opened files.
    pub fn new(gguf: Gguf, mtp: Option<Gguf>) -> Result<Self> {
        let dims = Dims::from_gguf(&gguf)?;
        let (gguf, mtp) = (Arc::new(gguf), mtp.map(Arc::new));
        let weights = Weights::bind(&gguf, mtp.as_ref(), &dims)?;
        Ok(Self {
            name: gguf.metadata().str("general.name").unwrap_or(gguf.name()).to_owned(),
            description: dims.describe(),
            fingerprint: Fingerprint::of(&gguf),
            gguf,
            mtp,
            dims,
            weights,
            steering: None,
        })
    }

    /// Steers the model in this way from now on; the fingerprint follows.
    pub fn steer(&mut self, steering: Steering) {
        self.fingerprint = steering.fingerprint(Fingerprint::of(&self.gguf));
        self.steering = Some(steering);
    }

    /// How the model is steered, if it is.
    pub fn steering(&self) -> Option<&Steering> {
        self.steering.as_ref()
    }

    /// Whether an MTP block is loaded, from its own file or from within the main file.
    pub fn has_mtp(&self) -> bool {
        self.weights.mtp.is_some()
    }

    /// Tensors and bytes of each class of weights (§5.4), in the order of [`Class::ALL`].
    pub fn classes(&self) -> Vec<(Class, usize, u64)> {
        let mut sums: BTreeMap<Class, (usize, u64)> = BTreeMap::new();
        let files = [Some(&self.gguf), self.mtp.as_ref()];
        for spec in layout::trunk(&self.dims).into_iter().chain(layout::mtp(&self.dims)) {
            // An MTP block in its own file is the one in use.
            let tensor = files.iter().rev().flatten().find_map(|f| f.tensor(&spec.name));
            if let Some(tensor) = tensor {
                let (n, bytes) = sums.entry(spec.class).or_default();
                *n += 1;
                *bytes += tensor.range.len() as u64;
            }
        }
        sums.into_iter().map(|(class, (n, bytes))| (class, n, bytes)).collect()
    }

    /// Bytes of the files' tensors.
    pub fn tensor_bytes(&self) -> u64 {
        let files = [Some(&self.gguf), self.mtp.as_ref()];
        files.into_iter().flatten().flat_map(|f| f.tensors()).map(|t| t.range.len() as u64).sum()
    }
}

/// SHA-256 over a file's header (metadata and directory) and a sample of every tensor.
///
/// Cheap: reads one page per tensor. Equal files have equal fingerprints; files that differ in
/// shape, types, tokenizer or in the sampled weights do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Sampled bytes of each tensor, from its middle.
    const SAMPLE_BYTES: usize = 256;

    /// The fingerprint of a file.
    pub fn of(gguf: &Gguf) -> Self {
        let mut hash = Sha256::new();
        hash.update(&gguf.data()[..gguf.data_start()]);
        for tensor in gguf.tensors() {
            let bytes = gguf.tensor_bytes(tensor);
            let start = bytes.len().saturating_sub(Self::SAMPLE_BYTES) / 2;
            hash.update(&bytes[start..bytes.len().min(start + Self::SAMPLE_BYTES)]);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
