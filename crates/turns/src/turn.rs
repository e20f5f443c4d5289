//! One answer as it was sampled, taken apart into what a template can write in its place.

use ds4_text::parse::{Declared, End, Outcome, Parser, ParserOptions};
use ds4_text::{Control, Message, Prompt, Replay, Sampled, Tokenizer};
use serde_json::Value;

use crate::json::same_arguments;
use crate::{Found, Said};

/// The end of a block of tool calls, behind the end of its last call.
const BLOCK_CLOSE: &str = "\n</｜DSML｜tool_calls>";
const INVOKE_CLOSE: &str = "</｜DSML｜invoke>";

/// A call in a turn.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    name: String,
    arguments: Value,
    is_complete: bool,
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// Tokens behind the one that opens or closes reasoning at the start of the turn.
    ids: Vec<u32>,
    /// Whether the turn begins with reasoning.
    thinking: bool,
    /// Where in `ids` reasoning is closed.
    close: Option<usize>,
    reasoning: String,
    content: String,
    calls: Vec<Call>,
    /// Text of the block of calls with the white space before it; control tokens by their literals.
    /// Empty without calls, or when the text before them is not what was parsed.
    block: String,
    /// Whether the block was read to its end.
    is_block_whole: bool,
    /// Whether the tokens say all that the client heard and no more, in a template's order.
    is_exact: bool,
}

impl Turn {
    /// Takes an answer apart; `None` when there is nothing in it or a token is unknown.
    pub(crate) fn read(
        tokenizer: &Tokenizer,
        ids: Vec<u32>,
        thinking: bool,
        declared: &Declared,
    ) -> Option<Self> {
        if ids.is_empty() {
            return None;
        }
        let options =
            ParserOptions { thinking, declared: declared.clone(), ..ParserOptions::default() };
        let (outcome, is_block_whole) = parse(tokenizer, &ids, options)?;
        let think_close = tokenizer.specials().think_close;
        let close = if thinking { ids.iter().position(|&id| id == think_close) } else { None };
        // Calls without closed reasoning were promoted from it: the text before them is reasoning.
        let before =
            if thinking && close.is_none() { &outcome.reasoning } else { &outcome.content };
        let block = match exact_text(tokenizer, &ids[close.map_or(0, |at| at + 1)..]) {
            Some(text) if !outcome.calls.is_empty() => {
                text.strip_prefix(before.as_str()).unwrap_or_default().to_owned()
            }
            _ => String::new(),
        };
        let calls: Vec<Call> = outcome.calls.into_iter().map(Call::new).collect::<Option<_>>()?;
        let (reasoning, content) = (outcome.reasoning, outcome.content);
        let is_exact = !thinking || close.is_some() || calls.is_empty();
        Some(Self {
            ids,
            thinking,
            close,
            reasoning,
            content,
            calls,
            block,
            is_block_whole,
            is_exact,
        })
    }

    /// Whether the client heard just this: the same text and as many calls, of a continued answer
    /// perhaps only the new part. What was cut short for it, by a stop string for example, must not
    /// be repeated.
    pub(crate) fn was_said(&self, said: &Said<'_>, is_continued: bool) -> bool {
        let same_calls = self.calls.len() == said.call_ids.len() && self.is_complete();
        let heard = said.content.trim();
        let same_end = is_continued && self.content.trim().ends_with(heard);
        same_calls && (same_end || same_text(&self.content, heard))
    }

    /// What is visible of it.
    pub(crate) fn content(&self) -> &str {
        &self.content
    }

    /// Whether no call broke off.
    pub(crate) fn is_complete(&self) -> bool {
        self.calls.iter().all(|call| call.is_complete)
    }

    /// Calls in it.
    pub(crate) fn n_calls(&self) -> usize {
        self.calls.len()
    }

    /// Completes a block that generation was stopped in behind a call. Where it had gone on to
    /// something else, the client's calls are rendered as they come back.
    pub(crate) fn close_block(&mut self, tokenizer: &Tokenizer) {
        if self.calls.is_empty() || self.is_block_whole {
            return;
        }
        let last = self.block.rfind(INVOKE_CLOSE).map(|at| at + INVOKE_CLOSE.len());
        let rest = last.and_then(|at| BLOCK_CLOSE.strip_prefix(&self.block[at..]));
        let (Some(rest), Some(mark)) = (rest, tokenizer.specials().dsml) else {
            self.block.clear();
            self.is_exact = false;
            return;
        };
        match rest.split_once(Control::Dsml.text()) {
            Some((open, name)) => {
                self.ids.extend(tokenizer.encode_plain(open));
                self.ids.push(mark);
                self.ids.extend(tokenizer.encode_plain(name));
            }
            None => self.ids.extend(tokenizer.encode_plain(rest)),
        }
        self.block.push_str(rest);
        self.is_block_whole = true;
    }

    /// Its tokens.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Its tokens without the reasoning, as templates write them that drop it.
    pub(crate) fn answer_ids(&self) -> &[u32] {
        self.close.map_or(&self.ids[..], |at| &self.ids[at + 1..])
    }

    /// Text of its block of calls.
    pub(crate) fn block(&self) -> &str {
        &self.block
    }

    /// Bytes it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let calls: usize = self.calls.iter().map(|c| c.name.len() + 64).sum();
        4 * self.ids.len()
            + self.reasoning.len()
            + self.content.len()
            + 2 * self.block.len()
            + calls
    }

    /// What can be written in place of a client's message, and how the two compare.
    pub(crate) fn replay(
        &self,
        tokenizer: &Tokenizer,
        message: &Message,
    ) -> (Found, Option<Replay>) {
        let same_call = |(client, call): (&ds4_text::ToolCall, &Call)| {
            client.name == call.name && same_arguments(&client.arguments, &call.arguments)
        };
        let same_calls = message.calls.len() == self.calls.len()
            && message.calls.iter().zip(&self.calls).all(same_call);
        if !same_calls {
            return (Found::Edited, None);
        }
        let sent = message.reasoning.trim();
        if !same_text(&message.content, &self.content) {
            if self.block.is_empty() {
                return (Found::Edited, None);
            }
            let calls = Some(self.block_prompt(tokenizer));
            let reasoning = sent.is_empty().then(|| self.reasoning_prompt(tokenizer)).flatten();
            return (Found::CallsOnly, Some(Replay { reasoning, answer: None, calls }));
        }
        let found = match sent {
            _ if !self.thinking || same_text(sent, &self.reasoning) => Found::Whole,
            "" => Found::Restored,
            _ => Found::Replaced,
        };
        let reasoning = self.reasoning_prompt(tokenizer);
        let answer = match self.close {
            _ if !self.is_exact => None,
            None if self.thinking => Some(Prompt::default()),
            _ => Some(sampled(tokenizer, self.answer_ids())),
        };
        let has_block = !self.is_exact && !self.block.is_empty();
        let calls = has_block.then(|| self.block_prompt(tokenizer));
        (found, Some(Replay { reasoning, answer, calls }))
    }

    /// The reasoning; in its tokens where a template's closing token can follow them.
    fn reasoning_prompt(&self, tokenizer: &Tokenizer) -> Option<Prompt> {
        if !self.thinking {
            return None;
        }
        if self.close.is_none() && !self.calls.is_empty() {
            let mut text = Prompt::default();
            text.text(&self.reasoning);
            return Some(text);
        }
        Some(sampled(tokenizer, &self.ids[..self.close.unwrap_or(self.ids.len())]))
    }

    /// The block as text in which the mark of tags is control, as it was sampled.
    fn block_prompt(&self, tokenizer: &Tokenizer) -> Prompt {
        let mark = tokenizer.specials().dsml;
        let mut prompt = Prompt::default();
        let mut rest = self.block.as_str();
        // Which marks are tokens is known from the tokens alone: the block is the end of them.
        let mut marks: Vec<bool> = Vec::new();
        let mut bytes_left = self.block.len();
        for &id in self.ids.iter().rev() {
            if bytes_left == 0 {
                break;
            }
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            let n = bytes.len().min(bytes_left);
            let is_mark = Some(id) == mark && n == bytes.len();
            marks.extend(std::iter::repeat_n(is_mark, n));
            bytes_left -= n;
        }
        marks.reverse();
        let mut at = 0;
        while let Some(found) = rest.find(Control::Dsml.text()) {
            let is_mark = marks.get(at + found).copied().unwrap_or(false);
            prompt.text(&rest[..found]);
            if is_mark {
                prompt.control(Control::Dsml)
            } else {
                prompt.text(Control::Dsml.text())
            };
            let end = found + Control::Dsml.text().len();
            rest = &rest[end..];
            at += end;
        }
        prompt.text(rest);
        prompt
    }
}

impl Call {
    fn new(call: ds4_text::parse::ParsedCall) -> Option<Self> {
        let arguments = match serde_json::from_str(&call.arguments) {
            Ok(arguments) => arguments,
            Err(_) if !call.is_complete => Value::Null,
            Err(_) => return None,
        };
        Some(Self { name: call.name, arguments, is_complete: call.is_complete })
    }
}

/// What the parser makes of tokens, and whether it saw a block's end.
fn parse(tokenizer: &Tokenizer, ids: &[u32], options: ParserOptions) -> Option<(Outcome, bool)> {
    let mut parser = Parser::new(options);
    for &id in ids {
        parser.push_token(tokenizer.specials(), id, tokenizer.token_bytes(id).ok()?);
    }
    let is_whole = parser.is_done();
    parser.finish(End::Stop);
    Some((parser.outcome().clone(), is_whole))
}

/// Text of tokens, control tokens by their literals.
pub(crate) fn literal(tokenizer: &Tokenizer, ids: &[u32]) -> Option<String> {
    tokenizer.decode(ids).ok()
}

/// The same, where the tokens' bytes are a text.
fn exact_text(tokenizer: &Tokenizer, ids: &[u32]) -> Option<String> {
    let bytes = ids.iter().map(|&id| tokenizer.token_bytes(id).ok()).collect::<Option<Vec<_>>>()?;
    String::from_utf8(bytes.concat()).ok()
}

/// A prompt of sampled tokens.
fn sampled(tokenizer: &Tokenizer, ids: &[u32]) -> Prompt {
    let mut prompt = Prompt::default();
    let text = literal(tokenizer, ids).unwrap_or_default();
    prompt.sampled(Sampled { ids: ids.to_vec(), text });
    prompt
}

fn same_text(a: &str, b: &str) -> bool {
    a.trim() == b.trim()
}
