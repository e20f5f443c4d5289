//! One runner, one live sequence: what a chat or a bench needs. Many sequences on one runner are a
//! scheduler's business, built from the same [`Sequence`], [`Sampler`] and stops.

use std::time::{Duration, Instant};

use ds4_model::{Runner, TokenId};

use crate::decode::{Decode, End, Limits, OnToken};
use crate::{Cancel, Result, Sampler, Sampling, Sequence, Stats};

/// A model with one conversation in it.
pub struct Session {
    runner: Box<dyn Runner>,
    seq: Sequence,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The whole prompt; what the live sequence already holds of it is not computed again.
    pub prompt: &'a [TokenId],
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Tokens that end the answer.
    pub stops: &'a [TokenId],
    /// Drafts in one step at most; 0 decodes plainly.
    pub draft_max: usize,
    /// Asks for a stop.
    pub cancel: &'a Cancel,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The tokens, without a final stop token.
    pub ids: Vec<TokenId>,
    /// Why there are no more.
    pub end: End,
    /// What it cost.
    pub stats: Stats,
}

impl Session {
    /// Opens a sequence of `ctx` tokens.
    pub fn open(mut runner: Box<dyn Runner>, ctx: u32) -> Result<Self> {
        let seq = Sequence::open(&mut *runner, ctx)?;
        Ok(Self { runner, seq })
    }

    /// The runner, for what is not a conversation.
    pub fn runner(&mut self) -> &mut dyn Runner {
        &mut *self.runner
    }

    /// The live sequence.
    pub fn seq(&self) -> &Sequence {
        &self.seq
    }

    /// Forgets the live sequence and opens one of `ctx` tokens.
    pub fn reopen(&mut self, ctx: u32) -> Result<()> {
        // Closed first: both together may not fit into memory.
        self.runner.close_seq(self.seq.id());
        self.seq = Sequence::open(&mut *self.runner, ctx)?;
        Ok(())
    }

    /// Computes the prompt and continues it. `on_prefill` hears how many of the prompt's tokens are
    /// in place, `on_token` every token with the logits it was chosen from.
    pub fn generate(
        &mut self,
        request: &Request<'_>,
        on_prefill: &mut dyn FnMut(usize),
        on_token: &mut OnToken<'_>,
    ) -> Result<Generated> {
        let mut sampler = Sampler::new(request.sampling)?;
        let start = Instant::now();
        let (runner, seq) = (&mut *self.runner, &mut self.seq);
        let synced = seq.sync(runner, request.prompt, request.cancel, on_prefill)?;
        let mut stats = Stats {
            prompt_tokens: request.prompt.len(),
            cached_tokens: synced.reused,
            prefill: start.elapsed(),
            ..Stats::default()
        };
        let mut ids = Vec::new();
        let mut ttft = Duration::ZERO;
        let decode = Decode {
            runner,
            seq,
            sampler: &mut sampler,
            limits: Limits {
                max_tokens: request.max_tokens,
                stops: request.stops,
                draft_max: request.draft_max,
                cancel: request.cancel,
            },
            drafts: &mut stats.drafts,
        };
        let end = decode.run(&mut |token, row| {
            if ids.is_empty() {
                ttft = start.elapsed();
            }
            ids.push(token);
            on_token(token, row)
        })?;
        (stats.ttft, stats.generated_tokens) = (ttft, ids.len());
        stats.generation = start.elapsed().saturating_sub(stats.prefill);
        Ok(Generated { ids, end, stats })
    }
}
