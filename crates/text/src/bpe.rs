//! Byte-pair merges: the adjacent pair of lowest rank first, the leftmost on ties, until no pair
//! has a rank (§A.2 step 5).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::vocab::Vocab;

/// Pieces up to this many bytes are searched from end to end for every merge; longer ones keep
/// their pairs in a heap, so that the work stays near-linear.
const SHORT: usize = 24;

/// The merge list, prepared for look-up.
pub(crate) struct Bpe {
    byte_ids: [u32; 256],
    /// (left, right) → (rank, result).
    pairs: HashMap<u64, (u32, u32), BuildHasherDefault<PairHasher>>,
}

/// Mixes one 64-bit key; the map holds nothing else.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = (self.0 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

fn key(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

impl Bpe {
    pub(crate) fn new(vocab: &Vocab) -> Self {
        let mut pairs =
            HashMap::with_capacity_and_hasher(vocab.merges().len(), BuildHasherDefault::default());
        for (rank, merge) in (0u32..).zip(vocab.merges()) {
            // Of a pair listed twice the first, lower rank counts.
            pairs.entry(key(merge.left, merge.right)).or_insert((rank, merge.result));
        }
        Self { byte_ids: *vocab.byte_ids(), pairs }
    }

    fn pair(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.pairs.get(&key(left, right)).copied()
    }

    /// Appends the tokens of one piece. `scratch` is cleared; it saves an allocation per piece.
    pub(crate) fn encode(&self, piece: &[u8], scratch: &mut Vec<u32>, out: &mut Vec<u32>) {
        scratch.clear();
        scratch.extend(piece.iter().map(|&b| self.byte_ids[usize::from(b)]));
        if piece.len() <= SHORT {
            self.merge_short(scratch);
        } else {
            self.merge_long(scratch);
        }
        out.extend_from_slice(scratch);
    }

    fn merge_short(&self, symbols: &mut Vec<u32>) {
        // Rank and result of the pair that starts at each symbol.
        let mut found = [None; SHORT];
        for (slot, pair) in found.iter_mut().zip(symbols.windows(2)) {
            *slot = self.pair(pair[0], pair[1]);
        }
        while symbols.len() > 1 {
            let n = symbols.len() - 1;
            let best = (0..n)
                .filter_map(|i| found[i].map(|(rank, result)| (rank, i, result)))
                .min_by_key(|&(rank, i, _)| (rank, i));
            let Some((_, i, result)) = best else { return };
            symbols[i] = result;
            symbols.remove(i + 1);
            found.copy_within(i + 1..n, i);
            if i > 0 {
                found[i - 1] = self.pair(symbols[i - 1], result);
            }
            if let Some(&next) = symbols.get(i + 1) {
                found[i] = self.pair(result, next);
            }
        }
    }

    fn merge_long(&self, symbols: &mut Vec<u32>) {
        const NONE: usize = usize::MAX;
        let n = symbols.len();
        let mut next: Vec<usize> = (1..=n).map(|i| if i == n { NONE } else { i }).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let mut gone = vec![false; n];
        // (rank, place of the left symbol, right symbol when found): an entry whose symbols have
        // changed since is stale and skipped.
        let mut heap = BinaryHeap::with_capacity(n);
        let candidate = |left: usize, right: usize, symbols: &[u32]| {
            self.pair(symbols[left], symbols[right])
                .map(|(rank, _)| Reverse((rank, left, symbols[left], symbols[right])))
        };
        heap.extend((1..n).filter_map(|right| candidate(right - 1, right, symbols)));
        while let Some(Reverse((_, left, left_id, right_id))) = heap.pop() {
            let right = next[left];
            if gone[left] || right == NONE || (symbols[left], symbols[right]) != (left_id, right_id)
            {
                continue;
            }
            let Some((_, result)) = self.pair(left_id, right_id) else { continue };
            symbols[left] = result;
            gone[right] = true;
            next[left] = next[right];
            if next[left] != NONE {
                previous[next[left]] = left;
                heap.extend(candidate(left, next[left], symbols));
            }
            if previous[left] != NONE {
                heap.extend(candidate(previous[left], left, symbols));
            }
        }
        let mut kept = gone.iter().map(|gone| !gone);
        symbols.retain(|_| kept.next().unwrap_or(false));
    }
}
