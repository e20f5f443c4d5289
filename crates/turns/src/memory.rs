//! The turns themselves: least recently used ones go when there are too many.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use lru::LruCache;

use crate::turn::Turn;
use crate::visible::VisibleKey;

/// A turn with the ids it goes by.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) turn: Turn,
    /// Ids of its calls as handed out; empty for a turn without calls.
    pub(crate) call_ids: Vec<String>,
    /// Key of a turn without calls.
    pub(crate) visible: Option<VisibleKey>,
    /// What it counts against the limit of bytes.
    bytes: usize,
    /// Hashes it is found by in a list of tokens.
    spans: Vec<u64>,
}

/// All turns that are remembered.
#[derive(Debug)]
pub(crate) struct Memory {
    turns: LruCache<u64, Arc<Kept>>,
    by_call: HashMap<String, u64>,
    by_visible: HashMap<VisibleKey, u64>,
    by_span: HashMap<u64, Vec<u64>>,
    next: u64,
    ids: usize,
    bytes: usize,
    ids_max: usize,
    bytes_max: usize,
}

impl Memory {
    pub(crate) fn new(ids_max: usize, bytes_max: usize) -> Self {
        Self {
            turns: LruCache::unbounded(),
            by_call: HashMap::new(),
            by_visible: HashMap::new(),
            by_span: HashMap::new(),
            next: 0,
            ids: 0,
            bytes: 0,
            ids_max,
            bytes_max,
        }
    }

    /// Ids held; a turn without calls counts as one.
    pub(crate) fn ids(&self) -> usize {
        self.ids
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a turn; what was known under one of its names is forgotten.
    pub(crate) fn insert(&mut self, turn: Turn, call_ids: &[String], visible: Option<VisibleKey>) {
        let mut old: Vec<u64> =
            call_ids.iter().filter_map(|id| self.by_call.get(id).copied()).collect();
        old.extend(visible.and_then(|key| self.by_visible.get(&key).copied()));
        for number in old {
            self.remove(number);
        }
        let names: usize = call_ids.iter().map(|id| 2 * id.len() + 64).sum();
        let bytes = turn.bytes() + names + 256;
        let spans = span_hashes(&turn);
        let kept = Kept { turn, call_ids: call_ids.to_vec(), visible, bytes, spans };
        let number = self.next;
        self.next += 1;
        for id in call_ids {
            self.by_call.insert(id.clone(), number);
        }
        if let Some(key) = visible {
            self.by_visible.insert(key, number);
        }
        for span in &kept.spans {
            self.by_span.entry(*span).or_default().push(number);
        }
        self.ids += kept.weight();
        self.bytes += bytes;
        self.turns.put(number, Arc::new(kept));
        while self.ids > self.ids_max || self.bytes > self.bytes_max {
            let Some((&oldest, _)) = self.turns.peek_lru() else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(kept) = self.turns.pop(&number) else { return };
        for id in &kept.call_ids {
            self.by_call.remove(id);
        }
        if let Some(key) = &kept.visible {
            self.by_visible.remove(key);
        }
        for span in &kept.spans {
            if let Some(numbers) = self.by_span.get_mut(span) {
                numbers.retain(|n| *n != number);
                if numbers.is_empty() {
                    self.by_span.remove(span);
                }
            }
        }
        self.ids -= kept.weight();
        self.bytes -= kept.bytes;
    }

    /// The turn that all of these calls belong to, when it has no others.
    pub(crate) fn by_calls<'a>(
        &mut self,
        ids: impl Iterator<Item = Option<&'a str>>,
    ) -> Option<Arc<Kept>> {
        let mut number = None;
        for id in ids {
            let found = *self.by_call.get(id?)?;
            if *number.get_or_insert(found) != found {
                return None;
            }
        }
        self.turns.get(&number?).cloned()
    }

    /// Whether a call is known.
    pub(crate) fn knows_call(&self, id: &str) -> bool {
        self.by_call.contains_key(id)
    }

    /// Whether the turn in this place is known.
    pub(crate) fn knows_visible(&self, key: &VisibleKey) -> bool {
        self.by_visible.contains_key(key)
    }

    /// The turn without calls that was said in this place.
    pub(crate) fn by_visible(&mut self, key: &VisibleKey) -> Option<Arc<Kept>> {
        let number = self.by_visible.get(key)?;
        self.turns.get(number).cloned()
    }

    /// The turns that these tokens are, with their reasoning or without, up to the last token.
    pub(crate) fn by_span(&self, ids: &[u32]) -> Vec<Arc<Kept>> {
        let Some(numbers) = self.by_span.get(&hash(ids)) else { return Vec::new() };
        let kept = numbers.iter().filter_map(|number| self.turns.peek(number));
        kept.filter(|k| spans(&k.turn).any(|span| span == ids)).cloned().collect()
    }
}

impl Kept {
    fn weight(&self) -> usize {
        self.call_ids.len().max(1)
    }
}

/// What a turn looks like in a sequence: as a whole or without its reasoning; the last token, chosen
/// but not computed, may be missing at a sequence's end.
fn spans(turn: &Turn) -> impl Iterator<Item = &[u32]> {
    let short = |ids: &'_ [u32]| -> usize { ids.len().saturating_sub(1) };
    let (whole, answer) = (turn.ids(), turn.answer_ids());
    [whole, &whole[..short(whole)], answer, &answer[..short(answer)]].into_iter()
}

fn span_hashes(turn: &Turn) -> Vec<u64> {
    let mut hashes: Vec<u64> = spans(turn).filter(|s| !s.is_empty()).map(hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

fn hash(ids: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    ids.hash(&mut hasher);
    hasher.finish()
}
