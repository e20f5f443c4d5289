//! Servers for tests.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use ds4_engine::testing::ScriptedRunner;
use ds4_gguf::Gguf;
use ds4_model::{Dims, Error, Mark, ModelFile, Probe, Result, Runner, SeqId, Span, TokenId};
use ds4_scheduler::{Options as Sharing, Scheduler, Worker};
use ds4_server::{Listener, Options, Script, Server, Stopped, serve};
use ds4_text::Tokenizer;
use ds4_turns::{CacheTexts, Turns};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// What the runner does besides computing.
#[derive(Default)]
pub(crate) struct Controls {
    /// Milliseconds that every call takes.
    pub(crate) delay_ms: AtomicU64,
    /// The next call panics.
    pub(crate) panics: AtomicBool,
    /// Every call finds the device lost.
    pub(crate) is_lost: AtomicBool,
}

impl Controls {
    pub(crate) fn slow(delay_ms: u64) -> Arc<Self> {
        Arc::new(Self { delay_ms: delay_ms.into(), ..Self::default() })
    }
}

/// A runner that obeys [`Controls`]. Its answers are a function of the exact tokens and never end.
struct TestRunner {
    inner: ScriptedRunner,
    controls: Arc<Controls>,
}

/// The first of the 64 tokens that answers are made of: plain text in nano's vocabulary.
const FIRST: usize = 600;

fn answer(tokens: &[TokenId]) -> usize {
    let mix = |h: u64, t: &TokenId| (h ^ u64::from(t.0)).wrapping_mul(0x0100_0000_01b3);
    // The last ones tell two conversations apart, and all of them would take quadratic time.
    let tail = &tokens[tokens.len().saturating_sub(100)..];
    let hash = tail.iter().fold(tokens.len() as u64, mix);
    FIRST + usize::try_from((hash >> 20) % 64).unwrap()
}

impl TestRunner {
    fn new(n_vocab: usize, controls: Arc<Controls>) -> Self {
        let script = move |tokens: &[TokenId]| {
            let next = answer(tokens);
            let mut logits = vec![0.0; n_vocab];
            logits[next] = 9.0;
            // A second choice, which some seeds take.
            logits[FIRST + (next - FIRST + 1) % 64] = 8.0;
            logits
        };
        let mut inner = ScriptedRunner::new(n_vocab, Box::new(script));
        inner.chunk = 64;
        Self { inner, controls }
    }
}

impl Runner for TestRunner {
    fn dims(&self) -> &Dims {
        self.inner.dims()
    }
    fn open_seq(&mut self, cap: u32) -> Result<SeqId> {
        self.inner.open_seq(cap)
    }
    fn close_seq(&mut self, seq: SeqId) {
        self.inner.close_seq(seq);
    }
    fn seq_len(&self, seq: SeqId) -> Result<u32> {
        self.inner.seq_len(seq)
    }
    fn forward(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<()> {
        sleep(Duration::from_millis(self.controls.delay_ms.load(Ordering::SeqCst)));
        assert!(!self.controls.panics.swap(false, Ordering::SeqCst), "asked to panic");
        if self.controls.is_lost.load(Ordering::SeqCst) {
            return Err(Error::Device("unplugged".into()));
        }
        self.inner.forward(spans, logits)
    }
    fn chunk_max(&self) -> usize {
        self.inner.chunk_max()
    }
    fn draft(&mut self, seq: SeqId, last: TokenId, out: &mut [TokenId]) -> Result<usize> {
        self.inner.draft(seq, last, out)
    }
    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<()> {
        self.inner.truncate(seq, len)
    }
    fn save_seq(&mut self, seq: SeqId, w: &mut dyn Write) -> Result<u64> {
        self.inner.save_seq(seq, w)
    }
    fn load_seq(&mut self, r: &mut dyn Read, cap: u32) -> Result<SeqId> {
        self.inner.load_seq(r, cap)
    }
    fn mark(&mut self, seq: SeqId) -> Result<Option<Mark>> {
        self.inner.mark(seq)
    }
    fn rewind(&mut self, seq: SeqId, mark: &Mark) -> Result<()> {
        self.inner.rewind(seq, mark)
    }
    fn fork(&mut self, seq: SeqId, mark: &Mark, cap: u32) -> Result<SeqId> {
        self.inner.fork(seq, mark, cap)
    }
    fn set_probe(&mut self, probe: Option<Box<dyn Probe>>) {
        self.inner.set_probe(probe);
    }
    fn seq_bytes(&self, cap: u32) -> u64 {
        self.inner.seq_bytes(cap)
    }
}

fn nano() -> Gguf {
    Gguf::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano.gguf"))).unwrap()
}

pub(crate) fn sharing() -> Sharing {
    Sharing { parallel: 4, ctx: 2048, queue_max: 8, ..Sharing::default() }
}

pub(crate) fn options() -> Options {
    Options { ctx: 2048, ..Options::default() }
}

fn server(
    runner: Box<dyn Runner>,
    turns: Arc<Turns>,
    sharing: Sharing,
    options: Options,
) -> Server {
    let texts = Box::new(CacheTexts::new(Arc::clone(&turns)));
    let scheduler = Scheduler::new(runner, sharing, texts, None);
    Server::new(Worker::spawn(scheduler).unwrap(), turns, options)
}

/// A server over the obedient runner.
pub(crate) fn test_server(controls: &Arc<Controls>, sharing: Sharing, options: Options) -> Server {
    let tokenizer = Arc::new(Tokenizer::from_gguf(&nano()).unwrap());
    let runner = TestRunner::new(tokenizer.vocab().len(), Arc::clone(controls));
    let turns = Arc::new(Turns::new(tokenizer, ds4_turns::Options::default()));
    server(Box::new(runner), turns, sharing, options)
}

/// A quick server that answers from a script.
#[expect(clippy::needless_pass_by_value, reason = "it is written where it is used")]
pub(crate) fn scripted(script: Value) -> Arc<Server> {
    let script = Script::from_json(&script.to_string()).unwrap();
    let server = test_server(&Arc::default(), sharing(), options());
    Arc::new(server.with_script(Some(script)))
}

/// A quick server whose answers never end.
pub(crate) fn endless() -> Arc<Server> {
    Arc::new(test_server(&Arc::default(), sharing(), options()))
}

/// A server over nano.
pub(crate) fn nano_server(sharing: Sharing, options: Options) -> Server {
    let file = Arc::new(ModelFile::new(nano(), None).unwrap());
    let numerics = file.dims.profile_g();
    let cpu = ds4_cpu::CpuOptions { threads: 2, numerics, ..ds4_cpu::CpuOptions::default() };
    let tokenizer = Arc::new(Tokenizer::from_gguf(&file.gguf).unwrap());
    let turns = Arc::new(Turns::new(tokenizer, ds4_turns::Options::default()));
    server(ds4_cpu::open(&file, &cpu).unwrap(), turns, sharing, options)
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Body> {
    Request::post(path).body(Body::from(body.to_string())).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// Sends a request past all sockets.
pub(crate) async fn send(server: &Arc<Server>, request: Request<Body>) -> Response<Body> {
    server.router().oneshot(request).await.unwrap()
}

pub(crate) async fn text_of(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Sends a request whose answer is JSON.
pub(crate) async fn ask(server: &Arc<Server>, request: Request<Body>) -> (StatusCode, Value) {
    let response = send(server, request).await;
    let (status, text) = (response.status(), text_of(response).await);
    let value = serde_json::from_str(&text);
    (status, value.unwrap_or_else(|e| panic!("{e} in {text:?}")))
}

/// A question without thinking.
pub(crate) fn question(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "thinking": false, "temperature": 0})
}

#[expect(clippy::needless_pass_by_value, reason = "it is written where it is used")]
pub(crate) fn with(mut body: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// A server behind a socket.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) server: Arc<Server>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Stopped>,
}

impl Running {
    pub(crate) async fn start(server: Server) -> Self {
        let server = Arc::new(server);
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let served = tokio::spawn(serve(Arc::clone(&server), vec![listener], stopped));
        Self { address, server, stop: Some(stop), served }
    }

    /// Asks the server to end.
    pub(crate) fn ask_to_end(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end.
    pub(crate) async fn ended(self) -> Stopped {
        self.served.await.unwrap()
    }

    pub(crate) async fn end(mut self) -> Stopped {
        self.ask_to_end();
        self.ended().await
    }

    /// Waits until a condition on the worker's load holds.
    pub(crate) async fn until(&self, is: impl Fn(ds4_scheduler::Status) -> bool) -> Duration {
        let began = std::time::Instant::now();
        while !is(self.server.worker().status()) {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.server.worker().status()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }
}
