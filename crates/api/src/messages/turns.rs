//! The `system` field and the `messages` of a request.
//!
//! One message of the user becomes one message for each of its texts and results, because results
//! are messages of their own to the model.

use std::collections::{BTreeSet, HashSet};

use ds4_text::{Arguments, Message, Role, ToolCall};
use serde_json::{Map, Value};

use super::{Declared, blocks};
use crate::content::{strip_billing_header, unsupported_part};
use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules, limits};

/// What one client puts before its system text changes with every request and would defeat every
/// prefix cache.
const VOLATILE: &str = "x-anthropic-";
const BILLING_HEADER: &str = "x-anthropic-billing-header";

/// The message of the `system` field, if there is one.
pub(super) fn system(body: Fields<'_>, rules: Rules) -> Result<Vec<Message>, RequestError> {
    let text = match body.get("system") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if rules == Rules::Lenient => strip_billing_header(text.clone()),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(blocks)) => system_blocks(blocks, rules)?,
        Some(other) => return Err(wrong("system", "a string or a list", other)),
    };
    Ok(vec![Message::new(Role::System, text)])
}

fn system_blocks(list: &[Value], rules: Rules) -> Result<String, RequestError> {
    let mut texts = Vec::with_capacity(list.len());
    for (i, block) in list.iter().enumerate() {
        if let (Value::String(text), Rules::Lenient) = (block, rules) {
            texts.push(text.clone());
            continue;
        }
        let path = format!("system[{i}]");
        let block = Fields::of(block, &path)?;
        let kind = blocks::kind(block)?;
        if kind != "text" && rules == Rules::Hosted {
            return Err(blocks::unknown(kind, &["text"]));
        }
        let text = blocks::text(block, kind, rules)?;
        let start = |n: usize| text.get(..n).unwrap_or_default().to_ascii_lowercase();
        let is_volatile = match rules {
            Rules::Hosted => i == 0 && start(BILLING_HEADER.len()) == BILLING_HEADER,
            Rules::Lenient => start(VOLATILE.len()) == VOLATILE,
        };
        if !is_volatile {
            texts.push(text);
        }
    }
    Ok(texts.join("\n\n"))
}

/// Converts the messages. Deferred functions that they refer to are told to the model there, and
/// are marked as found.
pub(super) fn convert(
    list: &[Value],
    declared: &mut Declared,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Vec<Message>, RequestError> {
    if list.is_empty() {
        return Err(RequestError::invalid("messages: at least one message is required"));
    }
    if list.len() > limits::ITEMS_MAX {
        let (n, max) = (list.len(), limits::ITEMS_MAX);
        return Err(RequestError::invalid(format!("messages: {n} messages; the limit is {max}")));
    }
    let mut turns =
        Turns { rules, declared, messages: Vec::new(), open_calls: BTreeSet::new(), warnings };
    for (i, value) in list.iter().enumerate() {
        let path = format!("messages[{i}]");
        let message = Fields::of(value, &path)?;
        let content = message.get("content");
        if !matches!(content, None | Some(Value::String(_) | Value::Array(_))) {
            let path = format!("{path}.content");
            return Err(wrong(&path, "a string or a list", content.unwrap_or(&Value::Null)));
        }
        match message.str("role")? {
            Some("user") => turns.user(i, content)?,
            Some("assistant") => turns.assistant(i, content)?,
            Some("system") => turns.system(i, content)?,
            Some("developer") if rules == Rules::Lenient => turns.system(i, content)?,
            other => {
                return Err(RequestError::invalid(format!(
                    "{path}.role: {:?} is not one of user, assistant, system",
                    other.unwrap_or_default()
                )));
            }
        }
    }
    if rules == Rules::Hosted && !turns.open_calls.is_empty() {
        return Err(turns.lacks_results(&format!("{}:", list.len() - 1)));
    }
    Ok(turns.messages)
}

struct Turns<'a> {
    rules: Rules,
    declared: &'a mut Declared,
    messages: Vec<Message>,
    /// Ids of the calls of the last message that have no results yet.
    open_calls: BTreeSet<String>,
    warnings: &'a mut Vec<String>,
}

impl Turns<'_> {
    /// The hosted API's error for calls without results; it writes the place in several ways.
    fn lacks_results(&self, place: &str) -> RequestError {
        let ids = self.open_calls.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        RequestError::invalid(format!(
            "messages.{place}`tool_use` ids were found without `tool_result` blocks immediately \
             after: {ids}. Each `tool_use` block must have a corresponding `tool_result` block in \
             the next message."
        ))
    }

    fn check_answered(&self, i: usize) -> Result<(), RequestError> {
        if self.rules == Rules::Lenient || self.open_calls.is_empty() {
            return Ok(());
        }
        Err(self.lacks_results(&format!("{i}: ")))
    }

    /// The blocks of a content, or nothing when it is a text, which goes to `text`.
    fn blocks<'a>(
        &mut self,
        i: usize,
        content: Option<&'a Value>,
        text: impl FnOnce(&mut Self, &str),
    ) -> Result<&'a [Value], RequestError> {
        match content {
            Some(Value::String(content)) => {
                self.check_answered(i)?;
                text(self, content);
                Ok(&[])
            }
            Some(Value::Array(blocks)) if !blocks.is_empty() => {
                if blocks.len() > limits::ITEMS_MAX {
                    return Err(RequestError::invalid(format!(
                        "messages.{i}: {} blocks; the limit is {}",
                        blocks.len(),
                        limits::ITEMS_MAX
                    )));
                }
                Ok(blocks)
            }
            _ if self.rules == Rules::Lenient => {
                text(self, "");
                Ok(&[])
            }
            _ => Err(RequestError::invalid(format!(
                "messages.{i}: all messages must have non-empty content"
            ))),
        }
    }

    /// Whether a block may name this tool.
    fn may_refer_to(&self, name: &str) -> bool {
        let is = |f: &Map<String, Value>| f.get("name").and_then(Value::as_str) == Some(name);
        self.rules == Rules::Lenient || self.declared.functions.iter().any(is)
    }

    fn push(&mut self, role: Role, text: impl Into<String>) -> &mut Message {
        self.messages.push(Message::new(role, text));
        self.messages.last_mut().expect("just pushed")
    }

    /// A system text among the messages reaches the model as a reminder in the user's turn.
    fn system(&mut self, i: usize, content: Option<&Value>) -> Result<(), RequestError> {
        self.check_answered(i)?;
        let text = match content {
            Some(Value::Array(list)) => self.system_parts(i, list)?,
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        if !text.is_empty() {
            self.push(Role::User, format!("<system-reminder>\n{text}\n</system-reminder>"));
        }
        Ok(())
    }

    fn system_parts(&mut self, i: usize, list: &[Value]) -> Result<String, RequestError> {
        let mut texts = Vec::with_capacity(list.len());
        for (block_ix, block) in list.iter().enumerate() {
            let path = format!("messages[{i}].content[{block_ix}]");
            let block = Fields::of(block, &path)?;
            let kind = blocks::kind(block)?;
            if is_misplaced(kind, &Role::System) {
                if self.rules == Rules::Hosted {
                    return Err(misplaced(kind, i));
                }
            } else if kind == "tool_addition" {
                let tool = block.get("tool").and_then(|tool| tool.get("name"));
                let name = tool.and_then(Value::as_str).unwrap_or_default();
                if !self.may_refer_to(name) {
                    return Err(RequestError::invalid(format!(
                        "messages.{i}.content.{block_ix}: `tool_addition` references unknown tool \
                         '{name}'"
                    )));
                }
                let text = self.declared.find(name);
                if text != name {
                    texts.push(text);
                }
            } else {
                texts.push(blocks::text(block, kind, self.rules)?);
            }
        }
        Ok(texts.join("\n\n"))
    }

    fn user(&mut self, i: usize, content: Option<&Value>) -> Result<(), RequestError> {
        let list = self.blocks(i, content, |turns, text| {
            turns.push(Role::User, text);
        })?;
        let mut answered = HashSet::new();
        for (block_ix, block) in list.iter().enumerate() {
            let path = format!("messages[{i}].content[{block_ix}]");
            let block = Fields::of(block, &path)?;
            let kind = blocks::kind(block)?;
            if kind == "tool_result" {
                self.result(i, block_ix, block, &mut answered)?;
            } else if is_misplaced(kind, &Role::User) {
                if self.rules == Rules::Hosted {
                    return Err(misplaced(kind, i));
                }
                self.warnings.push(format!("{path}: a block of type {kind:?} is left out"));
            } else {
                let text = blocks::text(block, kind, self.rules)?;
                self.check_answered(i)?;
                self.push(Role::User, text);
            }
        }
        if self.rules == Rules::Hosted && !self.open_calls.is_empty() {
            return Err(self.lacks_results(&format!("{}:", i - 1)));
        }
        self.open_calls.clear();
        Ok(())
    }

    fn result(
        &mut self,
        i: usize,
        block_ix: usize,
        block: Fields<'_>,
        answered: &mut HashSet<String>,
    ) -> Result<(), RequestError> {
        let id = block.str("tool_use_id")?.unwrap_or_default().to_owned();
        if self.rules == Rules::Hosted {
            if answered.contains(&id) {
                return Err(RequestError::invalid(format!(
                    "messages.{i}.content.{block_ix}: each tool_use must have a single result. \
                     Found multiple `tool_result` blocks with id: {id}"
                )));
            }
            if !self.open_calls.contains(&id) {
                return Err(RequestError::invalid(format!(
                    "unexpected `messages.{i}.content.{block_ix}: tool_use_id` found in \
                     `tool_result` blocks: {id}. Each `tool_result` block must have a \
                     corresponding `tool_use` block in the previous message."
                )));
            }
        }
        self.open_calls.remove(&id);
        block.bool("is_error")?;
        for part in block.get("content").and_then(Value::as_array).into_iter().flatten() {
            let name = part.get("tool_name").and_then(Value::as_str).unwrap_or_default();
            if part.get("type").is_some_and(|kind| kind == "tool_reference")
                && !self.may_refer_to(name)
            {
                return Err(RequestError::invalid(format!(
                    "messages.{i}.content.{block_ix}: tool reference '{name}' not found in \
                     available tools"
                )));
            }
        }
        let path = format!("{}.content", block.path());
        let mut tool = |name: &str| self.declared.find(name);
        let text = blocks::list(block.get("content"), &path, self.rules, &mut tool)?;
        self.push(Role::Tool, text).call_id = Some(id.clone());
        answered.insert(id);
        Ok(())
    }

    fn assistant(&mut self, i: usize, content: Option<&Value>) -> Result<(), RequestError> {
        let list = self.blocks(i, content, |turns, text| {
            turns.push(Role::Assistant, text);
        })?;
        if list.is_empty() {
            self.open_calls.clear();
            return Ok(());
        }
        self.check_answered(i)?;
        self.open_calls.clear();
        let mut message = Message::new(Role::Assistant, "");
        let mut has_thinking = false;
        for (block_ix, block) in list.iter().enumerate() {
            let path = format!("messages[{i}].content[{block_ix}]");
            let block = Fields::of(block, &path)?;
            match blocks::kind(block)? {
                "thinking" => {
                    if has_thinking {
                        message.reasoning.push_str("\n\n");
                    }
                    has_thinking = true;
                    message.reasoning.push_str(block.str("thinking")?.unwrap_or_default());
                }
                "tool_use" => self.call(i, block_ix, block, &mut message)?,
                // Work of servers, done and over.
                "server_tool_use" | "web_search_tool_result" => {}
                kind if is_misplaced(kind, &Role::Assistant) && self.rules == Rules::Hosted => {
                    return Err(misplaced(kind, i));
                }
                kind @ ("text" | "image" | "document") => {
                    if self.rules == Rules::Hosted && !message.calls.is_empty() {
                        return Err(self.lacks_results(&format!("{i}.{block_ix}: ")));
                    }
                    let text = match kind {
                        "image" => unsupported_part(kind),
                        kind => blocks::text(block, kind, self.rules)?,
                    };
                    if !message.content.is_empty() {
                        message.content.push_str("\n\n");
                    }
                    message.content.push_str(&text);
                }
                // What cannot be read was sealed by somebody else.
                "redacted_thinking" if self.rules == Rules::Lenient => {}
                kind if self.rules == Rules::Lenient => {
                    self.warnings.push(format!("{path}: a block of type {kind:?} is left out"));
                }
                kind => {
                    blocks::text(block, kind, self.rules)?;
                }
            }
        }
        self.messages.push(message);
        Ok(())
    }

    fn call(
        &mut self,
        i: usize,
        block_ix: usize,
        block: Fields<'_>,
        message: &mut Message,
    ) -> Result<(), RequestError> {
        let path = block.path();
        let missing =
            |field: &str| RequestError::invalid(format!("{path}: missing field `{field}`"));
        let name = block.str("name")?.ok_or_else(|| missing("name"))?;
        let id = block.str("id")?.map(str::to_owned);
        if self.rules == Rules::Hosted {
            let id = id.clone().ok_or_else(|| missing("id"))?;
            if !self.open_calls.insert(id) {
                return Err(RequestError::invalid(format!(
                    "messages.{i}.content.{block_ix}: `tool_use` ids must be unique"
                )));
            }
        }
        let arguments = match block.get("input") {
            Some(Value::Object(input)) => Arguments::Object(input.clone()),
            None | Some(Value::String(_)) if self.rules == Rules::Lenient => {
                text_arguments(block.str("input")?.unwrap_or_default())
            }
            None => Arguments::Text("null".to_owned()),
            Some(other) => Arguments::Text(other.to_string()),
        };
        message.calls.push(ToolCall { id, name: name.to_owned(), arguments });
        Ok(())
    }
}

/// Arguments that a client sends as text; no text stands for none.
fn text_arguments(text: &str) -> Arguments {
    let text = text.trim();
    Arguments::Text(if text.is_empty() { "{}" } else { text }.to_owned())
}

/// Whether messages of this role cannot have blocks of this type.
fn is_misplaced(kind: &str, role: &Role) -> bool {
    match kind {
        "tool_use" | "server_tool_use" | "thinking" | "web_search_tool_result" => {
            *role != Role::Assistant
        }
        "tool_result" => *role != Role::User,
        "tool_addition" => *role != Role::System,
        _ => false,
    }
}

fn misplaced(kind: &str, i: usize) -> RequestError {
    RequestError::invalid(match kind {
        "thinking" => {
            format!("messages.{i}.content: thinking blocks may only be in `assistant` messages")
        }
        "tool_use" | "server_tool_use" => {
            format!("messages.{i}: `tool_use` blocks can only be in `assistant` messages")
        }
        "tool_result" => {
            format!("messages.{i}: `tool_result` blocks can only be in `user` messages")
        }
        "tool_addition" => {
            format!("messages.{i}: `tool_addition` blocks can only be in `system` messages")
        }
        other => format!("messages.{i}: `{other}` blocks can only be in `assistant` messages"),
    })
}
