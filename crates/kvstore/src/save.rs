//! Writing a file so that it exists either whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use crate::header::HEADER_BYTES;
use crate::payload::{Kind, PREAMBLE_BYTES, write_preamble, write_section};
use crate::store::{now_s, read_entry};
use crate::{Error, Header, KvStore, Reason, Result, ToolEntry, key, tools};

/// A sequence to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Why it is stored.
    pub reason: Reason,
    /// Control-aware encoding of `tokens`.
    pub key: &'a [u8],
    /// Human-readable text, not part of the key.
    pub text: &'a str,
    /// Its token ids.
    pub tokens: &'a [u32],
    /// Logits after the last token, or empty.
    pub logits: &'a [f32],
    /// Tool calls whose blocks occur in it.
    pub tools: &'a [ToolEntry],
}

/// What became of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Written.
    Written {
        /// Its name.
        name: String,
        /// Size on disk.
        bytes: u64,
        /// Files dropped for it.
        evicted: Vec<String>,
    },
    /// Not written, for this reason.
    Skipped(String),
}

impl KvStore {
    /// Stores a sequence; `state` writes the runner's bytes. A full disk turns writing off: the first
    /// time with an error the caller reports once, then with [`Saved::Skipped`].
    pub fn save(
        &mut self,
        snapshot: &Snapshot<'_>,
        state: &mut dyn FnMut(&mut dyn Write) -> std::result::Result<(), String>,
    ) -> Result<Saved> {
        if let Some(cause) = self.skip_cause(snapshot) {
            return Ok(Saved::Skipped(cause));
        }
        let name = key::key_name(snapshot.key);
        self.writes += 1;
        let temp = self.dir.join(format!("{name}.kv.tmp.{}.{}", std::process::id(), self.writes));
        let written = self.write_temp(&temp, snapshot, state).and_then(|bytes| {
            let too_big = bytes + bytes / 100 > self.options.budget_bytes;
            if too_big { Ok(None) } else { self.publish(&temp, &name).map(Some) }
        });
        if !matches!(written, Ok(Some(()))) {
            let _ = fs::remove_file(&temp);
        }
        match written {
            Ok(Some(())) => self.adopt(name),
            Ok(None) => Ok(Saved::Skipped("larger than the whole budget".into())),
            Err(e) => {
                self.full |= e.is_disk_full();
                Err(e)
            }
        }
    }

    fn skip_cause(&self, s: &Snapshot<'_>) -> Option<String> {
        if self.full {
            return Some("the disk was full".into());
        }
        if s.tokens.len() < self.options.tokens_min.max(1) as usize {
            return Some(format!("fewer than {} tokens", self.options.tokens_min));
        }
        let name = key::key_name(s.key);
        let held = self.entries.iter().any(|e| e.name == name);
        held.then(|| "already stored".into())
    }

    fn write_temp(
        &self,
        temp: &Path,
        s: &Snapshot<'_>,
        state: &mut dyn FnMut(&mut dyn Write) -> std::result::Result<(), String>,
    ) -> Result<u64> {
        let io_err = |e| Error::io(temp, e);
        let file = File::create(temp).map_err(io_err)?;
        let mut w = BufWriter::with_capacity(1 << 20, file);
        let mut failed = None;
        let bytes = self.write_all(&mut w, s, state, &mut failed).map_err(|e| match failed {
            Some(what) if e.kind() == io::ErrorKind::Other => Error::Sequence(what),
            _ => Error::io(temp, e),
        })?;
        let file = w.into_inner().map_err(|e| Error::io(temp, e.into_error()))?;
        file.sync_all().map_err(io_err)?;
        Ok(bytes)
    }

    fn write_all(
        &self,
        w: &mut BufWriter<File>,
        s: &Snapshot<'_>,
        state: &mut dyn FnMut(&mut dyn Write) -> std::result::Result<(), String>,
        failed: &mut Option<String>,
    ) -> io::Result<u64> {
        let text_bytes = u32::try_from(s.text.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "text above 4 GiB"))?;
        w.write_all(&[0; HEADER_BYTES])?;
        w.write_all(&text_bytes.to_le_bytes())?;
        w.write_all(s.text.as_bytes())?;
        write_preamble(w, &self.options.fingerprint)?;
        let mut payload_bytes = PREAMBLE_BYTES as u64;
        payload_bytes += write_section(w, Kind::Key, &mut |w| w.write_all(s.key))?;
        payload_bytes += write_section(w, Kind::Tokens, &mut |w| {
            s.tokens.iter().try_for_each(|t| w.write_all(&t.to_le_bytes()))
        })?;
        payload_bytes += write_section(w, Kind::Logits, &mut |w| {
            s.logits.iter().try_for_each(|x| w.write_all(&x.to_le_bytes()))
        })?;
        payload_bytes += write_section(w, Kind::Sequence, &mut |w| {
            state(w).map_err(|what| {
                *failed = Some(what);
                io::Error::other("sequence")
            })
        })?;
        if !s.tools.is_empty() {
            w.write_all(&tools::encode(s.tools))?;
        }
        let total = w.stream_position()?;
        w.seek(SeekFrom::Start(0))?;
        w.write_all(&self.header(s, payload_bytes).encode())?;
        Ok(total)
    }

    fn header(&self, s: &Snapshot<'_>, payload_bytes: u64) -> Header {
        let f = &self.options.fingerprint;
        let now = now_s();
        Header {
            quant_bits: self.options.quant_bits,
            reason: s.reason,
            has_tools: !s.tools.is_empty(),
            tokens: u32::try_from(s.tokens.len()).unwrap_or(u32::MAX),
            hits: 0,
            ctx: self.options.ctx,
            model: u32::from_le_bytes([f[0], f[1], f[2], f[3]]),
            created: now,
            last_used: now,
            payload_bytes,
        }
    }

    /// Renames into place and makes the name durable.
    fn publish(&self, temp: &Path, name: &str) -> Result<()> {
        let path = self.path(name);
        fs::rename(temp, &path).map_err(|e| Error::io(&path, e))?;
        let dir = File::open(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        dir.sync_all().map_err(|e| Error::io(&self.dir, e))
    }

    fn adopt(&mut self, name: String) -> Result<Saved> {
        let entry = read_entry(&self.path(&name), &name, &self.options.fingerprint)?;
        let bytes = entry.file_bytes;
        self.entries.push(entry);
        let evicted = self.evict_to_budget(Some(&name))?;
        Ok(Saved::Written { name, bytes, evicted })
    }
}
