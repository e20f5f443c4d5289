//! A conversation as the renderers take it, free of any provider's wire format.

use serde_json::{Map, Value};

use crate::prompt::Prompt;

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions in the place of a user turn (April profile); a system message in July.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
    /// A short reminder such as the date.
    LatestReminder,
    /// A role that no profile knows; kept because the April profile drops some unseen.
    Unknown(String),
}

/// How an assistant message ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// The turn is over.
    #[default]
    Closed,
    /// The model continues the content.
    Open,
    /// The model continues the reasoning.
    OpenReasoning,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Its text; list contents are already joined.
    pub content: String,
    /// Reasoning of an assistant message.
    pub reasoning: String,
    /// Tool calls of an assistant message.
    pub calls: Vec<ToolCall>,
    /// Of a tool message: the call that it answers.
    pub call_id: Option<String>,
    /// Function objects declared by this message (April profile).
    pub tools: Vec<Map<String, Value>>,
    /// Form of the answer demanded by this message (April profile).
    pub response_format: ResponseFormat,
    /// Name of an internal classification task (§B.10).
    pub task: Option<String>,
    /// How an assistant message ends.
    pub tail: Tail,
    /// What an assistant message is known to have been sampled as.
    pub replay: Option<Box<Replay>>,
}

/// What to write of an assistant message in place of its canonical rendering, because the model said
/// it in just this way. Whether the profile writes a part at all is not changed by it.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Instead of the reasoning; the token that closes it is the template's.
    pub reasoning: Option<Prompt>,
    /// Instead of content and calls.
    pub answer: Option<Prompt>,
    /// Instead of the calls, where the content is written as the message has it.
    pub calls: Option<Prompt>,
}

impl Message {
    /// A message with nothing but text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            reasoning: String::new(),
            calls: Vec::new(),
            call_id: None,
            tools: Vec::new(),
            response_format: ResponseFormat::Text,
            task: None,
            tail: Tail::Closed,
            replay: None,
        }
    }
}

/// A tool call in an assistant message.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// Its id, which the results name.
    pub id: Option<String>,
    /// The function's name.
    pub name: String,
    /// What it is called with.
    pub arguments: Arguments,
}

/// Arguments of a tool call.
#[derive(Clone, Debug)]
pub enum Arguments {
    /// As the client sent them: text that should be a JSON object.
    Text(String),
    /// Known to be an object.
    Object(Map<String, Value>),
}

/// How much the model may think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// Not at all.
    Off,
    /// With this effort.
    On(Effort),
}

/// Effort of reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the levels")]
pub enum Effort {
    Low,
    High,
    Max,
}

/// Which tools the model may or must use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// The tools are hidden.
    None,
    /// A call is required.
    Required,
    /// A call of this function is required.
    Named(String),
}

/// The demanded form of the answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Any text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema(Value),
}

/// Messages with everything that enters the prompt.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// Declared function objects, as received.
    pub tools: Vec<Map<String, Value>>,
    /// Which of them may or must be used.
    pub tool_choice: ToolChoice,
    /// The demanded form of the answer.
    pub response_format: ResponseFormat,
    /// Whether and how much to think.
    pub thinking: Thinking,
}

impl Conversation {
    /// The tools that the prompt shows: all, none, or the named one.
    pub fn shown_tools(&self) -> impl Iterator<Item = &Map<String, Value>> {
        self.tools.iter().filter(|tool| match &self.tool_choice {
            ToolChoice::None => false,
            ToolChoice::Named(name) => tool.get("name").and_then(Value::as_str) == Some(name),
            ToolChoice::Auto | ToolChoice::Required => true,
        })
    }

    /// Whether the prompt ends inside an opened block of tool calls: a call is required and no
    /// reasoning comes first.
    pub fn opens_block(&self) -> bool {
        let required = matches!(self.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        required && self.thinking == Thinking::Off && self.shown_tools().next().is_some()
    }
}
