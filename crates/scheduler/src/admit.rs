//! Which slot a request gets, and how much of its prompt is kept there.

use std::time::Instant;

use ds4_engine::{Sampler, Stats, check_ids};
use ds4_kvstore::{Hit, KeyBuilder, Reason};
use ds4_model::TokenId;

use crate::slot::{Slot, Work};
use crate::{Client, Error, Request, Result, Scheduler, Source, Started};

/// Dropping at most this many live tokens is not worth a fork.
const DROP_CHEAP: usize = 1024;
/// A fork, or a file, must spare at least this many tokens.
const SPARE_MIN: usize = 64;
/// Tokens a runner is expected to go back without a mark.
const ROLLBACK_HINT: usize = 64;

/// A live sequence that shares a beginning with the prompt.
struct Match {
    slot: usize,
    /// The prompt, spelled so that it begins with the slot's tokens where their text is equal.
    prompt: Vec<TokenId>,
    /// Tokens shared.
    common: usize,
    /// Tokens that can be kept: shared, and reachable by truncation or a frontier.
    keep: usize,
}

/// Where a request goes.
enum Place {
    /// Into a slot whose sequence it continues.
    In(Match),
    /// Into another slot, from a frontier of a match.
    Fork(Match),
    /// Into another slot, from a file.
    File(Hit),
    /// Into another slot, from nothing.
    Cold,
}

impl Scheduler {
    /// Gives slots to waiting requests, first come first served.
    pub(crate) fn admit(&mut self) {
        while self.has_place() {
            let Some((request, mut client)) = self.queue.pop_front() else { return };
            if request.cancel.is_set() {
                client.done(Err(Error::Cancelled), &Stats::default());
                continue;
            }
            self.start(request, client);
        }
    }

    fn has_place(&self) -> bool {
        self.slots.len() < self.options.parallel || self.slots.iter().any(Slot::is_idle)
    }

    fn start(&mut self, request: Request, mut client: Box<dyn Client>) {
        let began = Instant::now();
        match self.prepare(&request) {
            Ok((slot, prompt, started, sampler)) => {
                client.started(&started);
                self.tick += 1;
                let stats = Stats {
                    prompt_tokens: prompt.len(),
                    cached_tokens: started.reused,
                    ..Stats::default()
                };
                let is_cold = started.source == Source::Cold;
                let cut = |d: &crate::Disk| d.options.cold_cut(prompt.len(), request.anchor);
                let cold_cut = self.disk.as_ref().filter(|_| is_cold).and_then(cut);
                let request = Request { prompt, ..request };
                let slot = &mut self.slots[slot];
                slot.used = self.tick;
                slot.work = Some(Work {
                    request,
                    client,
                    sampler,
                    next: None,
                    n: 0,
                    stats,
                    asked: began,
                    began: Instant::now(),
                    decode_began: None,
                    cold_cut,
                });
            }
            Err(e) => client.done(Err(e), &Stats::default()),
        }
    }

    /// Checks a request and gets its slot ready: what it returns is the slot, the prompt as it is to
    /// be computed, and what was kept.
    fn prepare(&mut self, request: &Request) -> Result<(usize, Vec<TokenId>, Started, Sampler)> {
        check(request, self.options.ctx, self.runner.dims().n_vocab)?;
        let sampler = Sampler::new(request.sampling)?;
        let key = self.encode(&request.prompt);
        let (place, why) = self.choose(&request.prompt, key.bytes());
        let (slot, prompt, source) = self.take(place, request, key.bytes())?;
        let reused = self.slots[slot].tokens.len();
        let source = if reused == 0 { Source::Cold } else { source };
        let started = Started { prompt_tokens: prompt.len(), reused, source, why };
        tracing::debug!(id = request.id, slot, reused, source = source.name(), "admitted");
        Ok((slot, prompt, started, sampler))
    }

    pub(crate) fn encode(&self, tokens: &[TokenId]) -> KeyBuilder {
        let mut key = KeyBuilder::new();
        self.texts.encode(tokens, &mut key);
        key
    }

    /// The place that spares the most, and why it does not spare more.
    fn choose(&self, prompt: &[TokenId], key: &[u8]) -> (Place, String) {
        let best = (0..self.slots.len())
            .map(|ix| self.match_slot(ix, prompt, key))
            .max_by_key(|m| (m.keep, self.slots[m.slot].is_idle(), self.slots[m.slot].used));
        let live = best.as_ref().map_or(0, |m| m.keep);
        let why = match &best {
            Some(m) => format!("live: {} of {} tokens shared", m.common, prompt.len()),
            None => "live: no sequence yet".to_owned(),
        };
        let Some(disk) = &self.disk else { return (self.place_live(best), why) };
        match disk.store.find(key) {
            Ok(hit) if hit.tokens as usize >= live + SPARE_MIN => {
                let why = format!("{why}; disk: {} tokens", hit.tokens);
                (Place::File(hit), why)
            }
            Ok(hit) => {
                let why = format!("{why}; disk: only {} tokens", hit.tokens);
                (self.place_live(best), why)
            }
            Err(miss) => (self.place_live(best), format!("{why}; disk: {miss}")),
        }
    }

    fn place_live(&self, best: Option<Match>) -> Place {
        let Some(m) = best else { return Place::Cold };
        let slot = &self.slots[m.slot];
        let dropped = slot.tokens.len() - m.keep;
        let has_other = self.victim(Some(m.slot)).is_some();
        let is_continuation = dropped <= DROP_CHEAP.max(m.keep / 4) && m.keep >= SPARE_MIN;
        if slot.is_idle() && (is_continuation || dropped == 0 || !has_other) {
            return Place::In(m);
        }
        let spared = slot.frontier_before(m.common).map_or(0, |ix| slot.frontiers[ix].len());
        if has_other && spared >= SPARE_MIN { Place::Fork(m) } else { Place::Cold }
    }

    /// What slot `ix` shares with the prompt: by tokens, or by text when all of the slot's text
    /// begins the prompt's, because sampled tokens need not be those of the tokenizer.
    fn match_slot(&self, ix: usize, prompt: &[TokenId], key: &[u8]) -> Match {
        let slot = &self.slots[ix];
        let mut spelled = prompt.to_vec();
        let mut common = slot.common(prompt);
        if common < slot.tokens.len() && slot.work.as_ref().is_none() {
            let live = self.encode(&slot.tokens);
            let rest = key.strip_prefix(live.bytes()).and_then(|rest| self.texts.tokens(rest));
            let room = (self.options.ctx as usize).saturating_sub(slot.tokens.len());
            if let Some(rest) = rest.filter(|rest| !rest.is_empty() && rest.len() < room) {
                common = slot.tokens.len();
                spelled = slot.tokens.iter().copied().chain(rest).collect();
            }
        }
        let whole = common == spelled.len();
        let frontier = slot.frontier_before(common);
        let at = |ix: usize| slot.frontiers[ix].len();
        let has_logits = if common == slot.tokens.len() {
            slot.logits.is_some()
        } else {
            frontier.is_some_and(|ix| at(ix) == common && slot.frontiers[ix].logits.is_some())
        };
        // Without logits at its end the last token of a prompt must be computed again.
        let wanted = if whole && !has_logits { common - 1 } else { common };
        let near = slot.is_idle() && slot.tokens.len() - wanted <= ROLLBACK_HINT;
        let keep = match slot.frontier_before(wanted) {
            _ if near => wanted,
            Some(ix) => at(ix),
            None => 0,
        };
        Match { slot: ix, prompt: spelled, common: wanted, keep }
    }

    /// An idle slot to be given up, or a new one: the least recently used, sparing `except`.
    fn victim(&self, except: Option<usize>) -> Option<usize> {
        if self.slots.len() < self.options.parallel {
            return Some(self.slots.len());
        }
        (0..self.slots.len())
            .filter(|&ix| Some(ix) != except && self.slots[ix].is_idle())
            .min_by_key(|&ix| self.slots[ix].used)
    }

    /// Carries a choice out. What fails on the way only costs time: the request starts cold.
    fn take(
        &mut self,
        place: Place,
        request: &Request,
        key: &[u8],
    ) -> Result<(usize, Vec<TokenId>, Source)> {
        match place {
            Place::In(m) => {
                let slot = &mut self.slots[m.slot];
                let had = slot.tokens.len();
                let kept = slot.go_back(self.runner.as_mut(), m.common, self.options.ctx)?;
                let source = if kept == had { Source::Live } else { Source::Rewound };
                Ok((m.slot, m.prompt, source))
            }
            Place::Fork(m) => {
                let into = self.make_room(Some(m.slot))?;
                let forked = self.fork(&m, into)?;
                let prompt = if forked { m.prompt } else { request.prompt.clone() };
                Ok((into, prompt, Source::Forked))
            }
            Place::File(hit) => {
                let into = self.make_room(None)?;
                let prompt = self.load(&hit, key, into).and_then(|live| {
                    let rest = self.texts.tokens(&key[hit.key_bytes..])?;
                    Some(live.into_iter().chain(rest).collect())
                });
                if prompt.is_none() {
                    self.slots[into].go_back(self.runner.as_mut(), 0, self.options.ctx)?;
                }
                let prompt = prompt.unwrap_or_else(|| request.prompt.clone());
                let slot = &mut self.slots[into];
                if slot.tokens.len() == prompt.len() && slot.logits.is_none() {
                    slot.go_back(self.runner.as_mut(), prompt.len() - 1, self.options.ctx)?;
                }
                Ok((into, prompt, Source::Disk))
            }
            Place::Cold => Ok((self.make_room(None)?, request.prompt.clone(), Source::Cold)),
        }
    }

    /// Empties a slot for a new sequence, storing what it held.
    fn make_room(&mut self, except: Option<usize>) -> Result<usize> {
        let ix = self.victim(except).expect("a request is admitted only when a slot is free");
        if ix == self.slots.len() {
            let slot = Slot::open(self.runner.as_mut(), self.options.ctx)?;
            self.slots.push(slot);
            return Ok(ix);
        }
        self.store(ix, Reason::Evict);
        self.slots[ix].go_back(self.runner.as_mut(), 0, self.options.ctx)?;
        Ok(ix)
    }

    /// Forks the match's sequence into slot `into`; `false` when the runner cannot.
    fn fork(&mut self, m: &Match, into: usize) -> Result<bool> {
        let from = &self.slots[m.slot];
        let Some(at) = from.frontier_before(m.common) else { return Ok(false) };
        let frontier = &from.frontiers[at];
        match self.runner.fork(from.id, &frontier.mark, self.options.ctx) {
            Ok(id) => {
                let mut slot = Slot::holding(id, from.tokens[..frontier.len()].to_vec());
                slot.logits.clone_from(&frontier.logits);
                slot.saved = slot.tokens.len();
                let old = std::mem::replace(&mut self.slots[into], slot);
                self.runner.close_seq(old.id);
                Ok(true)
            }
            Err(ds4_model::Error::NeedsReplay { .. }) => Ok(false),
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
