//! What an answer must look like, as a request says it.

use ds4_text::{Conversation, ResponseFormat, ToolChoice};
use serde_json::{Map, Value};

/// The required form of an answer, reasoning not included.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// What an answer in text must be.
    pub answer: Answer,
    /// Which functions it may or must call instead.
    pub calls: Calls,
    /// What to do with demands that masks cannot enforce.
    pub rigour: Rigour,
    /// How JSON may be spaced.
    pub spacing: Spacing,
}

/// An answer in text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Answer {
    /// Any text.
    #[default]
    Free,
    /// Any JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema(Value),
    /// Text that this regular expression matches as a whole.
    Pattern(String),
}

/// Tool calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Calls {
    /// Not a matter of this form: none are declared, or nothing about them is enforced.
    #[default]
    Free,
    /// The answer is text, or calls these functions. With [`Answer::Free`] nothing is enforced
    /// until the model itself opens a block of calls.
    Allowed(Functions),
    /// The answer calls at least one of these functions, and is nothing else.
    Required(Functions),
}

/// Functions that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Functions {
    /// The declared function objects: `name`, `parameters`, `strict`.
    pub declared: Vec<Map<String, Value>>,
    /// Whether one answer may hold several calls.
    pub parallel: bool,
    /// Whether the prompt ends inside the opened block ([`Conversation::opens_block`]).
    pub is_open: bool,
}

/// What to do with demands of a schema that masks cannot enforce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rigour {
    /// Leave them to the model, with a warning that names each; the rest is enforced.
    #[default]
    Lenient,
    /// Refuse the schema with an error that names the first.
    Strict,
}

/// White space between the tokens of JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// Spaces, or a line break with indentation; bounded, so that no model writes space for ever.
    #[default]
    Flexible,
    /// None.
    Compact,
}

/// What a request says beyond its conversation.
#[derive(Clone, Copy, Debug)]
pub struct Wishes<'a> {
    /// Whether one answer may hold several calls.
    pub parallel: bool,
    /// A regular expression for the answer.
    pub pattern: Option<&'a str>,
    /// Whether blocks that the model opens by itself are held to their grammar (§C.7).
    pub guard: bool,
    /// How schemas are read.
    pub rigour: Rigour,
    /// How JSON may be spaced.
    pub spacing: Spacing,
}

impl Default for Wishes<'_> {
    fn default() -> Self {
        Self {
            parallel: true,
            pattern: None,
            guard: true,
            rigour: Rigour::default(),
            spacing: Spacing::default(),
        }
    }
}

impl Form {
    /// Whether nothing is enforced until the model itself opens a block of calls. Then a form that
    /// cannot be compiled may be dropped: the request is served without.
    pub fn is_guard(&self) -> bool {
        self.answer == Answer::Free && matches!(self.calls, Calls::Allowed(_))
    }

    /// The form that a conversation demands; `None` when nothing is to be enforced.
    pub fn of(conversation: &Conversation, wishes: Wishes<'_>) -> Option<Self> {
        let answer = match (&conversation.response_format, wishes.pattern) {
            (ResponseFormat::JsonObject, _) => Answer::JsonObject,
            (ResponseFormat::JsonSchema(schema), _) => Answer::JsonSchema(schema.clone()),
            (ResponseFormat::Text, Some(pattern)) => Answer::Pattern(pattern.to_owned()),
            (ResponseFormat::Text, None) => Answer::Free,
        };
        let functions = Functions {
            declared: conversation.shown_tools().cloned().collect(),
            parallel: wishes.parallel,
            is_open: conversation.opens_block(),
        };
        let is_required =
            matches!(conversation.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        let calls = match (functions.declared.is_empty(), is_required) {
            (true, _) => Calls::Free,
            (false, true) => Calls::Required(functions),
            (false, false) if answer == Answer::Free && !wishes.guard => Calls::Free,
            (false, false) => Calls::Allowed(functions),
        };
        let is_free = answer == Answer::Free && calls == Calls::Free;
        (!is_free).then_some(Self { answer, calls, rigour: wishes.rigour, spacing: wishes.spacing })
    }
}
