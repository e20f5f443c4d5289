//! What is said about a request when it has ended: one line in the log, the counters, the trace.

use std::time::{Duration, Instant};

use ds4_api::Api;
use ds4_api::wire::Finish;
use ds4_scheduler::{Error, Started};
use ds4_text::parse::Outcome;

use crate::answer::Ended;
use crate::route::api_name;
use crate::server::Server;
use crate::trace::Record;

/// What is known of a request before it ends.
pub(crate) struct Ledger {
    pub(crate) id: String,
    pub(crate) api: Api,
    pub(crate) model: String,
    pub(crate) arrived: Instant,
    pub(crate) prompt_tokens: usize,
    pub(crate) started: Option<Started>,
    pub(crate) ttft: Option<Duration>,
    /// What goes to the trace, if there is one.
    pub(crate) record: Option<Record>,
}

impl Ledger {
    /// Says it all.
    pub(crate) fn close(&mut self, server: &Server, ended: &Ended, outcome: &Outcome) {
        let cached = self.started.as_ref().map_or(0, |s| s.reused);
        let source = self.started.as_ref().map_or("none", |s| s.source.name());
        let finish = finish_name(&ended.outcome);
        self.count(server, ended, cached, finish);
        // A number of 128 bits would be logged as text.
        let ttft_ms = self.ttft.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let error = ended.outcome.as_ref().err().map(ToString::to_string);
        tracing::info!(
            id = self.id,
            api = api_name(self.api),
            model = self.model,
            prompt = self.prompt_tokens,
            cached,
            source,
            new = ended.stats.generated_tokens,
            reasoning = ended.reasoning,
            ttft_ms,
            tok_s = round(ended.stats.generation_tps()),
            finish,
            error,
            "request"
        );
        self.trace(server, ended, outcome, finish);
    }

    fn count(&self, server: &Server, ended: &Ended, cached: usize, finish: &'static str) {
        let metrics = server.metrics();
        metrics.answer(api_name(self.api), finish);
        metrics.duration.record(self.arrived.elapsed().as_secs_f64());
        if self.started.is_some() {
            metrics.tokens("prompt", self.prompt_tokens);
            metrics.tokens("cached", cached);
        }
        metrics.tokens("generated", ended.stats.generated_tokens);
        metrics.tokens("reasoning", ended.reasoning);
    }

    fn trace(&mut self, server: &Server, ended: &Ended, outcome: &Outcome, finish: &str) {
        let (Some(mut record), Some(trace)) = (self.record.take(), server.trace()) else { return };
        let ids: Vec<u32> = ended.tokens.iter().map(|t| t.0).collect();
        record.title = format!("{} {} {}", self.id, api_name(self.api), self.model);
        record.cache = self.started.as_ref().map_or_else(|| "not started".into(), explain);
        record.output = server.tokenizer().decode(&ids).unwrap_or_else(|e| e.to_string());
        let calls = outcome.calls.iter();
        record.calls = calls.map(|call| format!("{} {}", call.name, call.arguments)).collect();
        record.end = format!(
            "{finish}: {} tokens after {} of the prompt, {} of them reasoning; {:.1} tokens/s",
            ended.stats.generated_tokens,
            self.prompt_tokens,
            ended.reasoning,
            ended.stats.generation_tps()
        );
        trace.write(record);
    }
}

/// Where the beginning of a prompt came from, and why not more.
pub(crate) fn explain(started: &Started) -> String {
    let Started { prompt_tokens, reused, source, why } = started;
    format!("{}; reused={reused}; prompt={prompt_tokens}; {why}", source.name())
}

fn finish_name(outcome: &Result<Finish, Error>) -> &'static str {
    match outcome {
        Ok(Finish::Stop) => "stop",
        Ok(Finish::StopSequence(_)) => "stop_sequence",
        Ok(Finish::Length) => "length",
        Ok(Finish::ContextFull) => "context_full",
        Ok(Finish::ToolCalls) => "tool_calls",
        Err(Error::Cancelled) => "cancelled",
        Err(Error::ShuttingDown) => "shutdown",
        Err(_) => "error",
    }
}

/// One digit is enough for people.
fn round(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}
