//! Reads little-endian numbers and strings out of untrusted bytes, each length checked before use.

use std::fmt::{self, Arguments};

use crate::Error;

/// A position in `data`; every message names `file`, the byte and what was being read.
pub(crate) struct Cursor<'a> {
    file: &'a str,
    data: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a str, data: &'a [u8]) -> Self {
        Self { file, data, pos: 0 }
    }

    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    pub(crate) fn left(&self) -> usize {
        self.data.len() - self.pos
    }

    /// An [`Error::Format`] at the current byte.
    pub(crate) fn error(&self, what: Arguments<'_>) -> Error {
        Error::format(self.file, format!("{what} (at byte {})", self.pos))
    }

    fn truncated(&self, what: Arguments<'_>, need: u64) -> Error {
        let (pos, left) = (self.pos, self.left() as u64);
        let missing = need.saturating_sub(left);
        self.error_at(format_args!(
            "truncated: {what} at byte {pos} needs {missing} more bytes than the file has; \
             fetch or write the file again"
        ))
    }

    fn error_at(&self, what: Arguments<'_>) -> Error {
        Error::format(self.file, what.to_string())
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: u64, what: Arguments<'_>) -> Result<&'a [u8], Error> {
        let found = usize::try_from(n).ok().and_then(|n| self.data[self.pos..].get(..n));
        let bytes = found.ok_or_else(|| self.truncated(what, n))?;
        self.pos += bytes.len();
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: Arguments<'_>) -> Result<[u8; N], Error> {
        let (bytes, _) = self.data[self.pos..]
            .split_first_chunk::<N>()
            .ok_or_else(|| self.truncated(what, N as u64))?;
        self.pos += N;
        Ok(*bytes)
    }

    pub(crate) fn u32(&mut self, what: Arguments<'_>) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: Arguments<'_>) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number that counts something: refused above `max`.
    pub(crate) fn count(&mut self, max: u64, what: Arguments<'_>) -> Result<u64, Error> {
        let n = self.u64(what)?;
        if n > max {
            return Err(self.error_at(format_args!("{what} is {n}, the limit is {max}")));
        }
        Ok(n)
    }

    /// A string: u64 length, then UTF-8.
    pub(crate) fn str(&mut self, max: u64, what: Arguments<'_>) -> Result<&'a str, Error> {
        let n = self.count(max, format_args!("length of {what}"))?;
        let at = self.pos;
        let bytes = self.take(n, what)?;
        std::str::from_utf8(bytes).map_err(|e| {
            let bad = at + e.valid_up_to();
            self.error_at(format_args!("{what} is not valid UTF-8 (at byte {bad})"))
        })
    }
}

/// A string of the file for messages: quoted, escaped and cut.
#[derive(Clone, Copy)]
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS: usize = 60;
        match self.0.char_indices().nth(CHARS) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}
