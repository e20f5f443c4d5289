//! What a `<` in the content is: text, or the beginning of a block of tool calls.

use super::Declared;
use super::block::Block;
use super::event::Event;
use super::marks::TAG;
use super::tag::{Dialect, Found, Name, read};
use crate::limits;

/// What stands at a `<`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Text.
    Text,
    /// More bytes are needed to tell.
    Partial,
    /// A marked tag that means nothing here, of this length: never content.
    Stray(usize),
    /// A block of calls; it begins after this many bytes of opening tag.
    Block(usize),
    /// The head of a block without its mark, whose opening tag has this length. It is a block only
    /// if it proves whole and calls declared functions.
    Bare(Dialect, usize),
}

/// Reads what stands at the start of `bytes`, which begin with `<`. Blocks without their mark are
/// only found if `forgives`.
pub(super) fn read_opening(bytes: &[u8], declared: &Declared, forgives: bool) -> Opening {
    match bytes {
        [b'<'] | [b'<', b'/'] => Opening::Partial,
        [b'<', TAG, ..] | [b'<', b'/', TAG, ..] => marked(bytes, declared),
        _ if !forgives => Opening::Text,
        _ => [Dialect::Bare, Dialect::Short]
            .into_iter()
            .map(|dialect| bare(bytes, dialect, declared))
            .find(|opening| *opening != Opening::Text)
            .unwrap_or(Opening::Text),
    }
}

fn marked(bytes: &[u8], declared: &Declared) -> Opening {
    let tag = match read(bytes, Dialect::Marked) {
        Found::Partial => return Opening::Partial,
        Found::No => return Opening::Stray(if bytes[1] == b'/' { 3 } else { 2 }),
        Found::Tag(tag) => tag,
    };
    let is_declared = |name: Option<&str>| name.is_some_and(|name| declared.has(name));
    match tag.name {
        // A lost opening tag is forgiven when a declared function is called.
        Name::Invoke if !tag.is_close && is_declared(tag.key.as_deref()) => Opening::Block(0),
        Name::Block | Name::Other if !tag.is_close => {
            let is_known = tag.name == Name::Block;
            match first_tag(bytes, tag.len, Dialect::Marked) {
                Found::Partial => Opening::Partial,
                Found::Tag(call) if call.name == Name::Invoke && !call.is_close => {
                    let is_call = if is_known {
                        call.key.is_some()
                    } else {
                        is_declared(call.key.as_deref())
                    };
                    if is_call { Opening::Block(tag.len) } else { Opening::Stray(tag.len) }
                }
                // An empty block.
                Found::Tag(end) if is_known && end.is_close => Opening::Block(tag.len),
                Found::Tag(_) | Found::No => Opening::Stray(tag.len),
            }
        }
        _ => Opening::Stray(tag.len),
    }
}

fn bare(bytes: &[u8], dialect: Dialect, declared: &Declared) -> Opening {
    let tag = match read(bytes, dialect) {
        Found::Partial => return Opening::Partial,
        Found::Tag(tag) if tag.name == Name::Block && !tag.is_close => tag,
        Found::Tag(_) | Found::No => return Opening::Text,
    };
    match first_tag(bytes, tag.len, dialect) {
        Found::Partial => Opening::Partial,
        Found::Tag(call)
            if call.name == Name::Invoke
                && !call.is_close
                && call.key.as_deref().is_some_and(|name| declared.has(name)) =>
        {
            Opening::Bare(dialect, tag.len)
        }
        Found::Tag(_) | Found::No => Opening::Text,
    }
}

/// The tag that follows at `at`, after white space.
fn first_tag(bytes: &[u8], at: usize, dialect: Dialect) -> Found {
    let rest = bytes[at..].trim_ascii_start();
    match rest.first() {
        None => Found::Partial,
        Some(b'<') => read(rest, dialect),
        Some(_) => Found::No,
    }
}

/// A block without its mark, held back with the white space before it until it is whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct BareBlock {
    dialect: Dialect,
    /// Where the inside begins.
    inside: usize,
    /// Where to go on searching for closing tags.
    scan: usize,
    tries: usize,
}

/// What became of a held block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Open,
    Text,
    Calls(Vec<Event>),
}

impl BareBlock {
    /// A block whose inside begins at `inside`.
    pub(super) fn new(dialect: Dialect, inside: usize) -> Self {
        Self { dialect, inside, scan: inside, tries: 0 }
    }

    /// Looks at all that is held; `bytes` only ever grow.
    pub(super) fn look(&mut self, bytes: &[u8], declared: &Declared) -> Verdict {
        while let Some(at) = bytes[self.scan..].iter().position(|b| *b == b'<') {
            self.scan += at;
            match read(&bytes[self.scan..], self.dialect) {
                Found::Partial => return Verdict::Open,
                Found::Tag(tag) if tag.is_close && tag.name == Name::Block => {
                    self.scan += tag.len;
                    if let Some(events) = self.parse(&bytes[..self.scan], declared, false) {
                        return Verdict::Calls(events);
                    }
                    self.tries += 1;
                    if self.tries == limits::BARE_BLOCK_TRIES {
                        return Verdict::Text;
                    }
                }
                Found::Tag(_) | Found::No => self.scan += 1,
            }
        }
        self.scan = bytes.len();
        Verdict::Open
    }

    /// What the block says, if it is whole and all its functions are declared. At the end of the
    /// output its closing tag may be missing.
    pub(super) fn parse(
        &self,
        bytes: &[u8],
        declared: &Declared,
        is_end: bool,
    ) -> Option<Vec<Event>> {
        let (mut block, mut events) = (Block::new(self.dialect), Vec::new());
        block.feed(&bytes[self.inside..], &mut events);
        let is_whole = block.is_done() || (is_end && block.is_between_calls());
        let is_meant = block.names().len() > 0 && block.names().all(|name| declared.has(name));
        (is_whole && is_meant).then_some(events)
    }
}
