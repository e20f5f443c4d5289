//! The decode loop: choose, report, append; with drafts, verify several tokens in one call.
//!
//! The loop knows ids only. The last reported token may not be in the sequence when the loop ends:
//! it is appended with the next prompt, which costs nothing that would not be paid anyway. A stop
//! token is never reported and never appended.

use std::ops::ControlFlow;

use ds4_model::{Runner, TokenId};

use crate::sample::Sampler;
use crate::spec::{Acceptance, DRAFT_MAX};
use crate::{Cancel, Result, Sequence};

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model chose this stop token.
    Stop(TokenId),
    /// `max_tokens` were generated.
    Length,
    /// The sequence is full.
    ContextFull,
    /// The receiver of tokens wants no more.
    Receiver,
    /// [`Cancel`] was set.
    Cancelled,
}

/// Where decoding must end.
#[derive(Clone, Debug)]
pub struct Limits<'a> {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Tokens that end the answer: the end of sequence and the guards.
    pub stops: &'a [TokenId],
    /// Drafts in one step at most; 0 decodes plainly.
    pub draft_max: usize,
    /// Asks for a stop between steps.
    pub cancel: &'a Cancel,
}

/// One decode loop over a prefilled sequence.
pub struct Decode<'a> {
    /// Computes.
    pub runner: &'a mut dyn Runner,
    /// Holds the prompt, with logits of its last token.
    pub seq: &'a mut Sequence,
    /// Chooses.
    pub sampler: &'a mut Sampler,
    /// Ends.
    pub limits: Limits<'a>,
    /// Counts drafts.
    pub drafts: &'a mut Acceptance,
}

/// Receives each token with the logits it was chosen from.
pub type OnToken<'a> = dyn FnMut(TokenId, &[f32]) -> ControlFlow<()> + 'a;

impl Decode<'_> {
    /// Runs until an [`End`]. On return the sequence holds the prompt and all reported tokens, with
    /// or without the last one.
    pub fn run(mut self, on_token: &mut OnToken<'_>) -> Result<End> {
        let mut n = 0;
        if self.limits.max_tokens == 0 {
            return Ok(End::Length);
        }
        let mut next = self.sampler.sample(self.seq.logits())?;
        if let Some(end) = self.report(next, &mut n, self.seq.logits(), on_token) {
            return Ok(end);
        }
        loop {
            if self.limits.cancel.is_set() {
                return Ok(End::Cancelled);
            }
            if self.seq.room() == 0 {
                return Ok(End::ContextFull);
            }
            match self.step(next, &mut n, on_token)? {
                ControlFlow::Continue(token) => next = token,
                ControlFlow::Break(end) => return Ok(end),
            }
        }
    }

    /// Appends `next` and its drafts, keeps those that hold. Returns the token after them, reported
    /// but not appended, or why to end.
    fn step(
        &mut self,
        next: TokenId,
        n: &mut usize,
        on_token: &mut OnToken<'_>,
    ) -> Result<ControlFlow<End, TokenId>> {
        let mut span = [next; DRAFT_MAX + 1];
        let k = self.draft(next, *n, &mut span[1..])?;
        let base = self.seq.tokens().len();
        self.seq.append(self.runner, &span[..=k], k + 1)?;
        for row in 0..=k {
            let token = self.sampler.sample(self.seq.row(row))?;
            let end = self.report(token, n, self.seq.row(row), on_token);
            let is_draft = row < k && token == span[row + 1];
            if end.is_some() || !is_draft {
                // A draft the model chose as a stop token has held too.
                self.drafts.count(k, row + usize::from(is_draft));
                self.seq.keep(self.runner, base + row + 1, row)?;
                return Ok(end.map_or(ControlFlow::Continue(token), ControlFlow::Break));
            }
        }
        unreachable!("the last row has no draft to equal")
    }

    /// Asks the MTP block for drafts to follow `next`, as many as can still be used.
    fn draft(&mut self, next: TokenId, n: usize, out: &mut [TokenId]) -> Result<usize> {
        let depth = self.limits.draft_max.min(DRAFT_MAX);
        // Each kept draft is followed by one more token, which the limit must allow.
        let k = depth.min(self.limits.max_tokens - n - 1).min(self.seq.room() - 1);
        let k = k.min(self.runner.chunk_max().saturating_sub(1));
        if k == 0 {
            return Ok(0);
        }
        let got = self.runner.draft(self.seq.id(), next, &mut out[..k])?;
        assert!(got <= k, "{got} drafts where {k} were asked for");
        Ok(got)
    }

    /// Tells the receiver about a chosen token, unless it stops the answer.
    fn report(
        &self,
        token: TokenId,
        n: &mut usize,
        row: &[f32],
        on_token: &mut OnToken<'_>,
    ) -> Option<End> {
        if self.limits.stops.contains(&token) {
            return Some(End::Stop(token));
        }
        *n += 1;
        if on_token(token, row).is_break() {
            return Some(End::Receiver);
        }
        (*n >= self.limits.max_tokens).then_some(End::Length)
    }
}
