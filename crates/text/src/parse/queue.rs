//! Bytes that are appended at the end and taken from the start, without moving the rest each time.

use std::ops::Deref;

/// A queue of bytes, read as a slice.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    start: usize,
}

impl Queue {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Moving as many bytes as were taken since costs no more than taking them did.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes bytes from the start away.
    pub(super) fn skip(&mut self, n: usize) {
        assert!(n <= self.len(), "{n} of {} bytes", self.len());
        self.start += n;
    }
}

impl Deref for Queue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
