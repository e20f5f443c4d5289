//! A tokenizer as llguidance sees it: the trie of all tokens, and canonical tokens of forced text.

use std::sync::Arc;

use ds4_text::Tokenizer;
use llguidance::toktrie::{TokRxInfo, TokTrie, TokenizerEnv};

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
        let word = |id| {
            let bytes = vocab.token_bytes(id).expect("an id of the vocabulary");
            if vocab.is_added(id) {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
            } else {
                bytes.to_vec()
            }
        };
        let words: Vec<Vec<u8>> = (0..n).map(word).collect();
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
