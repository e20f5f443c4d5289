//! Token ids to text as they are generated (§A.6).

use crate::Error;
use crate::tokenizer::Tokenizer;
use crate::utf8::Utf8Stream;

/// Decodes one stream of tokens. Text comes out as soon as its bytes are complete characters.
pub struct Detok<'a> {
    tokenizer: &'a Tokenizer,
    stream: Utf8Stream,
}

impl<'a> Detok<'a> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, stream: Utf8Stream::default() }
    }

    /// Takes the next token and returns the text that became certain.
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        let mut text = String::new();
        self.stream.push(self.tokenizer.token_bytes(id)?, &mut text);
        Ok(text)
    }

    /// Bytes of an incomplete character, held back.
    pub fn pending(&self) -> &[u8] {
        self.stream.pending()
    }

    /// Ends the text: a held tail becomes U+FFFD. The decoder is then at the start of a new text.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.stream.finish(&mut text);
        text
    }
}
