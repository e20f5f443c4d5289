//! Sampled tokens to what a reader sees.

use ds4_model::TokenId;
use ds4_text::{Detok, Specials, Tokenizer};

use crate::{End, Result};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Reasoning.
    Thinking(String),
    /// The answer itself.
    Text(String),
}

/// Turns tokens into events as they are sampled.
pub struct AnswerReader<'a> {
    detok: Detok<'a>,
    think_close: u32,
    thinks: bool,
}

impl<'a> AnswerReader<'a> {
    /// A reader at the start of an answer that begins with thinking if `thinks`.
    pub fn new(tokenizer: &'a Tokenizer, thinks: bool) -> Self {
        let think_close = tokenizer.specials().think_close;
        Self { detok: Detok::new(tokenizer), think_close, thinks }
    }

    /// Takes the next token.
    pub fn push(&mut self, token: TokenId) -> Result<Vec<Event>> {
        if self.thinks && token.0 == self.think_close {
            let text = self.detok.finish();
            let events = self.event(text);
            self.thinks = false;
            return Ok(events);
        }
        let text = self.detok.push(token.0)?;
        Ok(self.event(text))
    }

    /// The end of the answer.
    pub fn finish(&mut self, _: End) -> Vec<Event> {
        let text = self.detok.finish();
        self.event(text)
    }

    fn event(&self, text: String) -> Vec<Event> {
        if text.is_empty() {
            return Vec::new();
        }
        vec![if self.thinks { Event::Thinking(text) } else { Event::Text(text) }]
    }
}

/// Tokens that end an answer: the end of sequence, and those that could only open somebody else's
/// turn.
pub fn stop_ids(specials: &Specials) -> Vec<TokenId> {
    let own = [specials.eos, specials.user, specials.bos];
    own.into_iter().chain(specials.eot).map(TokenId).collect()
}
