//! One row of logits to one token: temperature, filters and a seeded draw.
//!
//! Filters run in the usual order: temperature first, then top-k, top-p and min-p. Each keeps a
//! prefix of the tokens sorted by probability, so all are cuts, never re-orderings:
//!
//! * top-k keeps the `top_k` most probable tokens, lowest id first among equals;
//! * top-p keeps the shortest prefix that holds `top_p` of the mass left by top-k;
//! * min-p keeps tokens at least `min_p` times as probable as the most probable one.
//!
//! Exactly one random number is drawn for each token sampled at a temperature above 0, and the kept
//! tokens are walked in order of id, so that a seed gives the same tokens on every machine whose
//! logits agree. The generator is xoshiro256++ seeded through splitmix64; both are fixed for good.
//!
//! Grammar masks and penalties are not here: who wants a token excluded sets its logit to −∞.

use std::cmp::Ordering;

use ds4_model::TokenId;
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::exp::{self, exp, sum_exp};
use crate::{Error, Result};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Temperature; 0 takes the most probable token, the lowest id among equals.
    pub temp: f32,
    /// Tokens kept by rank; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept, in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Least probability relative to the most probable token, in [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Self = Self { temp: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// Refuses values outside their ranges, NaN included.
    pub fn check(&self) -> Result<()> {
        let range = |ok: bool, name, expected, value| {
            if ok { Ok(()) } else { Err(Error::Option { name, expected, value }) }
        };
        let temp = self.temp;
        range((0.0..=100.0).contains(&temp), "temperature", "between 0 and 100", temp)?;
        let top_p = self.top_p;
        range(top_p > 0.0 && top_p <= 1.0, "top_p", "above 0 and at most 1", top_p)?;
        range((0.0..=1.0).contains(&self.min_p), "min_p", "between 0 and 1", self.min_p)
    }
}

/// A token that survived the filters.
#[derive(Clone, Copy, Debug)]
struct Kept {
    id: u32,
    logit: f32,
    /// Probability relative to the most probable token, once it is asked for.
    weight: f32,
}

impl Kept {
    /// Most probable first, lowest id first among equals.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Chooses the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: Xoshiro256PlusPlus,
    kept: Vec<Kept>,
}

impl Sampler {
    /// A sampler at the start of its random stream.
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.check()?;
        let rng = Xoshiro256PlusPlus::seed_from_u64(sampling.seed);
        Ok(Self { sampling, rng, kept: Vec::new() })
    }

    /// Chooses a token from a row of logits, index = token id.
    pub fn sample(&mut self, logits: &[f32]) -> Result<TokenId> {
        if self.sampling.temp == 0.0 {
            return argmax(logits);
        }
        let total = self.filter(logits)?;
        // 53 random bits: a uniform number of [0, 1).
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = uniform * total;
        for kept in &self.kept {
            left -= f64::from(kept.weight);
            if left < 0.0 {
                return Ok(TokenId(kept.id));
            }
        }
        // The sum of the subtractions may fall short of `total` by a rounding error.
        self.kept.last().map(|kept| TokenId(kept.id)).ok_or(Error::NoCandidate)
    }

    /// The distribution [`Sampler::sample`] draws from, in order of id: what temperature and
    /// filters leave, adding up to 1. At temperature 0 all of it is on one token.
    pub fn distribution(&mut self, logits: &[f32]) -> Result<Vec<(TokenId, f64)>> {
        if self.sampling.temp == 0.0 {
            return Ok(vec![(argmax(logits)?, 1.0)]);
        }
        let total = self.filter(logits)?;
        let share = |kept: &Kept| (TokenId(kept.id), f64::from(kept.weight) / total);
        Ok(self.kept.iter().map(share).collect())
    }

    /// Fills `kept` in order of id; returns its total weight.
    fn filter(&mut self, logits: &[f32]) -> Result<f64> {
        let Sampling { temp, top_k, top_p, min_p, .. } = self.sampling;
        let max = highest(logits)?;
        let weight = |logit: f32| exp((logit - max) / temp);
        // Top-p is measured against the whole vocabulary when no top-k comes first.
        let all = (top_p < 1.0 && top_k == 0).then(|| sum_exp(logits, max, temp));
        // Without a top-p that needs the mass below, min-p can cut before anything is ranked: in
        // the default setting this leaves a handful of tokens of the whole vocabulary.
        let floor = if top_p < 1.0 && top_k > 0 { 0.0 } else { min_p };
        // A hair below the exact floor: `retain` decides on the weights themselves.
        let logit_floor = max + temp * (floor.ln() - 1e-3);
        self.kept.clear();
        self.kept.extend(
            logits
                .iter()
                .zip(0..)
                .filter(|&(&logit, _)| logit >= logit_floor && logit > f32::NEG_INFINITY)
                .map(|(&logit, id)| Kept { id, logit, weight: 0.0 }),
        );
        if top_k > 0 && top_k < self.kept.len() {
            self.kept.select_nth_unstable_by(top_k - 1, Kept::rank);
            self.kept.truncate(top_k);
        }
        self.kept.iter_mut().for_each(|kept| kept.weight = weight(kept.logit));
        if top_p < 1.0 {
            let mass = all.unwrap_or_else(|| sum(&self.kept));
            cut_top_p(&mut self.kept, f64::from(top_p) * mass);
        }
        self.kept.retain(|kept| kept.weight >= min_p);
        if top_k > 0 || top_p < 1.0 {
            self.kept.sort_unstable_by_key(|kept| kept.id);
        }
        Ok(sum(&self.kept))
    }
}

/// Total weight.
fn sum(kept: &[Kept]) -> f64 {
    kept.iter().map(|kept| f64::from(kept.weight)).sum()
}

/// Keeps the shortest prefix by rank that weighs at least `mass`; ranks only as far as needed.
fn cut_top_p(kept: &mut Vec<Kept>, mass: f64) {
    let (mut ranked, mut step, mut seen) = (0, 64, 0.0);
    while ranked < kept.len() {
        let end = (ranked + step).min(kept.len());
        if end < kept.len() {
            kept[ranked..].select_nth_unstable_by(end - ranked - 1, Kept::rank);
        }
        kept[ranked..end].sort_unstable_by(Kept::rank);
        for ix in ranked..end {
            seen += f64::from(kept[ix].weight);
            if seen >= mass {
                kept.truncate(ix + 1);
                return;
            }
        }
        (ranked, step) = (end, step * 4);
    }
}

/// The token with the highest logit, the lowest id among equals.
pub fn argmax(logits: &[f32]) -> Result<TokenId> {
    let max = highest(logits)?;
    let ix = logits.iter().position(|&logit| logit >= max).ok_or(Error::NoCandidate)?;
    Ok(TokenId(u32::try_from(ix).expect("token ids are u32")))
}

/// The highest logit. NaN and +∞ are refused, −∞ is a token that is excluded.
pub(crate) fn highest(logits: &[f32]) -> Result<f32> {
    let (max, is_sound) = exp::highest(logits);
    if is_sound {
        return if max == f32::NEG_INFINITY { Err(Error::NoCandidate) } else { Ok(max) };
    }
    let id = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY);
    let id = id.expect("it was found before");
    Err(Error::Logit { id, value: logits[id] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temp: f32, top_k: usize, top_p: f32, min_p: f32) -> Sampler {
        Sampler::new(Sampling { temp, top_k, top_p, min_p, seed: 7 }).unwrap()
    }

    /// Logits whose softmax is `probs`.
    fn logits(probs: &[f32]) -> Vec<f32> {
        probs.iter().map(|p| p.ln()).collect()
    }

    fn ids(sampler: &mut Sampler, logits: &[f32]) -> Vec<u32> {
        sampler.distribution(logits).unwrap().iter().map(|(id, _)| id.0).collect()
    }

    /// The definition, slowly: sort everything, cut three times.
    fn by_definition(s: Sampling, logits: &[f32]) -> Vec<u32> {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let mut all: Vec<(u32, f64)> =
            (0..).zip(logits).map(|(id, &l)| (id, f64::from(((l - max) / s.temp).exp()))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if s.top_k > 0 {
            all.truncate(s.top_k);
        }
        if s.top_p < 1.0 {
            let mass = f64::from(s.top_p) * all.iter().map(|x| x.1).sum::<f64>();
            let mut seen = 0.0;
            let before = |x: &(u32, f64)| {
                let keep = seen < mass;
                seen += x.1;
                keep
            };
            all = all.into_iter().take_while(before).collect();
        }
        all.retain(|x| x.1 >= f64::from(s.min_p));
        let mut ids: Vec<u32> = all.into_iter().map(|x| x.0).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        let mut s = Sampler::new(Sampling::GREEDY).unwrap();
        assert_eq!(s.sample(&[0.0, 3.0, -1.0, 3.0]).unwrap(), TokenId(1));
        assert_eq!(s.sample(&[f32::NEG_INFINITY, -3.0]).unwrap(), TokenId(1));
    }

    #[test]
    fn each_filter_keeps_its_prefix() {
        let row = logits(&[0.1, 0.4, 0.2, 0.05, 0.25]);
        assert_eq!(ids(&mut sampler(1.0, 2, 1.0, 0.0), &row), [1, 4]);
        assert_eq!(ids(&mut sampler(1.0, 0, 0.6, 0.0), &row), [1, 4]);
        assert_eq!(ids(&mut sampler(1.0, 0, 0.66, 0.0), &row), [1, 2, 4]);
        assert_eq!(ids(&mut sampler(1.0, 0, 1.0, 0.45), &row), [1, 2, 4]);
        assert_eq!(ids(&mut sampler(1.0, 0, 1.0, 0.0), &row), [0, 1, 2, 3, 4]);
        // Top-p is measured against what top-k left: 0.4 of 0.65 is 0.615.
        assert_eq!(ids(&mut sampler(1.0, 2, 0.61, 0.0), &row), [1]);
        assert_eq!(ids(&mut sampler(1.0, 0, 0.61, 0.0), &row), [1, 4]);
        // The temperature comes first: a hot row is flat, so min-p keeps all of it.
        assert_eq!(ids(&mut sampler(50.0, 0, 1.0, 0.45), &row), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn partial_ranking_equals_the_definition() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        // Steps of 1/8 so that ties occur at the cuts.
        let mut row = || (rng.next_u64() % 64) as f32 / 8.0;
        let rows: Vec<Vec<f32>> = (0..4).map(|_| (0..3000).map(|_| row()).collect()).collect();
        for (ix, row) in rows.iter().enumerate() {
            for (temp, top_k, top_p, min_p) in [
                (1.0, 0, 0.3, 0.0),
                (1.0, 0, 0.999, 0.0),
                (0.7, 40, 1.0, 0.0),
                (0.7, 40, 0.5, 0.0),
                (1.3, 0, 1.0, 0.05),
                (1.3, 0, 0.8, 0.4),
                (2.0, 500, 0.9, 0.1),
                (2.0, 5000, 0.99, 0.0),
            ] {
                let mut s = sampler(temp, top_k, top_p, min_p);
                let want = by_definition(s.sampling, row);
                assert_eq!(ids(&mut s, row), want, "row {ix}: {:?}", s.sampling);
            }
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let probs = [0.5_f32, 0.2, 0.15, 0.1, 0.05];
        let (mut s, row, n) = (sampler(1.0, 0, 1.0, 0.0), logits(&probs), 20_000);
        let mut counts = [0_u32; 5];
        for _ in 0..n {
            counts[s.sample(&row).unwrap().0 as usize] += 1;
        }
        let chi2: f64 = counts
            .iter()
            .zip(probs)
            .map(|(&c, p)| (f64::from(c), f64::from(p) * f64::from(n)))
            .map(|(got, want)| (got - want).powi(2) / want)
            .sum();
        // 4 degrees of freedom: 18.5 is exceeded once in a thousand seeds.
        assert!(chi2 < 18.5, "chi-square {chi2}, counts {counts:?}");
    }

    #[test]
    fn a_seed_fixes_the_tokens_for_good() {
        let row = logits(&[0.2; 5]);
        let mut s = Sampler::new(Sampling { temp: 1.0, seed: 42, ..Sampling::GREEDY }).unwrap();
        let got: Vec<u32> = (0..12).map(|_| s.sample(&row).unwrap().0).collect();
        assert_eq!(got, SEED_42);
    }

    /// Fifths of the first numbers of xoshiro256++ seeded by splitmix64 with 42, from a second
    /// implementation of both definitions.
    const SEED_42: [u32; 12] = [4, 1, 4, 3, 3, 2, 0, 3, 1, 4, 2, 4];

    #[test]
    fn impossible_rows_and_options_are_errors() {
        for temp in [0.0, 1.0] {
            let mut s = sampler(temp, 0, 0.9, 0.05);
            let text = |e: Error| e.to_string();
            let nan = s.sample(&[0.0, f32::NAN]).map_err(text).unwrap_err();
            assert!(nan.contains("token 1 is NaN"), "{nan}");
            let inf = s.sample(&[f32::INFINITY, 0.0]).map_err(text).unwrap_err();
            assert!(inf.contains("token 0 is inf"), "{inf}");
            assert!(matches!(s.sample(&[f32::NEG_INFINITY; 3]), Err(Error::NoCandidate)));
            assert!(matches!(s.sample(&[]), Err(Error::NoCandidate)));
            assert_eq!(s.sample(&[f32::NEG_INFINITY, -5.0]).unwrap(), TokenId(1));
        }
        for bad in [
            Sampling { temp: -1.0, ..Sampling::GREEDY },
            Sampling { temp: f32::NAN, ..Sampling::GREEDY },
            Sampling { top_p: 0.0, ..Sampling::GREEDY },
            Sampling { top_p: f32::NAN, ..Sampling::GREEDY },
            Sampling { min_p: 1.5, ..Sampling::GREEDY },
        ] {
            assert!(matches!(Sampler::new(bad), Err(Error::Option { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        let mut s = sampler(1e-6, 0, 1.0, 0.0);
        for _ in 0..100 {
            assert_eq!(s.sample(&[1.0, 1.001, 0.9]).unwrap(), TokenId(1));
        }
    }
}
