//! Answers from a script, for tests of clients: the text is given, everything else is real. The
//! logits of all tokens but the script's next one are masked, so the model computes, its state is
//! kept and reused, and the output is parsed and written as any other.

use std::sync::{Mutex, PoisonError};

use ds4_model::TokenId;
use ds4_text::{Tokenizer, USER};
use serde::Deserialize;

/// An answer to be given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Text that must stand in the last turn of the prompt.
    #[serde(default)]
    when: String,
    /// The API that the request must come in by, as in metrics.
    #[serde(default)]
    api: Option<String>,
    /// The answer as the model would write it, literals of control tokens included.
    text: String,
    /// Whether it is given every time, not once.
    #[serde(default)]
    repeat: bool,
}

/// Answers that wait for their requests.
#[derive(Debug)]
pub struct Script(Mutex<Vec<Entry>>);

impl Script {
    /// Reads a JSON array of objects with `text`, and optionally `when`, `api` and `repeat`.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(|entries| Self(Mutex::new(entries)))
    }

    /// The first answer that fits a request, by the text of its prompt.
    pub(crate) fn take(&self, api: &str, prompt: &str) -> Option<String> {
        let turn = prompt.rfind(USER).map_or(prompt, |at| &prompt[at..]);
        let fits =
            |e: &Entry| e.api.as_ref().is_none_or(|name| name == api) && turn.contains(&e.when);
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(fits)?;
        Some(if entries[at].repeat { entries[at].text.clone() } else { entries.remove(at).text })
    }
}

/// One answer, token by token.
#[derive(Debug)]
pub(crate) struct Lines {
    tokens: Vec<TokenId>,
    next: usize,
}

impl Lines {
    /// The tokens of a text, and the end.
    pub(crate) fn new(tokenizer: &Tokenizer, text: &str) -> Self {
        let ids = tokenizer.encode_with_control(text);
        let tokens = ids.into_iter().chain([tokenizer.specials().eos]).map(TokenId).collect();
        Self { tokens, next: 0 }
    }

    /// Leaves only the next token.
    pub(crate) fn mask(&self, logits: &mut [f32]) {
        let wanted = self.tokens.get(self.next).or(self.tokens.last()).map(|t| t.0 as usize);
        for (id, logit) in logits.iter_mut().enumerate() {
            *logit = if Some(id) == wanted { 0.0 } else { f32::NEG_INFINITY };
        }
    }

    /// Goes on behind a token that was chosen.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_wait_for_their_requests() {
        let script = Script::from_json(
            r#"[{"text": "a", "when": "first"}, {"text": "b", "api": "messages"},
                {"text": "c", "repeat": true}]"#,
        )
        .unwrap();
        let old = format!("{USER}first{USER}");
        assert_eq!(script.take("chat", &format!("{old}second")).as_deref(), Some("c"));
        assert_eq!(script.take("messages", &format!("{old}x")).as_deref(), Some("b"));
        assert_eq!(script.take("chat", &format!("{old}the first")).as_deref(), Some("a"));
        assert_eq!(script.take("chat", &format!("{old}the first")).as_deref(), Some("c"));
        assert!(Script::from_json(r#"[{"texts": "a"}]"#).is_err());
    }
}
