//! Which file goes when the budget is full (kvcache.md §7).

use crate::Entry;

/// Seconds in which a hit loses half its worth.
const HALF_LIFE_S: f64 = 21_600.0;

/// Worth of a file: decayed hits plus one, times tokens per byte.
pub(crate) fn score(e: &Entry, now: u64) -> f64 {
    let last = if e.header.last_used > 0 { e.header.last_used } else { e.header.created };
    let age = now.saturating_sub(last) as f64;
    let decayed = f64::from(e.header.hits) * (-age / HALF_LIFE_S).exp2();
    let hits = if last == 0 || decayed < 0.01 { 0.0 } else { decayed };
    (hits + 1.0) * f64::from(e.header.tokens) / (e.file_bytes.max(1) as f64)
}

/// The next victim among `entries`, sparing `immune`; lowest score first, then least recently used.
pub(crate) fn victim(entries: &[Entry], now: u64, immune: Option<&str>) -> Option<usize> {
    entries
        .iter()
        .enumerate()
        .filter(|(_, e)| Some(e.name.as_str()) != immune)
        .min_by(|(_, a), (_, b)| {
            score(a, now)
                .total_cmp(&score(b, now))
                .then(a.header.last_used.cmp(&b.header.last_used))
        })
        .map(|(ix, _)| ix)
}
