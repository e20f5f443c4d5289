//! What became of each assistant message of a history.

use std::fmt;

/// What was found for an assistant message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is repeated as it was sampled.
    Whole,
    /// As [`Found::Whole`]; the client had dropped the reasoning.
    Restored,
    /// As [`Found::Whole`]; the client sent other reasoning, which is not used.
    Replaced,
    /// The client's content differs from what was said; only reasoning and calls are repeated.
    CallsOnly,
    /// The client's calls differ from what was sampled: the message is rendered as it was sent.
    Edited,
    /// Nothing is remembered: the message is rendered as it was sent.
    Unknown,
}

/// What was found for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its place in the conversation.
    pub message: usize,
    /// What was found.
    pub found: Found,
}

impl Found {
    /// Lower-case words for traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "replayed as sampled",
            Self::Restored => "replayed as sampled, with the reasoning that the client dropped",
            Self::Replaced => "replayed as sampled, in place of other reasoning from the client",
            Self::CallsOnly => "content was changed; reasoning and calls replayed",
            Self::Edited => "calls were changed; rendered as sent",
            Self::Unknown => "not remembered; rendered as sent",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {}: {}", self.message, self.found.name())
    }
}
