//! What is known of the directory: which files can be used, and what became of the others.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{Header, Miss, evict};

/// One file of this engine.
#[derive(Clone, Debug)]
pub struct Entry {
    /// 40 hex digits.
    pub name: String,
    /// Its header.
    pub header: Header,
    /// Bytes of the key encoding it was stored under.
    pub key_bytes: usize,
    /// Size on disk.
    pub file_bytes: u64,
    /// Whether this model can load it; other files only count against the budget.
    pub is_usable: bool,
    /// Whether a longer file of the same conversation is known and nobody has asked for this one.
    pub is_covered: bool,
}

/// A file, or a snapshot on its way to one, whose key is a prefix of a prompt's encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its name.
    pub name: String,
    /// Cached tokens.
    pub tokens: u32,
    /// Bytes of the prompt's encoding it covers.
    pub key_bytes: usize,
}

/// Files by name.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// Files that are not looked at again, and why.
    pub(crate) ignored: BTreeMap<String, String>,
    /// Which files have an id in their tool map; `None` before anybody asked.
    pub(crate) tool_files: Option<HashMap<String, HashSet<String>>>,
}

impl Index {
    /// Bytes of all files that count against the budget.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.values().map(|e| e.file_bytes).sum()
    }

    pub(crate) fn usable(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|e| e.is_usable)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Entry> {
        self.entries.remove(name)
    }

    /// Key lengths of files up to `longest`, ascending and distinct.
    pub(crate) fn key_lengths(&self, longest: usize) -> Vec<usize> {
        let mut ends: Vec<usize> =
            self.entries.values().map(|e| e.key_bytes).filter(|&n| n <= longest).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// The longest of these prefixes (key length and name, ascending) that can be loaded.
    pub(crate) fn longest(
        &self,
        prefixes: &[(usize, String)],
        ctx: u32,
        tokens_min: u32,
    ) -> Result<Hit, Miss> {
        let mut too_long = None;
        for (end, name) in prefixes.iter().rev() {
            let Some(e) = self.entries.get(name).filter(|e| e.is_usable && e.key_bytes == *end)
            else {
                continue;
            };
            if e.header.tokens >= ctx {
                too_long = Some(Miss::TooLong { tokens: e.header.tokens });
            } else if e.header.tokens >= tokens_min {
                return Ok(Hit { name: name.clone(), tokens: e.header.tokens, key_bytes: *end });
            }
        }
        let other = prefixes.iter().rev().find_map(|(_, name)| {
            let other = self.entries.get(name).is_some_and(|e| !e.is_usable);
            other.then(|| "its file belongs to another model".to_owned())
        });
        let files = self.usable().count();
        Err(too_long
            .or(other.map(Miss::Foreign))
            .unwrap_or(Miss::NoPrefix { files, nearest: None }))
    }

    /// Says of every proper prefix of a conversation that a longer file exists: anchors are used
    /// with it, others that nobody asked for are worth less. Returns the anchors' names.
    pub(crate) fn cover(&mut self, prefixes: &[(usize, String)], whole: usize) -> Vec<String> {
        let mut anchors = Vec::new();
        for (_, name) in prefixes.iter().filter(|(end, _)| *end < whole) {
            let Some(e) = self.entries.get_mut(name) else { continue };
            if e.header.reason == crate::Reason::Cold {
                anchors.push(name.clone());
            } else if e.header.hits == 0 {
                e.is_covered = true;
            }
        }
        anchors
    }

    /// The file to go next.
    pub(crate) fn victim(&self, now: u64, immune: Option<&str>) -> Option<String> {
        evict::victim(self.entries.values(), now, immune).map(|e| e.name.clone())
    }
}
