//! An answer as a stream of events. A task of its own writes it, so that news, signs of life and
//! the client's disappearance are waited for in one place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use ds4_api::wire::{Frame, StreamWriter};
use ds4_scheduler::Started;
use ds4_text::parse::Event;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::answer::News;
use crate::exchange::{Closed, api_error};
use crate::generate::{Asked, Part, explain_in, out_of_time};
use crate::id::new_id;
use crate::limits::PIECES_MAX;
use crate::reply::Refusal;

/// The response to a request for a stream. Its headers go out at once, before the request has a
/// session; only a client that asks why its prompt missed the cache waits for the answer to that.
pub(crate) async fn respond(asked: Asked, explains: bool) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let is_whole = Arc::new(AtomicBool::new(false));
    let body = Pieces { receiver, is_whole: Arc::clone(&is_whole), is_over: false };
    let mut response = Response::new(Body::new(body));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    asked.warn(&mut response);
    let (start, started) = oneshot::channel();
    let writer = Writer::new(&asked, sender.clone(), explains.then_some(start));
    tokio::spawn(async move {
        if writer.write(asked).await.is_ok() {
            is_whole.store(true, Ordering::Release);
        }
        // The last sender: the body looks at the flag only after it.
        drop(sender);
    });
    if explains && let Ok(started) = started.await {
        explain_in(&mut response, &started);
    }
    response
}

/// The client has gone.
struct Gone;

struct Writer {
    shape: StreamWriter,
    out: mpsc::Sender<Bytes>,
    /// When something was last sent, and when something that is not a comment was.
    sent: Instant,
    spoke: Instant,
    start: Option<oneshot::Sender<Started>>,
}

impl Writer {
    fn new(
        asked: &Asked,
        out: mpsc::Sender<Bytes>,
        start: Option<oneshot::Sender<Started>>,
    ) -> Self {
        let meta = asked.job.meta.clone();
        let shape = StreamWriter::new(&asked.job.request, meta, Box::new(new_id));
        let now = Instant::now();
        Self { shape, out, sent: now, spoke: now, start }
    }

    /// Writes the whole answer.
    async fn write(mut self, mut asked: Asked) -> Result<(), Gone> {
        let mut first = asked.parts.pop_front();
        let usage = first.as_ref().map(|part| part.exchange.usage(0, 0)).unwrap_or_default();
        let frames = self.shape.start(&usage);
        self.send(frames).await?;
        while let Some(mut part) = first.take() {
            match self.tell(&asked, &mut part).await? {
                Err(error) => {
                    let error = error.of(asked.job.id.clone());
                    let frames = self.shape.fail(&error);
                    return self.send(frames).await;
                }
                Ok((closed, mut frames)) => {
                    first = asked.parts.pop_front();
                    frames.extend(match first {
                        Some(_) => self.shape.next_choice(&closed.finish, &closed.usage),
                        None => self.shape.finish(&closed.finish, &closed.usage),
                    });
                    self.send(frames).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes the answer to one prompt, but for its last frames.
    async fn tell(
        &mut self,
        asked: &Asked,
        part: &mut Part,
    ) -> Result<Result<(Closed, Vec<Frame>), Refusal>, Gone> {
        let api = asked.job.request.api;
        if let Some(echo) = part.echo.take() {
            let frames = self.shape.event(&Event::Text(echo));
            self.send(frames).await?;
        }
        let mut news = Vec::new();
        loop {
            let beat = self.sent + asked.server.options().keep_alive;
            tokio::select! {
                more = part.exchange.next(&mut news) => {
                    if !more {
                        break;
                    }
                    let frames = self.frames(part, &mut news);
                    self.send(frames).await?;
                }
                () = self.out.closed() => return Err(Gone),
                () = sleep_until(beat) => self.beat().await?,
                () = sleep_until(asked.deadline()) => return Ok(Err(out_of_time().into())),
            }
        }
        let ended = match part.exchange.end().await {
            Ok(ended) => ended,
            Err(error) => return Ok(Err(api_error(api, &error).into())),
        };
        let mut frames = Vec::new();
        for event in &ended.events {
            part.heard(event);
            frames.extend(self.shape.event(event));
        }
        part.close(&asked.server, &ended, self.shape.call_ids());
        let usage = part.exchange.usage(ended.tokens.len(), ended.reasoning);
        Ok(match ended.outcome {
            Ok(finish) => Ok((Closed { finish, usage }, frames)),
            Err(error) => {
                self.send(frames).await?;
                Err(api_error(api, &error).into())
            }
        })
    }

    fn frames(&mut self, part: &mut Part, news: &mut Vec<News>) -> Vec<Frame> {
        let mut frames = Vec::new();
        for piece in news.drain(..) {
            match piece {
                News::Started(started) => {
                    if let Some(start) = self.start.take() {
                        // Nobody waits when the client has gone.
                        let _ = start.send(started);
                    }
                }
                News::Token { events, logprob } => {
                    if let Some(logprob) = logprob {
                        self.shape.attach(logprob);
                    }
                    for event in &events {
                        part.heard(event);
                        frames.extend(self.shape.event(event));
                    }
                }
            }
        }
        frames
    }

    /// A sign of life.
    async fn beat(&mut self) -> Result<(), Gone> {
        let frame = self.shape.keep_alive(self.spoke.elapsed());
        self.send(frame.into_iter().collect()).await?;
        // Even when there was nothing to say: no two signs of life in a row.
        self.sent = Instant::now();
        Ok(())
    }

    /// Waits until the connection takes the frames.
    async fn send(&mut self, frames: Vec<Frame>) -> Result<(), Gone> {
        if frames.is_empty() {
            return Ok(());
        }
        let text: String = frames.iter().map(ToString::to_string).collect();
        self.out.send(text.into()).await.map_err(|_| Gone)?;
        self.sent = Instant::now();
        if frames.iter().any(|frame| !frame.is_comment()) {
            self.spoke = self.sent;
        }
        Ok(())
    }
}

/// The pieces of a stream as a body. A stream that was not written to its end breaks off instead of
/// ending, so that no client takes it for whole.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    is_whole: Arc<AtomicBool>,
    is_over: bool,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, io::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(piece) = ready!(self.receiver.poll_recv(context)) {
            return Poll::Ready(Some(Ok(hyper::body::Frame::data(piece))));
        }
        self.is_over = true;
        let is_whole = self.is_whole.load(Ordering::Acquire);
        Poll::Ready((!is_whole).then(|| Err(io::Error::other("the stream broke off"))))
    }
}
