//! The model's output, taken apart as it arrives: reasoning, content and tool calls (§C).
//!
//! The parser is driven by tokens ([`Parser::push_token`]), so that text which merely spells a
//! control token is text; where only text is known ([`Parser::push_text`]) the literals count. Its
//! decisions depend on the bytes alone, never on how they are cut, and nothing in the output makes
//! it fail: what is broken becomes content, without the markers.
//!
//! Inside a block of calls `block.rs` takes over; `tag.rs` and `value.rs` are its grammar.
//! `thinking.rs` and `opening.rs` decide about the two kinds of blocks that can only be judged as a
//! whole.

use crate::control::Specials;
use crate::limits;

mod block;
mod event;
mod marks;
mod opening;
mod queue;
mod tag;
mod thinking;
mod value;

pub use event::{End, Event, FinishReason, Outcome, ParsedCall};

use block::{Block, Inside};
use marks::{CLOSE, END, MarkStream, OPEN, TAG, to_text};
use opening::{BareBlock, Opening, read_opening};
use tag::Dialect;
use thinking::HeldBlock;

/// Which functions the client declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Declared {
    /// None: tags are ordinary text.
    #[default]
    None,
    /// Every name counts as declared.
    Any,
    /// These.
    Names(Vec<String>),
}

impl Declared {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Any => true,
            Self::Names(names) => names.iter().any(|declared| declared == name),
        }
    }
}

/// What the parser must know about the prompt.
#[derive(Clone, Debug, Default)]
pub struct ParserOptions {
    /// Whether the prompt ends in an opened reasoning.
    pub thinking: bool,
    /// Whether the prompt ends inside an opened block of tool calls.
    pub in_block: bool,
    /// The declared functions.
    pub declared: Declared,
    /// Whether literals of control tokens in the text of ordinary tokens count as the tokens.
    pub literals: bool,
}

/// What the next token is part of, for the sampler (§C.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Reasoning.
    Thinking,
    /// Content.
    Text,
    /// Tags, attributes and what stands between them.
    Structure,
    /// A string value.
    StringBody,
    /// JSON punctuation, keys, numbers.
    Json,
    /// A string inside a JSON value.
    JsonString,
    /// Nothing: the output is complete.
    Done,
}

/// An incremental parser of one answer.
#[derive(Clone, Debug)]
pub struct Parser {
    declared: Declared,
    literals: bool,
    input: MarkStream,
    /// Marked bytes that are not decided yet.
    buf: Vec<u8>,
    /// Bytes at the start of the buffer that are known not to begin anything.
    scanned: usize,
    state: State,
    /// Whether blocks without their mark are still looked for.
    forgives_marks: bool,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum State {
    /// Before the first byte; whether the prompt opened the reasoning.
    Start(bool),
    /// Reasoning; the buffer begins with a held block, if there is one.
    Thinking(Option<HeldBlock>),
    /// Content, likewise.
    Text(Option<BareBlock>),
    Block(Box<Block>),
    Done,
}

impl Parser {
    /// A parser at the start of an answer.
    pub fn new(options: ParserOptions) -> Self {
        let state = if options.in_block {
            State::Block(Box::new(Block::new(Dialect::Marked)))
        } else {
            State::Start(options.thinking)
        };
        Self {
            declared: options.declared,
            literals: options.literals,
            input: MarkStream::default(),
            buf: Vec::new(),
            scanned: 0,
            state,
            forgives_marks: true,
            outcome: Outcome::default(),
        }
    }

    /// Takes the next sampled token and the bytes that it stands for.
    pub fn push_token(&mut self, specials: &Specials, id: u32, bytes: &[u8]) -> Vec<Event> {
        let old = self.buf.len();
        if id == specials.think_open {
            self.input.mark(OPEN, &mut self.buf);
        } else if id == specials.think_close {
            self.input.mark(CLOSE, &mut self.buf);
        } else if Some(id) == specials.dsml {
            self.input.mark(TAG, &mut self.buf);
        } else if specials.is_stop(id) || id == specials.assistant {
            self.input.mark(END, &mut self.buf);
        } else if self.literals {
            self.input.tolerant(bytes, &mut self.buf);
        } else {
            self.input.plain(bytes, &mut self.buf);
        }
        self.run(old)
    }

    /// Takes the next bytes of text in which literals of control tokens are the tokens.
    pub fn push_text(&mut self, bytes: &[u8]) -> Vec<Event> {
        let old = self.buf.len();
        self.input.tolerant(bytes, &mut self.buf);
        self.run(old)
    }

    /// Whether the answer is complete: generation should stop.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// What the next token is part of.
    pub fn region(&self) -> Region {
        match &self.state {
            State::Start(true) | State::Thinking(_) => Region::Thinking,
            State::Text(None) if self.buf.contains(&TAG) => Region::Structure,
            State::Start(false) | State::Text(_) => Region::Text,
            State::Done => Region::Done,
            State::Block(block) => match block.inside() {
                Inside::Structure => Region::Structure,
                Inside::String => Region::StringBody,
                Inside::Json => Region::Json,
                Inside::JsonString => Region::JsonString,
            },
        }
    }

    /// Ends the output; further calls have no effect.
    pub fn finish(&mut self, end: End) -> Vec<Event> {
        let old = self.buf.len();
        self.input.finish(&mut self.buf);
        let mut events = self.run(old);
        self.end(end, &mut events);
        events
    }

    /// Everything parsed so far.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Goes on after bytes have been appended to the `old` ones.
    fn run(&mut self, old: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let end = self.buf[old..].iter().position(|b| *b == END);
        self.buf.truncate(end.map_or(self.buf.len(), |end| old + end));
        while self.step(&mut events) {}
        for event in &events {
            self.outcome.add(event);
        }
        if end.is_some() {
            self.end(End::Stop, &mut events);
        }
        events
    }

    /// Consumes what can be consumed; false when more bytes are needed.
    fn step(&mut self, out: &mut Vec<Event>) -> bool {
        match &mut self.state {
            State::Start(thinking) => {
                let Some(first) = self.buf.first() else { return false };
                let opens = *first == OPEN;
                let thinks = *thinking || opens;
                self.state = if thinks { State::Thinking(None) } else { State::Text(None) };
                self.buf.drain(..usize::from(opens));
                true
            }
            State::Thinking(_) => self.step_thinking(out),
            State::Text(_) if self.declared == Declared::None => self.step_plain(out),
            State::Text(_) => self.step_text(out),
            State::Block(block) => {
                block.feed(&self.buf, out);
                self.buf.clear();
                if block.is_done() {
                    self.state = State::Done;
                }
                false
            }
            State::Done => {
                self.buf.clear();
                false
            }
        }
    }

    fn step_thinking(&mut self, out: &mut Vec<Event>) -> bool {
        let State::Thinking(held) = &mut self.state else { return false };
        if let Some(at) = self.buf[self.scanned..].iter().position(|b| *b == CLOSE) {
            let at = self.scanned + at;
            self.take_thinking(at, out);
            self.buf.drain(..1);
            self.state = State::Text(None);
            return true;
        }
        let n = self.buf.len();
        if let Some(held) = held {
            match held.look(&self.buf) {
                thinking::Verdict::Open => {
                    self.scanned = n;
                    return false;
                }
                thinking::Verdict::Text(len) => {
                    self.take_thinking(len, out);
                    self.state = State::Thinking(None);
                    return true;
                }
            }
        }
        if self.declared == Declared::None {
            self.take_thinking(n, out);
            return false;
        }
        let tag = self.buf.windows(2).position(|pair| pair == [b'<', TAG]);
        let end = tag.unwrap_or(n - usize::from(self.buf.ends_with(b"<")));
        let space = space_before(&self.buf, end);
        self.take_thinking(space, out);
        if tag.is_some() {
            self.state = State::Thinking(Some(HeldBlock::new(end - space)));
        }
        tag.is_some()
    }

    /// Content without declared functions: nothing is held.
    fn step_plain(&mut self, out: &mut Vec<Event>) -> bool {
        let close = self.buf.iter().position(|b| *b == CLOSE);
        self.take_text(close.unwrap_or(self.buf.len()), out);
        self.buf.drain(..usize::from(close.is_some()));
        close.is_some()
    }

    fn step_text(&mut self, out: &mut Vec<Event>) -> bool {
        let State::Text(held) = &mut self.state else { return false };
        if let Some(held) = held {
            match held.look(&self.buf, &self.declared) {
                opening::Verdict::Open => return false,
                opening::Verdict::Text => {
                    self.forgives_marks = false;
                    self.state = State::Text(None);
                }
                opening::Verdict::Calls(events) => {
                    let start = space_end(&self.buf);
                    self.take_text_before_block(start, out);
                    out.extend(events);
                    self.state = State::Done;
                }
            }
            return true;
        }
        let found = self.buf[self.scanned..].iter().position(|b| matches!(*b, b'<' | CLOSE));
        let Some(at) = found.map(|at| self.scanned + at) else {
            let space = space_before(&self.buf, self.buf.len());
            self.take_text(space, out);
            return false;
        };
        if self.buf[at] == CLOSE {
            // Thinking is closed already.
            self.buf.remove(at);
            self.scanned = at;
            return true;
        }
        match read_opening(&self.buf[at..], &self.declared, self.forgives_marks) {
            Opening::Text => self.scanned = at + 1,
            Opening::Stray(len) => {
                self.buf.drain(at..at + len);
                self.scanned = at;
            }
            Opening::Partial => {
                let space = space_before(&self.buf, at);
                self.take_text(space, out);
                self.scanned = at - space;
                return false;
            }
            Opening::Block(len) => {
                self.take_text_before_block(at, out);
                self.buf.drain(..len);
                self.state = State::Block(Box::new(Block::new(Dialect::Marked)));
            }
            Opening::Bare(dialect, len) => {
                let space = space_before(&self.buf, at);
                self.take_text(space, out);
                let inside = at - space + len;
                self.state = State::Text(Some(BareBlock::new(dialect, inside)));
            }
        }
        true
    }

    /// Ends the output in whatever state it is.
    fn end(&mut self, end: End, events: &mut Vec<Event>) {
        let mut last = Vec::new();
        self.judge_held(end, &mut last);
        match &mut self.state {
            State::Start(_) | State::Done => {}
            State::Block(block) => block.finish(end, &mut last),
            State::Thinking(_) => self.take_thinking(self.buf.len(), &mut last),
            State::Text(_) => {
                // A marked tag that broke off is not content.
                let rest = self.buf.trim_ascii_start();
                if matches!(rest, [b'<', TAG, ..] | [b'<', b'/', TAG, ..]) {
                    self.buf.truncate(space_end(&self.buf));
                }
                self.take_text(self.buf.len(), &mut last);
            }
        }
        self.state = State::Done;
        self.buf.clear();
        for event in &last {
            self.outcome.add(event);
        }
        events.append(&mut last);
    }

    /// Decides at the end of the output what a held block is: calls, or text after all.
    fn judge_held(&mut self, end: End, out: &mut Vec<Event>) {
        match &self.state {
            State::Thinking(Some(_)) if end == End::Stop => {
                if let Some((start, events)) = thinking::last_block(&self.buf, &self.declared) {
                    self.take_thinking(before_block(&self.buf[..start]), out);
                    out.extend(events);
                    self.state = State::Done;
                }
            }
            State::Text(Some(held)) => {
                let whole = held.parse(&self.buf, &self.declared, true);
                if let (End::Stop, Some(events)) = (end, whole) {
                    self.take_text_before_block(space_end(&self.buf), out);
                    out.extend(events);
                    self.state = State::Done;
                } else {
                    self.forgives_marks = false;
                    self.state = State::Text(None);
                    while self.step(out) {}
                }
            }
            _ => {}
        }
    }

    fn take_thinking(&mut self, len: usize, out: &mut Vec<Event>) {
        if len > 0 {
            out.push(Event::Thinking(to_text(&self.buf[..len])));
        }
        self.buf.drain(..len);
        self.scanned = 0;
    }

    fn take_text(&mut self, len: usize, out: &mut Vec<Event>) {
        if len > 0 {
            out.push(Event::Text(to_text(&self.buf[..len])));
        }
        self.buf.drain(..len);
        self.scanned = 0;
    }

    /// Takes the text before a block that begins at `start`, up to the block.
    fn take_text_before_block(&mut self, start: usize, out: &mut Vec<Event>) {
        let len = before_block(&self.buf[..start]);
        self.take_text(len, out);
        self.buf.drain(..start - len);
    }
}

/// Length of the text before a block of calls without what separates them: the blank line that
/// belongs to the block or, where the model did not write that, all white space.
fn before_block(text: &[u8]) -> usize {
    match text.strip_suffix(b"\n\n") {
        Some(text) => text.len(),
        None => space_before(text, text.len()),
    }
}

/// Where the white space before `end` begins, as far as it is ever held back.
fn space_before(bytes: &[u8], end: usize) -> usize {
    let floor = end.saturating_sub(limits::HELD_SPACE_MAX);
    floor + bytes[floor..end].trim_ascii_end().len()
}

/// Where the white space at the start ends.
fn space_end(bytes: &[u8]) -> usize {
    bytes.len() - bytes.trim_ascii_start().len()
}
