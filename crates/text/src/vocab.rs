//! The vocabulary of a model file: token texts, their kinds and the merge list, strictly checked.
//!
//! Does not tokenize; `bpe.rs` and `literal.rs` are built from it.

use std::collections::HashMap;

use ds4_gguf::Metadata;

use crate::alphabet;
use crate::control::EARLY;
use crate::{Error, limits};

/// How a token takes part in tokenizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Made of bytes; reached through merges.
    Normal,
    /// An added token: cut out of raw text in this pass (§A.4).
    Added(Pass),
    /// A filler: decodes to its text, is never produced from text.
    Unused,
}

/// In which of the two passes an added token is cut out of raw text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    First,
    Second,
}

/// A checked vocabulary.
pub struct Vocab {
    kinds: Vec<Kind>,
    /// Bytes of all tokens one after the other; token `i` is `ends[i - 1]..ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Ids of the tokens that are not [`Kind::Normal`], by text.
    added: HashMap<String, u32>,
    merges: Vec<Merge>,
    byte_ids: [u32; 256],
}

/// One merge: `left` followed by `right` becomes `result`. Its rank is its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) result: u32,
}

impl Vocab {
    /// Reads the `tokenizer.ggml.*` keys.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, Error> {
        for (key, expected) in
            [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "joyai-llm")]
        {
            let found = metadata.str(key)?;
            if found != expected {
                return Err(Error::vocab(format!(
                    "metadata key {key} is {found:?}; this program reads {expected:?} only"
                )));
            }
        }
        let tokens: Vec<&str> = metadata.strs("tokenizer.ggml.tokens")?.collect();
        let types = metadata.i32s("tokenizer.ggml.token_type")?;
        let merges: Vec<&str> = metadata.strs("tokenizer.ggml.merges")?.collect();
        Self::new(&tokens, &types, &merges)
    }

    /// Checks and takes over a vocabulary: `types` as in GGUF (1 normal, 3 control,
    /// 4 user-defined, 5 unused), `merges` as `left right` in order of rank.
    pub fn new<S: AsRef<str>>(tokens: &[S], types: &[i32], merges: &[S]) -> Result<Self, Error> {
        if tokens.len() > limits::VOCAB_MAX {
            return Err(Error::vocab(format!(
                "{} tokens; the limit is {}",
                tokens.len(),
                limits::VOCAB_MAX
            )));
        }
        if tokens.len() != types.len() {
            return Err(Error::vocab(format!(
                "{} tokens but {} token types",
                tokens.len(),
                types.len()
            )));
        }
        let mut vocab = Self {
            kinds: Vec::with_capacity(tokens.len()),
            bytes: Vec::new(),
            ends: Vec::with_capacity(tokens.len()),
            added: HashMap::new(),
            merges: Vec::with_capacity(merges.len()),
            byte_ids: [u32::MAX; 256],
        };
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, (text, &ty)) in (0u32..).zip(tokens.iter().zip(types)) {
            vocab.push(id, text.as_ref(), ty)?;
            if let Some(first) = ids.insert(text.as_ref(), id) {
                let text = text.as_ref();
                return Err(Error::vocab(format!("tokens {first} and {id} are both {text:?}")));
            }
        }
        if let Some(byte) = (0..=255u8).find(|&b| vocab.byte_ids[usize::from(b)] == u32::MAX) {
            return Err(Error::vocab(format!("no token for the single byte 0x{byte:02x}")));
        }
        vocab.read_merges(tokens, merges, &ids)?;
        Ok(vocab)
    }

    fn push(&mut self, id: u32, text: &str, ty: i32) -> Result<(), Error> {
        let bad = |what: &str| Error::vocab(format!("token {id} ({text:?}) {what}"));
        if text.is_empty() {
            return Err(bad("is empty"));
        }
        let kind = match ty {
            1 => Kind::Normal,
            3 => Kind::Added(Pass::First),
            4 if EARLY.contains(&text) => Kind::Added(Pass::First),
            4 => Kind::Added(Pass::Second),
            5 => Kind::Unused,
            _ => return Err(bad(&format!("has type {ty}; known are 1, 3, 4 and 5"))),
        };
        let start = self.bytes.len();
        if kind == Kind::Normal {
            for c in text.chars() {
                let byte = alphabet::to_byte(c);
                self.bytes.push(byte.ok_or_else(|| bad("is not written in the byte alphabet"))?);
            }
            if let [byte] = self.bytes[start..] {
                self.byte_ids[usize::from(byte)] = id;
            }
        } else {
            self.bytes.extend_from_slice(text.as_bytes());
            self.added.insert(text.to_owned(), id);
        }
        self.ends.push(self.bytes.len());
        self.kinds.push(kind);
        Ok(())
    }

    fn read_merges<S: AsRef<str>>(
        &mut self,
        tokens: &[S],
        merges: &[S],
        ids: &HashMap<&str, u32>,
    ) -> Result<(), Error> {
        let mut last = 0u32;
        for (rank, merge) in merges.iter().enumerate() {
            let merge = merge.as_ref();
            let bad = |what: &str| Error::vocab(format!("merge {rank} ({merge:?}) {what}"));
            let (left, right) =
                merge.split_once(' ').ok_or_else(|| bad("is not two tokens and a space"))?;
            let id = |text: &str| {
                ids.get(text)
                    .copied()
                    .filter(|&id| self.kinds[id as usize] == Kind::Normal)
                    .ok_or_else(|| bad(&format!("names {text:?}, which is not a token")))
            };
            // Trained vocabularies list the results in order, so look there before searching.
            let next = last.saturating_add(1);
            let follows = tokens
                .get(next as usize)
                .is_some_and(|t| t.as_ref().strip_prefix(left) == Some(right))
                && self.kinds[next as usize] == Kind::Normal;
            last = if follows { next } else { id(&[left, right].concat())? };
            self.merges.push(Merge { left: id(left)?, right: id(right)?, result: last });
        }
        Ok(())
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether there is no token; never true for a checked vocabulary.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The bytes that a token stands for: of an added token its literal text.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        let end = *self.ends.get(id)?;
        let start = id.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        Some(&self.bytes[start..end])
    }

    /// The id of the added token with this literal text.
    pub fn added_id(&self, text: &str) -> Option<u32> {
        self.added.get(text).copied().filter(|&id| self.is_added(id))
    }

    /// Whether the token is an added one, so that ordinary text never becomes it.
    pub fn is_added(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Added(_)))
    }

    /// Whether ordinary text may become the token: it is neither an added one nor a filler.
    pub fn is_text(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Normal)
    }

    /// The added tokens of one pass, in order of id.
    pub(crate) fn added(&self, pass: Pass) -> impl Iterator<Item = (&[u8], u32)> {
        (0u32..)
            .zip(&self.kinds)
            .filter(move |(_, kind)| **kind == Kind::Added(pass))
            .map(|(id, _)| (self.token_bytes(id).expect("ids come from the vocabulary"), id))
    }

    /// Merges in order of rank.
    pub(crate) fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// The token of each single byte.
    pub(crate) fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn passes_are_those_of_the_model_s_file() {
        let packed = include_bytes!("../../../testdata/protocol/vocab.txt.gz");
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
        let mut n = [0, 0];
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let expected = match fields[..] {
                [_, "1", _] => continue,
                [_, _, "0"] => Pass::First,
                _ => Pass::Second,
            };
            let mut vocab = Vocab {
                kinds: Vec::new(),
                bytes: Vec::new(),
                ends: Vec::new(),
                added: HashMap::new(),
                merges: Vec::new(),
                byte_ids: [0; 256],
            };
            vocab.push(0, fields[0], fields[1].parse().unwrap()).unwrap();
            assert_eq!(vocab.kinds, [Kind::Added(expected)], "{line}");
            n[expected as usize] += 1;
        }
        assert_eq!(n, [1237, 46]);
    }
}
