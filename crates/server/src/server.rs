//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ds4_api::ApiError;
use ds4_constrain::Grammars;
use ds4_kvstore::KvStore;
use ds4_scheduler::Worker;
use ds4_text::Tokenizer;
use ds4_turns::Turns;

use crate::metrics::Metrics;
use crate::reply::Refusal;
use crate::{Options, Script, Trace};

/// A server over one worker.
pub struct Server {
    options: Options,
    worker: Worker,
    turns: Arc<Turns>,
    grammars: Grammars,
    metrics: Metrics,
    store: Option<KvStore>,
    trace: Option<Trace>,
    script: Option<Script>,
    requests: AtomicUsize,
    number: AtomicU64,
    is_closing: AtomicBool,
}

impl Server {
    /// A server that takes requests as soon as somebody listens for it. `turns` are those that the
    /// worker's scheduler keeps its files with.
    pub fn new(worker: Worker, turns: Arc<Turns>, options: Options) -> Self {
        let grammars = Grammars::new(Arc::clone(turns.tokenizer()));
        Self {
            options,
            worker,
            turns,
            grammars,
            metrics: Metrics::new(),
            store: None,
            trace: None,
            script: None,
            requests: AtomicUsize::new(0),
            number: AtomicU64::new(0),
            is_closing: AtomicBool::new(false),
        }
    }

    /// The same, reporting on the worker's disk cache.
    #[must_use]
    pub fn with_store(self, store: Option<KvStore>) -> Self {
        Self { store, ..self }
    }

    /// The same, writing prompts and outputs to a trace.
    #[must_use]
    pub fn with_trace(self, trace: Option<Trace>) -> Self {
        Self { trace, ..self }
    }

    /// The same, answering from a script. For tests of clients.
    #[must_use]
    pub fn with_script(self, script: Option<Script>) -> Self {
        Self { script, ..self }
    }

    /// Its settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Its worker.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(crate) fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.turns.tokenizer()
    }

    pub(crate) fn grammars(&self) -> &Grammars {
        &self.grammars
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn store(&self) -> Option<&KvStore> {
        self.store.as_ref()
    }

    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    pub(crate) fn script(&self) -> Option<&Script> {
        self.script.as_ref()
    }

    /// Takes no more requests.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Whether the model can still compute.
    pub fn is_alive(&self) -> bool {
        self.worker.status().is_alive
    }

    /// Why no work is taken at all.
    pub(crate) fn check_open(&self) -> Result<(), Refusal> {
        if !self.is_alive() {
            let lost = "the device is lost; the server must be restarted";
            return Err(ApiError { message: lost.into(), ..ApiError::shutting_down() }.into());
        }
        if self.is_closing.load(Ordering::Relaxed) {
            return Err(ApiError::shutting_down().into());
        }
        Ok(())
    }

    /// Requests that are at work.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// A number for the next request.
    pub(crate) fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped; `None` when there are too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Entered> {
        let entered = Entered(Arc::clone(self));
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        (before < self.options.requests_max).then_some(entered)
    }
}

/// A request at work.
pub(crate) struct Entered(Arc<Server>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
