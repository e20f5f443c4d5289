//! A tokenizer as llguidance sees it: the trie of all tokens, and canonical tokens of forced text.

use std::sync::Arc;

use ds4_text::Tokenizer;
use llguidance::toktrie::{TokRxInfo, TokTrie, TokenizerEnv};

use crate::limits;

/// A tokenizer with the trie of its tokens.
pub(crate) struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Vocabulary {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let vocab = tokenizer.vocab();
        let n = u32::try_from(vocab.len()).expect("bounded by the tokenizer");
        let specials = tokenizer.specials();
        // The trie's nodes have numbers of few bits: what does not fit is never allowed. No
        // published vocabulary comes near.
        let mut room = limits::TRIE_BYTES_MAX;
        let mut word = |id| {
            let bytes = vocab.token_bytes(id).expect("an id of the vocabulary");
            match room.checked_sub(bytes.len()) {
                Some(left) if bytes.len() <= limits::TOKEN_BYTES_MAX => room = left,
                _ => return Vec::new(),
            }
            if vocab.is_text(id) {
                bytes.to_vec()
            } else if vocab.is_added(id) {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
            } else {
                // A filler.
                Vec::new()
            }
        };
        let words: Vec<Vec<u8>> = (0..n).map(&mut word).collect();
        let info = TokRxInfo::new(n, specials.eos);
        let trie = TokTrie::from(&info, &words);
        Self { tokenizer, trie }
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        for chunk in bytes.utf8_chunks() {
            ids.extend(self.tokenizer.encode_plain(chunk.valid()));
            ids.extend(self.trie.greedy_tokenize(chunk.invalid()));
        }
        ids
    }
}
