//! How many tokens a prefill chunk has: as many as fit into the time it may take, unless so few would
//! cost too much of the speed. Where every call reads the weights anew, a small chunk reads them for
//! little.

use std::time::Duration;

/// The first chunk, before anything was measured, and the smallest.
const CHUNK_FIRST: usize = 64;
const CHUNK_MIN: usize = 16;
/// What earlier steps count for in the next estimate.
const MEMORY: f64 = 0.9;
/// Typical error of an estimate that is believed, in times of the mean: a stall of the machine is no
/// fixed part.
const UNEXPLAINED_MAX: f64 = 0.5;

/// Follows the speed of prefill, which changes with the context's length and with the neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    budget: Duration,
    /// Time a token may take, in times of what it takes in the largest chunk.
    slowdown: f64,
    /// The chunk that fits into the time.
    chunk: f64,
    cost: Cost,
}

/// Time of a call as a fixed part and one for each token, from the sums of a weighted regression.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    weight: f64,
    n: f64,
    t: f64,
    nn: f64,
    nt: f64,
    tt: f64,
}

impl Cost {
    fn add(&mut self, n: f64, t: f64) {
        let Self { weight, n: ns, t: ts, nn, nt, tt } = self;
        for sum in [weight, ns, ts, nn, nt, tt] {
            *sum *= MEMORY;
        }
        self.weight += 1.0;
        self.n += n;
        self.t += t;
        self.nn += n * n;
        self.nt += n * t;
        self.tt += t * t;
    }

    /// Fixed part and time of a token; `None` without calls, while all had about the same size, and
    /// when the two explain little of what was measured.
    fn parts(&self) -> Option<(f64, f64)> {
        if self.weight == 0.0 {
            return None;
        }
        let (n, t) = (self.n / self.weight, self.t / self.weight);
        let (nn, nt, tt) = (self.nn / self.weight, self.nt / self.weight, self.tt / self.weight);
        let spread = nn - n * n;
        if spread < (0.1 * n).powi(2) {
            return None;
        }
        let token = ((nt - n * t) / spread).clamp(0.0, t / n);
        let fixed = t - token * n;
        // The mean square of what is left of each time without its two parts.
        let rest = tt - t * t - 2.0 * token * (nt - n * t) + token * token * spread;
        (rest < (UNEXPLAINED_MAX * t).powi(2)).then_some((fixed, token))
    }

    /// The smallest chunk in which a token takes at most `slowdown` times what it takes in one of
    /// `most`.
    fn least(&self, slowdown: f64, most: f64) -> Option<f64> {
        let (fixed, token) = self.parts()?;
        let allowed = slowdown * (fixed / most + token) - token;
        (allowed > 0.0).then(|| fixed / allowed)
    }
}

impl Pace {
    pub(crate) fn new(budget: Duration, slowdown: f64) -> Self {
        Self { budget, slowdown, chunk: CHUNK_FIRST as f64, cost: Cost::default() }
    }

    /// Tokens of the next chunk, of a runner that takes `whole` in one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "kept between 16 and the runner's maximum"
    )]
    pub(crate) fn chunk(&self, whole: usize, most: usize) -> usize {
        let least = self.cost.least(self.slowdown, whole as f64).unwrap_or(0.0);
        let chunk = self.chunk.max(least).min(whole as f64) as usize;
        chunk.max(CHUNK_MIN).min(most)
    }

    /// A step with `n` prefilled tokens took this long. A step that was cut short for another reason
    /// says little about a full one: it can only show that even it was too long.
    pub(crate) fn measured(&mut self, n: usize, took: Duration, whole: usize) {
        let took = took.as_secs_f64().max(1e-6);
        self.cost.add(n as f64, took);
        let fits = n as f64 * self.budget.as_secs_f64() / took;
        if n as f64 >= 0.75 * self.chunk {
            // At most twice as much as before; halfway there, because one step may be an outlier.
            let next = f64::midpoint(self.chunk, fits.min(2.0 * self.chunk));
            self.chunk = if fits < self.chunk { fits.midpoint(next) } else { next };
        } else if fits < n as f64 {
            self.chunk = self.chunk.min(fits);
        }
        self.chunk = self.chunk.clamp(CHUNK_MIN as f64, whole.max(CHUNK_MIN) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of `fixed` seconds and `per_token` for each token, until the chunk has settled; also the
    /// longest one.
    fn settle(per_token: f64, fixed: f64) -> (usize, f64) {
        let mut pace = Pace::new(Duration::from_millis(70), 1.5);
        let mut longest: f64 = 0.0;
        for _ in 0..40 {
            let n = pace.chunk(512, 512);
            let took = fixed + per_token * n as f64;
            longest = longest.max(took);
            pace.measured(n, Duration::from_secs_f64(took), 512);
        }
        (pace.chunk(512, 512), longest)
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
    fn where_calls_cost_more_than_tokens_speed_comes_before_time() {
        // A second to read the weights, a millisecond for a token: 512 take 1.5 s, 16 take 1 s.
        let (chunk, _) = settle(1e-3, 1.0);
        let per_token = |n: f64| 1.0 / n + 1e-3;
        assert!((250..512).contains(&chunk), "{chunk}");
        assert!(per_token(chunk as f64) <= 1.51 * per_token(512.0));
    }

    #[test]
    fn before_anything_was_measured_there_is_a_chunk() {
        let mut pace = Pace::new(Duration::from_millis(70), 1.5);
        assert_eq!(pace.chunk(512, 512), CHUNK_FIRST);
        // Calls of one size say nothing about the parts of their cost.
        pace.measured(64, Duration::from_millis(70), 512);
        pace.measured(64, Duration::from_millis(70), 512);
        assert_eq!(pace.chunk(512, 512), 64);
    }

    #[test]
    fn a_short_chunk_says_little() {
        let mut pace = Pace::new(Duration::from_millis(70), 1.5);
        for _ in 0..20 {
            let n = pace.chunk(512, 512);
            pace.measured(n, Duration::from_micros(20 * n as u64), 512);
        }
        assert_eq!(pace.chunk(512, 512), 512);
        pace.measured(3, Duration::from_micros(60), 512);
        assert_eq!(pace.chunk(512, 512), 512);
        pace.measured(100, Duration::from_millis(140), 512);
        assert_eq!(pace.chunk(512, 512), 50);
    }
}
