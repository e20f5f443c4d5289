//! A sequence from a file, or from a snapshot that is still being written.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::Parts;
use crate::payload::{Section, section_reader};
use crate::{Error, Options, Result, Snapshot, ToolEntry};

/// A verified sequence, open for reading its state.
#[derive(Debug)]
pub struct Loaded {
    /// Token ids of the sequence.
    pub tokens: Vec<u32>,
    /// Logits after the last token; empty when they were not stored.
    pub logits: Vec<f32>,
    /// Tool-call ids and their sampled blocks; material from a file, to be parsed again before use.
    pub tools: Vec<ToolEntry>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File { path: PathBuf, file: File, section: Section },
    Memory(Arc<Snapshot>),
}

/// The bytes of a snapshot's state.
struct State(Arc<Snapshot>);

impl AsRef<[u8]> for State {
    fn as_ref(&self) -> &[u8] {
        &self.0.state
    }
}

impl Loaded {
    /// Opens a file whose key must be `key`.
    pub(crate) fn open(path: &Path, key: &[u8], options: &Options) -> Result<Self> {
        let mut parts = Parts::open(path)?;
        if parts.key_bytes() != key.len() as u64 || parts.read_key(path)? != key {
            return Err(Error::damaged(path, "its key is not the prompt's prefix"));
        }
        let tokens = parts.read_tokens(path)?;
        if let Some(t) = tokens.iter().find(|&&t| t >= options.n_vocab) {
            return Err(Error::damaged(path, format!("token id {t} outside the vocabulary")));
        }
        let logits = parts.read_logits(path, options.n_vocab)?;
        parts.check_sequence(path)?;
        let tools = parts.read_tools(path)?;
        let section = parts.sections[3];
        let source = Source::File { path: path.to_owned(), file: parts.file, section };
        Ok(Self { tokens, logits, tools, source })
    }

    pub(crate) fn from_memory(snapshot: Arc<Snapshot>) -> Self {
        Self {
            tokens: snapshot.tokens.clone(),
            logits: snapshot.logits.clone(),
            tools: snapshot.tools.clone(),
            source: Source::Memory(snapshot),
        }
    }

    /// A reader of the runner's state, bounded and already checked against its checksum.
    pub fn sequence(&mut self) -> Result<Box<dyn Read>> {
        Ok(match &mut self.source {
            Source::File { path, file, section } => Box::new(section_reader(path, file, section)?),
            Source::Memory(snapshot) => Box::new(Cursor::new(State(Arc::clone(snapshot)))),
        })
    }
}
