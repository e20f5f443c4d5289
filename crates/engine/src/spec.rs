//! Speculation with the MTP block: how deep to draft, and how often drafts held.
//!
//! A draft is a fixed token, so the exact rejection rule of speculative sampling is short: with
//! probability `p(d)` keep draft `d`, else take a token from `p` without `d`, renormalised. One
//! ordinary draw `x` from `p` does both at once: it equals `d` with probability `p(d)`, and given
//! that it does not, it is distributed like `p` without `d`. So verification samples every row just
//! as plain decoding would and goes on while the sampled token equals the draft. The distribution
//! is that of plain decoding by construction, at every temperature and under every filter; greedy
//! decoding is the case in which `p` has one token; and a seed gives the same tokens with and
//! without drafts, because both draw the same numbers for the same rows.

/// Most drafts in one step.
pub const DRAFT_MAX: usize = 15;

/// How often drafts were proposed and kept, by position in the step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Calls that verified at least one draft.
    pub steps: u64,
    /// Drafts proposed at each position.
    pub proposed: [u64; DRAFT_MAX],
    /// Drafts kept at each position.
    pub accepted: [u64; DRAFT_MAX],
}

impl Acceptance {
    /// Counts one step of `proposed` drafts of which the first `accepted` were kept.
    pub fn count(&mut self, proposed: usize, accepted: usize) {
        self.steps += u64::from(proposed > 0);
        self.proposed[..proposed].iter_mut().for_each(|n| *n += 1);
        self.accepted[..accepted].iter_mut().for_each(|n| *n += 1);
    }

    /// Share of drafts kept at each position that was ever proposed.
    pub fn rates(&self) -> Vec<f64> {
        let pairs = self.accepted.iter().zip(&self.proposed);
        pairs.filter(|(_, p)| **p > 0).map(|(a, p)| *a as f64 / *p as f64).collect()
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        let add = |to: &mut [u64], from: &[u64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        };
        self.steps += other.steps;
        add(&mut self.proposed, &other.proposed);
        add(&mut self.accepted, &other.accepted);
    }
}
