//! Which routed experts are in memory, for files larger than it.
//!
//! Weights are mapped from their file. Everything but the routed experts is read for every token and
//! stays; of the experts, those used last stay, as many as a limit allows. As soon as a layer has
//! chosen, the memory of the longest unused ones is given back and the system is asked to read all
//! chosen ones that are missing, together, so that a disk sees many requests at once; products then
//! wait only for the pages they come to.
//!
//! Giving back means that the pages leave this process. The system may keep them cached while nobody
//! else needs the memory: then a miss costs no disk access. Where the system takes no such advice
//! (other than Unix), the limit only counts.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ds4_gguf::Gguf;
use ds4_model::memory::DRAFT_MAX;
use ds4_model::{Dims, Error, FfnWeights, Matrix, ModelFile, Place, Residency, Result};

use crate::pool::Pool;

/// Bytes in one request to read ahead. Linux cuts longer ones to its own read-ahead window, which
/// is 128 KiB unless someone has changed it.
const PIECE: usize = 128 << 10;

/// Memory that rows of the embedding table may take before all of it is given back.
const EMBD_BYTES: u64 = 64 << 20;

/// Memory that reading one row of it takes at most: the system maps up to 64 KiB around an access.
const EMBD_ROW_BYTES: u64 = 192 << 10;

/// Tokens that a step must be able to take: a proposal and the token before it.
const TOKENS_MIN: usize = DRAFT_MAX + 1;

/// The experts of one block.
#[derive(Debug)]
struct Stack {
    weights: FfnWeights,
    /// Bytes of one expert.
    bytes: u64,
}

impl Stack {
    fn new(weights: &FfnWeights) -> Self {
        let bytes = parts(weights, 0).iter().map(|(_, range)| range.len() as u64).sum();
        Self { weights: weights.clone(), bytes }
    }
}

/// Where the matrices of expert `ix` lie.
fn parts(weights: &FfnWeights, ix: usize) -> [(&Gguf, Range<usize>); 3] {
    [&weights.gate, &weights.up, &weights.down].map(|m| {
        let n = m.range().len() / m.stack;
        let start = m.range().start + ix * n;
        (&**m.file(), start..start + n)
    })
}

/// What a limit on the memory of weights has to leave room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Bytes that are read for every token, and so stay.
    pub kept_bytes: u64,
    /// Bytes of all routed experts, read as they are chosen.
    pub expert_bytes: u64,
    /// The smallest limit with which the model runs, if only in small steps.
    pub least_bytes: u64,
    /// The limit from which prompts are computed in steps of full size.
    pub full_bytes: u64,
}

impl Placement {
    /// That of a model.
    pub fn of(file: &ModelFile) -> Self {
        let stacks = stacks(file);
        Self::new(file, &stacks, kept_embd(file).is_some())
    }

    fn new(file: &ModelFile, stacks: &[Stack], gives_embd: bool) -> Self {
        let dims = &file.dims;
        let expert_bytes = stacks.iter().map(|s| s.bytes * dims.n_expert as u64).sum();
        let embd = file.weights.embd.range().len() as u64;
        let embd = if gives_embd { embd - EMBD_BYTES } else { 0 };
        let kept_bytes = file.tensor_bytes() - expert_bytes - embd;
        Self {
            kept_bytes,
            expert_bytes,
            least_bytes: kept_bytes + step_bytes(stacks, dims, TOKENS_MIN),
            full_bytes: kept_bytes + step_bytes(stacks, dims, usize::MAX),
        }
    }
}

/// The experts of the trunk's layers, then those of the MTP block.
fn stacks(file: &ModelFile) -> Vec<Stack> {
    let mtp = file.weights.mtp.as_ref().map(|mtp| &mtp.block);
    let blocks = file.weights.layers.iter().chain(mtp);
    blocks.map(|block| Stack::new(&block.experts)).collect()
}

/// The embedding table, if it is large enough to be given back from time to time.
fn kept_embd(file: &ModelFile) -> Option<&Matrix> {
    Some(&file.weights.embd).filter(|m| m.range().len() as u64 > EMBD_BYTES)
}

/// A limit on the memory of weights, and what is within it.
#[derive(Debug)]
pub(crate) struct Tiers {
    limit: u64,
    kept: u64,
    /// Bytes that experts may take.
    budget: u64,
    n_expert: usize,
    /// The trunk's layers, then the MTP block.
    stacks: Vec<Stack>,
    /// The embedding table, where it is given back from time to time.
    embd: Option<Matrix>,
    table: Mutex<Table>,
}

/// Experts are counted through the stacks.
#[derive(Debug)]
struct Table {
    /// When each was used last; 0 for those not in memory.
    used: Vec<u64>,
    /// Number of the present choice.
    now: u64,
    /// Of those in memory.
    bytes: u64,
    /// Experts to be given back and to be read, reused from call to call.
    moves: Vec<Move>,
    /// Rows of the embedding table read since it was given back.
    embd_rows: u64,
    stats: Residency,
}

/// Something to tell the system.
#[derive(Clone, Copy, Debug)]
enum Move {
    Out(usize),
    In(usize),
}

impl Tiers {
    /// A limit of `limit` bytes for the weights of `file`; `None` where all of them fit, or where
    /// they are in memory that cannot be given back. Asks the system to read what will stay.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when not even one short step fits.
    pub(crate) fn new(file: &ModelFile, limit: u64) -> Result<Option<Self>> {
        if file.tensor_bytes() <= limit || !file.gguf.is_mapped_file() {
            return Ok(None);
        }
        let (stacks, embd) = (stacks(file), kept_embd(file).cloned());
        let Placement { kept_bytes: kept, least_bytes: least, .. } =
            Placement::new(file, &stacks, embd.is_some());
        if limit < least {
            return Err(Error::Unsupported(format!(
                "a limit of {} GiB for weights; this model needs {}, of which {} are read for every \
                 token",
                gib(limit),
                gib(least),
                gib(kept)
            )));
        }
        let n_expert = file.dims.n_expert;
        let n = stacks.len() * n_expert;
        let tiers = Self {
            limit,
            kept,
            budget: limit - kept,
            n_expert,
            stacks,
            embd,
            table: Mutex::new(Table {
                used: vec![0; n],
                now: 0,
                bytes: 0,
                moves: Vec::with_capacity(n),
                embd_rows: 0,
                stats: Residency::default(),
            }),
        };
        tiers.advise_kept(file);
        Ok(Some(tiers))
    }

    /// Tokens of a step whose experts fit, at most `chunk_max`.
    pub(crate) fn chunk_max(&self, dims: &Dims, chunk_max: usize) -> usize {
        let fits = |n: &usize| step_bytes(&self.stacks, dims, *n) <= self.budget;
        if fits(&chunk_max) {
            return chunk_max;
        }
        (1..chunk_max).rev().find(fits).unwrap_or(1).min(chunk_max)
    }

    /// What has happened so far.
    pub(crate) fn stats(&self) -> Residency {
        let table = self.table();
        Residency {
            limit_bytes: self.limit,
            kept_bytes: self.kept,
            expert_bytes: table.bytes,
            ..table.stats
        }
    }

    /// Says that a block has chosen the experts `e` with `bounds[e] < bounds[e + 1]`: makes room and
    /// has the missing ones read. Allocates nothing.
    pub(crate) fn want(&self, pool: &Pool, place: Place, bounds: &[u32]) {
        let stack = match place {
            Place::Layer(il) => il,
            _ => self.stacks.len() - 1,
        };
        let mut table = self.table();
        let table = &mut *table;
        table.moves.clear();
        table.now += 1;
        let first = stack * self.n_expert;
        let (bytes, mut missing) = (self.stacks[stack].bytes, 0);
        for (e, _) in bounds.windows(2).enumerate().filter(|(_, b)| b[0] < b[1]) {
            if table.used[first + e] == 0 {
                table.moves.push(Move::In(first + e));
                missing += bytes;
                table.stats.misses += 1;
            } else {
                table.stats.hits += 1;
            }
            table.used[first + e] = table.now;
        }
        table.stats.read_bytes += missing;
        table.bytes += missing;
        while table.bytes > self.budget {
            let Some(victim) = table.longest_unused() else { break };
            table.used[victim] = 0;
            table.bytes -= self.stacks[victim / self.n_expert].bytes;
            table.stats.evictions += 1;
            table.moves.push(Move::Out(victim));
        }
        // Room first, then the reads.
        table.moves.reverse();
        pool.for_chunks("read-ahead", &mut table.moves, 1, |_, moves| {
            for m in moves {
                self.advise(*m);
            }
        });
    }

    /// Says that rows of the embedding table have been read.
    pub(crate) fn embedded(&self, rows: usize) {
        let Some(embd) = &self.embd else { return };
        let mut table = self.table();
        table.embd_rows += rows as u64;
        if table.embd_rows * EMBD_ROW_BYTES > EMBD_BYTES {
            table.embd_rows = 0;
            // Refused only for locked pages, which cannot be had back in any way.
            let _ = embd.file().evict(embd.range());
        }
    }

    /// Tells the system of one expert. It is advice: where it is refused, pages are read when they
    /// are needed, and given back when the system wants them.
    fn advise(&self, what: Move) {
        let (Move::In(ix) | Move::Out(ix)) = what;
        let stack = &self.stacks[ix / self.n_expert];
        for (file, range) in parts(&stack.weights, ix % self.n_expert) {
            match what {
                Move::In(_) => read_ahead(file, range),
                Move::Out(_) => drop(file.evict(range)),
            }
        }
    }

    /// Has everything read that stays, and stops the system from reading around what does not.
    fn advise_kept(&self, file: &ModelFile) {
        for gguf in std::iter::once(&file.gguf).chain(&file.mtp) {
            for tensor in gguf.tensors() {
                let is_large = |m: &Matrix| m.name == tensor.name && Arc::ptr_eq(m.file(), gguf);
                let is_embd = self.embd.iter().any(is_large);
                if is_embd || self.matrices().any(is_large) {
                    let _ = gguf.advise_random(tensor.range.clone());
                    // Checking the file has touched a page of it.
                    let _ = gguf.evict(tensor.range.clone());
                } else {
                    read_ahead(gguf, tensor.range.clone());
                }
            }
        }
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.stacks.iter().flat_map(|s| [&s.weights.gate, &s.weights.up, &s.weights.down])
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The expert to give back: never one of the present choice.
    fn longest_unused(&self) -> Option<usize> {
        let all = self.used.iter().enumerate();
        let old = all.filter(|(_, used)| **used != 0 && **used != self.now);
        old.min_by_key(|(_, used)| **used).map(|(ix, _)| ix)
    }
}

/// Asks the system for a range, in pieces that it takes whole.
fn read_ahead(file: &Gguf, range: Range<usize>) {
    for start in range.clone().step_by(PIECE) {
        // A hint; the first access reads what was not read ahead.
        let _ = file.advise_willneed(start..(start + PIECE).min(range.end));
    }
}

/// Bytes of the experts that a step of `tokens` tokens uses at most in one block.
fn step_bytes(stacks: &[Stack], dims: &Dims, tokens: usize) -> u64 {
    let n = tokens.saturating_mul(dims.n_expert_used).min(dims.n_expert);
    stacks.iter().map(|s| s.bytes).max().unwrap_or(0) * n as u64
}

/// GiB, rounded up to hundredths, or to less for models that small.
fn gib(bytes: u64) -> f64 {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    let parts = if gib < 1.0 { 1e5 } else { 1e2 };
    (gib * parts).ceil() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first_and_the_present_choice_never() {
        let mut table = Table {
            used: vec![0, 3, 2, 4, 0, 1],
            now: 4,
            bytes: 0,
            moves: Vec::new(),
            embd_rows: 0,
            stats: Residency::default(),
        };
        let mut order = Vec::new();
        while let Some(ix) = table.longest_unused() {
            table.used[ix] = 0;
            order.push(ix);
        }
        assert_eq!(order, [5, 2, 1]);
    }
}
