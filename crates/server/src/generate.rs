//! Answers of the model: the way of a request from its body to a stream or a body of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use ds4_api::wire::BodyWriter;
use ds4_api::{Api, ApiError};
use ds4_scheduler::{Error, Started};
use ds4_text::parse::Event;
use ds4_turns::{NextTurn, Said};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::answer::{Ended, News};
use crate::exchange::{Closed, Exchange, api_error, submit};
use crate::id::new_id;
use crate::ledger::explain;
use crate::prepare::{Hints, Job, Prompt, prepare};
use crate::reply::Refusal;
use crate::route::api_name;
use crate::server::{Entered, Server};
use crate::{body, reply, stream};

/// Characters of an error in the log.
const LOGGED_CHARS_MAX: usize = 300;

/// Answers a request.
pub(crate) async fn generate(
    server: Arc<Server>,
    api: Api,
    headers: HeaderMap,
    body: Body,
    hints: Hints,
) -> Response<Body> {
    let (id, explains) = (hints.id.clone(), hints.explains);
    let answered = match begin(server, api, &headers, body, hints).await {
        Ok(asked) if asked.job.request.stream => Ok(stream::respond(asked, explains).await),
        Ok(asked) => whole(asked, explains).await,
        Err(refusal) => {
            refused(&id, api, &refusal);
            Err(refusal)
        }
    };
    answered.unwrap_or_else(|error| reply::error(api, &error.of(id)))
}

/// Hands a request to the worker.
async fn begin(
    server: Arc<Server>,
    api: Api,
    headers: &HeaderMap,
    body: Body,
    hints: Hints,
) -> Result<Asked, Refusal> {
    server.check_open()?;
    let busy = || api_error(api, &Error::Busy { waiting: server.requests() });
    let entered = server.enter().ok_or_else(busy)?;
    let body = body::read(headers, body, server.options().body_bytes_max).await?;
    let theirs = Arc::clone(&server);
    let mut job = blocking(move || prepare(&theirs, api, body, hints)).await?;
    let prompts = std::mem::take(&mut job.prompts).into_iter();
    let parts = prompts.map(|prompt| Part::start(&server, &job, prompt));
    let parts = parts.collect::<Result<VecDeque<_>, _>>().map_err(|e| api_error(api, &e))?;
    Ok(Asked { server, job, parts, entered })
}

/// The line in the log of a request that never came to the worker.
fn refused(id: &str, api: Api, refusal: &Refusal) {
    let status = refusal.0.status_for(api);
    // It may quote what the client sent.
    let error: String = refusal.0.message.chars().take(LOGGED_CHARS_MAX).collect();
    tracing::info!(id, api = api_name(api), status, error, "refused");
}

/// Runs what computes on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let broken = |_| ApiError::internal("the request could not be prepared");
    spawn_blocking(work).await.map_err(broken)?
}

/// A request at the worker.
pub(crate) struct Asked {
    pub(crate) server: Arc<Server>,
    pub(crate) job: Job,
    /// Its prompts. They are computed together and told one after the other.
    pub(crate) parts: VecDeque<Part>,
    /// Counts the request as long as it is at work.
    #[expect(dead_code, reason = "it works by being dropped")]
    pub(crate) entered: Entered,
}

/// A prompt at the worker, with what is needed when it ends.
pub(crate) struct Part {
    pub(crate) exchange: Exchange,
    pub(crate) echo: Option<String>,
    turn: Option<NextTurn>,
    content: String,
}

impl Part {
    fn start(server: &Arc<Server>, job: &Job, mut prompt: Prompt) -> Result<Self, Error> {
        let (turn, echo) = (prompt.turn.take(), prompt.echo.take());
        let exchange = submit(server, job, prompt)?;
        Ok(Self { exchange, echo, turn, content: String::new() })
    }

    /// Notes what the client is told.
    pub(crate) fn heard(&mut self, event: &Event) {
        if let Event::Text(text) = event {
            self.content.push_str(text);
        }
    }

    /// Keeps the answer for later prompts; to be called before the client hears of the end.
    pub(crate) fn close(&mut self, server: &Server, ended: &Ended, call_ids: &[String]) {
        if let (Some(turn), Ok(_)) = (&self.turn, &ended.outcome) {
            let said = Said { content: &self.content, call_ids };
            server.turns().remember(turn, &ended.tokens, &said);
        }
    }
}

impl Asked {
    /// When the request must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        // Far enough away for "never".
        let never = Duration::from_hours(24 * 365);
        Instant::from_std(self.job.arrived) + self.server.options().time_max.unwrap_or(never)
    }

    /// Says in a header what was ignored or replaced.
    pub(crate) fn warn(&self, response: &mut Response<Body>) {
        if !self.job.request.warnings.is_empty() {
            let text = self.job.request.warnings.join("; ");
            response.headers_mut().insert("x-ds4-warning", header_value(&text));
        }
    }
}

/// Says in a header where the beginning of the prompt came from.
pub(crate) fn explain_in(response: &mut Response<Body>, started: &Started) {
    response.headers_mut().insert("x-ds4-cache", header_value(&explain(started)));
}

/// What a client reads when its request took too long.
pub(crate) fn out_of_time() -> ApiError {
    ApiError { status: 504, ..ApiError::internal("the request took longer than it may") }
}

/// Text as a header can carry it.
fn header_value(text: &str) -> HeaderValue {
    let visible: String = text
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .take(1000)
        .collect();
    HeaderValue::from_str(visible.trim()).expect("printable ASCII")
}

/// An answer in one body.
async fn whole(mut asked: Asked, explains: bool) -> Result<Response<Body>, Refusal> {
    let meta = asked.job.meta.clone();
    let mut writer = BodyWriter::new(&asked.job.request, meta, Box::new(new_id));
    let mut first = None;
    let body = loop {
        let mut part = asked.parts.pop_front().expect("there is a last part");
        let closed = hear(&asked, &mut part, &mut writer).await?;
        first = first.or(part.exchange.started.take());
        if asked.parts.is_empty() {
            break writer.finish(&closed.finish, &closed.usage);
        }
        writer.next_choice(&closed.finish, &closed.usage);
    };
    let mut response = reply::json(StatusCode::OK, &body);
    asked.warn(&mut response);
    if let Some(started) = first.filter(|_| explains) {
        explain_in(&mut response, &started);
    }
    Ok(response)
}

/// Writes the answer to one prompt.
async fn hear(asked: &Asked, part: &mut Part, writer: &mut BodyWriter) -> Result<Closed, Refusal> {
    let api = asked.job.request.api;
    let deadline = asked.deadline();
    if let Some(echo) = part.echo.take() {
        writer.event(&Event::Text(echo));
    }
    let mut news = Vec::new();
    loop {
        let more = tokio::select! {
            more = part.exchange.next(&mut news) => more,
            () = sleep_until(deadline) => return Err(out_of_time().into()),
        };
        if !more {
            break;
        }
        for piece in news.drain(..) {
            if let News::Token { events, logprob } = piece {
                if let Some(logprob) = logprob {
                    writer.attach(logprob);
                }
                for event in &events {
                    part.heard(event);
                    writer.event(event);
                }
            }
        }
    }
    let ended = part.exchange.end().await.map_err(|e| api_error(api, &e))?;
    for event in &ended.events {
        part.heard(event);
        writer.event(event);
    }
    part.close(&asked.server, &ended, writer.call_ids());
    let usage = part.exchange.usage(ended.tokens.len(), ended.reasoning);
    let finish = ended.outcome.map_err(|e| api_error(api, &e))?;
    Ok(Closed { finish, usage })
}
