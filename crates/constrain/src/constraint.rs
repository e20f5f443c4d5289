//! One answer under a grammar, token by token.

use std::sync::Arc;

use ds4_text::{Conversation, Role, Tail, Thinking};
use llguidance::Matcher;

use crate::Error;
use crate::grammars::Compiled;

/// How an answer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin<'a> {
    /// Whether the prompt opened the reasoning.
    pub thinking: bool,
    /// Content of the answer that the prompt holds already, for the model to continue.
    pub content: &'a str,
}

impl<'a> Begin<'a> {
    /// As the prompt of a conversation ends.
    pub fn of(conversation: &'a Conversation) -> Self {
        let last = conversation.messages.last();
        let open = last.filter(|m| m.role == Role::Assistant && m.tail == Tail::Open);
        Self {
            thinking: conversation.thinking != Thinking::Off && open.is_none(),
            content: open.map_or("", |message| &message.content),
        }
    }
}

/// Follows one answer and says which tokens may come next.
///
/// While the model thinks everything is allowed, but for the end of an answer that has a form to
/// fulfil. Cloning it is cheap (microseconds): a clone follows a draft, or serves to go back.
#[derive(Clone)]
pub struct Constraint {
    grammar: Arc<Compiled>,
    stage: Stage,
}

#[derive(Clone)]
enum Stage {
    Thinking,
    /// Text in which the model may open a block of calls; the end of it that matters.
    Watching(Watch),
    /// Under the grammar.
    Bound(Box<Matcher>),
    /// After the end of the answer.
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Nothing was written.
    Start,
    /// The text ends with the beginning of an opening tag.
    Tag,
    Text,
}

impl Constraint {
    pub(crate) fn new(grammar: Arc<Compiled>, begin: Begin<'_>) -> Result<Self, Error> {
        let mut constraint = Self { grammar, stage: Stage::Thinking };
        if begin.thinking {
            return Ok(constraint);
        }
        constraint.stage = constraint.answer();
        for id in constraint.grammar.tokenizer.encode_plain(begin.content) {
            constraint.accept(id).map_err(|_| Error::Beginning)?;
        }
        Ok(constraint)
    }

    /// The stage at the beginning of the answer proper.
    fn answer(&self) -> Stage {
        if self.grammar.is_guard { Stage::Watching(Watch::Start) } else { self.bound() }
    }

    fn bound(&self) -> Stage {
        // A copy of its own: what one answer's text teaches the lexer must not use up another's
        // limits.
        Stage::Bound(Box::new(self.grammar.matcher.deep_clone()))
    }

    /// Sets the logits of forbidden tokens to −∞. `logits` has one entry for each token.
    ///
    /// After an error the answer cannot be completed as required; the logits are unchanged.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), Error> {
        match &mut self.stage {
            Stage::Watching(_) => Ok(()),
            Stage::Thinking => {
                if !self.grammar.is_guard {
                    let specials = self.grammar.tokenizer.specials();
                    for id in
                        [Some(specials.eos), Some(specials.user), Some(specials.bos), specials.eot]
                    {
                        forbid(logits, id);
                    }
                }
                Ok(())
            }
            Stage::Bound(matcher) => {
                let allowed = matcher.compute_mask_or_eos().map_err(stuck)?;
                apply(allowed.as_slice(), self.grammar.tokenizer.vocab().len(), logits);
                Ok(())
            }
            Stage::Over => {
                let eos = self.grammar.tokenizer.specials().eos as usize;
                let kept = logits.get(eos).copied();
                logits.fill(f32::NEG_INFINITY);
                if let (Some(logit), Some(kept)) = (logits.get_mut(eos), kept) {
                    *logit = kept;
                }
                Ok(())
            }
        }
    }

    /// Follows a token that was chosen. After [`Error::Rejected`] the constraint is as before.
    pub fn accept(&mut self, id: u32) -> Result<(), Error> {
        let tokenizer = &self.grammar.tokenizer;
        let specials = tokenizer.specials();
        if id as usize >= tokenizer.vocab().len() {
            return Err(Error::Rejected { id });
        }
        match &mut self.stage {
            Stage::Thinking if id == specials.think_close => self.stage = self.answer(),
            Stage::Thinking if specials.is_stop(id) => {
                if !self.grammar.is_guard {
                    return Err(Error::Rejected { id });
                }
                self.stage = Stage::Over;
            }
            Stage::Thinking => {}
            Stage::Watching(watch) => {
                if *watch == Watch::Start && id == specials.think_open {
                    self.stage = Stage::Thinking;
                } else if *watch == Watch::Tag && Some(id) == specials.dsml {
                    self.stage = self.bound();
                } else if specials.is_stop(id) {
                    self.stage = Stage::Over;
                } else {
                    let opens = tokenizer.token_bytes(id).is_ok_and(|b| b.ends_with(b"<"));
                    *watch = if opens { Watch::Tag } else { Watch::Text };
                }
            }
            Stage::Bound(matcher) => {
                if id == specials.eos {
                    if !matcher.is_accepting().map_err(stuck)? {
                        return Err(Error::Rejected { id });
                    }
                    self.stage = Stage::Over;
                } else if matcher.is_stopped()
                    || matcher.validate_tokens(&[id]).map_err(stuck)? == 0
                {
                    return Err(Error::Rejected { id });
                } else {
                    matcher.consume_token(id).map_err(stuck)?;
                }
            }
            Stage::Over => return Err(Error::Rejected { id }),
        }
        Ok(())
    }

    /// Whether the answer may end here: the end of sequence is allowed.
    pub fn is_complete(&mut self) -> bool {
        match &mut self.stage {
            Stage::Thinking => false,
            Stage::Watching(_) | Stage::Over => true,
            Stage::Bound(matcher) => matcher.is_accepting().unwrap_or(false),
        }
    }

    /// Whether the answer must end here: nothing else is allowed, so the model need not be asked.
    pub fn is_finished(&self) -> bool {
        match &self.stage {
            Stage::Thinking | Stage::Watching(_) => false,
            Stage::Bound(matcher) => matcher.is_stopped() && !matcher.is_error(),
            Stage::Over => true,
        }
    }

    /// Whether the next token is under the grammar: [`Self::mask`] may do something.
    pub fn is_active(&self) -> bool {
        match &self.stage {
            Stage::Thinking => !self.grammar.is_guard,
            Stage::Watching(_) => false,
            Stage::Bound(_) | Stage::Over => true,
        }
    }

    /// Tokens that are certain to come next, as their text is tokenized by itself: they may be
    /// appended without asking the model, and must be accepted like any others.
    pub fn forced(&mut self) -> Vec<u32> {
        match &mut self.stage {
            Stage::Bound(matcher) if !matcher.is_stopped() => matcher.compute_ff_tokens(),
            _ => Vec::new(),
        }
    }

    /// How many of these tokens may come next, one after the other: the rest of a draft need not be
    /// verified.
    pub fn allowed_prefix(&self, draft: &[u32]) -> usize {
        let mut ahead = self.clone();
        draft.iter().take_while(|id| ahead.accept(**id).is_ok()).count()
    }
}

fn forbid(logits: &mut [f32], id: Option<u32>) {
    if let Some(logit) = id.and_then(|id| logits.get_mut(id as usize)) {
        *logit = f32::NEG_INFINITY;
    }
}

/// Masks what is not in the set, a bit for each token, and what is beyond the vocabulary.
fn apply(set: &[u32], n_vocab: usize, logits: &mut [f32]) {
    let (known, beyond) = logits.split_at_mut(n_vocab.min(logits.len()));
    for (word, logits) in set.iter().zip(known.chunks_mut(32)) {
        if *word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    beyond.fill(f32::NEG_INFINITY);
}

/// The engine's error, as one line.
fn stuck(error: impl std::fmt::Display) -> Error {
    let text = error.to_string();
    Error::Stuck(text.lines().next().unwrap_or_default().to_owned())
}
