//! The scheduler's view: tokens to the keys of cache files and back, and turns to and from files.

use std::sync::Arc;

use ds4_kvstore::{KeyBuilder, Piece, ToolEntry, pieces};
use ds4_model::TokenId;
use ds4_scheduler::Texts;

use crate::Turns;
use crate::turn::literal;

/// [`Texts`] of a memory of turns.
#[derive(Clone)]
pub struct CacheTexts(Arc<Turns>);

impl CacheTexts {
    /// A view of `turns`.
    pub fn new(turns: Arc<Turns>) -> Self {
        Self(turns)
    }
}

impl Texts for CacheTexts {
    fn encode(&self, tokens: &[TokenId], key: &mut KeyBuilder) {
        let tokenizer = self.0.tokenizer();
        for token in tokens {
            match tokenizer.token_bytes(token.0) {
                Ok(bytes) if !tokenizer.vocab().is_added(token.0) => key.plain(bytes),
                _ => key.control(token.0),
            };
        }
    }

    fn tokens(&self, encoding: &[u8]) -> Option<Vec<TokenId>> {
        let tokenizer = self.0.tokenizer();
        let mut ids = Vec::new();
        for piece in pieces(encoding)? {
            match piece {
                Piece::Plain(bytes) => {
                    ids.extend(tokenizer.encode_plain(std::str::from_utf8(&bytes).ok()?));
                }
                Piece::Control(id) if tokenizer.vocab().is_added(id) => ids.push(id),
                Piece::Control(_) => return None,
            }
        }
        Some(ids.into_iter().map(TokenId).collect())
    }

    fn text(&self, tokens: &[TokenId]) -> String {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        literal(self.0.tokenizer(), &ids).unwrap_or_default()
    }

    fn tools(&self, tokens: &[TokenId]) -> Vec<ToolEntry> {
        self.0.entries(tokens)
    }

    fn learn(&self, tokens: &[TokenId], tools: &[ToolEntry]) {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        self.0.learn(&ids, tools);
    }
}
