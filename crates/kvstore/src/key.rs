//! The key of a cached token list: its rendered bytes, with control tokens marked (kvcache.md §3.4).

use sha1::{Digest, Sha1};

/// Byte that announces a control token; it never occurs in UTF-8.
const CONTROL: u8 = 0xFF;

/// Builds the control-aware encoding of a token list.
///
/// Plain tokens contribute their bytes. A control token contributes `0xFF` and its id as a
/// little-endian u32. A stray `0xFF` byte of a plain token (possible in byte-level vocabularies,
/// impossible in valid UTF-8) is doubled with an id no vocabulary has, so encodings never collide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBuilder {
    bytes: Vec<u8>,
}

impl KeyBuilder {
    /// An empty encoding.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the bytes of a plain token or text.
    pub fn plain(&mut self, bytes: &[u8]) -> &mut Self {
        for &b in bytes {
            self.bytes.push(b);
            if b == CONTROL {
                self.bytes.extend(u32::MAX.to_le_bytes());
            }
        }
        self
    }

    /// Appends a control token.
    pub fn control(&mut self, id: u32) -> &mut Self {
        self.bytes.push(CONTROL);
        self.bytes.extend(id.to_le_bytes());
        self
    }

    /// Forgets all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// The encoding so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the encoding away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A stretch of an encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of plain tokens.
    Plain(Vec<u8>),
    /// A control token.
    Control(u32),
}

/// Takes an encoding apart; no two plain pieces are adjacent. `None` when it is cut within a mark.
pub fn pieces(encoding: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut plain = Vec::new();
    let mut rest = encoding;
    while let Some(at) = rest.iter().position(|&b| b == CONTROL) {
        plain.extend_from_slice(&rest[..at]);
        let (id, after) = rest[at + 1..].split_first_chunk::<4>()?;
        rest = after;
        match u32::from_le_bytes(*id) {
            u32::MAX => plain.push(CONTROL),
            id => {
                if !plain.is_empty() {
                    pieces.push(Piece::Plain(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Control(id));
            }
        }
    }
    plain.extend_from_slice(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Plain(plain));
    }
    Some(pieces)
}

/// File name stem of an encoding: SHA-1 in 40 lower-case hex digits. SHA-1 only names; on load the
/// encoding itself is compared.
pub fn key_name(encoding: &[u8]) -> String {
    hex(&Sha1::digest(encoding))
}

/// Names of several prefixes of one encoding, in one pass. `ends` must ascend.
pub(crate) fn prefix_names(encoding: &[u8], ends: &[usize]) -> Vec<String> {
    let mut sha = Sha1::new();
    let mut done = 0;
    ends.iter()
        .map(|&end| {
            sha.update(&encoding[done..end]);
            done = end;
            hex(&sha.clone().finalize())
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut s, b| {
        for nibble in [b >> 4, b & 15] {
            s.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a hex digit"));
        }
        s
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_text_of_the_same_literal_differ() {
        let mut text = KeyBuilder::new();
        text.plain("<think>".as_bytes());
        let mut control = KeyBuilder::new();
        control.control(128_821);
        assert_ne!(key_name(text.bytes()), key_name(control.bytes()));
    }

    #[test]
    fn a_stray_marker_byte_is_not_a_control_token() {
        let mut stray = KeyBuilder::new();
        stray.plain(&[0xFF, 1, 0, 0, 0]);
        let mut control = KeyBuilder::new();
        control.control(1);
        assert_ne!(stray.bytes(), control.bytes());
    }

    #[test]
    fn pieces_are_what_was_built() {
        let mut key = KeyBuilder::new();
        key.control(1).plain(&[b'a', 0xFF]).plain(b"b").control(2).control(0xFF);
        let expected = [
            Piece::Control(1),
            Piece::Plain(vec![b'a', 0xFF, b'b']),
            Piece::Control(2),
            Piece::Control(0xFF),
        ];
        assert_eq!(pieces(key.bytes()).unwrap(), expected);
        let whole = key.bytes().len();
        assert!((1..5).all(|cut| pieces(&key.bytes()[..whole - cut]).is_none()));
        assert_eq!(pieces(b"").unwrap(), []);
    }

    #[test]
    fn names_are_sha1() {
        assert_eq!(key_name(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(prefix_names(b"abcdef", &[3, 6]), [key_name(b"abc"), key_name(b"abcdef")]);
    }
}
