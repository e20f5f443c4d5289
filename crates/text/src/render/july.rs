//! Profile 2607 (§B.9): system texts first, user turns merged, tool calls and results sorted by id.

use serde_json::{Map, Value, json};

use super::{Profile, demand_text, open_block, texts, write_answer, write_reasoning, write_tools};
use crate::control::Control;
use crate::message::{Conversation, Effort, Message, Role, Tail, Thinking};
use crate::prompt::Prompt;

/// Renders a conversation.
pub(super) fn render(conversation: &Conversation) -> Prompt {
    let thinking = conversation.thinking != Thinking::Off;
    let has_tools = conversation.shown_tools().next().is_some();
    let mut prompt = Prompt::default();
    prompt.control(Control::Bos).text(effort_text(conversation.thinking));
    write_system(&mut prompt, conversation);

    let messages = turns(&conversation.messages);
    let mut previous = None;
    for message in &messages {
        match message.role {
            Role::User if matches!(previous, Some(Role::User | Role::Tool)) => {
                prompt.text("\n\n").text(&message.content);
            }
            Role::User => {
                prompt.control(Control::User).text(&message.content);
            }
            Role::Tool => {
                match previous {
                    Some(Role::Tool) => prompt.text("\n\n"),
                    _ => prompt.control(Control::User),
                };
                prompt.text("<tool_result>").text(&message.content).text("</tool_result>");
            }
            Role::Assistant => write_assistant(&mut prompt, message, thinking, has_tools),
            Role::LatestReminder => {
                prompt.control(Control::LatestReminder).text(&message.content);
            }
            Role::System | Role::Developer | Role::Unknown(_) => {}
        }
        previous = Some(message.role.clone());
    }
    if messages.last().is_none_or(|last| last.tail == Tail::Closed) {
        prompt.control(Control::Assistant);
        prompt.control(if thinking { Control::ThinkOpen } else { Control::ThinkClose });
    }
    if conversation.opens_block() {
        open_block(&mut prompt);
    }
    prompt
}

fn effort_text(thinking: Thinking) -> &'static str {
    match thinking {
        Thinking::Off | Thinking::On(Effort::Low) => "",
        Thinking::On(Effort::High) => texts::EFFORT_ABSOLUTE,
        Thinking::On(Effort::Max) => texts::EFFORT_BEYOND,
    }
}

/// All system texts, then the tools, then the answer's form, with blank lines between; in front of
/// tools or form an empty system text stands in for a missing one.
fn write_system(prompt: &mut Prompt, conversation: &Conversation) {
    let texts = conversation.messages.iter().filter(|m| is_system(m)).map(|m| m.content.as_str());
    let joined = texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n");
    prompt.text(&joined);
    let schemas: Vec<String> = conversation.shown_tools().map(schema).collect();
    if !schemas.is_empty() {
        write_tools(prompt.text("\n\n"), &schemas);
    }
    if let Some(demand) = demand_text(Profile::July, &conversation.response_format) {
        prompt.text("\n\n").text(&demand);
    }
}

fn is_system(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

/// Exactly name, description and parameters of a function, in this order.
fn schema(function: &Map<String, Value>) -> String {
    let or = |key: &str, default: Value| match function.get(key) {
        None | Some(Value::Null) => default,
        Some(value) => value.clone(),
    };
    Profile::July.json(&json!({
        "name": or("name", json!("")),
        "description": or("description", json!("")),
        "parameters": or("parameters", json!({})),
    }))
}

fn write_assistant(prompt: &mut Prompt, message: &Message, thinking: bool, has_tools: bool) {
    let open = message.tail != Tail::Closed;
    prompt.control(Control::Assistant);
    if thinking && (open || has_tools) {
        write_reasoning(prompt.control(Control::ThinkOpen), message);
    }
    if message.tail != Tail::OpenReasoning {
        prompt.control(Control::ThinkClose);
    }
    write_answer(Profile::July, prompt, message);
    if !open {
        prompt.control(Control::Eos);
    }
}

/// The messages that are not system texts: adjacent users merged, the calls of each assistant and
/// the results that follow it sorted by id.
fn turns(messages: &[Message]) -> Vec<Message> {
    let mut turns: Vec<Message> = Vec::new();
    for message in messages.iter().filter(|m| !is_system(m)) {
        match turns.last_mut() {
            Some(last) if last.role == Role::User && message.role == Role::User => {
                if !last.content.is_empty() && !message.content.is_empty() {
                    last.content.push_str("\n\n");
                }
                last.content.push_str(&message.content);
            }
            _ => turns.push(message.clone()),
        }
    }
    for i in 0..turns.len() {
        turns[i].calls.sort_by(|a, b| a.id.cmp(&b.id));
        let n_calls = turns[i].calls.len();
        if let Some(results) = turns.get_mut(i + 1..i + 1 + n_calls) {
            results.sort_by(|a, b| result_key(a).cmp(&result_key(b)));
        }
    }
    turns
}

/// Results come before anything else in the range, by id.
fn result_key(message: &Message) -> (bool, Option<&str>) {
    match message.role {
        Role::Tool => (false, message.call_id.as_deref()),
        _ => (true, None),
    }
}
