//! What a scheduler did so far, for metrics.

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that began, by [`crate::Source`] in the order of [`crate::Source::ALL`].
    pub started: [u64; 5],
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Of these, tokens that were kept.
    pub reused_tokens: u64,
    /// Prompt tokens computed, those computed again after a failure among them.
    pub prefilled_tokens: u64,
    /// Tokens chosen.
    pub generated_tokens: u64,
    /// Requests that waited for another one to compute what both begin with.
    pub deferred: u64,
    /// Requests cancelled, in the queue or at work.
    pub cancelled: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Calls of the runner.
    pub steps: u64,
    /// Time spent in them, in microseconds.
    pub step_us: u64,
    /// Calls that panicked or were refused.
    pub broken_steps: u64,
    /// Time spent copying states for the disk cache, in microseconds.
    pub copy_us: u64,
}
