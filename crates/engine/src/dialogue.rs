//! A conversation of two by its exact tokens: what was sampled is never tokenised again.
//!
//! A next turn extends what the live sequence holds: earlier turns keep their ids, reasoning
//! included, so only the new turn is computed. The texts between them are rendered by the April
//! profile, one turn at a time, which is what it writes for the whole when no reasoning is dropped.

use ds4_model::TokenId;
use ds4_text::render::april::{Mode, render_messages};

use ds4_text::{Message, Role, Tokenizer};

use crate::Result;

/// A conversation between a user and the model.
#[derive(Clone, Debug, Default)]
pub struct Dialogue {
    system: String,
    turns: Vec<Turn>,
}

/// What the user said and what the model answered.
#[derive(Clone, Debug)]
struct Turn {
    user: String,
    /// Whether the model was to think.
    thinks: bool,
    /// Sampled tokens, without the end token.
    answer: Vec<TokenId>,
}

impl Dialogue {
    /// A conversation under a system prompt, empty for none.
    pub fn new(system: &str) -> Self {
        Self { system: system.to_owned(), turns: Vec::new() }
    }

    /// Adds what the user says; the answer begins with thinking if `thinks`.
    pub fn ask(&mut self, user: &str, thinks: bool) {
        self.turns.push(Turn { user: user.to_owned(), thinks, answer: Vec::new() });
    }

    /// Adds tokens that the model has answered to the last question.
    pub fn answer(&mut self, ids: &[TokenId]) {
        let turn = self.turns.last_mut().expect("somebody has asked");
        turn.answer.extend_from_slice(ids);
    }

    /// Takes the last question back, with what was answered to it.
    pub fn retract(&mut self) {
        self.turns.pop();
    }

    /// Forgets all turns.
    pub fn clear(&mut self) {
        self.turns.clear();
    }

    /// Questions so far.
    pub fn n_turns(&self) -> usize {
        self.turns.len()
    }

    /// The tokens of the whole conversation, up to the model's next word. `max_effort` puts the
    /// maximum-effort text in front.
    pub fn prompt(&self, tokenizer: &Tokenizer, max_effort: bool) -> Result<Vec<TokenId>> {
        let mut prompt = Vec::new();
        for (ix, turn) in self.turns.iter().enumerate() {
            let is_last = ix + 1 == self.turns.len();
            let is_first = ix == 0;
            let mut messages = Vec::new();
            if is_first && !self.system.is_empty() {
                messages.push(Message::new(Role::System, &*self.system));
            }
            messages.push(Message::new(Role::User, &*turn.user));
            let thinking = turn.thinks;
            let max_effort = is_first && max_effort;
            let mode = Mode { thinking, max_effort, drop_thinking: false };
            let rendered = render_messages(&messages, mode)?;
            let ids = tokenizer.encode_segments(rendered.segments())?;
            // Every rendering begins with BOS; a conversation has one.
            let ids = &ids[usize::from(!is_first)..];
            prompt.extend(ids.iter().map(|&id| TokenId(id)));
            prompt.extend(&turn.answer);
            if !is_last {
                prompt.extend(turn.end(tokenizer));
            }
        }
        Ok(prompt)
    }
}

impl Turn {
    /// What closes the answer: an answer cut off while thinking stops thinking first.
    fn end(&self, tokenizer: &Tokenizer) -> impl Iterator<Item = TokenId> {
        let specials = tokenizer.specials();
        let close = TokenId(specials.think_close);
        let is_thinking = self.thinks && !self.answer.contains(&close);
        is_thinking.then_some(close).into_iter().chain([TokenId(specials.eos)])
    }
}
