//! The rows of a call, handed to the requests they belong to.

use std::ops::ControlFlow;
use std::time::Instant;

use ds4_engine::End;
use ds4_kvstore::Reason;
use ds4_model::TokenId;

use crate::plan::Part;
use crate::{Error, Result, Scheduler};

impl Scheduler {
    /// Hands the rows of a step to their requests.
    pub(crate) fn deliver(&mut self, parts: &[Part]) {
        let n_vocab = self.runner.dims().n_vocab;
        let mut logits = std::mem::take(&mut self.logits);
        let mut rest = &mut logits[..];
        for part in parts {
            let (rows, tail) = rest.split_at_mut(part.n_logits * n_vocab);
            rest = tail;
            let slot = &mut self.slots[part.slot];
            let base = slot.tokens.len();
            slot.tokens.extend_from_slice(&part.tokens);
            if let Some(work) = &mut slot.work {
                work.is_solo = false;
            }
            let outcome = if part.is_decode {
                self.deliver_decode(part, base, rows)
            } else {
                self.deliver_prefill(part, rows)
            };
            if let Err(e) = outcome {
                self.finish(part.slot, Err(e));
            }
        }
        self.logits = logits;
    }

    fn deliver_prefill(&mut self, part: &Part, rows: &[f32]) -> Result<()> {
        let ix = part.slot;
        self.counters.prefilled_tokens += part.tokens.len() as u64;
        let slot = &mut self.slots[ix];
        slot.logits = (part.n_logits > 0).then(|| rows.to_vec());
        let have = slot.tokens.len();
        let work = slot.work.as_mut().expect("it prefills");
        if work.n == 0 {
            work.client.prefill(have);
        }
        let is_anchor = work.request.cuts.anchor == Some(have);
        let is_cold_cut = work.cold_cut == Some(have);
        let is_mark = work.marks.binary_search(&have).is_ok() || have == work.prompt_len;
        let is_whole = have == work.target.len();
        if is_mark || have.is_multiple_of(self.mark_interval) {
            self.mark(ix, is_anchor)?;
        }
        if is_cold_cut {
            self.store(ix, Reason::Cold);
        } else {
            self.store_frontier(ix);
        }
        if is_whole {
            self.caught_up(ix, rows.to_vec());
        }
        match self.slots[ix].work.as_ref().and_then(|w| w.client.panicked()) {
            Some(panic) => Err(panic),
            None => Ok(()),
        }
    }

    /// Stores a sequence that stands on a continued frontier.
    fn store_frontier(&mut self, ix: usize) {
        let len = self.slots[ix].tokens.len();
        if self.continued_step().is_some_and(|step| len.is_multiple_of(step)) {
            self.store(ix, Reason::Continued);
        }
    }

    /// All tokens of a request are in place: chooses the next one.
    pub(crate) fn caught_up(&mut self, ix: usize, mut row: Vec<f32>) {
        let work = self.work(ix);
        if work.decode_began.is_none() {
            let now = Instant::now();
            work.stats.prefill = now - work.began;
            work.decode_began = Some(now);
        }
        if work.request.max_tokens == 0 {
            return self.finish(ix, Ok(End::Length));
        }
        match self.choose_token(ix, &mut row) {
            Ok((_, None)) => {}
            Ok((_, Some(end))) => self.finish(ix, Ok(end)),
            Err(e) => self.finish(ix, Err(e)),
        }
    }

    /// Samples rows as long as they confirm the drafts behind them. Each row is masked for what was
    /// chosen before it, so a draft that the mask forbids is never confirmed.
    fn deliver_decode(&mut self, part: &Part, base: usize, rows: &mut [f32]) -> Result<()> {
        let n_vocab = self.runner.dims().n_vocab;
        let drafts = part.tokens.len() - 1;
        let is_constrained = self.work(part.slot).client.is_constrained();
        for (ix, row) in rows.chunks_exact_mut(n_vocab).enumerate() {
            let clean = is_constrained.then(|| row.to_vec());
            let chosen = self.choose_token(part.slot, row);
            let token = chosen.as_ref().ok().map(|(token, _)| *token);
            let is_draft = ix < drafts && token == Some(part.tokens[ix + 1]);
            if is_draft && matches!(chosen, Ok((_, None))) {
                continue;
            }
            let slot = &mut self.slots[part.slot];
            slot.logits = Some(clean.unwrap_or_else(|| row.to_vec()));
            if ix < drafts {
                let len = u32::try_from(base + ix + 1).expect("within a u32 capacity");
                self.runner.truncate(slot.id, len)?;
                slot.cut_drafts(base + ix + 1);
            }
            let (_, end) = chosen?;
            let work = self.work(part.slot);
            work.stats.drafts.count(drafts, ix + usize::from(is_draft));
            if self.slots[part.slot].tokens.len().is_multiple_of(self.mark_interval) {
                self.mark(part.slot, false)?;
            }
            self.store_frontier(part.slot);
            if let Some(end) = end {
                self.finish(part.slot, Ok(end));
            }
            return Ok(());
        }
        unreachable!("the last row has no draft to equal")
    }

    /// Samples one row and tells the client; the token, and why to end with it.
    fn choose_token(&mut self, ix: usize, row: &mut [f32]) -> Result<(TokenId, Option<End>)> {
        let work = self.work(ix);
        work.client.constrain(row);
        let token = work.sampler.sample(row)?;
        if work.request.stops.contains(&token) {
            return Ok((token, Some(End::Stop(token))));
        }
        if work.n == 0 {
            work.stats.ttft = work.asked.elapsed();
        }
        work.n += 1;
        work.target.push(token);
        let end = match work.client.token(token, row) {
            ControlFlow::Break(()) => Some(End::Receiver),
            ControlFlow::Continue(()) => (work.n >= work.request.max_tokens).then_some(End::Length),
        };
        let panicked = work.client.panicked();
        self.counters.generated_tokens += 1;
        panicked.map_or(Ok((token, end)), Err)
    }

    /// Marks the present end of a sequence, and keeps all marks within their bounds.
    pub(crate) fn mark(&mut self, ix: usize, is_anchor: bool) -> Result<()> {
        let slot = &mut self.slots[ix];
        if self.options.marks_max == 0 || !slot.mark(self.runner.as_mut(), is_anchor)? {
            return Ok(());
        }
        while slot.frontiers.count() > self.options.marks_max && slot.thin() {}
        let most = self.options.marks_bytes_max / self.mark_bytes.max(1);
        let count =
            |s: &Self| s.slots.iter().map(|slot| slot.frontiers.count() as u64).sum::<u64>();
        while count(self) > most {
            // Of the sequence with most marks per recent use: those nobody uses go first.
            let mut order: Vec<usize> = (0..self.slots.len()).collect();
            order.sort_by_key(|&ix| (!self.slots[ix].is_idle(), self.slots[ix].turn));
            if !order.into_iter().any(|ix| self.slots[ix].thin()) {
                break;
            }
        }
        Ok(())
    }

    /// Ends a request; its sequence stays live.
    pub(crate) fn finish(&mut self, ix: usize, outcome: Result<End>) {
        let Some(mut work) = self.slots[ix].work.take() else { return };
        self.ended += 1;
        work.stats.generated_tokens = work.n;
        work.stats.generation = work.decode_began.map_or_else(Default::default, |t| t.elapsed());
        self.slots[ix].used = Instant::now();
        match &outcome {
            Err(Error::Cancelled) => self.counters.cancelled += 1,
            Err(e) => {
                self.note_loss(e);
                self.counters.failed += 1;
            }
            Ok(_) => {}
        }
        if let Err(e) = self.mark(ix, false) {
            self.note_loss(&e);
            tracing::warn!("the end of a sequence was not marked: {e}");
        }
        work.client.done(outcome, &work.stats);
    }
}
