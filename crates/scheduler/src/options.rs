//! Numbers that fix how work is shared.

use std::time::Duration;

/// How a scheduler shares one runner.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Live sequences.
    pub parallel: usize,
    /// Capacity of each, in tokens.
    pub ctx: u32,
    /// Tokens that all of them hold together at most; at least `ctx`. 0 for no limit but theirs.
    pub ctx_total: usize,
    /// Requests that may wait for a slot.
    pub queue_max: usize,
    /// Largest prefill chunk while other sequences decode, in tokens; alone it is the runner's.
    pub chunk_shared: usize,
    /// Prefill chunks end at multiples of this, in tokens, whatever they take: for backends whose
    /// results depend on how a prompt is cut. `None` chooses by time.
    pub chunk_fixed: Option<usize>,
    /// Time a prefill chunk may take, so that nobody waits longer for a cancelled request to go;
    /// unless the largest chunk is more than half as quick again for each token.
    pub step: Duration,
    /// The same while other sequences decode, which wait for it between two of their tokens; unless
    /// the largest chunk is three times as quick.
    pub step_shared: Duration,
    /// Drafts per step at most.
    pub draft_max: usize,
    /// Sequences that decode at once, above which nothing is drafted: a batch uses the same bytes
    /// for more tokens than drafts would.
    pub draft_batch_max: usize,
    /// Distance of marks, in tokens; `None` for a chunk, or as much more as their bytes demand.
    pub mark_interval: Option<usize>,
    /// Marks kept per sequence.
    pub marks_max: usize,
    /// Bytes of all marks together, about.
    pub marks_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 4,
            ctx: 32_768,
            ctx_total: 0,
            queue_max: 64,
            chunk_shared: 512,
            chunk_fixed: None,
            step: Duration::from_millis(70),
            step_shared: Duration::from_millis(40),
            draft_max: 1,
            draft_batch_max: 2,
            mark_interval: None,
            marks_max: 256,
            marks_bytes_max: 2 << 30,
        }
    }
}

/// When sequences are written to the disk cache, in tokens (kvcache.md §4).
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Shorter sequences are not stored.
    pub tokens_min: usize,
    /// Longest prompt stored before generation; 0 turns this off.
    pub cold_max: usize,
    /// Distance of stored frontiers; 0 turns this off.
    pub continued_interval: usize,
    /// Tokens left off the end of a cold prompt, whose tokenisation may change with what follows.
    pub trim: usize,
    /// Frontiers are multiples of this.
    pub align: usize,
    /// A sequence that is given up is not stored again when it grew by less since it was.
    pub growth_min: usize,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            tokens_min: 512,
            cold_max: 30_000,
            continued_interval: 10_000,
            trim: 32,
            align: 2048,
            growth_min: 64,
        }
    }
}

impl DiskOptions {
    /// Where a prompt that nothing was reused for is stored: at `anchor` (the end of what new
    /// conversations share) when it is long enough, else near the end, aligned; `None` for never.
    pub(crate) fn cold_cut(&self, prompt: usize, anchor: Option<usize>) -> Option<usize> {
        if self.cold_max == 0 || prompt < self.tokens_min || prompt > self.cold_max {
            return None;
        }
        if let Some(cut) = anchor.filter(|&a| a >= self.tokens_min && a < prompt) {
            return Some(cut);
        }
        let trimmed = prompt.saturating_sub(self.trim);
        let aligned = trimmed - trimmed % self.align.max(1);
        let is_long = prompt > self.tokens_min + self.trim && aligned >= self.tokens_min;
        Some(if is_long { aligned } else { prompt })
    }

    /// Distance of continued frontiers, rounded up to the alignment.
    pub(crate) fn continued_step(&self) -> Option<usize> {
        let align = self.align.max(1);
        (self.continued_interval > 0).then(|| self.continued_interval.div_ceil(align) * align)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_cuts_follow_the_rules() {
        let o = DiskOptions::default();
        assert_eq!(o.cold_cut(511, None), None);
        assert_eq!(o.cold_cut(30_001, None), None);
        assert_eq!(o.cold_cut(20_000, Some(9000)), Some(9000));
        assert_eq!(o.cold_cut(20_000, Some(100)), Some(18_432));
        assert_eq!(o.cold_cut(600, None), Some(600));
        assert_eq!(o.cold_cut(544, None), Some(544));
        assert_eq!(o.cold_cut(2100, Some(2100)), Some(2048));
        assert_eq!(o.continued_step(), Some(10_240));
        let off = DiskOptions { cold_max: 0, continued_interval: 0, ..o };
        assert_eq!((off.cold_cut(20_000, Some(9000)), off.continued_step()), (None, None));
    }
}
