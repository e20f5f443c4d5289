//! The worker's side of an answer: tokens are masked, read and handed on; nothing here waits.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use ds4_api::wire::{Finish, TokenLogprob};
use ds4_constrain::Constraint;
use ds4_engine::{AnswerReader, End, Logprob, Stats, top_logprobs};
use ds4_model::TokenId;
use ds4_scheduler::{Client, Error, Started};
use ds4_text::Tokenizer;
use ds4_text::parse::{Event, FinishReason, Region};
use tokio::sync::{mpsc, oneshot};

use crate::ledger::Ledger;
use crate::limits::{BACKLOG_TOKENS, STEP_TOKENS_MAX};
use crate::script::Lines;
use crate::server::Server;

/// News of an answer.
#[derive(Debug)]
pub(crate) enum News {
    /// It has a session.
    Started(Started),
    /// A token came; what it completes may be nothing, or more than its own text.
    Token { events: Vec<Event>, logprob: Option<TokenLogprob> },
}

/// How an answer ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Result<Finish, Error>,
    /// What was held back.
    pub(crate) events: Vec<Event>,
    pub(crate) stats: Stats,
    /// Tokens of reasoning.
    pub(crate) reasoning: usize,
    /// All that was sampled, without a final stop token.
    pub(crate) tokens: Vec<TokenId>,
}

/// What shapes an answer besides the model.
pub(crate) struct Shaping {
    pub(crate) constraint: Option<Constraint>,
    pub(crate) script: Option<Lines>,
    /// Tokens of reasoning, after which it is closed.
    pub(crate) thinking_max: Option<usize>,
    /// Nothing may follow the first call.
    pub(crate) one_call: bool,
    /// Whether the budget of tokens is what the context leaves, not what the client asked for.
    pub(crate) fills_context: bool,
    /// Alternatives to report for each token.
    pub(crate) top: Option<usize>,
}

/// Hears from the scheduler.
pub(crate) struct Answerer {
    server: Arc<Server>,
    reader: AnswerReader<Arc<Tokenizer>>,
    shaping: Shaping,
    news: mpsc::Sender<News>,
    end: Option<oneshot::Sender<Ended>>,
    tokens: Vec<TokenId>,
    reasoning: usize,
    last: Option<Instant>,
    /// The last row as it was before masks, where log probabilities are wanted.
    row: Option<Vec<f32>>,
    failure: Option<String>,
    ledger: Ledger,
}

/// The two ends of the way from the worker to a connection.
pub(crate) struct Hearing {
    pub(crate) news: mpsc::Receiver<News>,
    pub(crate) end: oneshot::Receiver<Ended>,
}

impl Answerer {
    pub(crate) fn new(
        server: Arc<Server>,
        reader: AnswerReader<Arc<Tokenizer>>,
        shaping: Shaping,
        ledger: Ledger,
    ) -> (Self, Hearing) {
        let (news, heard) = mpsc::channel(BACKLOG_TOKENS);
        let (end, ended) = oneshot::channel();
        let answerer = Self {
            server,
            reader,
            shaping,
            news,
            end: Some(end),
            tokens: Vec::new(),
            reasoning: 0,
            last: None,
            row: None,
            failure: None,
            ledger,
        };
        (answerer, Hearing { news: heard, end: ended })
    }

    /// Leaves only the token that closes the reasoning, when its budget is spent.
    fn close_thinking(&self, logits: &mut [f32]) {
        if self.shaping.thinking_max.is_none_or(|max| self.reasoning < max) {
            return;
        }
        let close = self.server.tokenizer().specials().think_close as usize;
        for (_, logit) in logits.iter_mut().enumerate().filter(|(id, _)| *id != close) {
            *logit = f32::NEG_INFINITY;
        }
        if let Some(logit) = logits.get_mut(close) {
            *logit = 0.0;
        }
    }

    fn probabilities(&mut self, token: TokenId, region: Region) -> Option<TokenLogprob> {
        let row = self.row.take()?;
        let tokenizer = self.server.tokenizer();
        let is_text = matches!(region, Region::Thinking | Region::Text);
        if !is_text || tokenizer.vocab().is_added(token.0) {
            return None;
        }
        let bytes = |id: TokenId| tokenizer.token_bytes(id.0).unwrap_or_default().to_vec();
        #[expect(clippy::cast_possible_truncation, reason = "printed with a few digits")]
        let entry = |l: Logprob| (bytes(l.id), l.logprob as f32);
        let wanted = self.shaping.top.unwrap_or(0);
        let mut top = top_logprobs(&row, wanted.max(1)).ok()?;
        // What separates logits from their logarithms is the same for all of a row.
        let norm = f64::from(top.first()?.logit) - top.first()?.logprob;
        let logit = *row.get(token.0 as usize)?;
        let own = Logprob { id: token, logit, logprob: f64::from(logit) - norm };
        top.truncate(wanted);
        let (bytes, logprob) = entry(own);
        Some(TokenLogprob { bytes, logprob, top: top.into_iter().map(entry).collect() })
    }

    fn count(&mut self) {
        let now = Instant::now();
        let metrics = self.server.metrics();
        match self.last.replace(now) {
            None => {
                let ttft = now - self.ledger.arrived;
                self.ledger.ttft = Some(ttft);
                metrics.ttft.record(ttft.as_secs_f64());
            }
            Some(last) => metrics.itl.record((now - last).as_secs_f64()),
        }
    }

    fn finish(&self, end: End) -> Finish {
        if let Some(stop) = self.reader.stopped_by() {
            return Finish::StopSequence(stop.to_owned());
        }
        match (end, self.reader.finish_reason(end)) {
            (End::ContextFull, _) => Finish::ContextFull,
            (End::Length, _) if self.shaping.fills_context => Finish::ContextFull,
            (_, FinishReason::Length) => Finish::Length,
            (_, FinishReason::ToolCalls) => Finish::ToolCalls,
            (_, FinishReason::Stop) => Finish::Stop,
        }
    }
}

impl Client for Answerer {
    fn started(&mut self, started: &Started) {
        self.ledger.started = Some(started.clone());
        self.server.metrics().cache(started.source.name());
        // The channel is empty yet.
        let _ = self.news.try_send(News::Started(started.clone()));
    }

    fn prefill(&mut self, done: usize) {
        let Ledger { id, prompt_tokens, .. } = &self.ledger;
        tracing::debug!(id, done, prompt = prompt_tokens, "prefill");
    }

    fn is_ready(&mut self) -> bool {
        self.news.is_closed() || self.news.capacity() >= STEP_TOKENS_MAX
    }

    fn constrain(&mut self, logits: &mut [f32]) {
        if self.shaping.top.is_some() {
            self.row = Some(logits.to_vec());
        }
        if let Some(script) = &self.shaping.script {
            return script.mask(logits);
        }
        if let Some(constraint) = &mut self.shaping.constraint
            && let Err(error) = constraint.mask(logits)
        {
            self.failure = Some(error.to_string());
        }
        if self.reader.region() == Region::Thinking {
            self.close_thinking(logits);
        }
    }

    fn token(&mut self, token: TokenId, _: &[f32]) -> ControlFlow<()> {
        self.count();
        if self.failure.is_some() {
            return ControlFlow::Break(());
        }
        let region = self.reader.region();
        self.reasoning += usize::from(region == Region::Thinking);
        let logprob = self.probabilities(token, region);
        if let Some(script) = &mut self.shaping.script {
            script.advance();
        } else if let Some(constraint) = &mut self.shaping.constraint
            && let Err(error) = constraint.accept(token.0)
        {
            self.failure = Some(error.to_string());
            return ControlFlow::Break(());
        }
        let events = match self.reader.push(token) {
            Ok(events) => events,
            Err(error) => {
                self.failure = Some(error.to_string());
                return ControlFlow::Break(());
            }
        };
        self.tokens.push(token);
        let is_call = |e: &Event| matches!(e, Event::ToolEnd { .. });
        let is_full = self.shaping.one_call && events.iter().any(is_call);
        // There is room: the scheduler asked. When nobody listens any more it is told otherwise.
        let _ = self.news.try_send(News::Token { events, logprob });
        if is_full || self.reader.is_done() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn done(&mut self, outcome: Result<End, Error>, stats: &Stats) {
        let outcome = match self.failure.take() {
            Some(failure) => Err(Error::Failed(failure)),
            None => outcome,
        };
        let events = outcome.as_ref().map_or_else(|_| Vec::new(), |end| self.reader.finish(*end));
        let ended = Ended {
            outcome: outcome.map(|end| self.finish(end)),
            events,
            stats: stats.clone(),
            reasoning: self.reasoning,
            tokens: std::mem::take(&mut self.tokens),
        };
        self.ledger.close(&self.server, &ended, self.reader.outcome());
        if let Some(end) = self.end.take() {
            let _ = end.send(ended);
        }
    }
}
