//! What the next call computes: one token (and its drafts) of every sequence that decodes, and a
//! share of every prompt in progress.

use ds4_engine::End;
use ds4_model::TokenId;

use crate::Scheduler;
use crate::slot::{Slot, Work};

/// What one slot computes in a step.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) slot: usize,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) n_logits: usize,
    pub(crate) is_decode: bool,
}

impl Scheduler {
    /// The parts of the next call.
    pub(crate) fn plan(&mut self) -> Vec<Part> {
        if let Some(ix) = self.slots.iter().position(|s| s.work.as_ref().is_some_and(Work::is_solo))
        {
            return self.plan_solo(ix).into_iter().collect();
        }
        let mut decoding = self.slots_where(|s| s.next().is_some());
        let n_decoding = decoding.len();
        decoding.retain(|&ix| self.work(ix).client.is_ready());
        self.is_held = decoding.is_empty() && n_decoding > 0 && n_decoding == self.active();
        self.keep_within_memory(&mut decoding);
        let (mut parts, mut room) = (Vec::new(), self.runner.chunk_max());
        let drafts = decoding.len() <= self.options.draft_batch_max;
        for ix in decoding {
            if room == 0 {
                return parts;
            }
            let Some(part) = self.plan_decode(ix, drafts, room) else { continue };
            room -= part.tokens.len();
            parts.push(part);
        }
        let prefills = self.plan_prefills(room, !parts.is_empty());
        parts.extend(prefills);
        parts
    }

    fn plan_solo(&mut self, ix: usize) -> Option<Part> {
        let chunk_max = self.runner.chunk_max();
        if self.slots[ix].next().is_some() {
            return self.plan_decode(ix, false, chunk_max);
        }
        self.plan_prefill(ix, self.pace.chunk(chunk_max, chunk_max))
    }

    fn slots_where(&self, is: impl Fn(&Slot) -> bool) -> Vec<usize> {
        (0..self.slots.len()).filter(|&ix| is(&self.slots[ix])).collect()
    }

    /// The request at work in a slot.
    pub(crate) fn work(&mut self, ix: usize) -> &mut Work {
        self.slots[ix].work.as_mut().expect("a request is at work")
    }

    /// Makes room for one more token of every decoding sequence: idle sequences go first, then the
    /// request that began last ends as with a full context.
    fn keep_within_memory(&mut self, decoding: &mut Vec<usize>) {
        while !self.make_memory(decoding.len(), None) {
            let Some(at) = (0..decoding.len()).max_by_key(|&at| self.slots[decoding[at]].turn)
            else {
                return;
            };
            let ix = decoding.swap_remove(at);
            self.finish(ix, Ok(End::ContextFull));
        }
    }

    fn plan_decode(&mut self, ix: usize, drafts: bool, room: usize) -> Option<Part> {
        let have = self.slots[ix].tokens.len();
        let free = (self.options.ctx as usize).saturating_sub(have);
        if free == 0 {
            self.finish(ix, Ok(End::ContextFull));
            return None;
        }
        let (id, draft_max) = (self.slots[ix].id, self.options.draft_max);
        let to_boundary = self.next_boundary(have) - have;
        let work = self.work(ix);
        let next = work.next(have).expect("it decodes");
        let left = work.request.max_tokens.saturating_sub(work.n + 1);
        let most = [draft_max, left, free - 1, room - 1, to_boundary - 1].into_iter().min();
        let mut tokens = vec![next; 1 + most.filter(|_| drafts).unwrap_or(0)];
        // A draft is only a guess: without one the step goes on, and meets any real trouble itself.
        let got = match &mut tokens[1..] {
            [] => 0,
            out => self.runner.draft(id, next, out).unwrap_or_else(|e| {
                tracing::warn!("no draft: {e}");
                0
            }),
        };
        tokens.truncate(1 + got);
        let n_logits = tokens.len();
        Some(Part { slot: ix, tokens, n_logits, is_decode: true })
    }

    /// Shares a chunk among all prompts in progress: each gets the same, what one does not need goes
    /// to the others. So a short prompt is soon done, and a long one goes on all the same.
    fn plan_prefills(&mut self, room: usize, is_shared: bool) -> Vec<Part> {
        for ix in self.slots_where(Slot::is_behind) {
            self.sample_at_once(ix);
        }
        let mut behind = self.slots_where(Slot::is_behind);
        if let Some(chunk) = self.options.chunk_fixed {
            return self.plan_fixed(behind, room, chunk.max(1));
        }
        let pace = if is_shared { &self.pace_shared } else { &self.pace };
        let most = if is_shared { self.options.chunk_shared } else { usize::MAX };
        let mut chunk = pace.chunk(self.runner.chunk_max(), most.min(room));
        behind.sort_by_key(|&ix| self.boundary(ix) - self.slots[ix].tokens.len());
        let mut parts = Vec::new();
        for (at, &ix) in behind.iter().enumerate() {
            let share = chunk.div_ceil(behind.len() - at);
            let Some(part) = self.plan_prefill(ix, share) else { continue };
            chunk -= part.tokens.len();
            parts.push(part);
        }
        parts
    }

    /// Whole chunks that end at fixed points, of those that have waited longest.
    fn plan_fixed(&mut self, mut behind: Vec<usize>, room: usize, chunk: usize) -> Vec<Part> {
        behind.sort_by_key(|&ix| self.slots[ix].used);
        let (mut parts, mut room) = (Vec::new(), room);
        for ix in behind {
            let have = self.slots[ix].tokens.len();
            let n = (have / chunk + 1) * chunk - have;
            let n = n.min(self.boundary(ix) - have).min(self.runner.chunk_max());
            if n > room {
                continue;
            }
            let Some(part) = self.plan_prefill(ix, n) else { continue };
            room -= n;
            self.slots[ix].used = std::time::Instant::now();
            parts.push(part);
        }
        parts
    }

    /// A prompt that was in place from the start has its logits already.
    fn sample_at_once(&mut self, ix: usize) {
        let slot = &self.slots[ix];
        let all = slot.work.as_ref().map_or(0, |work| work.target.len());
        if slot.tokens.len() == all {
            let row = slot.logits.clone().expect("kept only with logits");
            self.caught_up(ix, row);
        }
    }

    /// At most `n` more tokens of a prompt in progress.
    fn plan_prefill(&mut self, ix: usize, n: usize) -> Option<Part> {
        let have = self.slots[ix].tokens.len();
        let end = self.boundary(ix).min(have + n);
        if end == have {
            return None;
        }
        let wants_logits = self.wants_logits(ix, end);
        let tokens = self.work(ix).target[have..end].to_vec();
        Some(Part { slot: ix, tokens, n_logits: usize::from(wants_logits), is_decode: false })
    }

    /// The first point at which a chunk of a prompt in progress must end.
    fn boundary(&self, ix: usize) -> usize {
        let slot = &self.slots[ix];
        let work = slot.work.as_ref().expect("it prefills");
        let have = slot.tokens.len();
        let end = if have < work.prompt_len { work.prompt_len } else { work.target.len() };
        let mark = work.marks.iter().copied().find(|&at| at > have).unwrap_or(end);
        end.min(mark).min(self.next_boundary(have))
    }

    /// The first multiple behind `have` that is marked or stored.
    fn next_boundary(&self, have: usize) -> usize {
        let next_of = |step: usize| (have / step + 1) * step;
        let mark = next_of(self.mark_interval);
        self.continued_step().map_or(mark, |step| mark.min(next_of(step)))
    }

    /// Distance of stored frontiers.
    pub(crate) fn continued_step(&self) -> Option<usize> {
        self.disk.as_ref().and_then(|disk| disk.options.continued_step())
    }

    /// Whether logits are needed at this point of a prompt: to go on from it, or because somebody may
    /// begin there.
    fn wants_logits(&self, ix: usize, end: usize) -> bool {
        let work = self.slots[ix].work.as_ref().expect("it prefills");
        let is_stored = self.continued_step().is_some_and(|step| end.is_multiple_of(step));
        end == work.target.len()
            || end == work.prompt_len
            || is_stored
            || work.marks.binary_search(&end).is_ok()
    }
}
