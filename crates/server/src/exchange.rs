//! One prompt on its way through the worker, heard from a connection. Dropping it tells the worker
//! that nobody waits any more.

use std::sync::Arc;

use ds4_api::wire::{Finish, Usage};
use ds4_api::{Api, ApiError, ErrorKind};
use ds4_engine::{AnswerReader, Cancel, StopStrings, stop_ids};
use ds4_scheduler::{Error, Request, Started};
use tokio::sync::{mpsc, oneshot};

use crate::answer::{Answerer, Ended, News, Shaping};
use crate::ledger::Ledger;
use crate::prepare::{Job, Prompt};
use crate::server::Server;
use crate::trace::Record;

/// A prompt at the worker.
pub(crate) struct Exchange {
    news: mpsc::Receiver<News>,
    end: oneshot::Receiver<Ended>,
    #[expect(dead_code, reason = "it works by being dropped")]
    cancel: CancelOnDrop,
    prompt_tokens: usize,
    pub(crate) started: Option<Started>,
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Hands the next prompt of a job to the worker.
pub(crate) fn submit(server: &Arc<Server>, job: &Job, prompt: Prompt) -> Result<Exchange, Error> {
    let reader = AnswerReader::new(
        Arc::clone(server.tokenizer()),
        prompt.parser,
        StopStrings::new(&job.request.stop),
    );
    let shaping = Shaping {
        constraint: prompt.constraint,
        script: prompt.script,
        thinking_max: job.request.thinking_budget.map(|n| n as usize),
        one_call: !job.request.parallel_tool_calls,
        fills_context: prompt.fills_context,
        top: job.request.top_logprobs.map(|n| usize::try_from(n).unwrap_or(0)),
    };
    let record = |(prompt, notes)| Record { prompt, notes, ..Record::default() };
    let ledger = Ledger {
        id: job.id.clone(),
        api: job.request.api,
        model: job.request.model.clone(),
        arrived: job.arrived,
        prompt_tokens: prompt.tokens.len(),
        started: None,
        ttft: None,
        record: prompt.trace.map(record),
    };
    let prompt_tokens = prompt.tokens.len();
    let (answerer, hearing) = Answerer::new(Arc::clone(server), reader, shaping, ledger);
    let cancel = Cancel::default();
    let request = Request {
        id: server.next_number(),
        prompt: prompt.tokens,
        cuts: prompt.cuts,
        max_tokens: prompt.max_tokens,
        stops: stop_ids(server.tokenizer().specials()),
        sampling: job.sampling,
        cancel: cancel.clone(),
    };
    server.worker().submit(request, Box::new(answerer))?;
    let (news, end) = (hearing.news, hearing.end);
    let cancel = CancelOnDrop(cancel);
    Ok(Exchange { news, end, cancel, prompt_tokens, started: None })
}

impl Exchange {
    /// Waits for news and takes all that is there; false at the end of all news.
    pub(crate) async fn next(&mut self, news: &mut Vec<News>) -> bool {
        let Some(first) = self.news.recv().await else { return false };
        news.push(first);
        while let Ok(more) = self.news.try_recv() {
            news.push(more);
        }
        if let Some(News::Started(started)) = news.first() {
            self.started = Some(started.clone());
        }
        true
    }

    /// How it ended, when there is no more news. The worker is gone if it does not say.
    pub(crate) async fn end(&mut self) -> Result<Ended, Error> {
        let gone = || Error::Failed("the worker has ended".to_owned());
        (&mut self.end).await.map_err(|_| gone())
    }

    /// What is known of the prompt's tokens.
    pub(crate) fn usage(&self, completion: usize, reasoning: usize) -> Usage {
        let cached = self.started.as_ref().map_or(0, |s| s.reused);
        let prompt = self.started.as_ref().map_or(self.prompt_tokens, |s| s.prompt_tokens);
        Usage { prompt, cached, cache_write: prompt - cached.min(prompt), completion, reasoning }
    }
}

/// How an answer ended, for its writer.
pub(crate) struct Closed {
    pub(crate) finish: Finish,
    pub(crate) usage: Usage,
}

/// What a client reads about an error of the worker.
pub(crate) fn api_error(api: Api, error: &Error) -> ApiError {
    match error {
        Error::PromptTooLong { tokens, ctx } => {
            ApiError::context_exceeded(api, *tokens, *ctx as usize)
        }
        Error::Busy { .. } if api == Api::Messages => {
            ApiError { kind: ErrorKind::Overloaded, ..ApiError::queue_full() }
        }
        Error::Busy { .. } => ApiError::queue_full(),
        Error::ShuttingDown => ApiError::shutting_down(),
        error if error.is_device_lost() => {
            ApiError { message: error.to_string(), ..ApiError::shutting_down() }
        }
        Error::Engine(ds4_engine::Error::Option { .. } | ds4_engine::Error::EmptyPrompt) => {
            ds4_api::RequestError::invalid(error.to_string()).into()
        }
        Error::Engine(_) | Error::Cancelled | Error::Failed(_) | Error::Panicked(_) => {
            ApiError::internal(error.to_string())
        }
    }
}
