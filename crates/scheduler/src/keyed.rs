//! A token list beside its encoding: what two lists share as text where their tokens differ.

use ds4_kvstore::KeyBuilder;
use ds4_model::TokenId;

use crate::Texts;

/// Byte that announces a control token in an encoding.
const CONTROL: u8 = 0xFF;

/// The encoding of a token list, with the end of every token in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyed {
    key: KeyBuilder,
    ends: Vec<usize>,
}

impl Keyed {
    /// The encoding of `tokens`.
    pub(crate) fn of(texts: &dyn Texts, tokens: &[TokenId]) -> Self {
        let mut keyed = Self::default();
        keyed.extend(texts, tokens);
        keyed
    }

    /// Encodes those of `tokens` that are new: it holds the first ones already.
    pub(crate) fn extend(&mut self, texts: &dyn Texts, tokens: &[TokenId]) {
        for token in &tokens[self.ends.len()..] {
            texts.encode(std::slice::from_ref(token), &mut self.key);
            self.ends.push(self.key.bytes().len());
        }
    }

    /// Forgets what lies behind the first `len` tokens.
    pub(crate) fn cut(&mut self, len: usize) {
        self.ends.truncate(len);
        self.key.truncate(self.end(len.min(self.ends.len())));
    }

    /// Where the first `len` tokens end.
    pub(crate) fn end(&self, len: usize) -> usize {
        len.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.key.bytes()
    }

    /// How many of its tokens can stand for the beginning of `other`: the first `common`, which are
    /// known to be equal, and those behind them that spell the same text and meet it again at a
    /// control token.
    pub(crate) fn shared(&self, other: &Self, common: usize) -> usize {
        let from = self.end(common);
        let pairs = self.bytes()[from..].iter().zip(&other.bytes()[from..]);
        let bytes = from + pairs.take_while(|(a, b)| a == b).count();
        let spelled = self.ends.partition_point(|&end| end <= bytes);
        (common + 1..=spelled).rev().find(|&n| self.meets(other, n)).unwrap_or(common)
    }

    /// Whether the first `n` tokens, which spell the beginning of `other`, end beside a control
    /// token. Elsewhere another spelling would go on into text that is tokenised together with what
    /// precedes it: the prompt would depend on what happened to be live, and its answer with it.
    pub(crate) fn meets(&self, other: &Self, n: usize) -> bool {
        let is_control = |bytes: &[u8], at: usize| bytes.get(at) == Some(&CONTROL);
        n > 0
            && (is_control(self.bytes(), self.end(n - 1)) || is_control(other.bytes(), self.end(n)))
    }

    /// Number of tokens that end at byte `at`, if one does.
    fn tokens_at(&self, at: usize) -> Option<usize> {
        if at == 0 {
            return Some(0);
        }
        self.ends.binary_search(&at).ok().map(|ix| ix + 1)
    }

    /// The tokens of the rest of this list (`tokens`) behind byte `at`: its own where one begins
    /// there; else the text up to the next control token is tokenised anew. `None` when that is not
    /// whole characters.
    pub(crate) fn rest(
        &self,
        texts: &dyn Texts,
        tokens: &[TokenId],
        at: usize,
    ) -> Option<Vec<TokenId>> {
        if let Some(n) = self.tokens_at(at) {
            return Some(tokens[n..].to_vec());
        }
        let next = self.ends.partition_point(|&end| end < at);
        let starts_control = |n: &usize| self.bytes().get(self.end(*n)) == Some(&CONTROL);
        let until = (next + 1..tokens.len()).find(starts_control).unwrap_or(tokens.len());
        let mut rest = texts.tokens(&self.bytes()[at..self.end(until)])?;
        rest.extend_from_slice(&tokens[until..]);
        Some(rest)
    }
}
