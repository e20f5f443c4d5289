//! The items of an input: messages, and the parts of an assistant's turn one by one.
//!
//! Reasoning, text and calls that follow each other become one message of the assistant. Calls are
//! gathered until each has its result.

use std::collections::HashSet;

use ds4_text::{Arguments, Message, Role, ToolCall};
use serde_json::{Map, Value, json};

use super::SEAL;
use super::content::{Place, text};
use super::toolset::ToolSet;
use crate::fields::{Fields, wrong};
use crate::{RequestError, Rules, limits};

/// Converts the items, after the messages that are there already.
pub(super) fn convert(
    list: &[Value],
    messages: Vec<Message>,
    set: &mut ToolSet,
    rules: Rules,
    warnings: &mut Vec<String>,
) -> Result<Vec<Message>, RequestError> {
    if list.is_empty() {
        return Err(RequestError::invalid("Input items array must not be empty"));
    }
    if list.len() > limits::ITEMS_MAX {
        let (n, max) = (list.len(), limits::ITEMS_MAX);
        return Err(RequestError::invalid(format!("input: {n} items; the limit is {max}")));
    }
    let outputs = list.iter().filter(|item| is_output(item));
    let mut items = Items {
        rules,
        set,
        with_output: outputs.filter_map(|item| item.get("call_id")?.as_str()).collect(),
        warnings,
        messages,
        turn: 0,
        open_calls: Vec::new(),
        answered: HashSet::new(),
    };
    for (i, value) in list.iter().enumerate() {
        let path = format!("input[{i}]");
        items.item(Fields::of(value, &path)?)?;
    }
    items.check_answered()?;
    Ok(items.messages)
}

struct Items<'a> {
    rules: Rules,
    set: &'a mut ToolSet,
    /// Ids of calls that have an output anywhere in the input.
    with_output: HashSet<&'a str>,
    warnings: &'a mut Vec<String>,
    messages: Vec<Message>,
    /// The message of the open calls.
    turn: usize,
    /// Ids of calls that have no results yet.
    open_calls: Vec<String>,
    answered: HashSet<String>,
}

impl Items<'_> {
    fn item(&mut self, item: Fields<'_>) -> Result<(), RequestError> {
        let is_hosted = self.rules == Rules::Hosted;
        let kind = match item.str("type")? {
            Some(kind) => kind,
            None if item.get("role").is_some() => "message",
            None => return Err(RequestError::invalid(format!("{}: no type", item.path()))),
        };
        if !is_hosted && self.is_broken_off(item, kind)? {
            self.warnings.push(format!("{}: a {kind:?} that broke off is left out", item.path()));
            return Ok(());
        }
        match kind {
            "message" => self.message(item),
            "reasoning" => self.reasoning(item),
            "function_call" => {
                let name = self.need(item, "name")?;
                let name = self.set.called_name(item.str("namespace")?, &name);
                let arguments = self.arguments(item)?;
                self.call(item, name, arguments)
            }
            "custom_tool_call" => {
                let name = self.need(item, "name")?;
                let input = self.need(item, "input")?;
                let arguments = Map::from_iter([("input".to_owned(), input.into())]);
                self.call(item, name, Arguments::Object(arguments))
            }
            "function_call_output" | "custom_tool_call_output" => self.output(item, kind),
            "web_search_call" if is_hosted => self.check_answered(),
            _ if is_hosted => Ok(()),
            "local_shell_call" => {
                let action = item.get("action").cloned().unwrap_or_else(|| json!({}));
                self.call(item, "local_shell".to_owned(), arguments_of(action))
            }
            "tool_search_call" => {
                let arguments = item.get("arguments").cloned().unwrap_or_else(|| json!({}));
                self.call(item, "tool_search".to_owned(), arguments_of(arguments))
            }
            "tool_search_output" => {
                let path = format!("{}.tools", item.path());
                let list = item.array("tools")?.unwrap_or_default();
                let text = self.set.find(list, &path, self.warnings)?;
                self.result(item.str("call_id")?, text)
            }
            "additional_tools" => {
                let path = format!("{}.tools", item.path());
                let list = item.array("tools")?.unwrap_or_default();
                let text = self.set.find(list, &path, self.warnings)?;
                self.check_answered()?;
                // The prompt declares tools only at its start, which must not change.
                let text = format!("<system-reminder>\nMore tools: {text}\n</system-reminder>");
                self.messages.push(Message::new(Role::User, text));
                Ok(())
            }
            "item_reference" => Err(RequestError::invalid(format!(
                "{}: an item_reference cannot be resolved, because answers are not stored; send \
                 the item itself",
                item.path()
            ))),
            kind => self.other(item, kind),
        }
    }

    /// Whether an item is a call that did not come to its end and was never answered. Text that
    /// was cut is part of the conversation all the same: clients send back what they got.
    fn is_broken_off(&self, item: Fields<'_>, kind: &str) -> Result<bool, RequestError> {
        let is_whole = item.str("status")?.is_none_or(|status| status == "completed");
        if is_whole || !kind.ends_with("_call") {
            return Ok(false);
        }
        Ok(!self.with_output.contains(self.call_id(item)?.as_str()))
    }

    /// An item of a type that is not known here. A call and its result can be told by their names;
    /// what else has the id of a call belongs to something that cannot be left out.
    fn other(&mut self, item: Fields<'_>, kind: &str) -> Result<(), RequestError> {
        let path = item.path();
        let has_id = item.get("call_id").is_some();
        if let (Some(name), true) = (kind.strip_suffix("_call"), has_id) {
            let mut arguments = item.object().clone();
            for key in ["type", "id", "call_id", "status"] {
                arguments.shift_remove(key);
            }
            return self.call(item, name.to_owned(), Arguments::Object(arguments));
        }
        if kind.ends_with("_output") && has_id {
            return self.output(item, kind);
        }
        if has_id {
            return Err(RequestError::invalid(format!(
                "{path}: an item of type {kind:?} is not supported"
            )));
        }
        self.warnings.push(format!("{path}: an item of type {kind:?} is left out"));
        Ok(())
    }

    /// Every call must have its result before the conversation goes on.
    fn check_answered(&mut self) -> Result<(), RequestError> {
        match self.open_calls.first() {
            Some(id) if self.rules == Rules::Hosted => {
                Err(RequestError::invalid(format!("No tool output found for tool call {id}.")))
            }
            _ => {
                self.open_calls.clear();
                Ok(())
            }
        }
    }

    /// The assistant's message that an item adds to: that of the open calls, else the last one if
    /// it `fits`, else a new one.
    fn assistant(&mut self, fits: impl Fn(&Message) -> bool) -> usize {
        if !self.open_calls.is_empty() {
            return self.turn;
        }
        if !self.messages.last().is_some_and(|m| m.role == Role::Assistant && fits(m)) {
            self.messages.push(Message::new(Role::Assistant, ""));
        }
        self.messages.len() - 1
    }

    fn message(&mut self, item: Fields<'_>) -> Result<(), RequestError> {
        let role = match item.str("role")? {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system") => Role::System,
            Some("developer") if self.rules == Rules::Hosted => Role::User,
            Some("developer") => Role::Developer,
            Some("tool") if self.rules == Rules::Lenient => Role::Tool,
            other => {
                return Err(RequestError::invalid(format!(
                    "{}.role: {:?} is not one of user, assistant, system, developer",
                    item.path(),
                    other.unwrap_or_default()
                )));
            }
        };
        let path = format!("{}.content", item.path());
        let text = text(item.get("content"), &path, Place::Message, self.rules)?;
        if role != Role::Assistant || self.rules == Rules::Hosted {
            self.check_answered()?;
        }
        if role == Role::Assistant {
            let at = self.assistant(|last| last.calls.is_empty());
            append(&mut self.messages[at].content, &text, "\n\n");
        } else {
            self.messages.push(Message::new(role, text));
        }
        Ok(())
    }

    fn reasoning(&mut self, item: Fields<'_>) -> Result<(), RequestError> {
        let text = self.reasoning_text(item)?;
        if self.rules == Rules::Hosted {
            self.check_answered()?;
        }
        if !text.is_empty() {
            let at = self.assistant(|last| last.content.is_empty() && last.calls.is_empty());
            append(&mut self.messages[at].reasoning, &text, "\n");
        }
        Ok(())
    }

    /// The reasoning itself, else what this server sealed, else its summary.
    fn reasoning_text(&self, item: Fields<'_>) -> Result<String, RequestError> {
        let texts = |key: &str| -> Result<String, RequestError> {
            let parts = item.array(key)?.unwrap_or_default();
            let mut texts = Vec::with_capacity(parts.len());
            for (i, part) in parts.iter().enumerate() {
                let path = format!("{}.{key}[{i}]", item.path());
                texts.push(Fields::of(part, &path)?.str("text")?.unwrap_or_default().to_owned());
            }
            Ok(texts.join("\n"))
        };
        let text = texts("content")?;
        if !text.is_empty() || self.rules == Rules::Hosted {
            return Ok(text);
        }
        match item.str("encrypted_content")?.and_then(|sealed| sealed.strip_prefix(SEAL)) {
            Some(text) => Ok(text.to_owned()),
            None => texts("summary"),
        }
    }

    fn need(&self, item: Fields<'_>, key: &str) -> Result<String, RequestError> {
        match item.str(key)? {
            Some(text) => Ok(text.to_owned()),
            None if key == "input" && self.rules == Rules::Lenient => Ok(String::new()),
            None => Err(RequestError::invalid(format!("{}: missing field `{key}`", item.path()))),
        }
    }

    fn arguments(&self, item: Fields<'_>) -> Result<Arguments, RequestError> {
        let path = format!("{}.arguments", item.path());
        match (item.get("arguments"), self.rules) {
            (None, Rules::Lenient) => Ok(Arguments::Object(Map::new())),
            (Some(Value::String(text)), Rules::Lenient) if text.trim().is_empty() => {
                Ok(Arguments::Object(Map::new()))
            }
            (Some(Value::String(text)), _) => Ok(Arguments::Text(text.clone())),
            (Some(Value::Object(object)), Rules::Lenient) => Ok(Arguments::Object(object.clone())),
            (other, _) => Err(wrong(&path, "a string", other.unwrap_or(&Value::Null))),
        }
    }

    fn call(
        &mut self,
        item: Fields<'_>,
        name: String,
        arguments: Arguments,
    ) -> Result<(), RequestError> {
        let id = self.call_id(item)?;
        if self.rules == Rules::Hosted {
            if id.is_empty() {
                return Err(empty_id(item));
            }
            if self.open_calls.contains(&id) || self.answered.contains(&id) {
                return Err(RequestError::invalid(format!("Duplicate 'call_id': {id}.")));
            }
        }
        let at = self.assistant(|last| last.calls.is_empty());
        self.turn = at;
        self.open_calls.push(id.clone());
        self.messages[at].calls.push(ToolCall { id: Some(id), name, arguments });
        Ok(())
    }

    fn call_id(&self, item: Fields<'_>) -> Result<String, RequestError> {
        match item.str("call_id")? {
            Some(id) => Ok(id.to_owned()),
            None if self.rules == Rules::Lenient => {
                Ok(item.str("id")?.unwrap_or_default().to_owned())
            }
            None => Err(RequestError::invalid(format!("{}: missing field `call_id`", item.path()))),
        }
    }

    fn output(&mut self, item: Fields<'_>, kind: &str) -> Result<(), RequestError> {
        let path = format!("{}.output", item.path());
        let is_custom = kind == "custom_tool_call_output";
        let text = match item.get("output") {
            None if is_custom => String::new(),
            output => text(output, &path, Place::Output, self.rules)?,
        };
        let id = if is_custom {
            Some(self.call_id(item)?)
        } else {
            item.str("call_id")?.map(str::to_owned)
        };
        if let (Some(id), Rules::Hosted) = (&id, self.rules) {
            if id.is_empty() {
                return Err(empty_id(item));
            }
            if !self.open_calls.contains(id) {
                return Err(RequestError::invalid(if self.answered.contains(id) {
                    format!("Duplicate tool output for call_id: {id}.")
                } else {
                    format!("No tool call found for tool output with call_id {id}.")
                }));
            }
        }
        self.result(id.as_deref(), text)
    }

    fn result(&mut self, id: Option<&str>, text: String) -> Result<(), RequestError> {
        match id {
            Some(id) => {
                self.open_calls.retain(|open| open != id);
                self.answered.insert(id.to_owned());
            }
            // A result without an id answers no call.
            None if self.rules == Rules::Hosted => self.check_answered()?,
            None => {}
        }
        let mut message = Message::new(Role::Tool, text);
        message.call_id = id.map(str::to_owned);
        self.messages.push(message);
        Ok(())
    }
}

/// Adds a text to others, with `separator` between them.
fn append(to: &mut String, text: &str, separator: &str) {
    if !to.is_empty() && !text.is_empty() {
        to.push_str(separator);
    }
    to.push_str(text);
}

fn arguments_of(value: Value) -> Arguments {
    match value {
        Value::Object(object) => Arguments::Object(object),
        Value::String(text) => Arguments::Text(text),
        other => Arguments::Text(other.to_string()),
    }
}

fn is_output(item: &Value) -> bool {
    let kind = item.get("type").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with("_output"))
}

fn empty_id(item: Fields<'_>) -> RequestError {
    RequestError::invalid(format!(
        "Invalid '{}.call_id': empty string. Expected a string with minimum length 1, but got an \
         empty string instead.",
        item.path()
    ))
}
