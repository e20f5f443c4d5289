//! Marks of a sequence: points to go back to, kept within bounds.

use ds4_model::memory::SeqPlan;
use ds4_model::{Dims, Mark};

/// A mark with the logits at its point, when they were computed.
#[derive(Debug)]
pub(crate) struct Frontier {
    pub(crate) mark: Mark,
    pub(crate) logits: Option<Vec<f32>>,
    /// Whether it is the end of what conversations share, which is never given up for others.
    pub(crate) is_anchor: bool,
}

impl Frontier {
    pub(crate) fn len(&self) -> usize {
        self.mark.len as usize
    }
}

/// Marks of one sequence, ascending by length.
#[derive(Debug, Default)]
pub(crate) struct Frontiers(Vec<Frontier>);

impl Frontiers {
    /// The last one of at most `len` tokens.
    pub(crate) fn before(&self, len: usize) -> Option<&Frontier> {
        self.0.iter().rev().find(|f| f.len() <= len)
    }

    /// The one at exactly `len` tokens.
    pub(crate) fn at(&self, len: usize) -> Option<&Frontier> {
        self.before(len).filter(|f| f.len() == len)
    }

    pub(crate) fn at_mut(&mut self, len: usize) -> Option<&mut Frontier> {
        self.0.iter_mut().rev().find(|f| f.len() == len)
    }

    /// Appends one that is longer than all others.
    pub(crate) fn push(&mut self, frontier: Frontier) {
        debug_assert!(self.0.last().is_none_or(|last| last.len() < frontier.len()));
        self.0.push(frontier);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Forgets those beyond `len` tokens.
    pub(crate) fn cut(&mut self, len: usize) {
        self.0.retain(|f| f.len() <= len);
    }

    /// Gives up the one whose loss leaves the smallest gap. Spared are the last one, those of these
    /// lengths, and the anchor; `false` when nothing may go.
    pub(crate) fn thin(&mut self, spared: [usize; 2]) -> bool {
        let before = |ix: usize| if ix == 0 { 0 } else { self.0[ix - 1].len() };
        let victim = (0..self.0.len().saturating_sub(1))
            .filter(|&ix| !self.0[ix].is_anchor && !spared.contains(&self.0[ix].len()))
            .min_by_key(|&ix| self.0[ix + 1].len() - before(ix));
        victim.map(|ix| self.0.remove(ix)).is_some()
    }
}

/// Bytes of one mark, about: the rings of a sequence, with or without the MTP block's, and a row of
/// logits.
pub(crate) fn mark_bytes(dims: &Dims) -> u64 {
    let rings = SeqPlan::new(dims, 1, true).bytes();
    rings.total() + 4 * dims.n_vocab as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_leaves_the_ends_the_anchor_and_small_gaps() {
        let mut all = Frontiers::default();
        for (len, is_anchor) in [(9, true), (12, false), (20, false), (21, false), (22, false)] {
            let mark = Mark { len, state: Box::new(()) };
            all.push(Frontier { mark, logits: None, is_anchor });
        }
        let lens = |f: &Frontiers| f.0.iter().map(Frontier::len).collect::<Vec<_>>();
        assert!(all.thin([21, 0]));
        assert_eq!(lens(&all), [9, 12, 21, 22], "20 leaves the smallest gap of those that may go");
        assert!(all.thin([21, 0]));
        assert_eq!(lens(&all), [9, 21, 22]);
        assert!(!all.thin([21, 0]));
        assert_eq!(all.before(20).map(Frontier::len), Some(9));
        assert!(all.at(20).is_none() && all.at(22).is_some() && all.before(8).is_none());
    }
}
