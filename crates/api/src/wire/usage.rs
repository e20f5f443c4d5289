//! Counts of tokens, in each API's words.

use serde_json::{Value, json};

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The whole prompt.
    pub prompt: usize,
    /// The part of the prompt that was not computed because it was known.
    pub cached: usize,
    /// The part of the prompt that was computed and kept.
    pub cache_write: usize,
    /// Everything that was sampled.
    pub completion: usize,
    /// The part of what was sampled that is reasoning.
    pub reasoning: usize,
}

impl Usage {
    /// The counts with every part inside its whole.
    fn clipped(&self) -> Self {
        let cached = self.cached.min(self.prompt);
        Self {
            cached,
            cache_write: self.cache_write.min(self.prompt - cached),
            reasoning: self.reasoning.min(self.completion),
            ..*self
        }
    }

    /// Of Chat Completions and Completions.
    pub(super) fn openai(&self) -> Value {
        let usage = self.clipped();
        json!({
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "prompt_tokens_details": {
                "cached_tokens": usage.cached,
                "cache_write_tokens": usage.cache_write,
            },
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
            "prompt_cache_hit_tokens": usage.cached,
            "prompt_cache_miss_tokens": usage.prompt - usage.cached,
        })
    }

    /// Of Messages, where the cached parts are not part of the input.
    pub(super) fn messages(&self) -> Value {
        let usage = self.clipped();
        json!({
            "input_tokens": usage.prompt - usage.cached - usage.cache_write,
            "output_tokens": usage.completion,
            "cache_read_input_tokens": usage.cached,
            "cache_creation_input_tokens": usage.cache_write,
        })
    }

    /// Of Responses.
    pub(super) fn responses(&self) -> Value {
        let usage = self.clipped();
        json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": {
                "cached_tokens": usage.cached,
                "cache_write_tokens": usage.cache_write,
            },
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        })
    }

    /// The counts of two prompts of one request.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            prompt: self.prompt + other.prompt,
            cached: self.cached + other.cached,
            cache_write: self.cache_write + other.cache_write,
            completion: self.completion + other.completion,
            reasoning: self.reasoning + other.reasoning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_inside_their_wholes() {
        let usage = Usage { prompt: 10, cached: 7, cache_write: 9, completion: 2, reasoning: 5 };
        let openai = usage.openai();
        assert_eq!(openai["prompt_tokens_details"]["cache_write_tokens"], 3);
        assert_eq!(openai["completion_tokens_details"]["reasoning_tokens"], 2);
        assert_eq!(usage.messages()["input_tokens"], 0);
        let more = Usage { cached: 12, ..usage };
        assert_eq!(more.responses()["input_tokens_details"]["cached_tokens"], 10);
        assert_eq!(more.messages()["cache_creation_input_tokens"], 0);
    }
}
