//! Requests from the queue to slots.

use std::time::Instant;

use ds4_engine::{Sampler, Stats, check_ids};
use ds4_kvstore::Reason;
use ds4_model::{Error as ModelError, SeqId, TokenId};

use crate::choose::{Asked, Match, Place};
use crate::guard::Guarded;
use crate::keyed::Keyed;
use crate::slot::{Slot, Work};
use crate::{Client, Cuts, Error, Request, Result, Scheduler, Source, Started};

/// Dropping more live tokens than this, or most of a sequence, is worth a file.
const DROP_STORED: usize = 1024;
/// Files that are tried for one request.
const FILES_TRIED: usize = 4;

/// A request in the queue.
pub(crate) struct Waiting {
    pub(crate) request: Request,
    pub(crate) client: Guarded,
    asked: Instant,
    /// The prompt with its encoding, once it was looked at.
    prompt: Option<Asked>,
    /// Another prompt is computing what this one begins with: its sequence, and how far.
    forerunner: Option<(SeqId, usize)>,
    was_deferred: bool,
    /// Requests that had ended when there was no memory for this one.
    short_at: Option<u64>,
}

/// What taking a place came to.
struct Taken {
    slot: usize,
    prompt: Vec<TokenId>,
    source: Source,
}

impl Waiting {
    pub(crate) fn new(request: Request, client: Box<dyn Client>) -> Self {
        let client = Guarded::new(client);
        let asked = Instant::now();
        let (prompt, forerunner, was_deferred, short_at) = (None, None, false, None);
        Self { request, client, asked, prompt, forerunner, was_deferred, short_at }
    }

    /// Ends it without an answer.
    pub(crate) fn refuse(self, error: Error) {
        let stats = Stats { prompt_tokens: self.request.prompt.len(), ..Stats::default() };
        self.client.done(Err(error), &stats);
    }
}

impl Scheduler {
    /// Gives slots to waiting requests, in their order; those that wait for another prompt let
    /// others pass.
    pub(crate) fn admit(&mut self) {
        let mut ix = 0;
        while ix < self.queue.len() && self.victim(None).is_some() {
            if self.is_deferred(ix) {
                ix += 1;
                continue;
            }
            if self.queue[ix].short_at == Some(self.ended) {
                return;
            }
            let waiting = self.queue.remove(ix).expect("within the queue");
            match self.start(waiting) {
                None => {}
                Some(waiting) if waiting.forerunner.is_some() => {
                    self.queue.insert(ix, waiting);
                    ix += 1;
                }
                Some(waiting) => {
                    // There is no memory for it yet, and none for those behind it.
                    self.queue.insert(ix, waiting);
                    return;
                }
            }
        }
    }

    /// Whether a request's forerunner is still on its way.
    fn is_deferred(&mut self, ix: usize) -> bool {
        let waiting = &mut self.queue[ix];
        let Some((id, until)) = waiting.forerunner else { return false };
        let slot = self.slots.iter().find(|slot| slot.id == id);
        let is_coming = slot.is_some_and(|slot| slot.is_behind() && slot.tokens.len() < until);
        if !is_coming {
            waiting.forerunner = None;
        }
        is_coming
    }

    /// Starts a request; gives it back when it has to wait.
    fn start(&mut self, mut waiting: Waiting) -> Option<Waiting> {
        let began = Instant::now();
        let request = &waiting.request;
        let checked = check(request, self.options.ctx, self.runner.dims().n_vocab);
        let sampler = checked.and_then(|()| Ok(Sampler::new(request.sampling)?));
        let sampler = match sampler {
            Ok(sampler) => sampler,
            Err(e) => {
                self.counters.failed += 1;
                waiting.refuse(e);
                return None;
            }
        };
        let asked = waiting.prompt.take().unwrap_or_else(|| {
            let keyed = Keyed::of(self.texts.as_ref(), &request.prompt);
            Asked { tokens: request.prompt.clone(), keyed }
        });
        let choice = self.choose(&asked);
        if let Some((ix, agree)) = self.forerunner(&asked, choice.spared) {
            let slot = &mut self.slots[ix];
            let marks = &mut slot.work.as_mut().expect("it prefills").marks;
            if let Err(at) = marks.binary_search(&agree) {
                marks.insert(at, agree);
            }
            self.counters.deferred += u64::from(!waiting.was_deferred);
            (waiting.forerunner, waiting.was_deferred) = (Some((slot.id, agree)), true);
            waiting.prompt = Some(asked);
            return Some(waiting);
        }
        let spare = match &choice.place {
            Place::In(m) | Place::Fork(m) => Some(m.slot),
            Place::File(_) | Place::Cold => None,
        };
        if !self.make_memory(asked.tokens.len() - choice.spared.min(asked.tokens.len()), spare) {
            (waiting.short_at, waiting.prompt) = (Some(self.ended), Some(asked));
            return Some(waiting);
        }
        match self.take(choice.place, &asked) {
            Ok(taken) => self.begin(waiting, taken, sampler, choice.why, began),
            Err(e) if e.is_memory() && self.active() > 0 => {
                (waiting.short_at, waiting.prompt) = (Some(self.ended), Some(asked));
                return Some(waiting);
            }
            Err(e) => {
                self.note_loss(&e);
                self.counters.failed += 1;
                waiting.refuse(e);
            }
        }
        None
    }

    /// Puts a request to work in its slot.
    fn begin(
        &mut self,
        waiting: Waiting,
        taken: Taken,
        sampler: Sampler,
        why: String,
        began: Instant,
    ) {
        let Waiting { request, mut client, asked, .. } = waiting;
        let Taken { slot, prompt, source } = taken;
        let reused = self.slots[slot].tokens.len();
        let source = if reused == 0 { Source::Cold } else { source };
        let started = Started { prompt_tokens: prompt.len(), reused, source, why };
        tracing::debug!(id = request.id, slot, reused, source = source.name(), "admitted");
        self.count_start(&started);
        client.started(&started);
        self.turn += 1;
        let prompt_tokens = prompt.len();
        let stats = Stats { prompt_tokens, cached_tokens: reused, ..Stats::default() };
        let is_respelled = prompt != request.prompt;
        let cuts = if is_respelled { Cuts::default() } else { request.cuts.clone() };
        let is_cold = source == Source::Cold;
        let disk = self.disk.as_ref().filter(|_| is_cold);
        let cold_cut = disk.and_then(|d| d.options.cold_cut(prompt_tokens, cuts.anchor));
        let cold_cut = cold_cut.map(|cut| cuts.stable.map_or(cut, |stable| cut.min(stable)));
        let mut marks = cuts.marks;
        marks.extend([cuts.anchor, cuts.stable, cold_cut].into_iter().flatten());
        marks.retain(|&at| at > reused && at < prompt_tokens);
        marks.sort_unstable();
        marks.dedup();
        let slot = &mut self.slots[slot];
        (slot.used, slot.turn) = (Instant::now(), self.turn);
        (slot.prompt_len, slot.anchor) = (prompt_tokens, cuts.anchor);
        slot.stable = cuts.stable.filter(|&at| at < prompt_tokens);
        slot.work = Some(Work {
            request: Request { prompt: Vec::new(), ..request },
            client,
            sampler,
            target: prompt,
            prompt_len: prompt_tokens,
            n: 0,
            stats,
            asked,
            began,
            decode_began: None,
            marks,
            cold_cut,
            is_solo: false,
        });
    }

    fn count_start(&mut self, started: &Started) {
        let place = Source::ALL.iter().position(|s| *s == started.source).expect("all of them");
        self.counters.started[place] += 1;
        self.counters.prompt_tokens += started.prompt_tokens as u64;
        self.counters.reused_tokens += started.reused as u64;
    }

    /// Carries a choice out. What fails on the way only costs time: the request starts cold.
    fn take(&mut self, place: Place, asked: &Asked) -> Result<Taken> {
        match place {
            Place::In(m) => self.take_live(m, asked),
            Place::Fork(m) => {
                let slot = self.make_room(Some(m.slot))?;
                let is_forked = self.fork(&m, slot)?;
                let keep = self.slots[slot].tokens.len();
                match self.spell(slot, keep, asked).filter(|_| is_forked) {
                    Some(prompt) => Ok(Taken { slot, prompt, source: Source::Forked }),
                    None => self.take_cold(slot, asked),
                }
            }
            Place::File(hit) => {
                let slot = self.make_room(None)?;
                let mut hit = Some(hit);
                for _ in 0..FILES_TRIED {
                    let Some(file) = hit.take() else { break };
                    if self.load(&file, asked.keyed.bytes(), slot) {
                        let keep = self.slots[slot].tokens.len();
                        let prompt = self.spell(slot, keep, asked);
                        let prompt = prompt.filter(|p| self.can_go_on(slot, p));
                        if let Some(prompt) = prompt {
                            return Ok(Taken { slot, prompt, source: Source::Disk });
                        }
                        break;
                    }
                    // It will not be found again; a shorter one may do.
                    let disk = self.disk.as_ref().expect("it had a file");
                    hit = disk.store.find(asked.keyed.bytes()).ok();
                }
                self.take_cold(slot, asked)
            }
            Place::Cold => {
                let slot = self.make_room(None)?;
                self.take_cold(slot, asked)
            }
        }
    }

    /// Whether a prompt can be continued from what a slot holds.
    fn can_go_on(&self, ix: usize, prompt: &[TokenId]) -> bool {
        let slot = &self.slots[ix];
        slot.tokens.len() < prompt.len() || slot.logits.is_some()
    }

    fn take_live(&mut self, m: Match, asked: &Asked) -> Result<Taken> {
        let had = self.slots[m.slot].tokens.len();
        if had - m.keep > DROP_STORED || m.keep < had / 2 {
            self.store(m.slot, Reason::Evict);
        }
        let spelled = self.spell(m.slot, m.keep, asked);
        let keep = spelled.as_ref().map_or(m.common.min(m.keep), |_| m.keep);
        let (ctx, runner) = (self.options.ctx, self.runner.as_mut());
        let kept = self.slots[m.slot].go_back(runner, keep, ctx)?;
        let prompt = spelled.unwrap_or_else(|| asked.tokens.clone());
        if !self.can_go_on(m.slot, &prompt) {
            let last = prompt.len() - 1;
            self.slots[m.slot].go_back(self.runner.as_mut(), last, ctx)?;
        }
        let source = if kept == had { Source::Live } else { Source::Rewound };
        Ok(Taken { slot: m.slot, prompt, source })
    }

    fn take_cold(&mut self, slot: usize, asked: &Asked) -> Result<Taken> {
        if !self.slots[slot].tokens.is_empty() {
            self.slots[slot].clear(self.runner.as_mut(), self.options.ctx)?;
        }
        Ok(Taken { slot, prompt: asked.tokens.clone(), source: Source::Cold })
    }

    /// Empties a slot for a new sequence, storing what it held.
    fn make_room(&mut self, except: Option<usize>) -> Result<usize> {
        let ix = self.victim(except).expect("a request is admitted only when a slot is free");
        if ix == self.slots.len() {
            match Slot::open(self.runner.as_mut(), self.options.ctx) {
                Ok(slot) => {
                    self.slots.push(slot);
                    return Ok(ix);
                }
                Err(ModelError::Memory(what)) if !self.slots.is_empty() => {
                    // There is less than was planned for: make do with the slots there are.
                    tracing::warn!("no memory for another sequence: {what}");
                    self.options.parallel = self.slots.len();
                    let Some(ix) = self.victim(except) else {
                        return Err(ModelError::Memory(what).into());
                    };
                    self.give_up(ix)?;
                    return Ok(ix);
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.give_up(ix)?;
        Ok(ix)
    }

    /// Stores what an idle slot holds and empties it.
    fn give_up(&mut self, ix: usize) -> Result<()> {
        if self.slots[ix].tokens.is_empty() {
            return Ok(());
        }
        self.store(ix, Reason::Evict);
        Ok(self.slots[ix].clear(self.runner.as_mut(), self.options.ctx)?)
    }

    /// Gives idle sequences up until `more` tokens fit, sparing one; `false` when they do not and a
    /// request at work will free some.
    pub(crate) fn make_memory(&mut self, more: usize, spare: Option<usize>) -> bool {
        if self.options.ctx_total == 0 {
            return true;
        }
        let limit = self.options.ctx_total.max(self.options.ctx as usize);
        while self.tokens_promised() + more > limit {
            let now = Instant::now();
            let idle = (0..self.slots.len()).filter(|&ix| {
                let slot = &self.slots[ix];
                slot.is_idle() && !slot.tokens.is_empty() && Some(ix) != spare
            });
            let worth = |ix: &usize| self.slots[*ix].worth(now);
            let Some(ix) = idle.min_by(|a, b| worth(a).total_cmp(&worth(b))) else {
                return self.active() == 0;
            };
            if let Err(e) = self.give_up(ix) {
                tracing::warn!("a sequence could not be given up: {e}");
                return true;
            }
        }
        true
    }

    /// Forks the match's sequence into slot `into`; `false` when the runner cannot.
    fn fork(&mut self, m: &Match, into: usize) -> Result<bool> {
        let from = &self.slots[m.slot];
        let Some(frontier) = from.frontiers.at(m.mark) else { return Ok(false) };
        match self.runner.fork(from.id, &frontier.mark, self.options.ctx) {
            Ok(id) => {
                let mut slot = Slot::holding(id, from.tokens[..frontier.len()].to_vec());
                slot.logits.clone_from(&frontier.logits);
                slot.saved = from.saved.min(slot.tokens.len());
                let old = std::mem::replace(&mut self.slots[into], slot);
                self.runner.close_seq(old.id);
                self.mark(into, true)?;
                Ok(true)
            }
            Err(ModelError::NeedsReplay { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// Refuses what cannot be computed.
fn check(request: &Request, ctx: u32, n_vocab: usize) -> Result<()> {
    if request.prompt.is_empty() {
        return Err(ds4_engine::Error::EmptyPrompt.into());
    }
    if request.prompt.len() >= ctx as usize {
        return Err(Error::PromptTooLong { tokens: request.prompt.len(), ctx });
    }
    Ok(check_ids(&request.prompt, n_vocab)?)
}
