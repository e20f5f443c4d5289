//! Conversations to prompts: the two prompt profiles that the model's checkpoints were trained on.
//!
//! What both share is here: the tool text, the schema text and the block of tool calls. What they
//! do with messages is in [`april`] and `july.rs`.

use serde_json::{Map, Value};

use crate::Error;
use crate::control::Control;
use crate::message::{Arguments, Conversation, Message, ResponseFormat, ToolCall};
use crate::prompt::Prompt;
use crate::pyjson::to_python_json;

pub mod april;
mod july;
mod texts;

/// Which checkpoint's prompt format to write (§B.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Profile 2604: the weights of the published GGUF files.
    #[default]
    April,
    /// Profile 2607: the July checkpoint and the hosted API.
    July,
}

impl Profile {
    /// The profile of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "2604" => Some(Self::April),
            "2607" => Some(Self::July),
            _ => None,
        }
    }
}

/// Renders a conversation up to the point where the model goes on.
pub fn render(profile: Profile, conversation: &Conversation) -> Result<Prompt, Error> {
    match profile {
        Profile::April => april::render_conversation(conversation),
        Profile::July => Ok(july::render(conversation)),
    }
}

/// The tool text: schemas one per line, between the model's own sentences (§B.6).
fn write_tools(prompt: &mut Prompt, schemas: &[String]) {
    prompt.template(texts::TOOLS_PREAMBLE).text(&schemas.join("\n")).text(texts::TOOLS_POSTAMBLE);
}

/// The text that demands a form of the answer (§B.7).
fn demand_text(format: &ResponseFormat) -> Option<String> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject => Some(texts::JSON_OBJECT.to_owned()),
        ResponseFormat::JsonSchema(schema) => {
            Some(format!("{}{}", texts::RESPONSE_FORMAT, to_python_json(schema)))
        }
    }
}

/// The reasoning of an assistant message: as it was sampled, where that is known.
fn write_reasoning(prompt: &mut Prompt, message: &Message) {
    match message.replay.as_ref().and_then(|replay| replay.reasoning.as_ref()) {
        Some(reasoning) => prompt.append(reasoning),
        None => prompt.text(&message.reasoning),
    };
}

/// Content and calls of an assistant message: as they were sampled, where that is known.
fn write_answer(prompt: &mut Prompt, message: &Message, blank_line: bool) {
    let replay = message.replay.as_deref();
    if let Some(answer) = replay.and_then(|replay| replay.answer.as_ref()) {
        prompt.append(answer);
        return;
    }
    prompt.text(&message.content);
    if let Some(calls) = replay.and_then(|replay| replay.calls.as_ref()) {
        prompt.append(calls);
    } else if !message.calls.is_empty() {
        write_calls(prompt, &message.calls, blank_line);
    }
}

/// A block of tool calls with its leading blank line (§B.8). `blank_line` separates the tags of an
/// invoke without parameters, as April does.
fn write_calls<'a>(
    prompt: &mut Prompt,
    calls: impl IntoIterator<Item = &'a ToolCall>,
    blank_line: bool,
) {
    open_block(prompt);
    for call in calls {
        prompt.text("<").control(Control::Dsml).text("invoke name=\"").text(&call.name);
        prompt.text("\">\n");
        let arguments = arguments(call);
        for (key, value) in &arguments {
            prompt.text("<").control(Control::Dsml).text("parameter name=\"").text(key);
            match value {
                Value::String(text) => prompt.text("\" string=\"true\">").text(text),
                other => prompt.text("\" string=\"false\">").text(&to_python_json(other)),
            };
            prompt.text("</").control(Control::Dsml).text("parameter>\n");
        }
        prompt.text(if arguments.is_empty() && blank_line { "\n" } else { "" });
        prompt.text("</").control(Control::Dsml).text("invoke>\n");
    }
    prompt.text("</").control(Control::Dsml).text("tool_calls>");
}

/// The opening tag of a block of tool calls, with the blank line before it.
fn open_block(prompt: &mut Prompt) {
    prompt.text("\n\n<").control(Control::Dsml).text("tool_calls>\n");
}

/// Arguments as an object: what is not one becomes the single parameter `arguments`.
fn arguments(call: &ToolCall) -> Map<String, Value> {
    match &call.arguments {
        Arguments::Object(object) => object.clone(),
        Arguments::Text(text) => serde_json::from_str(text).unwrap_or_else(|_| {
            Map::from_iter([("arguments".to_owned(), Value::String(text.clone()))])
        }),
    }
}
