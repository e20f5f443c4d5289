//! Counters of one generation: tokens and seconds, nothing estimated.

use std::time::Duration;

use crate::spec::Acceptance;

/// What one generation cost.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were already in the live sequence.
    pub cached_tokens: usize,
    /// Tokens generated, a final stop token not counted.
    pub generated_tokens: usize,
    /// Time spent on the rest of the prompt.
    pub prefill: Duration,
    /// Time from the end of prefill to the end of generation.
    pub generation: Duration,
    /// Time from the request to the first token; zero when there was none.
    pub ttft: Duration,
    /// Drafts proposed and accepted.
    pub drafts: Acceptance,
}

impl Stats {
    /// Prompt tokens per second of prefill; 0 when nothing was prefilled.
    pub fn prefill_tps(&self) -> f64 {
        per_second(self.prompt_tokens - self.cached_tokens, self.prefill)
    }

    /// Generated tokens per second of generation, without the first one, which prefill has paid
    /// for; 0 when there is no other.
    pub fn generation_tps(&self) -> f64 {
        per_second(self.generated_tokens.saturating_sub(1), self.generation)
    }
}

/// `n` per second; 0 when there was nothing to count or no time to measure.
pub fn per_second(n: usize, time: Duration) -> f64 {
    if n == 0 || time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}
