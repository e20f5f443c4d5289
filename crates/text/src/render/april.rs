//! Profile 2604 (§B.2–B.8, §B.10): every message in its place, tools on the system message, user
//! and tool messages merged into turns.

use std::collections::HashMap;

use super::{Profile, demand_text, open_block, texts, write_answer, write_reasoning, write_tools};
use crate::Error;
use crate::control::{Control, Task};
use crate::message::{Conversation, Effort, Message, Role, Tail, Thinking};
use crate::prompt::Prompt;
use crate::pyjson::object_to_python_json;

/// What the reference's renderer is told beside the messages.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Whether the model thinks.
    pub thinking: bool,
    /// Whether the effort is the highest.
    pub max_effort: bool,
    /// Whether reasoning before the last user turn is left out; declared tools override it.
    pub drop_thinking: bool,
}

/// A message, or a run of user and tool messages merged into one turn.
struct Turn<'a> {
    message: &'a Message,
    /// Of a user turn: its texts and results, in order.
    parts: Vec<&'a Message>,
}

/// Renders messages exactly as the reference does; tools and answer schemas are on the messages.
pub fn render_messages(messages: &[Message], mode: Mode) -> Result<Prompt, Error> {
    let mut turns = merge(messages);
    sort_results(&mut turns);
    let declares = |turn: &Turn<'_>| turn.parts.is_empty() && !turn.message.tools.is_empty();
    let drop = mode.drop_thinking && !turns.iter().any(declares);
    if mode.thinking && drop {
        drop_early(&mut turns);
    }
    let mut prompt = Prompt::default();
    prompt.control(Control::Bos);
    if mode.thinking && mode.max_effort && !turns.is_empty() {
        prompt.text(texts::EFFORT_ABSOLUTE);
    }
    let last_user = turns.iter().rposition(|turn| speaks_as_user(turn));
    for i in 0..turns.len() {
        let after_user = last_user.is_none_or(|user| i > user);
        let thinks = mode.thinking && (!drop || after_user);
        write_turn(&mut prompt, &turns, i, thinks)?;
        let next = turns.get(i + 1).map(|turn| &turn.message.role);
        if next.is_none_or(|role| matches!(role, Role::Assistant | Role::LatestReminder)) {
            let thinks = mode.thinking && (!drop || last_user.is_none_or(|user| i >= user));
            write_transition(&mut prompt, &turns[i], mode.thinking, thinks)?;
        }
    }
    Ok(prompt)
}

/// Renders a conversation from an API: system texts first, where tools and answer schema ride, and
/// always up to the model's turn.
pub(super) fn render_conversation(conversation: &Conversation) -> Result<Prompt, Error> {
    let (system, mut rest): (Vec<Message>, Vec<Message>) = conversation
        .messages
        .iter()
        .cloned()
        .partition(|m| matches!(m.role, Role::System | Role::Developer));
    let texts = system.iter().map(|m| m.content.as_str()).filter(|text| !text.is_empty());
    let mut first = Message::new(Role::System, texts.collect::<Vec<_>>().join("\n\n"));
    first.tools = conversation.shown_tools().cloned().collect();
    first.response_format = conversation.response_format.clone();
    rest.insert(0, first);
    let mode = Mode {
        thinking: conversation.thinking != Thinking::Off,
        max_effort: conversation.thinking == Thinking::On(Effort::Max),
        drop_thinking: true,
    };
    let mut prompt = render_messages(&rest, mode)?;
    if lacks_opening(&rest) {
        write_opening(&mut prompt, mode.thinking);
    }
    if conversation.opens_block() {
        open_block(&mut prompt);
    }
    Ok(prompt)
}

/// Whether no user turn has opened the model's: the reference leaves such a prompt without one.
fn lacks_opening(messages: &[Message]) -> bool {
    let answer = messages.iter().rposition(|m| m.role == Role::Assistant);
    let open = answer.is_some_and(|i| messages[i].tail != Tail::Closed);
    let after = &messages[answer.map_or(0, |i| i + 1)..];
    !open && !after.iter().any(|m| matches!(m.role, Role::User | Role::Tool))
}

fn speaks_as_user(turn: &Turn<'_>) -> bool {
    matches!(turn.message.role, Role::User | Role::Tool | Role::Developer)
}

/// Merges runs of user and tool messages (§B.4). A user message with a task ends the run for users,
/// not for tools; the task of a user message that joins a run is lost, as in the reference.
fn merge(messages: &[Message]) -> Vec<Turn<'_>> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for message in messages {
        let joins = match message.role {
            Role::User => turns.last().is_some_and(|last| task_of(last).is_none()),
            Role::Tool => true,
            _ => false,
        };
        match turns.last_mut() {
            Some(last) if joins && !last.parts.is_empty() => last.parts.push(message),
            _ => {
                let is_part = matches!(message.role, Role::User | Role::Tool);
                let parts = if is_part { vec![message] } else { Vec::new() };
                turns.push(Turn { message, parts });
            }
        }
    }
    turns
}

/// The task of a turn; a turn that a tool result opens has none.
fn task_of<'a>(turn: &Turn<'a>) -> Option<&'a str> {
    turn.message.task.as_deref().filter(|_| turn.message.role != Role::Tool)
}

/// Sorts the results of each turn by the order of the calls in the latest assistant message.
fn sort_results(turns: &mut [Turn<'_>]) {
    let mut order: HashMap<&str, usize> = HashMap::new();
    for turn in turns {
        if turn.message.role == Role::Assistant && !turn.message.calls.is_empty() {
            let ids = turn.message.calls.iter().map(|call| call.id.as_deref().unwrap_or(""));
            order =
                ids.enumerate().filter(|(_, id)| !id.is_empty()).map(|(i, id)| (id, i)).collect();
        }
        let is_result = |part: &&Message| part.role == Role::Tool;
        let mut results: Vec<&Message> = turn.parts.iter().copied().filter(is_result).collect();
        let place = |result: &&Message| {
            result.call_id.as_deref().and_then(|id| order.get(id)).copied().unwrap_or(0)
        };
        results.sort_by_key(place);
        let slots = turn.parts.iter_mut().filter(|part| part.role == Role::Tool);
        for (slot, result) in slots.zip(results) {
            *slot = result;
        }
    }
}

/// Drops the messages before the last user turn that only mattered for its answer (§B.5).
fn drop_early(turns: &mut Vec<Turn<'_>>) {
    let last_user = turns.iter().rposition(speaks_as_user).unwrap_or(0);
    let mut i = 0;
    turns.retain(|turn| {
        let early = i < last_user;
        i += 1;
        let dropped = match &turn.message.role {
            Role::Developer => true,
            Role::Unknown(role) => role != "direct_search_results",
            _ => false,
        };
        !(early && dropped)
    });
}

fn write_turn(
    prompt: &mut Prompt,
    turns: &[Turn<'_>],
    i: usize,
    thinks: bool,
) -> Result<(), Error> {
    let turn = &turns[i];
    let message = turn.message;
    match &message.role {
        Role::System => {
            prompt.text(&message.content);
            write_demands(prompt, message);
        }
        Role::Developer => {
            if message.content.is_empty() {
                return Err(Error::conversation("a developer message needs content"));
            }
            prompt.control(Control::User).text(&message.content);
            write_demands(prompt, message);
        }
        Role::User | Role::Tool => {
            prompt.control(Control::User);
            for (part_ix, part) in turn.parts.iter().enumerate() {
                prompt.text(if part_ix > 0 { "\n\n" } else { "" });
                match part.role {
                    Role::Tool => {
                        prompt.text("<tool_result>").text(&part.content).text("</tool_result>")
                    }
                    _ => prompt.text(&part.content),
                };
            }
        }
        Role::LatestReminder => {
            prompt.control(Control::LatestReminder).text(&message.content);
        }
        Role::Assistant => {
            let answers_task = i > 0 && task_of(&turns[i - 1]).is_some();
            write_assistant(prompt, message, thinks && !answers_task);
        }
        Role::Unknown(role) => {
            return Err(Error::conversation(format!("unknown role {role:?}")));
        }
    }
    Ok(())
}

/// Tools and answer schema of a system or developer message.
fn write_demands(prompt: &mut Prompt, message: &Message) {
    if !message.tools.is_empty() {
        let schemas: Vec<String> = message.tools.iter().map(object_to_python_json).collect();
        write_tools(prompt.text("\n\n"), &schemas);
    }
    if let Some(demand) = demand_text(Profile::April, &message.response_format) {
        prompt.text("\n\n").text(&demand);
    }
}

fn write_assistant(prompt: &mut Prompt, message: &Message, thinks: bool) {
    if thinks {
        write_reasoning(prompt, message);
        if message.tail != Tail::OpenReasoning {
            prompt.control(Control::ThinkClose);
        }
    }
    write_answer(Profile::April, prompt, message);
    if message.tail == Tail::Closed {
        prompt.control(Control::Eos);
    }
}

/// What follows a message after which the model, or a stored answer of it, goes on.
fn write_transition(
    prompt: &mut Prompt,
    turn: &Turn<'_>,
    thinking: bool,
    thinks: bool,
) -> Result<(), Error> {
    match task_of(turn) {
        Some(name) => {
            let task = Task::from_name(name)
                .ok_or_else(|| Error::conversation(format!("unknown task {name:?}")))?;
            if task == Task::Action {
                write_opening(prompt, thinking);
            }
            prompt.control(Control::Task(task));
        }
        None if speaks_as_user(turn) => write_opening(prompt, thinks),
        None => {}
    }
    Ok(())
}

/// The opening of an assistant turn.
fn write_opening(prompt: &mut Prompt, thinks: bool) {
    prompt.control(Control::Assistant);
    prompt.control(if thinks { Control::ThinkOpen } else { Control::ThinkClose });
}
