//! Bytes that arrive in pieces, turned into text: only an incomplete last character is held back.

/// Assembles UTF-8. What can never become a character turns into U+FFFD at once, one for each
/// maximal part, as in the reference's decoder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes bytes and appends the text that is certain now.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut kept = 0;
        for chunk in self.pending.utf8_chunks() {
            out.push_str(chunk.valid());
            let start = kept + chunk.valid().len();
            let invalid = chunk.invalid().len();
            if start + invalid == self.pending.len() && could_go_on(chunk.invalid()) {
                kept = start;
                break;
            }
            if invalid > 0 {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            kept = start + invalid;
        }
        self.pending.drain(..kept);
    }

    /// The bytes held back.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Ends the text: what is held back becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Whether `part`, a maximal invalid part at the end of the bytes, is the beginning of a character.
fn could_go_on(part: &[u8]) -> bool {
    let Some(&lead) = part.first() else { return false };
    let wanted = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return false,
    };
    // The standard library's maximal parts never reach into an impossible second byte, so a part
    // that is shorter than its character can only be cut off.
    part.len() < wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pieces: &[&[u8]], texts: &[&str], end: &str) {
        let mut stream = Utf8Stream::default();
        for (piece, expected) in pieces.iter().zip(texts) {
            let mut out = String::new();
            stream.push(piece, &mut out);
            assert_eq!(out, *expected, "{pieces:?}");
        }
        let mut out = String::new();
        stream.finish(&mut out);
        assert_eq!(out, end, "{pieces:?}");
    }

    #[test]
    fn only_an_incomplete_character_waits() {
        check(&[b"a\xe4", b"\xb8", b"\xad!"], &["a", "", "中!"], "");
        check(&[b"\xf0\x9f", b"\x98"], &["", ""], "\u{fffd}");
        check(&[b"\xff", b"\x80"], &["\u{fffd}", "\u{fffd}"], "");
        check(&[b"\xe4", b"x"], &["", "\u{fffd}x"], "");
        check(&[b"\xe0", b"\x80"], &["", "\u{fffd}\u{fffd}"], "");
        check(&[b"\xed\xa0", b""], &["\u{fffd}\u{fffd}", ""], "");
        check(&[b"\xc3\xc3", b"\xa9"], &["\u{fffd}", "é"], "");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_lossy_text(
            bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 0usize..40,
        ) {
            let (mut stream, mut out) = (Utf8Stream::default(), String::new());
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            stream.push(a, &mut out);
            stream.push(b, &mut out);
            stream.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
