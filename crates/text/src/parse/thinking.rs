//! Tool calls that the model writes while it is still thinking.
//!
//! They are reasoning like any other text, unless the output ends right after a whole block without
//! the thinking ever having been closed: then the block was meant (§C.6 rule 2). So a block that
//! could still be the end is held back.

use super::Declared;
use super::block::Block;
use super::event::Event;
use super::marks::TAG;
use super::tag::{Dialect, Found, Name, Tag, read};

/// A block held back, with the white space before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldBlock {
    /// Where the opening tag begins.
    start: usize,
    /// Where the first call begins, once the opening tag is known to be one.
    calls: Option<usize>,
    /// Where to go on searching for closing tags.
    scan: usize,
    /// Where the closing tag ends whose successor is not known yet.
    end: Option<usize>,
}

/// Whether what is held may still be the end of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Open,
    /// No: it is text, this many bytes of it at least.
    Text(usize),
}

impl HeldBlock {
    /// A block whose opening tag begins at `start`.
    pub(super) fn new(start: usize) -> Self {
        Self { start, calls: None, scan: start, end: None }
    }

    /// Looks at all that is held; `bytes` only ever grow.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Verdict {
        if self.calls.is_none() {
            match self.find_calls(bytes) {
                Ok(Some(calls)) => self.calls = Some(calls),
                Ok(None) => return Verdict::Open,
                Err(text) => return Verdict::Text(text),
            }
        }
        let closing = [b"</".as_slice(), &[TAG], b"tool_calls>"].concat();
        loop {
            // Each closing tag is judged by what follows it, before the next one is looked for.
            if let Some(end) = self.end {
                match bytes[end..].trim_ascii_start() {
                    [] | [b'<'] => return Verdict::Open,
                    [b'<', TAG, ..] => self.end = None,
                    _ => return Verdict::Text(end),
                }
            }
            let found = bytes[self.scan..].windows(closing.len()).position(|w| w == closing);
            let Some(at) = found else {
                self.scan = self.scan.max((bytes.len() + 1).saturating_sub(closing.len()));
                return Verdict::Open;
            };
            self.scan += at + closing.len();
            self.end = Some(self.scan);
        }
    }

    /// Where the first call begins: `None` when that is not known yet, an error when what is held
    /// is not a block of calls but text up to there.
    fn find_calls(&self, bytes: &[u8]) -> Result<Option<usize>, usize> {
        let head = match read(&bytes[self.start..], Dialect::Marked) {
            Found::Partial => return Ok(None),
            Found::Tag(tag) if opens_block(&tag) => self.start + tag.len,
            Found::Tag(_) | Found::No => return Err(self.start + 1),
        };
        let space = bytes[head..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        let calls = head + space;
        if calls == bytes.len() {
            return Ok(None);
        }
        match read_at(bytes, calls) {
            Found::Partial => Ok(None),
            Found::Tag(tag) if tag.name == Name::Invoke && !tag.is_close => Ok(Some(calls)),
            Found::Tag(_) | Found::No => Err(head),
        }
    }
}

fn read_at(bytes: &[u8], at: usize) -> Found {
    if bytes[at] == b'<' { read(&bytes[at..], Dialect::Marked) } else { Found::No }
}

/// The whole block of declared functions at the end of held text: where its opening tag begins, and
/// what it says.
pub(super) fn last_block(bytes: &[u8], declared: &Declared) -> Option<(usize, Vec<Event>)> {
    let mut openings = (0..bytes.len()).rev().filter(|&at| bytes[at..].starts_with(&[b'<', TAG]));
    let (at, tag) = openings.find_map(|at| match read(&bytes[at..], Dialect::Marked) {
        Found::Tag(tag) if opens_block(&tag) => Some((at, tag)),
        _ => None,
    })?;
    let (mut block, mut events) = (Block::new(Dialect::Marked), Vec::new());
    block.feed(&bytes[at + tag.len..], &mut events);
    let is_whole = block.is_done() && block.is_clean() && block.rest().trim_ascii().is_empty();
    let is_meant = block.names().len() > 0 && block.names().all(|name| declared.has(name));
    (is_whole && is_meant).then_some((at, events))
}

fn opens_block(tag: &Tag) -> bool {
    matches!(tag.name, Name::Block | Name::Other) && !tag.is_close
}
