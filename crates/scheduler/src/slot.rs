//! One live sequence, its marks, and the request it works for.

use std::time::Instant;

use ds4_engine::{Sampler, Stats};
use ds4_model::{Error as ModelError, Mark, Result as ModelResult, Runner, SeqId, TokenId};

use crate::{Client, Request};

/// A mark with the logits at its point, when they were computed.
#[derive(Debug)]
pub(crate) struct Frontier {
    pub(crate) mark: Mark,
    pub(crate) logits: Option<Vec<f32>>,
}

impl Frontier {
    pub(crate) fn len(&self) -> usize {
        self.mark.len as usize
    }
}

/// A live sequence.
pub(crate) struct Slot {
    pub(crate) id: SeqId,
    pub(crate) tokens: Vec<TokenId>,
    /// Logits after the last token, when at hand.
    pub(crate) logits: Option<Vec<f32>>,
    /// Ascending by length.
    pub(crate) frontiers: Vec<Frontier>,
    /// Tick of last use.
    pub(crate) used: u64,
    /// Tokens it held when it was last written to disk.
    pub(crate) saved: usize,
    pub(crate) work: Option<Work>,
}

/// A request in progress.
pub(crate) struct Work {
    pub(crate) request: Request,
    pub(crate) client: Box<dyn Client>,
    pub(crate) sampler: Sampler,
    /// Chosen and reported but not yet appended; `None` while the prompt is being computed.
    pub(crate) next: Option<TokenId>,
    /// Tokens reported.
    pub(crate) n: usize,
    pub(crate) stats: Stats,
    pub(crate) asked: Instant,
    pub(crate) began: Instant,
    pub(crate) decode_began: Option<Instant>,
    /// Where the prompt is to be stored, once.
    pub(crate) cold_cut: Option<usize>,
}

impl Slot {
    pub(crate) fn open(runner: &mut dyn Runner, cap: u32) -> ModelResult<Self> {
        Ok(Self::holding(runner.open_seq(cap)?, Vec::new()))
    }

    /// A slot over a sequence that already holds `tokens`.
    pub(crate) fn holding(id: SeqId, tokens: Vec<TokenId>) -> Self {
        let saved = 0;
        Self { id, tokens, logits: None, frontiers: Vec::new(), used: 0, saved, work: None }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    /// Tokens shared with `prompt`.
    pub(crate) fn common(&self, prompt: &[TokenId]) -> usize {
        self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count()
    }

    /// The last frontier of at most `len` tokens.
    pub(crate) fn frontier_before(&self, len: usize) -> Option<usize> {
        self.frontiers.iter().rposition(|f| f.len() <= len)
    }

    /// Remembers the present end, if the runner keeps marks.
    pub(crate) fn mark(&mut self, runner: &mut dyn Runner, marks_max: usize) -> ModelResult<()> {
        let len = self.tokens.len();
        if len == 0 || marks_max == 0 {
            return Ok(());
        }
        if let Some(last) = self.frontiers.last_mut().filter(|f| f.len() == len) {
            last.logits = last.logits.take().or_else(|| self.logits.clone());
            return Ok(());
        }
        let Some(mark) = runner.mark(self.id)? else { return Ok(()) };
        self.frontiers.push(Frontier { mark, logits: self.logits.clone() });
        if self.frontiers.len() > marks_max {
            self.frontiers.remove(least_useful(&self.frontiers));
        }
        Ok(())
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
        let at_frontier = self.frontier_before(len);
        let exact = at_frontier.filter(|&ix| self.frontiers[ix].len() == len);
        if exact.is_none() {
            match runner.truncate(self.id, short) {
                Ok(()) => return Ok(self.cut(len, None)),
                Err(ModelError::NeedsReplay { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        if let Some(ix) = at_frontier {
            match runner.rewind(self.id, &self.frontiers[ix].mark) {
                Ok(()) => {
                    let frontier = &self.frontiers[ix];
                    let (len, logits) = (frontier.len(), frontier.logits.clone());
                    return Ok(self.cut(len, logits));
                }
                Err(ModelError::NeedsReplay { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        runner.close_seq(self.id);
        self.id = runner.open_seq(cap)?;
        Ok(self.cut(0, None))
    }

    /// Forgets what lies behind `len`.
    fn cut(&mut self, len: usize, logits: Option<Vec<f32>>) -> usize {
        self.tokens.truncate(len);
        self.frontiers.retain(|f| f.len() <= len);
        self.logits = logits;
        self.saved = self.saved.min(len);
        len
    }
}

/// The frontier whose loss leaves the smallest gap; the last two are spared, the end of a prompt and
/// of its answer, because repeats and edits go there.
fn least_useful(frontiers: &[Frontier]) -> usize {
    let before = |ix: usize| if ix == 0 { 0 } else { frontiers[ix - 1].len() };
    (0..frontiers.len().saturating_sub(2))
        .min_by_key(|&ix| frontiers[ix + 1].len() - before(ix))
        .unwrap_or(0)
}
