//! One live sequence: the tokens a runner holds, and how a new prompt makes use of them.
//!
//! A sequence never re-tokenises and never guesses: its `tokens` are exactly the ids the runner has
//! seen. Sampling is not here; who drives the sequence decides what is appended.

use ds4_model::{Error as ModelError, Mark, Runner, SeqId, Span, TokenId};

use crate::{Cancel, Error, Result};

/// A sequence open in a runner.
#[derive(Debug)]
pub struct Sequence {
    id: SeqId,
    cap: u32,
    tokens: Vec<TokenId>,
    /// Rows of the last call that wanted logits, `[rows, n_vocab]`.
    logits: Vec<f32>,
    /// The row that belongs to the last token; `None` when its logits were not asked for.
    last_row: Option<usize>,
    n_vocab: usize,
}

/// What [`Sequence::sync`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Tokens of the prompt that were kept.
    pub reused: usize,
    /// Tokens of the prompt that were computed.
    pub computed: usize,
}

/// A point to which a sequence can return.
#[derive(Debug)]
pub struct Snapshot {
    len: usize,
    row: Vec<f32>,
    state: State,
}

#[derive(Debug)]
enum State {
    Mark(Mark),
    Saved(Vec<u8>),
}

impl Sequence {
    /// Opens an empty sequence with room for `cap` tokens.
    pub fn open(runner: &mut dyn Runner, cap: u32) -> Result<Self> {
        let id = runner.open_seq(cap)?;
        let n_vocab = runner.dims().n_vocab;
        Ok(Self { id, cap, tokens: Vec::new(), logits: Vec::new(), last_row: None, n_vocab })
    }

    /// Adopts a sequence that a runner has loaded from a saved state of these tokens.
    pub fn adopt(runner: &dyn Runner, id: SeqId, cap: u32, tokens: Vec<TokenId>) -> Result<Self> {
        let len = runner.seq_len(id)?;
        if len as usize != tokens.len() {
            let text = format!("holds {len} tokens, expected {}", tokens.len());
            return Err(ModelError::State(text).into());
        }
        let n_vocab = runner.dims().n_vocab;
        Ok(Self { id, cap, tokens, logits: Vec::new(), last_row: None, n_vocab })
    }

    /// Frees the runner's memory.
    pub fn close(self, runner: &mut dyn Runner) {
        runner.close_seq(self.id);
    }

    /// Its number in the runner.
    pub fn id(&self) -> SeqId {
        self.id
    }

    /// Tokens it can hold.
    pub fn cap(&self) -> u32 {
        self.cap
    }

    /// The tokens in the runner.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        (self.cap as usize).saturating_sub(self.tokens.len())
    }

    /// Logits after the last token: `[n_vocab]`, empty when they were not asked for.
    pub fn logits(&self) -> &[f32] {
        self.last_row.map_or(&[], |row| self.row(row))
    }

    /// Row `ix` of the last call's logits: `[n_vocab]`.
    pub fn row(&self, ix: usize) -> &[f32] {
        &self.logits[ix * self.n_vocab..(ix + 1) * self.n_vocab]
    }

    /// Makes the sequence hold exactly `prompt`, with logits of its last token.
    ///
    /// The longest common beginning is kept; where the runner cannot go back that far, the prompt
    /// is computed from its start. Chunks end at multiples of the runner's largest span, wherever
    /// the computing starts, so that a reused beginning changes no boundary after it. `progress`
    /// hears how many tokens of the prompt are in place after each chunk. Cancelled, the sequence
    /// keeps the chunks that were computed.
    pub fn sync(
        &mut self,
        runner: &mut dyn Runner,
        prompt: &[TokenId],
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Synced> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        check_ids(prompt, self.n_vocab)?;
        if prompt.len() > self.cap as usize {
            return Err(
                ModelError::ContextFull { len: 0, more: prompt.len(), cap: self.cap }.into()
            );
        }
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let is_whole = common == prompt.len();
        if !(is_whole && common == self.tokens.len() && self.last_row.is_some()) {
            // The last token of the prompt is computed anew when its logits are not at hand.
            let keep = if is_whole { common - 1 } else { common };
            self.truncate_or_reopen(runner, keep)?;
        }
        let reused = self.tokens.len();
        progress(reused);
        self.prefill(runner, prompt, cancel, progress)?;
        Ok(Synced { reused, computed: prompt.len() - reused })
    }

    /// Computes the tokens of `prompt` behind those already there, in chunks.
    fn prefill(
        &mut self,
        runner: &mut dyn Runner,
        prompt: &[TokenId],
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let chunk = runner.chunk_max().max(1);
        while self.tokens.len() < prompt.len() {
            if cancel.is_set() {
                return Err(Error::Cancelled);
            }
            let start = self.tokens.len();
            let end = ((start / chunk + 1) * chunk).min(prompt.len());
            let n_logits = usize::from(end == prompt.len());
            self.append(runner, &prompt[start..end], n_logits)?;
            progress(end);
        }
        Ok(())
    }

    /// Appends `tokens` in one call and keeps logits of the last `n_logits` of them.
    pub fn append(
        &mut self,
        runner: &mut dyn Runner,
        tokens: &[TokenId],
        n_logits: usize,
    ) -> Result<()> {
        runner.forward(&[Span { seq: self.id, tokens, n_logits }], &mut self.logits)?;
        self.tokens.extend_from_slice(tokens);
        self.last_row = n_logits.checked_sub(1);
        Ok(())
    }

    /// Keeps the first `len` tokens; computes them again when the runner cannot go back that far.
    /// Logits are those of row `row` of the last call, which must belong to the last kept token.
    pub fn keep(&mut self, runner: &mut dyn Runner, len: usize, row: usize) -> Result<()> {
        if len == self.tokens.len() {
            return Ok(());
        }
        let wanted: Vec<TokenId> = self.tokens[..len].to_vec();
        self.truncate_or_reopen(runner, len)?;
        if self.tokens.len() == len {
            self.last_row = Some(row);
            return Ok(());
        }
        self.prefill(runner, &wanted, &Cancel::default(), &mut |_| {})
    }

    /// Remembers the present end, however far the sequence will grow: by a mark where the backend
    /// keeps them, else by its saved state.
    pub fn snapshot(&self, runner: &mut dyn Runner) -> Result<Snapshot> {
        let state = if let Some(mark) = runner.mark(self.id)? {
            State::Mark(mark)
        } else {
            let mut bytes = Vec::new();
            runner.save_seq(self.id, &mut bytes)?;
            State::Saved(bytes)
        };
        Ok(Snapshot { len: self.tokens.len(), row: self.logits().to_vec(), state })
    }

    /// Goes back to a snapshot of this sequence; its logits are there again.
    pub fn restore(&mut self, runner: &mut dyn Runner, snapshot: Snapshot) -> Result<()> {
        match snapshot.state {
            State::Mark(mark) => runner.rewind(self.id, &mark)?,
            State::Saved(bytes) => {
                runner.close_seq(self.id);
                self.id = runner.load_seq(&mut bytes.as_slice(), self.cap)?;
            }
        }
        self.tokens.truncate(snapshot.len);
        self.last_row = (!snapshot.row.is_empty()).then_some(0);
        self.logits = snapshot.row;
        Ok(())
    }

    /// Forgets the tokens from `len` on, or all of them where the runner cannot go back that far.
    fn truncate_or_reopen(&mut self, runner: &mut dyn Runner, len: usize) -> Result<()> {
        if len == self.tokens.len() {
            return Ok(());
        }
        self.last_row = None;
        let short = u32::try_from(len).expect("no longer than the sequence, whose capacity is u32");
        match runner.truncate(self.id, short) {
            Ok(()) => self.tokens.truncate(len),
            Err(ModelError::NeedsReplay { .. }) => {
                runner.close_seq(self.id);
                self.tokens.clear();
                self.id = runner.open_seq(self.cap)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Refuses ids outside the vocabulary.
pub fn check_ids(tokens: &[TokenId], n_vocab: usize) -> Result<()> {
    match tokens.iter().find(|token| token.0 as usize >= n_vocab) {
        Some(token) => Err(ModelError::TokenRange { id: token.0, n_vocab }.into()),
        None => Ok(()),
    }
}
