//! Control tokens in a stream of output, as single bytes that UTF-8 never uses.
//!
//! Behind this point a control token cannot be confused with text that spells its literal. Where
//! only text is known, the literals are taken for the tokens.

use crate::control::{DSML, EOS, THINK_CLOSE, THINK_OPEN};
use crate::utf8::Utf8Stream;

/// Opens reasoning.
pub(super) const OPEN: u8 = 0xf8;
/// Closes reasoning.
pub(super) const CLOSE: u8 = 0xf9;
/// Marks a tag of a tool call.
pub(super) const TAG: u8 = 0xfa;
/// Ends the output.
pub(super) const END: u8 = 0xfb;

const LITERALS: [(&str, u8); 4] =
    [(THINK_OPEN, OPEN), (THINK_CLOSE, CLOSE), (DSML, TAG), (EOS, END)];

/// Turns bytes and control tokens into marked text.
#[derive(Clone, Debug, Default)]
pub(super) struct MarkStream {
    utf8: Utf8Stream,
    /// Text whose end may be the beginning of a literal.
    held: String,
}

impl MarkStream {
    /// Appends ordinary text; nothing in it is control.
    pub(super) fn plain(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.utf8.push(bytes, &mut self.held);
        out.extend_from_slice(self.held.as_bytes());
        self.held.clear();
    }

    /// Appends text in which the literals are control.
    pub(super) fn tolerant(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.utf8.push(bytes, &mut self.held);
        let (mut done, mut at) = (0, 0);
        while let Some(found) = self.held[at..].find(['<', '｜']) {
            let start = at + found;
            let rest = &self.held[start..];
            if let Some((literal, mark)) = LITERALS.iter().find(|(l, _)| rest.starts_with(l)) {
                out.extend_from_slice(&self.held.as_bytes()[done..start]);
                out.push(*mark);
                at = start + literal.len();
                done = at;
            } else if LITERALS.iter().any(|(literal, _)| literal.starts_with(rest)) {
                out.extend_from_slice(&self.held.as_bytes()[done..start]);
                self.held.drain(..start);
                return;
            } else {
                at = start + rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        out.extend_from_slice(&self.held.as_bytes()[done..]);
        self.held.clear();
    }

    /// Appends a control token; a character that it cuts off is replaced.
    pub(super) fn mark(&mut self, mark: u8, out: &mut Vec<u8>) {
        self.finish(out);
        out.push(mark);
    }

    /// Appends what was held back.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.utf8.finish(&mut self.held);
        out.extend_from_slice(self.held.as_bytes());
        self.held.clear();
    }
}

/// Marked bytes as text, control tokens by their literals.
pub(super) fn to_text(marked: &[u8]) -> String {
    let mut text = String::with_capacity(marked.len());
    for chunk in marked.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let literal = LITERALS.iter().find(|(_, mark)| mark == byte);
            text.push_str(literal.map_or("\u{fffd}", |(literal, _)| literal));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], expected: &[u8]) {
        let (mut stream, mut out) = (MarkStream::default(), Vec::new());
        for piece in pieces {
            stream.tolerant(piece.as_bytes(), &mut out);
        }
        stream.finish(&mut out);
        assert_eq!(out, expected, "{pieces:?}");
        assert_eq!(to_text(&out), pieces.concat());
    }

    #[test]
    fn literals_become_marks_wherever_they_are_cut() {
        check(&["a<thi", "nk>b</think", ">"], b"a\xf8b\xf9");
        check(&["<think", "<think>"], b"<think\xf8");
        check(&["<", "｜DSML", "｜x"], b"<\xfax");
        check(
            &["<｜", "｜DSML｜｜"],
            "<｜\u{1}｜"
                .replace('\u{1}', "")
                .as_bytes()
                .iter()
                .copied()
                .take(4)
                .chain([0xfa])
                .chain("｜".bytes())
                .collect::<Vec<u8>>()
                .as_slice(),
        );
        check(&["tail ｜DSM"], "tail ｜DSM".as_bytes());
        check(&["x<｜end▁of▁sentence｜>"], b"x\xfb");
    }

    #[test]
    fn plain_text_stays_text() {
        let (mut stream, mut out) = (MarkStream::default(), Vec::new());
        stream.plain("</think>｜DSML｜".as_bytes(), &mut out);
        stream.plain(b"\xe4\xb8", &mut out);
        stream.mark(CLOSE, &mut out);
        assert_eq!(out, "</think>｜DSML｜\u{fffd}".bytes().chain([CLOSE]).collect::<Vec<u8>>());
    }
}
