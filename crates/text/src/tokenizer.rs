//! Text to token ids and back, for one vocabulary.

use ds4_gguf::Gguf;

use crate::Error;
use crate::bpe::Bpe;
use crate::control::Specials;
use crate::detok::Detok;
use crate::literal::{Literals, Stretch};
use crate::prompt::Segment;
use crate::split;
use crate::vocab::Vocab;

/// The tokenizer of a model file.
pub struct Tokenizer {
    vocab: Vocab,
    bpe: Bpe,
    literals: Literals,
    specials: Specials,
}

impl Tokenizer {
    /// Prepares a vocabulary; fails when it lacks a token that every prompt needs.
    pub fn new(vocab: Vocab) -> Result<Self, Error> {
        let specials = Specials::find(&vocab)?;
        let (bpe, literals) = (Bpe::new(&vocab), Literals::new(&vocab));
        Ok(Self { vocab, bpe, literals, specials })
    }

    /// Reads the vocabulary of a model file.
    pub fn from_gguf(file: &Gguf) -> Result<Self, Error> {
        Self::new(Vocab::from_metadata(file.metadata())?)
    }

    /// Its vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Ids of the control tokens.
    pub fn specials(&self) -> &Specials {
        &self.specials
    }

    /// Tokens of ordinary text: no added token is recognised, whatever the text contains.
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.push_plain(text, &mut ids);
        ids
    }

    /// Tokens of raw text, in which the literal of every added token is that token: for prompts
    /// that were rendered elsewhere. Never for content of a conversation.
    pub fn encode_with_control(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.literals.cut(text, &mut |stretch| match stretch {
            Stretch::Plain(text) => self.push_plain(text, &mut ids),
            Stretch::Token(id) => ids.push(id),
        });
        ids
    }

    /// Tokens of a rendered prompt.
    pub fn encode_segments(&self, segments: &[Segment]) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        for segment in segments {
            match segment {
                Segment::Plain(text) => self.push_plain(text, &mut ids),
                Segment::Control(control) => {
                    let id = self.specials.id(*control);
                    ids.push(id.ok_or(Error::NoControl(control.text()))?);
                }
                Segment::Sampled(sampled) => ids.extend(&sampled.ids),
            }
        }
        Ok(ids)
    }

    fn push_plain(&self, text: &str, ids: &mut Vec<u32>) {
        let mut scratch = Vec::new();
        split::pieces(text, &mut |piece| self.bpe.encode(piece.as_bytes(), &mut scratch, ids));
    }

    /// The bytes that a token stands for.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], Error> {
        let n_vocab = self.vocab.len();
        self.vocab.token_bytes(id).ok_or(Error::TokenId { id, n_vocab })
    }

    /// The text of a list of tokens; added tokens become their literals, bytes that are not UTF-8
    /// become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        let mut detok = Detok::new(self);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&detok.push(id)?);
        }
        text.push_str(&detok.finish());
        Ok(text)
    }
}
