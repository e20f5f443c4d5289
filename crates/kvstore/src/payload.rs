//! Our payload: fingerprints and checksummed sections.
//!
//! ```text
//! magic "DS4R", u32 version, [u8; 32] model, [u8; 32] family, u32 section count, u32 0,
//! then per section: u32 kind, u32 0, u64 bytes, u64 XXH3-64, bytes
//! ```
//! The model is the fingerprint of weights, roundings and state layout; the family the same without
//! the weights, so that quantisations of one model can be told from other models.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"DS4R";
const VERSION: u32 = 1;
/// Bytes before the first section.
pub(crate) const PREAMBLE_BYTES: usize = 80;
/// Bytes in front of a section.
pub(crate) const SECTION_HEAD_BYTES: usize = 24;

/// Whose sequence a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Fingerprint of weights, roundings and state layout: what can be loaded exactly.
    pub model: [u8; 32],
    /// Fingerprint of shape, tokenizer, roundings and layout: the same model in other quantisations.
    pub family: [u8; 32],
}

/// What a section holds, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key encoding.
    Key = 1,
    /// Token ids, u32 each.
    Tokens = 2,
    /// Logits after the last token, f32 each; may be empty.
    Logits = 3,
    /// The runner's state.
    Sequence = 4,
}

/// Sections of a payload, in file order.
pub(crate) const KINDS: [Kind; 4] = [Kind::Key, Kind::Tokens, Kind::Logits, Kind::Sequence];

/// Where a section's bytes lie in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    hash: u64,
}

/// Writes the preamble.
pub(crate) fn write_preamble(w: &mut impl Write, identity: &Identity) -> io::Result<()> {
    w.write_all(&MAGIC)?;
    w.write_all(&VERSION.to_le_bytes())?;
    w.write_all(&identity.model)?;
    w.write_all(&identity.family)?;
    w.write_all(&u32::try_from(KINDS.len()).expect("four sections").to_le_bytes())?;
    w.write_all(&0u32.to_le_bytes())
}

/// Writes one section.
pub(crate) fn write_section(w: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    w.write_all(&(kind as u32).to_le_bytes())?;
    w.write_all(&0u32.to_le_bytes())?;
    w.write_all(&(bytes.len() as u64).to_le_bytes())?;
    w.write_all(&xxh3_64(bytes).to_le_bytes())?;
    w.write_all(bytes)
}

/// Reads the identity of the payload at `start`; one of another engine or version is foreign.
pub(crate) fn read_identity(
    path: &Path,
    file: &mut File,
    start: u64,
    bytes: u64,
) -> Result<Identity> {
    let mut preamble = [0u8; PREAMBLE_BYTES];
    let there = bytes.min(PREAMBLE_BYTES as u64);
    read_at(path, file, start, &mut preamble[..usize::try_from(there).expect("80 at most")])?;
    if there < 8 {
        return Err(Error::damaged(path, "payload is shorter than its preamble"));
    }
    if preamble[..4] != MAGIC {
        return Err(Error::foreign(path, "payload of another engine"));
    }
    if preamble[4..8] != VERSION.to_le_bytes() {
        return Err(Error::foreign(path, "payload of another version"));
    }
    if there < PREAMBLE_BYTES as u64 {
        return Err(Error::damaged(path, "payload is shorter than its preamble"));
    }
    let part = |from: usize| preamble[from..from + 32].try_into().expect("32 bytes");
    Ok(Identity { model: part(8), family: part(40) })
}

/// Reads the section table of the payload at `start`; every bound is checked against `bytes`.
pub(crate) fn read_sections(
    path: &Path,
    file: &mut File,
    start: u64,
    bytes: u64,
) -> Result<[Section; 4]> {
    let end = start + bytes;
    let mut at = start + PREAMBLE_BYTES as u64;
    let mut count = [0u8; 8];
    read_at(path, file, at - 8, &mut count)?;
    if count != [4, 0, 0, 0, 0, 0, 0, 0] {
        return Err(Error::damaged(path, "wrong number of sections"));
    }
    let mut sections = [Section { start: 0, bytes: 0, hash: 0 }; 4];
    for (section, kind) in sections.iter_mut().zip(KINDS) {
        *section = read_section_head(path, file, at, end, kind)?;
        at = section.start + section.bytes;
    }
    if at != end {
        return Err(Error::damaged(path, format!("{} bytes behind the last section", end - at)));
    }
    Ok(sections)
}

fn read_section_head(
    path: &Path,
    file: &mut File,
    at: u64,
    end: u64,
    kind: Kind,
) -> Result<Section> {
    if end - at < SECTION_HEAD_BYTES as u64 {
        return Err(Error::damaged(path, format!("section {kind:?} is missing")));
    }
    let mut head = [0u8; SECTION_HEAD_BYTES];
    read_at(path, file, at, &mut head)?;
    let u64_at = |i: usize| u64::from_le_bytes(head[i..i + 8].try_into().expect("8 bytes"));
    if head[..8] != u64::from(kind as u32).to_le_bytes() {
        return Err(Error::damaged(path, format!("section {kind:?} is not where it should be")));
    }
    let section =
        Section { start: at + SECTION_HEAD_BYTES as u64, bytes: u64_at(8), hash: u64_at(16) };
    if section.bytes > end - section.start {
        return Err(Error::damaged(path, format!("section {kind:?} is cut short")));
    }
    Ok(section)
}

/// Checks a section's hash by streaming over it.
pub(crate) fn check_hash(path: &Path, file: &mut File, s: &Section, kind: Kind) -> Result<()> {
    let mut reader = section_reader(path, file, s)?;
    let mut hash = Xxh3::new();
    let mut buf = vec![0u8; 1 << 20];
    loop {
        let n = reader.read(&mut buf).map_err(|e| Error::io(path, e))?;
        if n == 0 {
            break;
        }
        hash.update(&buf[..n]);
    }
    if hash.digest() != s.hash {
        return Err(wrong_hash(path, kind));
    }
    Ok(())
}

fn wrong_hash(path: &Path, kind: Kind) -> Error {
    Error::damaged(path, format!("checksum of section {kind:?} is wrong"))
}

/// A reader bounded to one section.
pub(crate) fn section_reader(
    path: &Path,
    file: &mut File,
    s: &Section,
) -> Result<impl Read + use<>> {
    let mut file = file.try_clone().map_err(|e| Error::io(path, e))?;
    file.seek(SeekFrom::Start(s.start)).map_err(|e| Error::io(path, e))?;
    Ok(BufReader::with_capacity(1 << 20, file.take(s.bytes)))
}

/// Reads a whole section into memory and checks its hash; its length was checked against the file.
pub(crate) fn read_section(
    path: &Path,
    file: &mut File,
    s: &Section,
    kind: Kind,
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    section_reader(path, file, s)?.read_to_end(&mut out).map_err(|e| Error::io(path, e))?;
    if out.len() as u64 != s.bytes || xxh3_64(&out) != s.hash {
        return Err(wrong_hash(path, kind));
    }
    Ok(out)
}

/// Reads exactly `buf.len()` bytes at `at`; a short file is damage.
pub(crate) fn read_at(path: &Path, file: &mut File, at: u64, buf: &mut [u8]) -> Result<()> {
    file.seek(SeekFrom::Start(at)).map_err(|e| Error::io(path, e))?;
    file.read_exact(buf).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::damaged(path, "file is cut short"),
        _ => Error::io(path, e),
    })
}
