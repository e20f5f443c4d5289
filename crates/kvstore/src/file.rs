//! One cache file taken apart: bounds first, contents only where they are asked for.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::header::HEADER_BYTES;
use crate::payload::{
    Identity, KINDS, Kind, Section, check_hash, read_at, read_identity, read_section, read_sections,
};
use crate::{Error, Header, Result, ToolEntry, key, tools};

/// Largest token list of a file that is read at all.
const TOKENS_MAX: u64 = 1 << 24;

/// An open file whose bounds have been checked.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) header: Header,
    pub(crate) identity: Identity,
    pub(crate) file: File,
    pub(crate) sections: [Section; 4],
    /// Where the tool map is, or would be.
    pub(crate) tools_at: u64,
    pub(crate) text_bytes: u32,
    pub(crate) file_bytes: u64,
}

/// Bytes of header and text length.
const HEAD_BYTES: usize = HEADER_BYTES + 4;

impl Parts {
    /// Opens a file and checks every bound of it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // Opening a pipe would wait for somebody who writes to it.
        if !fs::metadata(path).map_err(|e| Error::io(path, e))?.is_file() {
            return Err(Error::foreign(path, "not a file"));
        }
        Self::of(path, File::open(path).map_err(|e| Error::io(path, e))?)
    }

    /// As [`Parts::open`], of an open file.
    pub(crate) fn of(path: &Path, mut file: File) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
        if !metadata.is_file() {
            return Err(Error::foreign(path, "not a file"));
        }
        let file_bytes = metadata.len();
        let mut head = [0u8; HEAD_BYTES];
        read_at(path, &mut file, 0, &mut head)?;
        let (fixed, text_len) = head.split_at(HEADER_BYTES);
        let header = Header::decode(fixed.try_into().expect("split at its length"))
            .map_err(|what| Error::damaged(path, what))?;
        let text_bytes = u32::from_le_bytes(text_len.try_into().expect("4 bytes"));
        let start = HEAD_BYTES as u64 + u64::from(text_bytes);
        let end = start.saturating_add(header.payload_bytes);
        // Whose it is comes first: another engine's file is not ours to judge.
        let there = header.payload_bytes.min(file_bytes.saturating_sub(start));
        let identity = read_identity(path, &mut file, start, there)?;
        if end > file_bytes {
            let missing = end - file_bytes;
            return Err(Error::damaged(path, format!("file is cut short by {missing} bytes")));
        }
        if !header.has_tools && end != file_bytes {
            return Err(Error::damaged(path, "bytes behind the payload"));
        }
        let sections = read_sections(path, &mut file, start, header.payload_bytes)?;
        Ok(Self { header, identity, file, sections, tools_at: end, text_bytes, file_bytes })
    }

    /// Bytes of the key encoding.
    pub(crate) fn key_bytes(&self) -> u64 {
        self.sections[0].bytes
    }

    /// The key encoding, checked.
    pub(crate) fn read_key(&mut self, path: &Path) -> Result<Vec<u8>> {
        read_section(path, &mut self.file, &self.sections[0], Kind::Key)
    }

    /// The token ids, checked; as many as the header says.
    pub(crate) fn read_tokens(&mut self, path: &Path) -> Result<Vec<u32>> {
        if self.sections[1].bytes > 4 * TOKENS_MAX {
            return Err(Error::damaged(path, "more tokens than any model takes"));
        }
        let bytes = read_section(path, &mut self.file, &self.sections[1], Kind::Tokens)?;
        let (words, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || words.len() != self.header.tokens as usize {
            return Err(Error::damaged(path, "token count differs from the header's"));
        }
        Ok(words.iter().map(|w| u32::from_le_bytes(*w)).collect())
    }

    /// The logits, checked: none, or `n_vocab` of them, all numbers.
    pub(crate) fn read_logits(&mut self, path: &Path, n_vocab: u32) -> Result<Vec<f32>> {
        let section = self.sections[2];
        if section.bytes != 0 && section.bytes != 4 * u64::from(n_vocab) {
            return Err(Error::damaged(path, "logits of another vocabulary"));
        }
        let bytes = read_section(path, &mut self.file, &section, Kind::Logits)?;
        let (words, _) = bytes.as_chunks::<4>();
        let logits: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        if logits.iter().any(|x| x.is_nan()) {
            return Err(Error::damaged(path, "a logit is not a number"));
        }
        Ok(logits)
    }

    /// Checks the hash of every section.
    pub(crate) fn check_hashes(&mut self, path: &Path) -> Result<()> {
        for (section, kind) in self.sections.iter().zip(KINDS) {
            check_hash(path, &mut self.file, section, kind)?;
        }
        Ok(())
    }

    /// Checks the hash of the runner's state.
    pub(crate) fn check_sequence(&mut self, path: &Path) -> Result<()> {
        check_hash(path, &mut self.file, &self.sections[3], Kind::Sequence)
    }

    /// The tool map, as far as it can be read.
    pub(crate) fn read_tools(&mut self, path: &Path) -> Result<Vec<ToolEntry>> {
        if !self.header.has_tools {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(self.tools_at)).map_err(|e| Error::io(path, e))?;
        let rest = self.file_bytes.saturating_sub(self.tools_at);
        (&mut self.file).take(rest).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        Ok(tools::decode(&bytes))
    }

    /// The text for people, bytes that are not UTF-8 replaced.
    pub(crate) fn read_text(&mut self, path: &Path) -> Result<String> {
        let mut text = vec![0u8; self.text_bytes as usize];
        read_at(path, &mut self.file, HEAD_BYTES as u64, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// What a full look at one file found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The header.
    pub header: Header,
    /// The human-readable text.
    pub text: String,
    /// Whose sequence it is.
    pub identity: Identity,
    /// Bytes of each section: key, tokens, logits, the runner's state.
    pub section_bytes: [u64; 4],
    /// Its tool map.
    pub tools: Vec<ToolEntry>,
}

/// Opens a file of any model and reads what is in it; bounds are checked, contents are not.
pub fn read_file(path: &Path) -> Result<Verified> {
    look(path, &mut Parts::open(path)?)
}

/// Checks a file of any model: container, every checksum, tokens, name against key.
pub fn verify_file(path: &Path) -> Result<Verified> {
    let mut parts = Parts::open(path)?;
    parts.check_hashes(path)?;
    parts.read_tokens(path)?;
    let stored = parts.read_key(path)?;
    if path.file_stem().and_then(|s| s.to_str()) != Some(&key::key_name(&stored)) {
        return Err(Error::damaged(path, "its name is not the SHA-1 of its key"));
    }
    look(path, &mut parts)
}

fn look(path: &Path, parts: &mut Parts) -> Result<Verified> {
    Ok(Verified {
        header: parts.header.clone(),
        text: parts.read_text(path)?,
        identity: parts.identity,
        section_bytes: parts.sections.map(|s| s.bytes),
        tools: parts.read_tools(path)?,
    })
}
