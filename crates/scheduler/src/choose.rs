//! Where a prompt can begin: what live sequences and files have of it, and which of them spares most.

use std::fmt::Write as _;
use std::time::Instant;

use ds4_kvstore::{Hit, Miss};
use ds4_model::TokenId;
use ds4_model::memory::ROLLBACK_MAX;

use crate::Scheduler;
use crate::keyed::Keyed;

/// Dropping at most this many live tokens is not worth a fork.
const DROP_CHEAP: usize = 1024;
/// A fork, or a file, must spare at least this many tokens.
const SPARE_MIN: usize = 64;
/// Waiting for another prompt must spare at least this many tokens.
const WAIT_MIN: usize = 256;
/// Where this many tokens must be computed, the nearest file is looked for, to say why.
const EXPLAIN_MIN: usize = 512;
/// Tokens shown on both sides of a difference.
const SHOWN: usize = 8;

/// A prompt with its encoding.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) keyed: Keyed,
}

/// A live sequence that shares a beginning with the prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    pub(crate) slot: usize,
    /// Tokens that are the prompt's.
    pub(crate) common: usize,
    /// Tokens that spell the prompt's text, whether or not they are its tokens.
    pub(crate) shared: usize,
    /// Tokens that can be kept: shared, and reachable by truncation or a mark.
    pub(crate) keep: usize,
    /// The last mark among the shared tokens.
    pub(crate) mark: usize,
    /// Whether all of the prompt is shared: it was asked before, or is a part of what was.
    is_whole: bool,
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// Into a slot whose sequence it continues.
    In(Match),
    /// Into another slot, from a mark of a match.
    Fork(Match),
    /// Into another slot, from a file.
    File(Hit),
    /// Into another slot, from nothing.
    Cold,
}

/// A choice, and why nothing better was there.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) place: Place,
    pub(crate) why: String,
    /// Tokens that the place spares, as far as is known before it is taken.
    pub(crate) spared: usize,
}

impl Scheduler {
    /// The place that spares the most, and why it does not spare more.
    pub(crate) fn choose(&mut self, asked: &Asked) -> Choice {
        let matches: Vec<Match> =
            (0..self.slots.len()).map(|ix| self.match_slot(ix, asked)).collect();
        let best = matches
            .into_iter()
            .max_by_key(|m| (m.keep, self.slots[m.slot].is_idle(), self.slots[m.slot].turn));
        let (place, live) = self.place_live(best);
        let mut why = self.explain_live(best, asked);
        if let (Place::Cold, Some(m)) = (&place, best.filter(|m| m.keep > 0)) {
            let is_little = m.keep < SPARE_MIN;
            why += if is_little { ", too few to matter" } else { ", with no mark to begin at" };
        }
        let Some(disk) = &self.disk else { return Choice { place, why, spared: live } };
        let key = asked.keyed.bytes();
        match disk.store.find(key) {
            Ok(hit) => {
                let spared = hit.tokens as usize;
                let _ = write!(why, "; disk: {spared} tokens");
                if spared >= live + SPARE_MIN.max(spared / 64) {
                    return Choice { place: Place::File(hit), why, spared };
                }
            }
            Err(miss) => {
                let costs = asked.tokens.len() - live >= EXPLAIN_MIN;
                let miss = match miss {
                    Miss::NoPrefix { files, .. } if costs => {
                        Miss::NoPrefix { files, nearest: disk.store.nearest(key) }
                    }
                    miss => miss,
                };
                let _ = write!(why, "; disk: {miss}");
            }
        }
        Choice { place, why, spared: live }
    }

    /// The place beside a match that costs least, and the tokens it spares.
    fn place_live(&self, best: Option<Match>) -> (Place, usize) {
        let Some(m) = best else { return (Place::Cold, 0) };
        let slot = &self.slots[m.slot];
        let dropped = slot.tokens.len() - m.keep;
        let has_other = self.victim(Some(m.slot)).is_some();
        let is_little = dropped <= DROP_CHEAP.max(m.keep / 4) || slot.is_up_to_answer(m.keep);
        let is_cheap = is_little && m.keep >= SPARE_MIN;
        let is_same = m.is_whole || slot.is_same_conversation(m.keep);
        let is_continuation = is_cheap && is_same;
        if slot.is_idle() && (is_continuation || dropped == 0 || !has_other) {
            return (Place::In(m), m.keep);
        }
        if has_other && m.mark >= SPARE_MIN {
            return (Place::Fork(m), m.mark);
        }
        (Place::Cold, 0)
    }

    /// What slot `ix` shares with the prompt: by tokens, and by text, because sampled tokens need not
    /// be those of the tokenizer.
    fn match_slot(&mut self, ix: usize, asked: &Asked) -> Match {
        let slot = &mut self.slots[ix];
        let common = slot.common(&asked.tokens);
        let mut shared = common;
        if common < slot.tokens.len() && common < asked.tokens.len() {
            shared = slot.keyed(self.texts.as_ref()).shared(&asked.keyed, common);
        }
        let end = slot.keyed(self.texts.as_ref()).end(shared);
        let is_whole = end == asked.keyed.bytes().len();
        let has_logits = if shared == slot.tokens.len() {
            slot.logits.is_some()
        } else {
            slot.frontiers.at(shared).is_some_and(|f| f.logits.is_some())
        };
        // Without logits at its end the last token of a prompt must be computed again.
        let wanted = if is_whole && !has_logits { shared.saturating_sub(1) } else { shared };
        let mark = slot.mark_before(wanted, common, &asked.keyed);
        let is_near = slot.is_idle() && slot.tokens.len() - wanted <= ROLLBACK_MAX;
        let keep = if is_near && slot.stands_for(wanted, common, &asked.keyed) {
            wanted
        } else if is_near {
            mark.max(common.min(wanted))
        } else {
            mark
        };
        Match { slot: ix, common: common.min(wanted), shared: wanted, keep, mark, is_whole }
    }

    /// The prompt so that it begins with the first `keep` tokens of a slot.
    pub(crate) fn spell(&mut self, ix: usize, keep: usize, asked: &Asked) -> Option<Vec<TokenId>> {
        let slot = &mut self.slots[ix];
        if asked.tokens.get(..keep) == Some(&slot.tokens[..keep]) {
            return Some(asked.tokens.clone());
        }
        let keyed = slot.keyed(self.texts.as_ref());
        if !keyed.meets(&asked.keyed, keep) {
            return None;
        }
        let at = keyed.end(keep);
        let rest = asked.keyed.rest(self.texts.as_ref(), &asked.tokens, at)?;
        let all: Vec<TokenId> = slot.tokens[..keep].iter().copied().chain(rest).collect();
        (all.len() < self.options.ctx as usize).then_some(all)
    }

    /// An idle slot to be given up, or a new one: the one whose loss costs least, sparing `except`.
    pub(crate) fn victim(&self, except: Option<usize>) -> Option<usize> {
        if self.slots.len() < self.options.parallel.max(1) {
            return Some(self.slots.len());
        }
        let now = Instant::now();
        (0..self.slots.len()).filter(|&ix| Some(ix) != except && self.slots[ix].is_idle()).min_by(
            |&a, &b| {
                let (a, b) = (&self.slots[a], &self.slots[b]);
                a.worth(now).total_cmp(&b.worth(now)).then(a.turn.cmp(&b.turn))
            },
        )
    }

    /// A prompt in progress that will soon share much more with this one than anything does now:
    /// its slot, and how far the two agree.
    pub(crate) fn forerunner(&self, asked: &Asked, spared: usize) -> Option<(usize, usize)> {
        let ahead = |ix: usize| {
            let slot = &self.slots[ix];
            let work = slot.work.as_ref().filter(|_| slot.is_behind())?;
            let prompt = &work.target[..work.prompt_len];
            let agree = prompt.iter().zip(&asked.tokens).take_while(|(a, b)| a == b).count();
            (agree > slot.tokens.len() && agree >= spared + WAIT_MIN).then_some((ix, agree))
        };
        (0..self.slots.len()).filter_map(ahead).max_by_key(|&(_, agree)| agree)
    }

    /// What is shared with live sequences, and where the nearest one differs.
    fn explain_live(&self, best: Option<Match>, asked: &Asked) -> String {
        let Some(m) = best else { return "live: no sequence yet".to_owned() };
        let slot = &self.slots[m.slot];
        let (shared, prompt) = (m.shared, &asked.tokens);
        let mut why = format!("live: {shared} of {} tokens shared", prompt.len());
        if m.keep < shared {
            let _ = write!(why, ", the last mark among them at {}", m.keep);
        }
        let has_more = slot.tokens.len() > m.shared && prompt.len() > m.common;
        if has_more && prompt.len() - m.keep >= SPARE_MIN {
            let show = |tokens: &[TokenId], at: usize| {
                let from = at.min(tokens.len());
                let to = (from + SHOWN).min(tokens.len());
                let text = self.texts.text(&tokens[from..to]);
                text.chars().take(80).collect::<String>()
            };
            let (live, new) = (show(&slot.tokens, m.shared), show(prompt, m.common));
            let _ = write!(why, ", then {live:?} live and {new:?} in the prompt");
        }
        why
    }
}
