//! Writing a file so that it exists either whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use crate::file::Parts;
use crate::header::{FLAG_TOOLS, FLAGS_OFFSET, HEADER_BYTES};
use crate::payload::{
    KINDS, Kind, PREAMBLE_BYTES, SECTION_HEAD_BYTES, write_preamble, write_section,
};
use crate::store::now_s;
use crate::{Error, Header, Options, Reason, Result, ToolEntry, tools};

/// A sequence to be stored, with all that is written of it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Why it is stored.
    pub reason: Reason,
    /// Control-aware encoding of `tokens`.
    pub key: Vec<u8>,
    /// Human-readable text, not part of the key.
    pub text: String,
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// Logits after the last token, or empty.
    pub logits: Vec<f32>,
    /// Tool calls whose blocks occur in it.
    pub tools: Vec<ToolEntry>,
    /// The runner's state.
    pub state: Vec<u8>,
    /// A shorter file of this conversation that is not needed once this one exists.
    pub replaces: Option<String>,
    /// Tokens of the prompt behind the snapshot, for the log.
    pub trimmed: usize,
}

impl Snapshot {
    /// Bytes it takes in memory, and about as many on disk.
    pub fn bytes(&self) -> u64 {
        let words = 4 * (self.tokens.len() + self.logits.len());
        (self.state.len() + self.key.len() + self.text.len() + words) as u64
    }
}

/// Writes a snapshot under a temporary name; returns its header and size.
pub(crate) fn write_temp(temp: &Path, s: &Snapshot, options: &Options) -> Result<(Header, u64)> {
    let io_err = |e| Error::io(temp, e);
    let mut open = OpenOptions::new();
    open.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        open.mode(0o600);
    }
    let file = open.open(temp).map_err(io_err)?;
    // Held until the file is closed: who finds the name can tell whether its writer still lives.
    // Where there are no locks, writers are told by their process.
    let _ = file.try_lock();
    let mut w = BufWriter::with_capacity(1 << 20, file);
    let written = write_all(&mut w, s, options).map_err(io_err)?;
    let file = w.into_inner().map_err(|e| Error::io(temp, e.into_error()))?;
    file.sync_all().map_err(io_err)?;
    Ok(written)
}

fn write_all(w: &mut impl Write, s: &Snapshot, options: &Options) -> io::Result<(Header, u64)> {
    // The format has no place for NUL in its text, which is for people.
    let text = s.text.replace('\0', "\u{fffd}");
    let text_bytes = u32::try_from(text.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "text above 4 GiB"))?;
    let tokens: Vec<u8> = s.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let logits: Vec<u8> = s.logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    let parts: [&[u8]; 4] = [&s.key, &tokens, &logits, &s.state];
    let heads = PREAMBLE_BYTES + parts.len() * SECTION_HEAD_BYTES;
    let payload_bytes = (heads + parts.iter().map(|p| p.len()).sum::<usize>()) as u64;
    let header = header(s, options, payload_bytes);
    w.write_all(&header.encode())?;
    w.write_all(&text_bytes.to_le_bytes())?;
    w.write_all(text.as_bytes())?;
    write_preamble(w, &options.identity)?;
    for (kind, part) in KINDS.into_iter().zip(parts) {
        debug_assert!(kind != Kind::Sequence || part.len() == s.state.len());
        write_section(w, kind, part)?;
    }
    let map = if s.tools.is_empty() { Vec::new() } else { tools::encode(&s.tools) };
    w.write_all(&map)?;
    let total = HEADER_BYTES + 4 + text.len() + map.len();
    Ok((header, total as u64 + payload_bytes))
}

fn header(s: &Snapshot, options: &Options, payload_bytes: u64) -> Header {
    let m = &options.identity.model;
    let now = now_s();
    Header {
        quant_bits: options.quant_bits,
        reason: s.reason,
        has_tools: !s.tools.is_empty(),
        tokens: u32::try_from(s.tokens.len()).unwrap_or(u32::MAX),
        hits: 0,
        ctx: options.ctx,
        model: u32::from_le_bytes([m[0], m[1], m[2], m[3]]),
        created: now,
        last_used: now,
        payload_bytes,
    }
}

/// Renames into place and makes the name durable.
pub(crate) fn publish(temp: &Path, path: &Path) -> Result<()> {
    fs::rename(temp, path).map_err(|e| Error::io(path, e))?;
    let dir = path.parent().expect("a file of the directory");
    let open = File::open(dir).map_err(|e| Error::io(dir, e))?;
    open.sync_all().map_err(|e| Error::io(dir, e))
}

/// Adds names to a file's tool map, in place: a map that was cut short ends where it ends, and the
/// sequence in front of it is not touched.
pub(crate) fn add_tools(path: &Path, more: &[ToolEntry]) -> Result<bool> {
    let io_err = |e| Error::io(path, e);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_err)?;
    let mut parts = Parts::of(path, file)?;
    let mut map = parts.read_tools(path)?;
    let before = map.len();
    for entry in more {
        if !map.iter().any(|known| known.id == entry.id) {
            map.push(entry.clone());
        }
    }
    if map.len() == before {
        return Ok(false);
    }
    let bytes = tools::encode(&map);
    let file = &mut parts.file;
    file.seek(SeekFrom::Start(FLAGS_OFFSET)).map_err(io_err)?;
    file.write_all(&[FLAG_TOOLS]).map_err(io_err)?;
    file.seek(SeekFrom::Start(parts.tools_at)).map_err(io_err)?;
    file.write_all(&bytes).map_err(io_err)?;
    file.set_len(parts.tools_at + bytes.len() as u64).map_err(io_err)?;
    file.sync_data().map_err(io_err)?;
    Ok(true)
}
