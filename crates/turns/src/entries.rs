//! Turns in cache files: the file has the tokens of a sequence, its tool map the names that turns in
//! it go by. What comes back is believed only where the two agree.
//!
//! A call has two entries: its id with the text of its block, as the format has it, and its id behind
//! a prefix with the text of the whole turn, because the same call may be made twice. A turn without
//! calls has one: its visible key, and its text.

use std::collections::HashMap;
use std::fmt::Write as _;

use ds4_kvstore::ToolEntry;
use ds4_model::TokenId;
use ds4_text::Specials;
use ds4_text::parse::Declared;

use crate::Turns;
use crate::memory::Kept;
use crate::turn::{Turn, literal};
use crate::visible::VisibleKey;

/// What keys of turns without calls begin with as ids.
const TURN_PREFIX: &str = "turn_";
/// What ids of calls begin with where they name a whole turn.
const IN_PREFIX: &str = "in_";
/// Longest text of the token that may be missing at a sequence's end.
const LAST_TOKEN_BYTES: usize = 128;

/// An answer in a list of tokens.
struct Span<'a> {
    ids: &'a [u32],
    thinking: bool,
    /// Whether the list ends with it.
    is_last: bool,
}

/// The answers in a list of tokens, without those of which nothing follows their opening.
fn spans<'a>(tokens: &'a [u32], specials: &'a Specials) -> impl Iterator<Item = Span<'a>> {
    let starts = tokens.windows(2).enumerate().filter_map(move |(at, pair)| {
        let thinking = pair[1] == specials.think_open;
        let opens = thinking || pair[1] == specials.think_close;
        (pair[0] == specials.assistant && opens).then_some((at + 2, thinking))
    });
    starts.filter_map(move |(start, thinking)| {
        let rest = &tokens[start..];
        let ends = |id: &u32| [specials.eos, specials.user, specials.assistant].contains(id);
        let n = rest.iter().position(ends);
        let ids = &rest[..n.unwrap_or(rest.len())];
        (!ids.is_empty()).then_some(Span { ids, thinking, is_last: n.is_none() })
    })
}

/// The id under which a turn without calls is stored.
pub(crate) fn turn_id(key: &VisibleKey) -> String {
    let mut id = TURN_PREFIX.to_owned();
    for byte in key {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

fn visible_key(id: &str) -> Option<VisibleKey> {
    let hex = id.strip_prefix(TURN_PREFIX).filter(|hex| hex.len() == 32 && hex.is_ascii())?;
    let mut key = VisibleKey::default();
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}

impl Turns {
    /// Names of the remembered turns that occur in these tokens.
    pub(crate) fn entries(&self, tokens: &[TokenId]) -> Vec<ToolEntry> {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        let mut entries = Vec::new();
        for span in spans(&ids, self.tokenizer().specials()) {
            for kept in self.memory().by_span(span.ids) {
                entries.extend(self.names(&kept));
            }
        }
        entries
    }

    /// The entries of one turn.
    fn names(&self, kept: &Kept) -> Vec<ToolEntry> {
        let Some(text) = literal(self.tokenizer(), kept.turn.ids()) else { return Vec::new() };
        let entry = |id: String, text: &str| ToolEntry { id, dsml: text.as_bytes().to_vec() };
        let block = kept.turn.block();
        let calls = kept.call_ids.iter().filter(|_| !block.is_empty());
        let mut entries: Vec<ToolEntry> = calls
            .flat_map(|id| [entry(id.clone(), block), entry(format!("{IN_PREFIX}{id}"), &text)])
            .collect();
        entries.extend(kept.visible.as_ref().map(|key| entry(turn_id(key), &text)));
        entries
    }

    /// Learns the turns of a cache file.
    pub(crate) fn learn(&self, tokens: &[u32], entries: &[ToolEntry]) {
        let mut names: HashMap<&[u8], Vec<&str>> = HashMap::new();
        for entry in entries {
            names.entry(&entry.dsml).or_default().push(&entry.id);
        }
        for span in spans(tokens, self.tokenizer().specials()) {
            self.learn_span(&span, &names);
            if span.is_last {
                for text in names.keys() {
                    if let Some(ids) = self.completed(&span, text) {
                        self.learn_span(&Span { ids: &ids, ..span }, &names);
                    }
                }
            }
        }
    }

    fn learn_span(&self, span: &Span<'_>, names: &HashMap<&[u8], Vec<&str>>) {
        let Some(text) = literal(self.tokenizer(), span.ids) else { return };
        let Some(names) = names.get(text.as_bytes()) else { return };
        let read = Turn::read(self.tokenizer(), span.ids.to_vec(), span.thinking, &Declared::Any);
        let Some(turn) = read.filter(Turn::is_complete) else { return };
        let mut memory = self.memory();
        if turn.n_calls() == 0 {
            for key in names.iter().filter_map(|id| visible_key(id)) {
                if !memory.knows_visible(&key) {
                    memory.insert(turn.clone(), &[], Some(key));
                }
            }
            return;
        }
        // Ids of several turns only where these are equal to the last token.
        let ids = names.iter().filter_map(|id| id.strip_prefix(IN_PREFIX));
        let ids: Vec<String> = ids.map(str::to_owned).collect();
        if ids.len().is_multiple_of(turn.n_calls()) && !ids.iter().all(|id| memory.knows_call(id)) {
            memory.insert(turn, &ids, None);
        }
    }

    /// The tokens of a span whose last token was chosen but not computed, if `text` says how the turn
    /// ends. That token is plain text: no name of a turn can bring control tokens in.
    fn completed(&self, span: &Span<'_>, text: &[u8]) -> Option<Vec<u32>> {
        let have = literal(self.tokenizer(), span.ids)?;
        let text = std::str::from_utf8(text).ok()?;
        let starts = text.char_indices().map(|(at, _)| at).rev();
        let mut starts = starts.take_while(|at| text.len() - at <= LAST_TOKEN_BYTES);
        let at = starts.find(|&at| at > 0 && have == text[..at])?;
        let last = self.tokenizer().encode_plain(&text[at..]);
        (last.len() == 1).then(|| [span.ids, &last].concat())
    }
}
