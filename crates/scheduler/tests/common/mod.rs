//! A runner whose logits are a function of the exact tokens, and a client that writes down what it
//! hears: any token lost, repeated or mixed up between sequences changes the answer.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ds4_engine::testing::ScriptedRunner;
use ds4_engine::{Cancel, End, Sampling, Stats};
use ds4_kvstore::{Identity, KeyBuilder, KvStore, Options as StoreOptions, ToolEntry};
use ds4_model::{Dims, Mark, Probe, Runner, SeqId, Span, TokenId};
use ds4_scheduler::{
    Client, Cuts, Disk, DiskOptions, Error, Options, Request, Scheduler, Started, Texts,
};

pub(crate) const VOCAB: usize = 50;
/// A token that is spelled like 1 followed by 2.
pub(crate) const PAIR: u32 = 49;

/// The answer after `tokens`: a hash of all of them, never 0, which is the stop token.
pub(crate) fn answer(tokens: &[TokenId]) -> u32 {
    let mix = |h: u64, t: &TokenId| (h ^ u64::from(t.0)).wrapping_mul(0x0100_0000_01b3);
    let hash = tokens.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    1 + u32::try_from((hash >> 20) % 40).unwrap()
}

pub(crate) fn runner() -> ScriptedRunner {
    ScriptedRunner::new(
        VOCAB,
        Box::new(|tokens| {
            let next = answer(tokens) as usize;
            (0..VOCAB).map(|i| if i == next { 5.0 } else { 0.0 }).collect()
        }),
    )
}

/// Drafts that are right two times out of three.
pub(crate) fn drafting() -> ScriptedRunner {
    runner().with_drafts(Box::new(|tokens| {
        let mut all = tokens.to_vec();
        for _ in 0..3 {
            let next = answer(&all);
            all.push(TokenId(if next.is_multiple_of(3) { 7 } else { next }));
        }
        all[tokens.len()..].to_vec()
    }))
}

pub(crate) fn expected(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut all: Vec<TokenId> = prompt.iter().map(|&t| TokenId(t)).collect();
    for _ in 0..n {
        all.push(TokenId(answer(&all)));
    }
    all[prompt.len()..].iter().map(|t| t.0).collect()
}

/// Token `t` is the text `<t>;`, 0 is a control token, [`PAIR`] is spelled `1;2;`.
pub(crate) struct TestTexts;

impl Texts for TestTexts {
    fn encode(&self, tokens: &[TokenId], key: &mut KeyBuilder) {
        for t in tokens {
            match t.0 {
                0 => key.control(0),
                PAIR => key.plain(b"1;2;"),
                n => key.plain(format!("{n};").as_bytes()),
            };
        }
    }

    fn tokens(&self, encoding: &[u8]) -> Option<Vec<TokenId>> {
        let text = std::str::from_utf8(encoding).ok()?;
        text.split_terminator(';').map(|n| n.parse().ok().map(TokenId)).collect()
    }

    fn text(&self, tokens: &[TokenId]) -> String {
        format!("{tokens:?}")
    }

    fn tools(&self, _: &[TokenId]) -> Vec<ToolEntry> {
        Vec::new()
    }

    fn learn(&self, _: &[TokenId], _: &[ToolEntry]) {}
}

#[derive(Clone, Default)]
pub(crate) struct Heard(pub(crate) Arc<Mutex<Notes>>);

#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) started: Option<Started>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) outcome: Option<Result<End, String>>,
    pub(crate) stats: Stats,
    pub(crate) panics_at: Option<usize>,
    /// Tokens after which it takes no more for now.
    pub(crate) holds_at: Option<usize>,
}

impl Client for Heard {
    fn started(&mut self, started: &Started) {
        self.0.lock().unwrap().started = Some(started.clone());
    }

    fn is_ready(&mut self) -> bool {
        let notes = self.0.lock().unwrap();
        notes.holds_at.is_none_or(|n| notes.tokens.len() < n)
    }

    fn token(&mut self, token: TokenId, _: &[f32]) -> ControlFlow<()> {
        let n = {
            let mut notes = self.0.lock().unwrap();
            notes.tokens.push(token.0);
            (notes.tokens.len(), notes.panics_at)
        };
        assert_ne!(Some(n.0), n.1, "asked to panic");
        ControlFlow::Continue(())
    }

    fn done(&mut self, outcome: Result<End, Error>, stats: &Stats) {
        let mut notes = self.0.lock().unwrap();
        assert!(notes.outcome.is_none(), "done was called twice");
        notes.outcome = Some(outcome.map_err(|e| e.to_string()));
        notes.stats = stats.clone();
    }
}

pub(crate) fn options() -> Options {
    Options {
        parallel: 2,
        ctx: 400,
        mark_interval: Some(16),
        chunk_shared: 4,
        ..Options::default()
    }
}

pub(crate) fn scheduler(runner: impl Runner + 'static, options: Options) -> Scheduler {
    Scheduler::new(Box::new(runner), options, Box::new(TestTexts), None)
}

pub(crate) fn request(prompt: &[u32], n: usize) -> Request {
    Request {
        id: 1,
        prompt: prompt.iter().map(|&t| TokenId(t)).collect(),
        cuts: Cuts::default(),
        max_tokens: n,
        stops: vec![TokenId(0)],
        sampling: Sampling::GREEDY,
        cancel: Cancel::default(),
    }
}

pub(crate) fn submit(s: &mut Scheduler, prompt: &[u32], n: usize) -> Heard {
    let heard = Heard::default();
    s.submit(request(prompt, n), Box::new(heard.clone()));
    heard
}

pub(crate) fn run(s: &mut Scheduler) {
    for _ in 0..10_000 {
        if !s.step().unwrap() && s.waiting() == 0 {
            return;
        }
    }
    panic!("the scheduler does not come to rest");
}

pub(crate) fn ask(s: &mut Scheduler, prompt: &[u32], n: usize) -> (Vec<u32>, Started) {
    let heard = submit(s, prompt, n);
    run(s);
    let notes = heard.0.lock().unwrap();
    assert_eq!(notes.outcome, Some(Ok(End::Length)));
    (notes.tokens.clone(), notes.started.clone().unwrap())
}

pub(crate) fn numbers(seed: u32, n: usize) -> Vec<u32> {
    (0..u32::try_from(n).unwrap()).map(|i| 1 + (i * 7 + seed * 13 + i * i % 11) % 40).collect()
}

/// Limits of a cache directory for these small sequences.
pub(crate) const DISK: DiskOptions = DiskOptions {
    tokens_min: 10,
    cold_max: 1000,
    continued_interval: 50,
    trim: 4,
    align: 8,
    growth_min: 1,
};

pub(crate) fn disk(dir: &std::path::Path, options: DiskOptions) -> Disk {
    let store = StoreOptions {
        budget_bytes: 1 << 20,
        tokens_min: 10,
        identity: Identity { model: [1; 32], family: [1; 32] },
        accepts_family: false,
        quant_bits: 2,
        ctx: 400,
        n_vocab: u32::try_from(VOCAB).unwrap(),
        hourly_bytes_max: 0,
        queue_bytes_max: 1 << 20,
    };
    Disk { store: KvStore::open(dir, store).unwrap(), options }
}

pub(crate) fn with_disk(dir: &std::path::Path) -> Scheduler {
    let disk = disk(dir, DISK);
    Scheduler::new(Box::new(runner()), options(), Box::new(TestTexts), Some(disk))
}

/// What a [`Moody`] runner does besides computing, and what it was asked.
#[expect(clippy::struct_excessive_bools, reason = "each is a mood of its own")]
#[derive(Default)]
pub(crate) struct Mood {
    /// Calls with this token panic, after they have changed their sequences.
    pub(crate) panics_on: Option<u32>,
    /// Planning a call panics.
    pub(crate) panics_outside: bool,
    /// Calls with this token are refused.
    pub(crate) refuses: Option<u32>,
    /// The device is gone.
    pub(crate) is_lost: bool,
    /// The device is gone, and the next sequence is the first to notice.
    pub(crate) loses_seqs: bool,
    /// Sequences that find memory.
    pub(crate) seqs_max: Option<usize>,
    /// Time of a token.
    pub(crate) per_token: Duration,
    /// Loading fails.
    pub(crate) refuses_states: bool,
    /// Open sequences.
    pub(crate) open: usize,
    /// Tokens of every span of every call, by sequence.
    pub(crate) calls: Vec<Vec<(u32, usize)>>,
    /// States written.
    pub(crate) saves: usize,
}

/// A runner with moods.
pub(crate) struct Moody {
    inner: ScriptedRunner,
    mood: Arc<Mutex<Mood>>,
}

impl Moody {
    pub(crate) fn new(inner: ScriptedRunner) -> (Self, Arc<Mutex<Mood>>) {
        let mood = Arc::new(Mutex::new(Mood::default()));
        (Self { inner, mood: Arc::clone(&mood) }, mood)
    }

    fn mood(&self) -> MutexGuard<'_, Mood> {
        self.mood.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn opened(&mut self, seq: ds4_model::Result<SeqId>) -> ds4_model::Result<SeqId> {
        self.mood().open += usize::from(seq.is_ok());
        seq
    }
}

impl Runner for Moody {
    fn dims(&self) -> &Dims {
        self.inner.dims()
    }

    fn open_seq(&mut self, cap: u32) -> ds4_model::Result<SeqId> {
        let mood = self.mood();
        if mood.seqs_max.is_some_and(|max| mood.open >= max) {
            return Err(ds4_model::Error::Memory("no more rows".into()));
        }
        if mood.loses_seqs {
            return Err(ds4_model::Error::Device("unplugged".into()));
        }
        drop(mood);
        let seq = self.inner.open_seq(cap);
        self.opened(seq)
    }

    fn close_seq(&mut self, seq: SeqId) {
        if self.inner.seq_len(seq).is_ok() {
            self.mood().open -= 1;
        }
        self.inner.close_seq(seq);
    }

    fn seq_len(&self, seq: SeqId) -> ds4_model::Result<u32> {
        self.inner.seq_len(seq)
    }

    fn forward(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> ds4_model::Result<()> {
        let mut mood = self.mood();
        mood.calls.push(spans.iter().map(|s| (s.seq.0, s.tokens.len())).collect());
        let n: usize = spans.iter().map(|s| s.tokens.len()).sum();
        std::thread::sleep(mood.per_token * u32::try_from(n).unwrap());
        let has = |token: Option<u32>| {
            token.is_some_and(|t| spans.iter().any(|s| s.tokens.contains(&TokenId(t))))
        };
        if mood.is_lost {
            return Err(ds4_model::Error::Device("unplugged".into()));
        }
        if has(mood.refuses) {
            return Err(ds4_model::Error::Span("refused".into()));
        }
        let panics = has(mood.panics_on);
        drop(mood);
        self.inner.forward(spans, logits)?;
        assert!(!panics, "the model panicked");
        Ok(())
    }

    fn chunk_max(&self) -> usize {
        assert!(!self.mood().panics_outside, "planning panicked");
        self.inner.chunk_max()
    }

    fn draft(&mut self, s: SeqId, t: TokenId, out: &mut [TokenId]) -> ds4_model::Result<usize> {
        self.inner.draft(s, t, out)
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> ds4_model::Result<()> {
        self.inner.truncate(seq, len)
    }

    fn save_seq(&mut self, seq: SeqId, w: &mut dyn Write) -> ds4_model::Result<u64> {
        self.mood().saves += 1;
        self.inner.save_seq(seq, w)
    }

    fn load_seq(&mut self, r: &mut dyn Read, cap: u32) -> ds4_model::Result<SeqId> {
        if self.mood().refuses_states {
            return Err(ds4_model::Error::State("of another version".into()));
        }
        let seq = self.inner.load_seq(r, cap);
        self.opened(seq)
    }

    fn mark(&mut self, seq: SeqId) -> ds4_model::Result<Option<Mark>> {
        self.inner.mark(seq)
    }

    fn rewind(&mut self, seq: SeqId, mark: &Mark) -> ds4_model::Result<()> {
        self.inner.rewind(seq, mark)
    }

    fn fork(&mut self, seq: SeqId, mark: &Mark, cap: u32) -> ds4_model::Result<SeqId> {
        let seq = self.inner.fork(seq, mark, cap);
        self.opened(seq)
    }

    fn set_probe(&mut self, probe: Option<Box<dyn Probe>>) {
        self.inner.set_probe(probe);
    }

    fn seq_bytes(&self, cap: u32) -> u64 {
        self.inner.seq_bytes(cap)
    }
}
