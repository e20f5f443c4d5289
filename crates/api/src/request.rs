//! A request free of its provider's wire format: what to render and how to sample.

use ds4_text::{Conversation, Thinking};

/// How strictly a request is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// Serve whatever has a sensible meaning: agents must not die of a lost tool result.
    #[default]
    Lenient,
    /// Refuse what the hosted API refuses, with its messages.
    Hosted,
}

/// A converted request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model's name, echoed in the answer.
    pub model: String,
    /// What enters the prompt.
    pub conversation: Conversation,
    /// What the client asked of sampling.
    pub sampling: Sampling,
    /// Tokens that the answer may have; `None` leaves it to the server.
    pub max_tokens: Option<u32>,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// Whether more than one tool may be called in a turn.
    pub parallel_tool_calls: bool,
    /// A regular expression that the answer must match.
    pub answer_pattern: Option<String>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with a usage report.
    pub include_usage: bool,
    /// Alternatives to report for each token; `None` for no log probabilities at all.
    pub top_logprobs: Option<u64>,
    /// What was ignored or replaced, one line each, for the log and a response header.
    pub warnings: Vec<String>,
}

/// Sampling parameters as far as the client set them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 for the most likely token always.
    pub temperature: Option<f32>,
    /// Share of probability to keep, in (0, 1].
    pub top_p: Option<f32>,
    /// Candidates to keep; 0 for all.
    pub top_k: Option<u32>,
    /// Least probability relative to the most likely token.
    pub min_p: Option<f32>,
    /// Seed of the random numbers.
    pub seed: Option<u64>,
}

impl Request {
    /// Temperature and `top_p` as the hosted API chooses them: while thinking the client's wishes
    /// are ignored.
    pub fn hosted_sampling(&self) -> (f32, f32) {
        let has_tools = self.conversation.shown_tools().next().is_some();
        match self.conversation.thinking {
            Thinking::On(_) => (1.0, if has_tools { 0.95 } else { 1.0 }),
            Thinking::Off => {
                (self.sampling.temperature.unwrap_or(1.0), self.sampling.top_p.unwrap_or(1.0))
            }
        }
    }
}
