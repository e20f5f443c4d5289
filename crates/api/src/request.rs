//! A request free of its provider's wire format: what to render, how to sample, and what the answer
//! must look like.

use std::collections::BTreeMap;

use ds4_text::parse::{Declared, ParserOptions};
use ds4_text::{Conversation, ResponseFormat, Tail, Thinking, ToolChoice};
use serde_json::{Map, Value};

use crate::completions::RawPrompt;

/// The API that a request came in by and its answer goes out by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the APIs")]
pub enum Api {
    #[default]
    Chat,
    Completions,
    Messages,
    Responses,
}

/// How strictly a request is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// Serve whatever has a sensible meaning: agents must not die of a lost tool result.
    #[default]
    Lenient,
    /// Refuse what the hosted API refuses, with its messages.
    Hosted,
}

/// A converted request.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the APIs")]
pub struct Request {
    /// Where it came in.
    pub api: Api,
    /// The model's name, echoed in the answer.
    pub model: String,
    /// What enters the prompt, unless [`Self::raw`] does.
    pub conversation: Conversation,
    /// What the prompt is instead of a conversation.
    pub raw: Option<RawCompletion>,
    /// What the client asked of sampling.
    pub sampling: Sampling,
    /// Tokens that the answer may have; `None` leaves it to the server.
    pub max_tokens: Option<u32>,
    /// Tokens that the reasoning may have.
    pub thinking_budget: Option<u32>,
    /// Whether the request itself says whether to think, so that no default by the model's name
    /// applies.
    pub is_thinking_explicit: bool,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// Whether more than one tool may be called in a turn.
    pub parallel_tool_calls: bool,
    /// The only functions that may be called, where that is fewer than are declared.
    pub allowed_tools: Option<Vec<String>>,
    /// What functions are to the client that are not plain functions, by the name that the model
    /// knows.
    pub aliases: BTreeMap<String, Alias>,
    /// Functions that may be called although the prompt does not declare them: a search of the
    /// client found them, and the conversation has its result.
    pub found_tools: Vec<Map<String, Value>>,
    /// Whether a demanded answer schema must be followed strictly.
    pub is_schema_strict: bool,
    /// A regular expression that the answer must match.
    pub answer_pattern: Option<String>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with a usage report.
    pub include_usage: bool,
    /// Alternatives to report for each token; `None` for no log probabilities at all.
    pub top_logprobs: Option<u64>,
    /// What only answers of the Responses API need.
    pub responses: ResponsesOptions,
    /// What was ignored or replaced, one line each, for the log and a response header.
    pub warnings: Vec<String>,
}

/// Prompts that are continued as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawCompletion {
    /// The prompts, each with an answer of its own.
    pub prompts: Vec<RawPrompt>,
    /// Text that comes after the answer.
    pub suffix: Option<String>,
    /// Whether the answer begins with the prompt.
    pub echo: bool,
}

/// What a function is to the client.
#[derive(Clone, Debug, PartialEq)]
pub enum Alias {
    /// A function of a namespace.
    Namespaced {
        /// The namespace.
        namespace: String,
        /// Its name there.
        name: String,
    },
    /// A tool that takes free text, which the model knows as a function with the one parameter
    /// `input`.
    Custom {
        /// The grammar of the text, as the client declared it.
        format: Option<Value>,
    },
    /// The client's search for more tools.
    ToolSearch,
}

/// Answers of the Responses API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponsesOptions {
    /// Whether reasoning is shown, as its own summary.
    pub summary: bool,
    /// Whether reasoning is handed out in a form that the client sends back unread.
    pub encrypted_reasoning: bool,
    /// Settings of the request that its answer repeats.
    pub echo: Map<String, Value>,
}

/// Sampling parameters as far as the client set them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 for the most likely token always.
    pub temperature: Option<f32>,
    /// Share of probability to keep, in (0, 1].
    pub top_p: Option<f32>,
    /// Candidates to keep; 0 for all.
    pub top_k: Option<u32>,
    /// Least probability relative to the most likely token.
    pub min_p: Option<f32>,
    /// Seed of the random numbers.
    pub seed: Option<u64>,
}

impl Request {
    /// A request for an answer to `conversation` that leaves everything else open.
    pub fn new(api: Api, model: impl Into<String>, conversation: Conversation) -> Self {
        Self {
            api,
            model: model.into(),
            conversation,
            raw: None,
            sampling: Sampling::default(),
            max_tokens: None,
            thinking_budget: None,
            is_thinking_explicit: false,
            stop: Vec::new(),
            parallel_tool_calls: true,
            allowed_tools: None,
            aliases: BTreeMap::new(),
            found_tools: Vec::new(),
            is_schema_strict: false,
            answer_pattern: None,
            stream: false,
            include_usage: false,
            top_logprobs: None,
            responses: ResponsesOptions::default(),
            warnings: Vec::new(),
        }
    }

    /// A conversation of nothing, for requests that are not one.
    pub(crate) fn nothing() -> Conversation {
        Conversation {
            messages: Vec::new(),
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            response_format: ResponseFormat::Text,
            thinking: Thinking::Off,
        }
    }

    /// Temperature and `top_p` as the hosted API chooses them: while thinking the client's wishes
    /// are ignored.
    pub fn hosted_sampling(&self) -> (f32, f32) {
        let has_tools = self.conversation.shown_tools().next().is_some();
        match self.conversation.thinking {
            Thinking::On(_) => (1.0, if has_tools { 0.95 } else { 1.0 }),
            Thinking::Off => {
                (self.sampling.temperature.unwrap_or(1.0), self.sampling.top_p.unwrap_or(1.0))
            }
        }
    }

    /// The functions that may be called: those that the prompt shows and those that were found.
    pub fn callable(&self) -> impl Iterator<Item = &Map<String, Value>> {
        let is_open =
            matches!(self.conversation.tool_choice, ToolChoice::Auto | ToolChoice::Required);
        let found = self.found_tools.iter().filter(move |_| is_open);
        let is_allowed = |tool: &&Map<String, Value>| match &self.allowed_tools {
            Some(allowed) => tool
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(|name| allowed.iter().any(|other| other == name)),
            None => true,
        };
        self.conversation.shown_tools().chain(found).filter(is_allowed)
    }

    /// How to parse the answer. Raw completions are not parsed: all their text is text.
    pub fn parser_options(&self) -> ParserOptions {
        let tail = self.conversation.messages.last().map_or(Tail::Closed, |last| last.tail);
        let names = self.callable().filter_map(|tool| tool.get("name")?.as_str());
        let names: Vec<String> = names.map(str::to_owned).collect();
        ParserOptions {
            thinking: self.conversation.thinking != Thinking::Off && tail != Tail::Open,
            in_block: self.conversation.opens_block(),
            declared: if names.is_empty() { Declared::None } else { Declared::Names(names) },
            literals: false,
        }
    }
}
