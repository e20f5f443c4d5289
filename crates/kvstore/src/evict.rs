//! Which file goes when the budget is full (kvcache.md §7).

use crate::Entry;

/// Seconds in which a hit loses half its worth.
const HALF_LIFE_S: f64 = 21_600.0;
/// Worth of a file that nobody asked for, once a longer one of the same conversation exists.
const COVERED_WORTH: f64 = 0.25;

/// Worth of a file: decayed hits plus one, times tokens per byte.
pub(crate) fn score(e: &Entry, now: u64) -> f64 {
    let last = if e.header.last_used > 0 { e.header.last_used } else { e.header.created };
    let age = now.saturating_sub(last) as f64;
    let decayed = f64::from(e.header.hits) * (-age / HALF_LIFE_S).exp2();
    let hits = if last == 0 || decayed < 0.01 { 0.0 } else { decayed };
    let worth = if e.is_covered { COVERED_WORTH } else { 1.0 };
    worth * (hits + 1.0) * f64::from(e.header.tokens) / (e.file_bytes.max(1) as f64)
}

/// The next victim among `entries`, sparing `immune`; lowest score first, then least recently used.
pub(crate) fn victim<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    now: u64,
    immune: Option<&str>,
) -> Option<&'a Entry> {
    entries.filter(|e| Some(e.name.as_str()) != immune).min_by(|a, b| {
        score(a, now)
            .total_cmp(&score(b, now))
            .then(a.header.last_used.cmp(&b.header.last_used))
            .then(a.name.cmp(&b.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, Reason};

    fn entry(name: &str, tokens: u32, bytes: u64, hits: u32, last_used: u64) -> Entry {
        let header = Header {
            quant_bits: 2,
            reason: Reason::Evict,
            has_tools: false,
            tokens,
            hits,
            ctx: 1,
            model: 0,
            created: last_used,
            last_used,
            payload_bytes: bytes,
        };
        Entry {
            name: name.into(),
            header,
            key_bytes: 1,
            file_bytes: bytes,
            is_usable: true,
            is_covered: false,
        }
    }

    #[test]
    fn hits_decay_and_ties_go_to_the_older() {
        let now = 1_000_000;
        let fresh = entry("a", 100, 1000, 3, now);
        let old = entry("b", 100, 1000, 3, now - 10 * 21_600);
        let unused = entry("c", 100, 1000, 0, now);
        assert!(score(&fresh, now) > 3.9 * score(&unused, now));
        // Three hits of ten half-lives ago are less than a hundredth of one.
        assert!((score(&old, now) - score(&unused, now)).abs() < 1e-12);
        let all = [fresh, old, unused];
        assert_eq!(victim(all.iter(), now, None).unwrap().name, "b");
        assert_eq!(victim(all.iter(), now, Some("b")).unwrap().name, "c");
    }

    #[test]
    fn without_times_hits_do_not_count() {
        let e = entry("a", 100, 1000, 50, 0);
        assert!((score(&e, 5) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn what_a_longer_file_covers_is_worth_less() {
        let mut covered = entry("a", 100, 1000, 0, 7);
        covered.is_covered = true;
        let other = entry("b", 50, 1000, 0, 1);
        assert_eq!(victim([covered, other].iter(), 7, None).unwrap().name, "a");
    }
}
