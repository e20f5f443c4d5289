//! Our payload: a fingerprint and checksummed sections, streamed in both directions.
//!
//! ```text
//! magic "DS4R", u32 version, [u8; 32] model fingerprint, u32 section count, u32 0,
//! then per section: u32 kind, u32 0, u64 bytes, u64 XXH3-64, bytes
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"DS4R";
const VERSION: u32 = 1;
/// Bytes before the first section.
pub(crate) const PREAMBLE_BYTES: usize = 48;
const SECTION_HEAD_BYTES: usize = 24;

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

/// Counts and hashes what passes through.
struct HashingWriter<'a> {
    inner: &'a mut dyn Write,
    hash: Xxh3,
    bytes: u64,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the preamble.
pub(crate) fn write_preamble(w: &mut dyn Write, fingerprint: &[u8; 32]) -> io::Result<()> {
    w.write_all(&MAGIC)?;
    w.write_all(&VERSION.to_le_bytes())?;
    w.write_all(fingerprint)?;
    w.write_all(&u32::try_from(KINDS.len()).expect("four sections").to_le_bytes())?;
    w.write_all(&0u32.to_le_bytes())
}

/// Writes one section whose length is known only afterwards; returns its bytes with its head.
pub(crate) fn write_section<W: Write + Seek>(
    w: &mut W,
    kind: Kind,
    fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<u64> {
    let head_at = w.stream_position()?;
    w.write_all(&[0; SECTION_HEAD_BYTES])?;
    let mut hashing = HashingWriter { inner: w, hash: Xxh3::new(), bytes: 0 };
    fill(&mut hashing)?;
    let (bytes, hash) = (hashing.bytes, hashing.hash.digest());
    let end = w.stream_position()?;
    w.seek(SeekFrom::Start(head_at))?;
    w.write_all(&(kind as u32).to_le_bytes())?;
    w.write_all(&0u32.to_le_bytes())?;
    w.write_all(&bytes.to_le_bytes())?;
    w.write_all(&hash.to_le_bytes())?;
    w.seek(SeekFrom::Start(end))?;
    Ok(bytes + SECTION_HEAD_BYTES as u64)
}

/// Reads the section table of the payload at `start`; every bound is checked against `bytes`.
pub(crate) fn read_sections(
    path: &Path,
    file: &mut File,
    start: u64,
    bytes: u64,
    fingerprint: &[u8; 32],
) -> Result<[Section; 4]> {
    let mut preamble = [0u8; PREAMBLE_BYTES];
    if bytes < PREAMBLE_BYTES as u64 {
        return Err(Error::damaged(path, "payload is shorter than its preamble"));
    }
    read_at(path, file, start, &mut preamble)?;
    if preamble[..4] != MAGIC {
        return Err(Error::foreign(path, "payload of another engine"));
    }
    if preamble[4..8] != VERSION.to_le_bytes() {
        return Err(Error::foreign(path, "payload of another version"));
    }
    if preamble[8..40] != fingerprint[..] {
        return Err(Error::foreign(path, "payload of another model"));
    }
    let end = start + bytes;
    let mut at = start + PREAMBLE_BYTES as u64;
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
    if head[..4] != (kind as u32).to_le_bytes() {
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
        return Err(Error::damaged(path, format!("checksum of section {kind:?} is wrong")));
    }
    Ok(())
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

/// Reads a whole section into memory; its length was checked against the file.
pub(crate) fn read_section(path: &Path, file: &mut File, s: &Section) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    section_reader(path, file, s)?.read_to_end(&mut out).map_err(|e| Error::io(path, e))?;
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
