//! Answers on the wire: events of the output parser to the frames of a stream or to a body, one
//! file per API.
//!
//! [`StreamWriter`] and [`BodyWriter`] are driven by the same calls: [`Event`]s, then the reason of
//! the end. Both read the same list of items (`answer.rs`), so that a body says exactly what its
//! stream would have said. A stream has exactly one terminal event; whatever is told to the writer
//! after that changes nothing.

use std::time::Duration;

use ds4_text::parse::Event;
use serde_json::Value;

use crate::{Api, ApiError, Request};

mod answer;
mod chat;
mod completions;
mod custom_input;
mod frame;
mod logprobs;
mod messages;
mod responses;
mod usage;

pub use frame::Frame;
pub use logprobs::TokenLogprob;
pub use usage::Usage;

use answer::{Answer, Step};

/// What identifies an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Random hex digits, at least 24; each API puts its own prefix in front.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name as the client wrote it.
    pub model: String,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// Before this stop string of the client.
    StopSequence(String),
    /// The budget of tokens was used up.
    Length,
    /// The context was full.
    ContextFull,
    /// The model calls tools.
    ToolCalls,
}

impl Finish {
    /// Whether the output broke off instead of ending.
    fn is_cut(&self) -> bool {
        matches!(self, Self::Length | Self::ContextFull)
    }

    /// Its name in OpenAI's older APIs.
    fn openai(&self) -> &'static str {
        match self {
            Self::Stop | Self::StopSequence(_) => "stop",
            Self::Length | Self::ContextFull => "length",
            Self::ToolCalls => "tool_calls",
        }
    }

    /// The reason as the answer bears it out: calls are announced only if there are any, and an
    /// answer that broke off inside a call is never presented as a complete one.
    fn borne_out(&self, answer: &Answer) -> Self {
        match self {
            Self::Stop | Self::ToolCalls if answer.has_cut_call() => Self::Length,
            Self::Stop | Self::ToolCalls if answer.has_whole_call() => Self::ToolCalls,
            Self::ToolCalls => Self::Stop,
            other => other.clone(),
        }
    }
}

/// Source of ids: 32 random hex digits at each call.
pub type NewId = Box<dyn FnMut() -> String + Send>;

/// What is different from API to API.
trait Shape: Send {
    /// What the ids of calls begin with.
    fn call_prefix(&self) -> &'static str;
    fn start(&mut self, usage: &Usage) -> Vec<Frame>;
    /// The frames of a change; `logprobs` belong to a delta.
    fn step(&mut self, answer: &Answer, step: &Step, logprobs: &[TokenLogprob]) -> Vec<Frame>;
    /// The frames of the end; every item is closed.
    fn finish(&mut self, answer: &Answer, finish: &Finish, usage: &Usage) -> Vec<Frame>;
    /// The frames of the end that was not one; `steps` are what it closed.
    fn fail(&mut self, answer: &Answer, steps: &[Step], error: &ApiError) -> Vec<Frame>;
    fn keep_alive(&mut self, quiet: Duration) -> Frame;
    fn body(&self, answer: &Answer, finish: &Finish, usage: &Usage) -> Value;
    /// Ends the answer to one prompt of several; `None` where there is only ever one.
    fn next_choice(&mut self, _: &Answer, _: &Finish) -> Option<Vec<Frame>> {
        None
    }
}

fn shape(request: &Request, meta: Meta) -> Box<dyn Shape> {
    match request.api {
        Api::Chat => Box::new(chat::Chat::new(request, meta)),
        Api::Completions => Box::new(completions::Completions::new(request, meta)),
        Api::Messages => Box::new(messages::Messages::new(meta)),
        Api::Responses => Box::new(responses::Responses::new(request, meta)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Started,
    Ended,
}

/// What both writers are made of.
struct Writer {
    answer: Answer,
    shape: Box<dyn Shape>,
    new_id: NewId,
    call_ids: Vec<String>,
    /// Log probabilities of tokens whose text has not come yet.
    pending: Vec<TokenLogprob>,
    wants_logprobs: bool,
    one_call: bool,
    /// Tokens of the prompts that are done.
    before: Usage,
}

impl Writer {
    fn new(request: &Request, meta: Meta, new_id: NewId) -> Self {
        Self {
            answer: Answer::new(!request.parallel_tool_calls),
            shape: shape(request, meta),
            new_id,
            call_ids: Vec::new(),
            pending: Vec::new(),
            wants_logprobs: request.top_logprobs.is_some(),
            one_call: !request.parallel_tool_calls,
            before: Usage::default(),
        }
    }

    fn attach(&mut self, token: TokenLogprob) {
        if self.wants_logprobs {
            self.pending.push(token);
        }
    }

    fn event(&mut self, event: &Event) -> Vec<Frame> {
        let logprobs = std::mem::take(&mut self.pending);
        let (new_id, prefix) = (&mut self.new_id, self.shape.call_prefix());
        let steps = self.answer.push(event, logprobs.clone(), || prefix.to_owned() + &new_id());
        if let (Event::ToolStart { .. }, Some(Step::Open(at))) = (event, steps.last()) {
            self.call_ids.push(self.answer.items[*at].id.clone());
        }
        self.frames(&steps, &logprobs)
    }

    fn frames(&mut self, steps: &[Step], logprobs: &[TokenLogprob]) -> Vec<Frame> {
        steps.iter().flat_map(|step| self.shape.step(&self.answer, step, logprobs)).collect()
    }

    /// Closes what is open; the reason as the answer bears it out, and the frames.
    fn close(&mut self, finish: &Finish) -> (Finish, Vec<Frame>) {
        let steps = self.answer.finish(finish.is_cut());
        let frames = self.frames(&steps, &[]);
        (finish.borne_out(&self.answer), frames)
    }

    fn next_choice(&mut self, finish: &Finish, usage: &Usage) -> Vec<Frame> {
        let (finish, mut frames) = self.close(finish);
        if let Some(more) = self.shape.next_choice(&self.answer, &finish) {
            frames.extend(more);
            self.answer = Answer::new(self.one_call);
            self.before = self.before.plus(usage);
        }
        frames
    }
}

/// Writes an answer as a stream of events.
pub struct StreamWriter {
    writer: Writer,
    state: State,
}

impl StreamWriter {
    /// A writer of the answer to `request`.
    pub fn new(request: &Request, meta: Meta, new_id: NewId) -> Self {
        Self { writer: Writer::new(request, meta, new_id), state: State::New }
    }

    /// The first frames, to be sent at once; of `usage` the prompt is known.
    pub fn start(&mut self, usage: &Usage) -> Vec<Frame> {
        if self.state != State::New {
            return Vec::new();
        }
        self.state = State::Started;
        self.writer.shape.start(usage)
    }

    /// The frames of an event.
    pub fn event(&mut self, event: &Event) -> Vec<Frame> {
        if self.state == State::Started { self.writer.event(event) } else { Vec::new() }
    }

    /// Attaches the log probability of a token to the text that comes next. Tokens that are not
    /// text, such as the end of the reasoning, should not be attached. Nothing happens when the
    /// request did not ask.
    pub fn attach(&mut self, token: TokenLogprob) {
        self.writer.attach(token);
    }

    /// Whether nothing more may be answered, so that generation should stop: the first call is
    /// complete and the client takes one at a time.
    pub fn is_full(&self) -> bool {
        self.writer.answer.is_done()
    }

    /// The ids of the calls so far, in order.
    pub fn call_ids(&self) -> &[String] {
        &self.writer.call_ids
    }

    /// Ends the answer to one of the prompts of a completion; events after it belong to the next.
    /// Elsewhere it closes the answer.
    pub fn next_choice(&mut self, finish: &Finish, usage: &Usage) -> Vec<Frame> {
        if self.state != State::Started {
            return Vec::new();
        }
        self.writer.next_choice(finish, usage)
    }

    /// The last frames of an answer that came to its end.
    pub fn finish(&mut self, finish: &Finish, usage: &Usage) -> Vec<Frame> {
        if self.state != State::Started {
            return Vec::new();
        }
        self.state = State::Ended;
        let (finish, mut frames) = self.writer.close(finish);
        let usage = self.writer.before.plus(usage);
        frames.extend(self.writer.shape.finish(&self.writer.answer, &finish, &usage));
        frames
    }

    /// The last frames of an answer that failed after its headers were sent.
    pub fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        if self.state == State::Ended {
            return Vec::new();
        }
        self.state = State::Ended;
        let steps = self.writer.answer.finish(true);
        self.writer.shape.fail(&self.writer.answer, &steps, error)
    }

    /// What to send when nothing else was sent for a while, in the form that each client takes for
    /// a sign of life. `quiet` is the time since the last frame that is not a comment.
    pub fn keep_alive(&mut self, quiet: Duration) -> Option<Frame> {
        match self.state {
            State::New => Some(Frame::comment("keepalive")),
            State::Started => Some(self.writer.shape.keep_alive(quiet)),
            State::Ended => None,
        }
    }
}

/// Writes an answer as one body.
pub struct BodyWriter(Writer);

impl BodyWriter {
    /// A writer of the answer to `request`.
    pub fn new(request: &Request, meta: Meta, new_id: NewId) -> Self {
        Self(Writer::new(request, meta, new_id))
    }

    /// Takes an event.
    pub fn event(&mut self, event: &Event) {
        self.0.event(event);
    }

    /// As [`StreamWriter::attach`].
    pub fn attach(&mut self, token: TokenLogprob) {
        self.0.attach(token);
    }

    /// As [`StreamWriter::is_full`].
    pub fn is_full(&self) -> bool {
        self.0.answer.is_done()
    }

    /// As [`StreamWriter::call_ids`].
    pub fn call_ids(&self) -> &[String] {
        &self.0.call_ids
    }

    /// As [`StreamWriter::next_choice`].
    pub fn next_choice(&mut self, finish: &Finish, usage: &Usage) {
        self.0.next_choice(finish, usage);
    }

    /// The body.
    pub fn finish(mut self, finish: &Finish, usage: &Usage) -> Value {
        let (finish, _) = self.0.close(finish);
        self.0.shape.body(&self.0.answer, &finish, &self.0.before.plus(usage))
    }
}
