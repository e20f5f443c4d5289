//! Conversations to prompts: the two prompt profiles that the model's checkpoints were trained on.
//!
//! What both share is here: the tool text, the schema text and the block of tool calls. What they
//! do with messages is in [`april`] and `july.rs`.

use serde_json::{Map, Value};

use crate::Error;
use crate::control::Control;
use crate::message::{Arguments, Conversation, Message, ResponseFormat, ToolCall};
use crate::prompt::Prompt;
use crate::pyjson::{Numbers, has_only_finite, to_json};

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

    /// How the profile's encoder writes JSON.
    fn json(self, value: &Value) -> String {
        let numbers = match self {
            Self::April => Numbers::Python,
            Self::July => Numbers::Doubles,
        };
        to_json(value, numbers)
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
fn demand_text(profile: Profile, format: &ResponseFormat) -> Option<String> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject => Some(texts::JSON_OBJECT.to_owned()),
        ResponseFormat::JsonSchema(schema) => {
            Some(format!("{}{}", texts::RESPONSE_FORMAT, profile.json(schema)))
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
fn write_answer(profile: Profile, prompt: &mut Prompt, message: &Message) {
    let replay = message.replay.as_deref();
    if let Some(answer) = replay.and_then(|replay| replay.answer.as_ref()) {
        prompt.append(answer);
        return;
    }
    prompt.text(&message.content);
    if let Some(calls) = replay.and_then(|replay| replay.calls.as_ref()) {
        prompt.append(calls);
    } else if !message.calls.is_empty() {
        write_calls(profile, prompt, &message.calls);
    }
}

/// A block of tool calls with its leading blank line (§B.8).
fn write_calls(profile: Profile, prompt: &mut Prompt, calls: &[ToolCall]) {
    open_block(prompt);
    for call in calls {
        prompt.text("<").control(Control::Dsml).text("invoke name=\"").text(&call.name);
        prompt.text("\">\n");
        let arguments = arguments(profile, call);
        for (key, value) in &arguments {
            prompt.text("<").control(Control::Dsml).text("parameter name=\"").text(key);
            match value {
                Value::String(text) => prompt.text("\" string=\"true\">").text(text),
                other => prompt.text("\" string=\"false\">").text(&profile.json(other)),
            };
            prompt.text("</").control(Control::Dsml).text("parameter>\n");
        }
        // April separates the tags of an invoke without parameters.
        let is_blank = arguments.is_empty() && profile == Profile::April;
        prompt.text(if is_blank { "\n" } else { "" });
        prompt.text("</").control(Control::Dsml).text("invoke>\n");
    }
    prompt.text("</").control(Control::Dsml).text("tool_calls>");
}

/// The opening tag of a block of tool calls, with the blank line before it.
fn open_block(prompt: &mut Prompt) {
    prompt.text("\n\n<").control(Control::Dsml).text("tool_calls>\n");
}

/// Arguments as an object: what is not one becomes the single parameter `arguments`.
fn arguments(profile: Profile, call: &ToolCall) -> Map<String, Value> {
    let text = match &call.arguments {
        Arguments::Object(object) => return object.clone(),
        Arguments::Text(text) => text,
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(object))
            if profile == Profile::April || object.values().all(has_only_finite) =>
        {
            object
        }
        _ => Map::from_iter([("arguments".to_owned(), Value::String(text.clone()))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_written_as_the_profiles_encoder_does() {
        let written = |profile, text: &str| {
            let arguments = Arguments::Text(text.to_owned());
            let call = ToolCall { id: None, name: "f".to_owned(), arguments };
            let mut prompt = Prompt::default();
            write_calls(profile, &mut prompt, &[call]);
            let text = prompt.to_text();
            let (_, inside) = text.split_once("invoke name=\"f\">\n").unwrap();
            inside.split_once("</｜DSML｜invoke>").unwrap().0.to_owned()
        };
        let parameter = |key: &str, is_string: bool, value: &str| {
            let tag = "｜DSML｜parameter";
            format!("<{tag} name=\"{key}\" string=\"{is_string}\">{value}</{tag}>\n")
        };
        for (text, april, july) in [
            (r#"{"d":1e-7}"#, ("d", false, "1e-07"), ("d", false, "1e-7")),
            (
                r#"{"d":[18446744073709551616]}"#,
                ("d", false, "[18446744073709551616]"),
                ("d", false, "[1.8446744073709552e+19]"),
            ),
            (r#"{"d":1e400}"#, ("d", false, "Infinity"), ("arguments", true, r#"{"d":1e400}"#)),
            ("[1]", ("arguments", true, "[1]"), ("arguments", true, "[1]")),
        ] {
            for (profile, (key, is_string, value)) in
                [(Profile::April, april), (Profile::July, july)]
            {
                assert_eq!(written(profile, text), parameter(key, is_string, value), "{text}");
            }
        }
        assert_eq!(written(Profile::April, "{}"), "\n");
        assert_eq!(written(Profile::July, "{}"), "");
    }
}
