//! One live sequence, its marks, and the request it works for.

use std::time::Instant;

use ds4_engine::{Sampler, Stats};
use ds4_model::{Error as ModelError, Result as ModelResult, Runner, SeqId, TokenId};

use crate::frontier::{Frontier, Frontiers};
use crate::guard::Guarded;
use crate::keyed::Keyed;
use crate::{Request, Texts};

/// Seconds in which an idle sequence loses half of its worth.
const HALF_LIFE_S: f64 = 600.0;

/// A live sequence.
pub(crate) struct Slot {
    pub(crate) id: SeqId,
    pub(crate) tokens: Vec<TokenId>,
    /// Encoding of a beginning of `tokens`; see [`Slot::keyed`].
    keyed: Keyed,
    /// Logits after the last token, when at hand.
    pub(crate) logits: Option<Vec<f32>>,
    pub(crate) frontiers: Frontiers,
    pub(crate) used: Instant,
    /// Order of the requests that used it.
    pub(crate) turn: u64,
    /// Tokens it held when it was last written to disk.
    pub(crate) saved: usize,
    /// Length of the last prompt: what lies behind it is the answer.
    pub(crate) prompt_len: usize,
    /// Length of what other conversations may share with it, when known.
    pub(crate) anchor: Option<usize>,
    /// How far a later prompt can agree with it; see [`crate::Cuts::stable`].
    pub(crate) stable: Option<usize>,
    /// A file it came from that its next file takes the place of.
    pub(crate) replaces: Option<String>,
    pub(crate) work: Option<Work>,
}

/// A request in progress.
pub(crate) struct Work {
    pub(crate) request: Request,
    pub(crate) client: Guarded,
    pub(crate) sampler: Sampler,
    /// The prompt and the tokens chosen so far. The sequence holds a beginning of it: all but one
    /// token while it decodes, less while it prefills or recovers.
    pub(crate) target: Vec<TokenId>,
    pub(crate) prompt_len: usize,
    /// Tokens chosen.
    pub(crate) n: usize,
    pub(crate) stats: Stats,
    pub(crate) asked: Instant,
    pub(crate) began: Instant,
    pub(crate) decode_began: Option<Instant>,
    /// Points of the prompt to be marked, ascending.
    pub(crate) marks: Vec<usize>,
    /// Where the prompt is to be stored, once.
    pub(crate) cold_cut: Option<usize>,
    /// Computed alone next time: a call with it and others failed.
    pub(crate) is_solo: bool,
}

impl Work {
    pub(crate) fn is_solo(&self) -> bool {
        self.is_solo
    }

    /// The token to be appended by a sequence of `have` tokens that decodes.
    pub(crate) fn next(&self, have: usize) -> Option<TokenId> {
        let is_last = have + 1 == self.target.len() && have >= self.prompt_len;
        is_last.then(|| self.target[have])
    }
}

impl Slot {
    pub(crate) fn open(runner: &mut dyn Runner, cap: u32) -> ModelResult<Self> {
        Ok(Self::holding(runner.open_seq(cap)?, Vec::new()))
    }

    /// A slot over a sequence that already holds `tokens`.
    pub(crate) fn holding(id: SeqId, tokens: Vec<TokenId>) -> Self {
        Self {
            id,
            tokens,
            keyed: Keyed::default(),
            logits: None,
            frontiers: Frontiers::default(),
            used: Instant::now(),
            turn: 0,
            saved: 0,
            prompt_len: 0,
            anchor: None,
            stable: None,
            replaces: None,
            work: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    /// The token it is about to append, when it decodes.
    pub(crate) fn next(&self) -> Option<TokenId> {
        self.work.as_ref().and_then(|work| work.next(self.tokens.len()))
    }

    /// Whether it has a request whose tokens are not all in place yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.work.is_some() && self.next().is_none()
    }

    /// The encoding of its tokens.
    pub(crate) fn keyed(&mut self, texts: &dyn Texts) -> &Keyed {
        self.keyed.extend(texts, &self.tokens);
        &self.keyed
    }

    /// Whether its first `n` tokens can stand for the beginning of a prompt with which it has
    /// `common` tokens in common; both must be encoded.
    pub(crate) fn stands_for(&self, n: usize, common: usize, asked: &Keyed) -> bool {
        n <= common || self.keyed.meets(asked, n)
    }

    /// Length at the last mark of at most `len` tokens that can stand for the prompt's beginning.
    pub(crate) fn mark_before(&self, len: usize, common: usize, asked: &Keyed) -> usize {
        let mut at = self.frontiers.before(len).map_or(0, Frontier::len);
        while !self.stands_for(at, common, asked) {
            at = self.frontiers.before(at - 1).map_or(0, Frontier::len);
        }
        at
    }

    /// Tokens shared with `prompt`.
    pub(crate) fn common(&self, prompt: &[TokenId]) -> usize {
        self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count()
    }

    /// What its loss would cost: tokens to compute again, of which those on disk cost little, the
    /// less the longer nobody has used it.
    pub(crate) fn worth(&self, now: Instant) -> f64 {
        let saved = self.saved.min(self.tokens.len());
        let lost = (self.tokens.len() - saved) as f64 + saved as f64 / 16.0;
        let age = now.saturating_duration_since(self.used).as_secs_f64();
        lost * (-age / HALF_LIFE_S).exp2()
    }

    /// Whether a prompt that agrees with its first `keep` tokens is likely to be of the same
    /// conversation, not of another one under the same system text.
    pub(crate) fn is_same_conversation(&self, keep: usize) -> bool {
        self.anchor.map_or(2 * keep >= self.tokens.len(), |anchor| keep > anchor)
    }

    /// Whether what lies behind the first `keep` tokens is no more than its last answer.
    pub(crate) fn is_up_to_answer(&self, keep: usize) -> bool {
        // A prompt without logits at its end is computed again from its last token.
        self.prompt_len > 0 && keep + 1 >= self.stable.unwrap_or(self.prompt_len)
    }

    /// Remembers the present end, if the runner keeps marks; `true` when there is one more.
    pub(crate) fn mark(&mut self, runner: &mut dyn Runner, is_anchor: bool) -> ModelResult<bool> {
        let len = self.tokens.len();
        if len == 0 {
            return Ok(false);
        }
        if let Some(known) = self.frontiers.at_mut(len) {
            known.logits = known.logits.take().or_else(|| self.logits.clone());
            known.is_anchor |= is_anchor;
            return Ok(false);
        }
        let Some(mark) = runner.mark(self.id)? else { return Ok(false) };
        self.frontiers.push(Frontier { mark, logits: self.logits.clone(), is_anchor });
        Ok(true)
    }

    /// Gives a mark up; `false` when all are needed: repeats and edits go to the last prompt's end, and
    /// to where a later prompt can agree with it.
    pub(crate) fn thin(&mut self) -> bool {
        self.frontiers.thin([self.prompt_len, self.stable.unwrap_or(self.prompt_len)])
    }

    /// Makes the sequence hold its first `len` tokens, or fewer where the runner cannot go back
    /// exactly; returns how many it holds.
    pub(crate) fn go_back(
        &mut self,
        runner: &mut dyn Runner,
        len: usize,
        cap: u32,
    ) -> ModelResult<usize> {
        if len == self.tokens.len() {
            return Ok(len);
        }
        let short = u32::try_from(len).expect("no longer than the sequence");
        if self.frontiers.at(len).is_none() {
            match runner.truncate(self.id, short) {
                Ok(()) => return Ok(self.cut(len, None)),
                Err(ModelError::NeedsReplay { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        if let Some(frontier) = self.frontiers.before(len) {
            match runner.rewind(self.id, &frontier.mark) {
                Ok(()) => {
                    let (len, logits) = (frontier.len(), frontier.logits.clone());
                    return Ok(self.cut(len, logits));
                }
                Err(ModelError::NeedsReplay { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        self.clear(runner, cap)?;
        Ok(0)
    }

    /// Gives the sequence up for an empty one, its memory included.
    pub(crate) fn clear(&mut self, runner: &mut dyn Runner, cap: u32) -> ModelResult<()> {
        runner.close_seq(self.id);
        self.cut(0, None);
        self.id = runner.open_seq(cap)?;
        Ok(())
    }

    /// Puts the sequence back on firm ground after a call panicked in the middle of it: a copy from
    /// its last mark, whose rows no later call has touched, else an empty sequence.
    pub(crate) fn rebuild(&mut self, runner: &mut dyn Runner, cap: u32) -> ModelResult<()> {
        let old = self.id;
        let last = self.frontiers.before(self.tokens.len());
        let copy = last.map(|f| (f.len(), f.logits.clone(), runner.fork(old, &f.mark, cap)));
        let (len, logits) = if let Some((len, logits, Ok(id))) = copy {
            self.id = id;
            runner.close_seq(old);
            (len, logits)
        } else {
            runner.close_seq(old);
            self.id = runner.open_seq(cap)?;
            (0, None)
        };
        self.cut(len, logits);
        // Marks belong to the sequence they were made of.
        self.frontiers = Frontiers::default();
        self.mark(runner, false)?;
        Ok(())
    }

    /// Forgets drafts that did not hold; the logits are those of the last token kept.
    pub(crate) fn cut_drafts(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.keyed.cut(len);
    }

    /// Forgets what lies behind `len`.
    pub(crate) fn cut(&mut self, len: usize, logits: Option<Vec<f32>>) -> usize {
        self.tokens.truncate(len);
        self.keyed.cut(len);
        self.frontiers.cut(len);
        self.logits = logits;
        self.saved = self.saved.min(len);
        self.anchor = self.anchor.filter(|&at| at <= len);
        self.stable = self.stable.filter(|&at| at <= len);
        if len == 0 {
            self.replaces = None;
        }
        len
    }
}
