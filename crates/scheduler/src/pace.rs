//! How many tokens a prefill chunk has, so that it takes about as long as it may.

use std::time::Duration;

/// The first chunk, before anything was measured, and the smallest.
const CHUNK_FIRST: usize = 64;
const CHUNK_MIN: usize = 16;

/// Follows the speed of prefill, which changes with the context's length and with the neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    budget: Duration,
    chunk: f64,
}

impl Pace {
    pub(crate) fn new(budget: Duration) -> Self {
        Self { budget, chunk: CHUNK_FIRST as f64 }
    }

    /// Tokens of the next chunk.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "kept between 16 and the runner's maximum"
    )]
    pub(crate) fn chunk(&self, most: usize) -> usize {
        (self.chunk as usize).max(CHUNK_MIN).min(most)
    }

    /// A step with `n` prefilled tokens took this long. A step that was cut short for another reason
    /// says little about a full one: it can only show that even it was too long.
    pub(crate) fn measured(&mut self, n: usize, took: Duration, most: usize) {
        let took = took.as_secs_f64().max(1e-6);
        let fits = n as f64 * self.budget.as_secs_f64() / took;
        let is_full = n as f64 >= 0.75 * self.chunk;
        if is_full {
            // At most twice as much as was tried; halfway there, because one step may be an outlier.
            let next = f64::midpoint(self.chunk, fits.min(2.0 * self.chunk));
            self.chunk = if fits < self.chunk { fits.midpoint(next) } else { next };
        } else if fits < n as f64 {
            self.chunk = self.chunk.min(fits);
        }
        self.chunk = self.chunk.clamp(CHUNK_MIN as f64, most.max(CHUNK_MIN) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of `per_token` seconds and `fixed` in front, until the chunk has settled.
    fn settle(per_token: f64, fixed: f64) -> (usize, f64) {
        let mut pace = Pace::new(Duration::from_millis(70));
        let mut longest: f64 = 0.0;
        for _ in 0..40 {
            let n = pace.chunk(512);
            let took = fixed + per_token * n as f64;
            longest = longest.max(took);
            pace.measured(n, Duration::from_secs_f64(took), 512);
        }
        (pace.chunk(512), longest)
    }

    #[test]
    fn chunks_grow_to_the_budget_and_not_beyond_the_maximum() {
        assert_eq!(settle(1e-5, 0.0).0, 512);
        let (chunk, longest) = settle(1e-3, 0.0);
        assert!((66..=70).contains(&chunk), "{chunk}");
        assert!(longest < 0.1, "{longest}");
        let (chunk, longest) = settle(2e-4, 0.02);
        assert!((230..=250).contains(&chunk), "{chunk}");
        assert!(longest < 0.1, "{longest}");
        // Where even a small chunk takes longer, the work must still get done.
        assert_eq!(settle(0.1, 0.0).0, CHUNK_MIN);
    }

    #[test]
    fn a_short_chunk_says_little() {
        let mut pace = Pace::new(Duration::from_millis(70));
        for _ in 0..20 {
            pace.measured(pace.chunk(512), Duration::from_millis(10), 512);
        }
        assert_eq!(pace.chunk(512), 512);
        pace.measured(3, Duration::from_millis(10), 512);
        assert_eq!(pace.chunk(512), 512);
        pace.measured(100, Duration::from_millis(140), 512);
        assert_eq!(pace.chunk(512), 50);
    }
}
