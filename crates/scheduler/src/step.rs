//! One step: everything that wants to go on, in one call of the runner.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use ds4_engine::{End, Stats};
use ds4_kvstore::Reason;
use ds4_model::{Runner, Span, TokenId};

use crate::slot::Slot;
use crate::{Client, Disk, Error, Options, Request, Result, Texts};

/// The owner of a runner and its live sequences.
pub struct Scheduler {
    pub(crate) runner: Box<dyn Runner>,
    pub(crate) options: Options,
    pub(crate) texts: Box<dyn Texts>,
    pub(crate) disk: Option<Disk>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) queue: VecDeque<(Request, Box<dyn Client>)>,
    pub(crate) tick: u64,
    /// Whether everything active was held by its client in the last step.
    pub(crate) is_held: bool,
    logits: Vec<f32>,
}

/// What one slot computes in a step.
struct Part {
    slot: usize,
    tokens: Vec<TokenId>,
    n_logits: usize,
}

impl Scheduler {
    /// A scheduler without live sequences.
    pub fn new(
        runner: Box<dyn Runner>,
        options: Options,
        texts: Box<dyn Texts>,
        disk: Option<Disk>,
    ) -> Self {
        let (slots, queue) = (Vec::new(), VecDeque::new());
        let (is_held, logits) = (false, Vec::new());
        Self { runner, options, texts, disk, slots, queue, tick: 0, is_held, logits }
    }

    /// Puts a request at the end of the queue.
    pub fn submit(&mut self, request: Request, client: Box<dyn Client>) {
        self.queue.push_back((request, client));
    }

    /// Requests that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Requests that have a slot.
    pub fn active(&self) -> usize {
        self.slots.iter().filter(|s| !s.is_idle()).count()
    }

    /// Tokens held by live sequences.
    pub fn tokens_held(&self) -> usize {
        self.slots.iter().map(|s| s.tokens.len()).sum()
    }

    /// Does one piece of work; `false` when there is none. The error is one after which the runner
    /// cannot be used; every request has been told.
    pub fn step(&mut self) -> Result<bool> {
        self.drop_cancelled();
        self.admit();
        let parts = self.plan();
        if parts.is_empty() {
            return Ok(self.active() > 0);
        }
        let spans: Vec<Span<'_>> = parts
            .iter()
            .map(|p| {
                let seq = self.slots[p.slot].id;
                Span { seq, tokens: &p.tokens, n_logits: p.n_logits }
            })
            .collect();
        let (runner, logits) = (&mut self.runner, &mut self.logits);
        let outcome = catch_unwind(AssertUnwindSafe(|| runner.forward(&spans, logits)));
        match outcome {
            Ok(Ok(())) => self.deliver(&parts),
            Ok(Err(e)) => return self.fail_parts(&parts, e),
            Err(panic) => {
                let text = panic_text(&*panic);
                tracing::error!("a step panicked: {text}");
                for ix in slots_descending(&parts) {
                    self.reset(ix, Error::Panicked(text.clone()));
                }
            }
        }
        Ok(true)
    }

    /// Ends requests nobody waits for; what they computed stays.
    fn drop_cancelled(&mut self) {
        for ix in 0..self.slots.len() {
            let is_set = |s: &Slot| s.work.as_ref().is_some_and(|w| w.request.cancel.is_set());
            if is_set(&self.slots[ix]) {
                self.finish(ix, Err(Error::Cancelled));
            }
        }
        let (gone, kept): (VecDeque<_>, _) =
            self.queue.drain(..).partition(|(r, _)| r.cancel.is_set());
        self.queue = kept;
        for (_, mut client) in gone {
            client.done(Err(Error::Cancelled), &Stats::default());
        }
    }

    /// One token of every sequence that decodes, then a chunk of the prompt that began first.
    fn plan(&mut self) -> Vec<Part> {
        let chunk_max = self.runner.chunk_max();
        let mut decoding: Vec<usize> = self.slots_where(|s| next_of(s).is_some());
        let n_decoding = decoding.len();
        decoding.retain(|&ix| self.slots[ix].work.as_mut().is_some_and(|w| w.client.is_ready()));
        self.is_held = decoding.is_empty() && n_decoding > 0 && n_decoding == self.active();
        let mut parts = Vec::new();
        let mut room = chunk_max;
        for &slot in &decoding {
            let drafts_allowed = decoding.len() <= self.options.draft_batch_max;
            let Some(part) = self.plan_decode(slot, drafts_allowed, room) else { continue };
            room -= part.tokens.len();
            parts.push(part);
            if room == 0 {
                return parts;
            }
        }
        let prefilling = self.slots_where(|s| s.work.is_some() && next_of(s).is_none());
        let chunk = if parts.is_empty() { room } else { room.min(self.options.chunk_shared) };
        let first = prefilling.into_iter().min_by_key(|&ix| self.slots[ix].used);
        if let Some(slot) = first {
            parts.extend(self.plan_prefill(slot, chunk));
        }
        parts
    }

    fn slots_where(&self, is: impl Fn(&Slot) -> bool) -> Vec<usize> {
        (0..self.slots.len()).filter(|&ix| is(&self.slots[ix])).collect()
    }

    fn plan_decode(&mut self, ix: usize, drafts: bool, room: usize) -> Option<Part> {
        let free = (self.options.ctx as usize).saturating_sub(self.slots[ix].tokens.len());
        if free == 0 {
            self.finish(ix, Ok(End::ContextFull));
            return None;
        }
        let slot = &self.slots[ix];
        let work = slot.work.as_ref().expect("it decodes");
        let next = work.next.expect("it decodes");
        let left = work.request.max_tokens.saturating_sub(work.n + 1);
        let most = self.options.draft_max.min(left).min(free - 1).min(room.saturating_sub(1));
        let mut tokens = vec![next; 1 + if drafts { most } else { 0 }];
        // A draft is only a guess: without one the step goes on, and meets any real trouble itself.
        let got = match &mut tokens[1..] {
            [] => 0,
            out => self.runner.draft(slot.id, next, out).unwrap_or_else(|e| {
                tracing::warn!("no draft: {e}");
                0
            }),
        };
        tokens.truncate(1 + got);
        let n_logits = tokens.len();
        Some(Part { slot: ix, tokens, n_logits })
    }

    /// The next chunk of a prompt; a prompt that is all there gives its first token at once.
    fn plan_prefill(&mut self, ix: usize, chunk: usize) -> Option<Part> {
        let slot = &self.slots[ix];
        let work = slot.work.as_ref().expect("it prefills");
        let (have, prompt) = (slot.tokens.len(), &work.request.prompt);
        if have == prompt.len() {
            let row = slot.logits.clone().expect("kept only with logits");
            self.prompt_done(ix, &row);
            return None;
        }
        let end = self.boundary(have, prompt.len(), work.cold_cut).min(have + chunk);
        let tokens = prompt[have..end].to_vec();
        let is_mark = end.is_multiple_of(self.options.mark_interval) || Some(end) == work.cold_cut;
        let n_logits = usize::from(end == prompt.len() || is_mark);
        Some(Part { slot: ix, tokens, n_logits })
    }

    /// The first point behind `have` at which a chunk must end.
    fn boundary(&self, have: usize, end: usize, cold_cut: Option<usize>) -> usize {
        let step = self.disk.as_ref().and_then(|d| d.options.continued_step());
        let next_of = |step: usize| (have / step + 1) * step;
        [Some(end), cold_cut, step.map(next_of), Some(next_of(self.options.mark_interval))]
            .into_iter()
            .flatten()
            .filter(|&b| b > have)
            .min()
            .unwrap_or(end)
    }

    /// Hands the rows of a step to their requests.
    fn deliver(&mut self, parts: &[Part]) {
        let n_vocab = self.runner.dims().n_vocab;
        let mut logits = std::mem::take(&mut self.logits);
        let mut rest = &mut logits[..];
        let mut broken = Vec::new();
        for part in parts {
            let (rows, tail) = rest.split_at_mut(part.n_logits * n_vocab);
            rest = tail;
            let outcome = catch_unwind(AssertUnwindSafe(|| self.deliver_part(part, rows)));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(e)) => self.finish(part.slot, Err(e)),
                Err(panic) => broken.push((part.slot, panic_text(&*panic))),
            }
        }
        self.logits = logits;
        broken.sort_unstable_by(|a, b| b.cmp(a));
        for (ix, text) in broken {
            self.reset(ix, Error::Panicked(text));
        }
    }

    fn deliver_part(&mut self, part: &Part, rows: &mut [f32]) -> Result<()> {
        let slot = &mut self.slots[part.slot];
        let base = slot.tokens.len();
        slot.tokens.extend_from_slice(&part.tokens);
        if next_of(slot).is_some() {
            return self.deliver_decode(part, base, rows);
        }
        slot.logits = (part.n_logits > 0).then(|| rows.to_vec());
        let work = slot.work.as_mut().expect("it prefills");
        let (have, all) = (slot.tokens.len(), work.request.prompt.len());
        work.client.prefill(have);
        let is_cold_cut = work.cold_cut == Some(have);
        if is_cold_cut || have == all || have.is_multiple_of(self.options.mark_interval) {
            slot.mark(self.runner.as_mut(), self.options.marks_max)?;
        }
        if is_cold_cut {
            self.store(part.slot, Reason::Cold);
        } else {
            self.store_frontier(part.slot);
        }
        if have == all {
            self.prompt_done(part.slot, rows);
        }
        Ok(())
    }

    /// Stores a sequence that stands on a continued frontier.
    fn store_frontier(&mut self, ix: usize) {
        let step = self.disk.as_ref().and_then(|d| d.options.continued_step());
        let len = self.slots[ix].tokens.len();
        if step.is_some_and(|step| len.is_multiple_of(step)) {
            self.store(ix, Reason::Continued);
        }
    }

    /// The prompt is in place: chooses the first token.
    fn prompt_done(&mut self, ix: usize, row: &[f32]) {
        let work = self.slots[ix].work.as_mut().expect("it prefills");
        let now = Instant::now();
        work.stats.prefill = now - work.began;
        work.decode_began = Some(now);
        if work.request.max_tokens == 0 {
            return self.finish(ix, Ok(End::Length));
        }
        let mut row = row.to_vec();
        match self.choose_token(ix, &mut row) {
            Ok((token, None)) => self.slots[ix].work.as_mut().expect("still").next = Some(token),
            Ok((_, Some(end))) => self.finish(ix, Ok(end)),
            Err(e) => self.finish(ix, Err(e)),
        }
    }

    /// Samples rows as long as they confirm the drafts behind them.
    fn deliver_decode(&mut self, part: &Part, base: usize, rows: &mut [f32]) -> Result<()> {
        let n_vocab = self.runner.dims().n_vocab;
        let drafts = part.tokens.len() - 1;
        for (ix, row) in rows.chunks_exact_mut(n_vocab).enumerate() {
            let clean = row.to_vec();
            let (token, end) = self.choose_token(part.slot, row)?;
            let is_draft = ix < drafts && token == part.tokens[ix + 1];
            if end.is_none() && is_draft {
                continue;
            }
            let slot = &mut self.slots[part.slot];
            let work = slot.work.as_mut().expect("it decodes");
            work.stats.drafts.count(drafts, ix + usize::from(is_draft));
            work.next = Some(token);
            slot.logits = Some(clean);
            if ix < drafts {
                let len = u32::try_from(base + ix + 1).expect("within a u32 capacity");
                self.runner.truncate(slot.id, len)?;
                slot.tokens.truncate(base + ix + 1);
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
        let work = self.slots[ix].work.as_mut().expect("a request is at work");
        work.client.constrain(row);
        let token = work.sampler.sample(row)?;
        if work.request.stops.contains(&token) {
            return Ok((token, Some(End::Stop(token))));
        }
        if work.n == 0 {
            work.stats.ttft = work.asked.elapsed();
        }
        work.n += 1;
        let end = match work.client.token(token, row) {
            ControlFlow::Break(()) => Some(End::Receiver),
            ControlFlow::Continue(()) => (work.n >= work.request.max_tokens).then_some(End::Length),
        };
        Ok((token, end))
    }

    /// Ends a request; its sequence stays live.
    pub(crate) fn finish(&mut self, ix: usize, outcome: Result<End>) {
        let slot = &mut self.slots[ix];
        let Some(mut work) = slot.work.take() else { return };
        work.stats.generated_tokens = work.n;
        work.stats.generation = work.decode_began.map_or_else(Default::default, |t| t.elapsed());
        if let Err(e) = slot.mark(self.runner.as_mut(), self.options.marks_max) {
            tracing::warn!("the end of a sequence was not marked: {e}");
        }
        let tell = AssertUnwindSafe(|| work.client.done(outcome, &work.stats));
        if catch_unwind(tell).is_err() {
            tracing::error!("a client panicked at the end of its request");
        }
    }

    /// Ends a request and throws its sequence away, whose state is unknown.
    fn reset(&mut self, ix: usize, error: Error) {
        let slot = &mut self.slots[ix];
        slot.frontiers.clear();
        slot.logits = None;
        slot.tokens.clear();
        self.finish(ix, Err(error));
        let slot = self.slots.remove(ix);
        self.runner.close_seq(slot.id);
    }

    /// Ends every request of a refused call, whose sequences are unchanged. A lost device ends all.
    fn fail_parts(&mut self, parts: &[Part], error: ds4_model::Error) -> Result<bool> {
        tracing::error!("a step failed: {error}");
        let text = error.to_string();
        let error = Error::from(error);
        if error.is_device_lost() {
            self.abandon(&|| ds4_model::Error::Device(text.clone()).into());
            return Err(error);
        }
        for ix in slots_descending(parts) {
            self.finish(ix, Err(Error::Failed(text.clone())));
        }
        Ok(true)
    }

    /// Tells everyone still waiting that there will be no answer.
    fn abandon(&mut self, error: &dyn Fn() -> Error) {
        for ix in (0..self.slots.len()).rev() {
            self.reset(ix, error());
        }
        for (_, mut client) in self.queue.drain(..) {
            client.done(Err(error()), &Stats::default());
        }
    }

    /// Ends all requests and stores every sequence.
    pub fn shut_down(&mut self) {
        for (_, mut client) in std::mem::take(&mut self.queue) {
            client.done(Err(Error::ShuttingDown), &Stats::default());
        }
        for ix in 0..self.slots.len() {
            self.finish(ix, Err(Error::ShuttingDown));
            self.store(ix, Reason::Shutdown);
        }
    }
}

/// Slots of a call, last first, so that removing one does not move the others.
fn slots_descending(parts: &[Part]) -> Vec<usize> {
    let mut slots: Vec<usize> = parts.iter().map(|p| p.slot).collect();
    slots.sort_unstable_by(|a, b| b.cmp(a));
    slots
}

fn next_of(slot: &Slot) -> Option<TokenId> {
    slot.work.as_ref().and_then(|w| w.next)
}

/// The message of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())
}
