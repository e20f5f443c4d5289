//! What the model said in earlier turns, kept so that later prompts repeat it token for token.
//!
//! Agents send the whole conversation again with every request, but not as it was sampled: tool calls
//! come back as JSON, reasoning is dropped or altered, white space is trimmed. Rendered as it comes,
//! such a history differs from the live sequence, and everything behind the difference would be
//! computed anew. [`Turns`] remembers each answer's exact tokens and writes them again where the
//! client's version still means the same; a history that was edited is rendered as it was sent.
//!
//! ```text
//! let rendered = turns.render(profile, &conversation)?;   // before the request is queued
//! scheduler <─ rendered.prompt, .cuts
//! parser    <─ rendered.turn.parser_options()
//! ids       128 random bits for every call that is handed out, in hex
//! turns.remember(&rendered.turn, &sampled, &Said { content, call_ids });   // before the last event
//! ```                                                     // of the answer goes to the client
//!
//! A turn with calls is found by its calls' ids, which nobody can guess; a turn without calls by a
//! hash of the visible conversation before it and of its visible content. Either way nobody is shown
//! what was said in another conversation.
//!
//! [`CacheTexts`] is the scheduler's view of the same memory: keys of cache files, and which turns go
//! into a file and come back from it, so that a restart forgets nothing that is still on disk.
//!
//! All methods take `&self`, lock briefly and never wait for the model.

#![forbid(unsafe_code)]

mod cuts;
mod entries;
mod json;
mod memory;
mod notes;
mod render;
mod texts;
mod turn;
mod visible;

use std::sync::{Arc, Mutex, MutexGuard};

use ds4_kvstore::KvStore;
use ds4_model::TokenId;
use ds4_text::Tokenizer;

pub use notes::{Found, Note};
pub use render::{NextTurn, Rendered};
pub use texts::CacheTexts;

use memory::Memory;
use turn::Turn;

/// Limits of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether anything is replayed at all; if not, every history is rendered as it was sent.
    pub replay: bool,
    /// Tool-call ids remembered; a turn without calls counts as one.
    pub ids_max: usize,
    /// Bytes remembered.
    pub bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { replay: true, ids_max: 100_000, bytes_max: 512 << 20 }
    }
}

/// What the client was told of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// The visible text, as a whole.
    pub content: &'a str,
    /// Ids of the tool calls, in their order.
    pub call_ids: &'a [String],
}

/// The memory of sampled turns, for one tokenizer.
pub struct Turns {
    tokenizer: Arc<Tokenizer>,
    options: Options,
    memory: Mutex<Memory>,
    disk: Option<KvStore>,
}

impl Turns {
    /// An empty memory.
    pub fn new(tokenizer: Arc<Tokenizer>, options: Options) -> Self {
        let memory = Mutex::new(Memory::new(options.ids_max, options.bytes_max));
        Self { tokenizer, options, memory, disk: None }
    }

    /// The same memory over a disk cache, in whose files it looks for turns it does not know.
    #[must_use]
    pub fn with_disk(self, disk: KvStore) -> Self {
        Self { disk: Some(disk), ..self }
    }

    /// The tokenizer of its tokens.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Keeps an answer. `sampled` is all that was sampled, without a final stop token. To be called
    /// before the client hears of the end, because its next request may follow at once.
    pub fn remember(&self, next: &NextTurn, sampled: &[TokenId], said: &Said<'_>) {
        let Some(opened) = next.opened.as_ref().filter(|_| self.options.replay) else { return };
        let ids: Vec<u32> = opened.ids.iter().copied().chain(sampled.iter().map(|t| t.0)).collect();
        let Some(mut turn) = Turn::read(&self.tokenizer, ids, opened.thinking, &next.declared)
        else {
            return;
        };
        if !turn.was_said(said, !opened.ids.is_empty()) {
            return;
        }
        turn.close_block(&self.tokenizer);
        let visible = said.call_ids.is_empty().then(|| next.visible.answer(turn.content()));
        self.memory().insert(turn, said.call_ids, visible);
    }

    /// Ids and bytes held, for metrics.
    pub fn held(&self) -> (usize, usize) {
        let memory = self.memory();
        (memory.ids(), memory.bytes())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Every change is complete before anything that could panic.
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
