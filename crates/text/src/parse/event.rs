//! What the parser tells, piece by piece and at the end.

/// A piece of parsed output. Adjacent pieces of the same kind belong together; where they are cut
/// has no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Reasoning.
    Thinking(String),
    /// Content.
    Text(String),
    /// A tool call begins.
    ToolStart {
        /// Its place among the calls.
        index: usize,
        /// The function's name.
        name: String,
    },
    /// The next piece of a call's arguments: compact JSON.
    ToolArgs {
        /// Place of the call.
        index: usize,
        /// The piece.
        delta: String,
    },
    /// A tool call ends.
    ToolEnd {
        /// Place of the call.
        index: usize,
        /// The arguments as a whole, compact JSON; `None` when the output broke off inside the
        /// call, which must not be executed then.
        ///
        /// It is the pieces put together, but for a parameter given twice: here the last value
        /// counts, while the pieces have both (and JSON readers take the last as well).
        arguments: Option<String>,
    },
}

/// A parsed tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedCall {
    /// The function's name.
    pub name: String,
    /// Arguments as compact JSON.
    pub arguments: String,
    /// False when the output broke off inside the call; the arguments may then end anywhere.
    pub is_complete: bool,
}

/// Everything that was parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Reasoning.
    pub reasoning: String,
    /// Content.
    pub content: String,
    /// Tool calls, in order.
    pub calls: Vec<ParsedCall>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended its turn, or the parser was done.
    Stop,
    /// The budget of tokens was used up.
    Length,
}

/// What to tell the client about the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn.
    Stop,
    /// The budget of tokens was used up.
    Length,
    /// The model calls tools.
    ToolCalls,
}

impl FinishReason {
    /// Its name in OpenAI's APIs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

impl Outcome {
    /// The calls that may be executed.
    pub fn complete_calls(&self) -> impl Iterator<Item = &ParsedCall> {
        self.calls.iter().filter(|call| call.is_complete)
    }

    /// What to tell the client.
    pub fn finish_reason(&self, end: End) -> FinishReason {
        match end {
            End::Length => FinishReason::Length,
            End::Stop if self.complete_calls().next().is_some() => FinishReason::ToolCalls,
            End::Stop => FinishReason::Stop,
        }
    }

    /// Adds a piece.
    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::Thinking(text) => self.reasoning.push_str(text),
            Event::Text(text) => self.content.push_str(text),
            Event::ToolStart { name, .. } => {
                self.calls.push(ParsedCall { name: name.clone(), ..ParsedCall::default() });
            }
            Event::ToolArgs { index, delta } => {
                if let Some(call) = self.calls.get_mut(*index) {
                    call.arguments.push_str(delta);
                }
            }
            Event::ToolEnd { index, arguments } => {
                if let (Some(call), Some(arguments)) = (self.calls.get_mut(*index), arguments) {
                    call.arguments.clone_from(arguments);
                    call.is_complete = true;
                }
            }
        }
    }
}
