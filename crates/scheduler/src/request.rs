//! What is asked of a scheduler, and how it answers.

use std::ops::ControlFlow;

use ds4_engine::{Cancel, End, Sampling, Stats};
use ds4_kvstore::{KeyBuilder, ToolEntry};
use ds4_model::TokenId;

use crate::Error;

/// One prompt to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number for logs.
    pub id: u64,
    /// Rendered and tokenised; at least one token.
    pub prompt: Vec<TokenId>,
    /// Where other prompts are likely to part from this one.
    pub cuts: Cuts,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Tokens that end the answer.
    pub stops: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Set when nobody waits for the answer any more.
    pub cancel: Cancel,
}

/// Points of a prompt that are worth a mark or a file, as numbers of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Length of what other conversations may share with it: system text and tools.
    pub anchor: Option<usize>,
    /// Points to return to, ascending.
    pub marks: Vec<usize>,
    /// How far later prompts of the conversation can agree with prompt and answer, when that is not
    /// all of them: the history may be rendered without what was thought.
    pub stable: Option<usize>,
}

/// From where the beginning of a prompt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing could be kept.
    Cold,
    /// A live sequence was extended.
    Live,
    /// A live sequence went back to an earlier point.
    Rewound,
    /// Another live sequence was forked.
    Forked,
    /// A file of the disk cache.
    Disk,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cold, Self::Live, Self::Rewound, Self::Forked, Self::Disk];

    /// Lower-case word for logs and headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Live => "live",
            Self::Rewound => "rewound",
            Self::Forked => "forked",
            Self::Disk => "disk",
        }
    }
}

/// How a request begins.
#[derive(Clone, Debug)]
pub struct Started {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that need not be computed.
    pub reused: usize,
    /// Whence they came.
    pub source: Source,
    /// Why not more could be kept, in words.
    pub why: String,
}

/// Hears what becomes of a request. Called on the worker's thread: must be quick and never block.
pub trait Client: Send {
    /// The request has a slot.
    fn started(&mut self, started: &Started) {
        let _ = started;
    }

    /// `done` of the prompt's tokens are in place.
    fn prefill(&mut self, done: usize) {
        let _ = done;
    }

    /// Whether another token can be taken now. While not, the sequence is held and costs no more
    /// than its place; a client that never recovers must cancel the request itself.
    fn is_ready(&mut self) -> bool {
        true
    }

    /// Whether [`Client::constrain`] may change anything; if not, it is not called.
    fn is_constrained(&self) -> bool {
        true
    }

    /// May exclude tokens by setting their logits to −∞ before one is chosen.
    fn constrain(&mut self, logits: &mut [f32]) {
        let _ = logits;
    }

    /// A token was chosen from these logits; `Break` ends the answer after it.
    fn token(&mut self, token: TokenId, logits: &[f32]) -> ControlFlow<()>;

    /// The end, exactly once.
    fn done(&mut self, outcome: Result<End, Error>, stats: &Stats);
}

/// Translates between tokens and the control-aware encoding of cache keys.
pub trait Texts: Send {
    /// Appends the encoding of tokens.
    fn encode(&self, tokens: &[TokenId], key: &mut KeyBuilder);

    /// Tokens of a piece of encoding, its text tokenised as content; `None` when it is cut within a
    /// character or a mark.
    fn tokens(&self, encoding: &[u8]) -> Option<Vec<TokenId>>;

    /// Human-readable text of tokens.
    fn text(&self, tokens: &[TokenId]) -> String;

    /// Tool calls whose blocks occur in these tokens, to be stored with them.
    fn tools(&self, tokens: &[TokenId]) -> Vec<ToolEntry>;

    /// Tool calls found in a cache file with these tokens: material from outside, to be held against
    /// the tokens before it is believed.
    fn learn(&self, tokens: &[TokenId], tools: &[ToolEntry]);
}
