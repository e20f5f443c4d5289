//! The one boundary: above it nobody sees a tensor, below it nobody sees a request.

use std::any::Any;
use std::fmt;
use std::io::{Read, Write};

use crate::{Dims, Error, Probe};

/// A token id of the loaded vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct TokenId(pub u32);

/// A sequence open in a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u32);

/// `tokens` are appended to sequence `seq`; logits are wanted for the last `n_logits` of them.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The sequence that grows.
    pub seq: SeqId,
    /// At least one token.
    pub tokens: &'a [TokenId],
    /// At most `tokens.len()`.
    pub n_logits: usize,
}

/// A point a sequence can return to: its rings as they were, without the rows that only grow.
///
/// It stays valid while the sequence keeps its first `len` tokens.
pub struct Mark {
    /// Tokens the sequence held.
    pub len: u32,
    /// The backend's copy of the rings.
    pub state: Box<dyn Any + Send>,
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mark").field("len", &self.len).finish_non_exhaustive()
    }
}

/// How a backend has fared that keeps only a part of the weights in memory and reads the rest from
/// the file as tokens need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Bytes of weights that may be in memory.
    pub limit_bytes: u64,
    /// Of these, bytes that always stay: all but the routed experts.
    pub kept_bytes: u64,
    /// Bytes of experts in memory now.
    pub expert_bytes: u64,
    /// Chosen experts that were in memory, since the model was opened.
    pub hits: u64,
    /// Chosen experts that were not.
    pub misses: u64,
    /// Bytes asked of the file for these.
    pub read_bytes: u64,
    /// Experts whose memory was given back.
    pub evictions: u64,
}

impl Residency {
    /// What has happened since an earlier look.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            hits: self.hits.saturating_sub(earlier.hits),
            misses: self.misses.saturating_sub(earlier.misses),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            evictions: self.evictions.saturating_sub(earlier.evictions),
            ..self
        }
    }

    /// Share of the chosen experts that were in memory, 0 to 1.
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.hits + self.misses).max(1) as f64
    }
}

/// Result of a runner's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// One loaded model on one device.
pub trait Runner: Send {
    /// The model's numbers.
    fn dims(&self) -> &Dims;

    /// Opens an empty sequence that can hold `cap` tokens.
    fn open_seq(&mut self, cap: u32) -> Result<SeqId>;

    /// Forgets a sequence and frees its memory. Unknown ids are ignored.
    fn close_seq(&mut self, seq: SeqId);

    /// Tokens in the sequence.
    fn seq_len(&self, seq: SeqId) -> Result<u32>;

    /// Appends every span to its sequence. Prefill chunk, decode step, speculative verification and
    /// batched decode are this same call. `logits` is replaced by the wanted rows of `n_vocab`
    /// values, in span order. On an error no sequence has changed its length.
    fn forward(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<()>;

    /// Largest number of tokens one span may hold in a call; callers cut longer prompts.
    fn chunk_max(&self) -> usize;

    /// Proposes up to `out.len()` tokens to follow `last`, where `last` was chosen after the
    /// sequence's present end but is not yet appended; returns how many, 0 when no MTP block is
    /// loaded. The sequence is unchanged.
    fn draft(&mut self, seq: SeqId, last: TokenId, out: &mut [TokenId]) -> Result<usize>;

    /// Forgets all tokens from position `len` on. Cheap within the rollback margin of the rings,
    /// else [`Error::NeedsReplay`].
    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<()>;

    /// Writes the sequence's state; returns the bytes written. The format belongs to the model, not
    /// the backend: any runner of the same model and numerics loads it.
    fn save_seq(&mut self, seq: SeqId, w: &mut dyn Write) -> Result<u64>;

    /// Opens a sequence from a saved state, with room for `cap` tokens.
    fn load_seq(&mut self, r: &mut dyn Read, cap: u32) -> Result<SeqId>;

    /// Whether [`Runner::load_seq`] takes states that other weights of the same shape have computed,
    /// such as another quantisation of the model. They are refused until this is called.
    fn accept_other_weights(&mut self, accepts: bool) {
        let _ = accepts;
    }

    /// Copies the sequence's rings, so that [`Runner::rewind`] can return to its present end
    /// however far it has grown since. `None` where the backend keeps no marks.
    fn mark(&mut self, seq: SeqId) -> Result<Option<Mark>> {
        self.seq_len(seq).map(|_| None)
    }

    /// Sets the sequence back to a mark of its own. Marks beyond that point become invalid as soon
    /// as it grows again.
    fn rewind(&mut self, seq: SeqId, mark: &Mark) -> Result<()> {
        Err(Error::NeedsReplay { len: mark.len, now: self.seq_len(seq)? })
    }

    /// Opens a new sequence with room for `cap` tokens that holds the tokens of `seq` up to a mark
    /// of it; `seq` is unchanged.
    fn fork(&mut self, seq: SeqId, mark: &Mark, cap: u32) -> Result<SeqId> {
        let _ = cap;
        Err(Error::NeedsReplay { len: mark.len, now: self.seq_len(seq)? })
    }

    /// Installs or removes the stage recorder.
    fn set_probe(&mut self, probe: Option<Box<dyn Probe>>);

    /// What became of a limit on the memory of weights; `None` where all weights may stay.
    fn residency(&self) -> Option<Residency> {
        None
    }

    /// Device memory a sequence of `cap` tokens takes, in bytes.
    fn seq_bytes(&self, cap: u32) -> u64;
}
