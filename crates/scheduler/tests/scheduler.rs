//! Requests through a scheduler over a runner whose logits are a function of the exact tokens: any
//! token lost, repeated or mixed up between sequences changes the answer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use ds4_engine::testing::ScriptedRunner;
use ds4_engine::{Cancel, End, Sampling, Stats};
use ds4_kvstore::{Identity, KeyBuilder, KvStore, Options as StoreOptions, ToolEntry};
use ds4_model::TokenId;
use ds4_scheduler::{
    Client, Cuts, Disk, DiskOptions, Error, Options, Request, Scheduler, Source, Started, Texts,
    Worker,
};

const VOCAB: usize = 50;
/// A token that is spelled like 1 followed by 2.
const PAIR: u32 = 49;

/// The answer after `tokens`: a hash of all of them, never 0, which is the stop token.
fn answer(tokens: &[TokenId]) -> u32 {
    let mix = |h: u64, t: &TokenId| (h ^ u64::from(t.0)).wrapping_mul(0x0100_0000_01b3);
    let hash = tokens.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    1 + u32::try_from((hash >> 20) % 40).unwrap()
}

fn runner() -> ScriptedRunner {
    ScriptedRunner::new(
        VOCAB,
        Box::new(|tokens| {
            let next = answer(tokens) as usize;
            (0..VOCAB).map(|i| if i == next { 5.0 } else { 0.0 }).collect()
        }),
    )
}

/// Drafts that are right two times out of three.
fn drafting() -> ScriptedRunner {
    runner().with_drafts(Box::new(|tokens| {
        let mut all = tokens.to_vec();
        for _ in 0..3 {
            let next = answer(&all);
            all.push(TokenId(if next.is_multiple_of(3) { 7 } else { next }));
        }
        all[tokens.len()..].to_vec()
    }))
}

fn expected(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut all: Vec<TokenId> = prompt.iter().map(|&t| TokenId(t)).collect();
    for _ in 0..n {
        all.push(TokenId(answer(&all)));
    }
    all[prompt.len()..].iter().map(|t| t.0).collect()
}

/// Token `t` is the text `<t>;`, 0 is a control token, [`PAIR`] is spelled `1;2;`.
struct TestTexts;

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
struct Heard(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    started: Option<Started>,
    tokens: Vec<u32>,
    outcome: Option<Result<End, String>>,
    stats: Stats,
    panics_at: Option<usize>,
    /// Tokens after which it takes no more for now.
    holds_at: Option<usize>,
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

fn options() -> Options {
    Options { parallel: 2, ctx: 400, mark_interval: 16, chunk_shared: 4, ..Options::default() }
}

fn scheduler(runner: ScriptedRunner, options: Options) -> Scheduler {
    Scheduler::new(Box::new(runner), options, Box::new(TestTexts), None)
}

fn request(prompt: &[u32], n: usize) -> Request {
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

fn submit(s: &mut Scheduler, prompt: &[u32], n: usize) -> Heard {
    let heard = Heard::default();
    s.submit(request(prompt, n), Box::new(heard.clone()));
    heard
}

fn run(s: &mut Scheduler) {
    for _ in 0..10_000 {
        if !s.step().unwrap() && s.waiting() == 0 {
            return;
        }
    }
    panic!("the scheduler does not come to rest");
}

fn ask(s: &mut Scheduler, prompt: &[u32], n: usize) -> (Vec<u32>, Started) {
    let heard = submit(s, prompt, n);
    run(s);
    let notes = heard.0.lock().unwrap();
    assert_eq!(notes.outcome, Some(Ok(End::Length)));
    (notes.tokens.clone(), notes.started.clone().unwrap())
}

fn numbers(seed: u32, n: usize) -> Vec<u32> {
    (0..u32::try_from(n).unwrap()).map(|i| 1 + (i * 7 + seed * 13 + i * i % 11) % 40).collect()
}

#[test]
fn many_requests_get_the_answers_they_would_get_alone() {
    for runner in [runner(), drafting()] {
        let options = Options { parallel: 3, draft_max: 3, draft_batch_max: 3, ..options() };
        let mut s = scheduler(runner, options);
        let asked: Vec<(Vec<u32>, usize, Heard)> = (0..9)
            .map(|i| {
                let prompt = numbers(i, 3 + 17 * i as usize);
                let n = 5 + i as usize;
                let heard = submit(&mut s, &prompt, n);
                (prompt, n, heard)
            })
            .collect();
        run(&mut s);
        for (prompt, n, heard) in asked {
            let notes = heard.0.lock().unwrap();
            assert_eq!(notes.tokens, expected(&prompt, n));
            assert_eq!(notes.outcome, Some(Ok(End::Length)));
            assert_eq!(notes.stats.generated_tokens, n);
        }
    }
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let mut s = scheduler(runner(), options());
    let mut talk = numbers(1, 70);
    let (reply, _) = ask(&mut s, &talk, 6);
    talk.extend(&reply);
    talk.extend(numbers(2, 5));
    let (reply, started) = ask(&mut s, &talk, 6);
    assert_eq!(reply, expected(&talk, 6));
    // The last token of an answer is chosen but not computed.
    assert_eq!((started.reused, started.source), (75, Source::Live));
}

#[test]
fn an_identical_prompt_computes_nothing() {
    let mut s = scheduler(runner(), options());
    let prompt = numbers(1, 70);
    let first = ask(&mut s, &prompt, 90).0;
    let (again, started) = ask(&mut s, &prompt, 90);
    assert_eq!(again, first);
    assert_eq!((started.reused, started.source), (70, Source::Rewound));
}

#[test]
fn an_edited_message_goes_back_to_a_mark() {
    let mut s = scheduler(runner(), Options { parallel: 1, ..options() });
    let prompt = numbers(1, 100);
    ask(&mut s, &prompt, 80);
    let mut edited = prompt[..90].to_vec();
    edited.extend(numbers(9, 20));
    let (reply, started) = ask(&mut s, &edited, 10);
    assert_eq!(reply, expected(&edited, 10));
    assert_eq!((started.reused, started.source), (80, Source::Rewound));
}

#[test]
fn a_side_request_forks_and_leaves_the_main_session_alone() {
    let mut s = scheduler(runner(), Options { ctx: 4000, ..options() });
    let main = numbers(1, 2000);
    ask(&mut s, &main, 4);
    let mut side = main[..200].to_vec();
    side.extend(numbers(5, 10));
    let (reply, started) = ask(&mut s, &side, 4);
    assert_eq!(reply, expected(&side, 4));
    // Sixteen marks are kept, so the one before 200 is where thinning left it.
    assert_eq!(started.source, Source::Forked);
    assert!(started.reused > 0 && started.reused.is_multiple_of(16), "{}", started.reused);
    let (reply, started) = ask(&mut s, &main, 4);
    assert_eq!(reply, expected(&main, 4));
    assert_eq!(started.reused, 2000);
}

#[test]
fn other_tokens_for_the_same_text_are_kept() {
    let mut s = scheduler(runner(), options());
    let mut sampled = numbers(1, 60);
    sampled.push(PAIR);
    ask(&mut s, &sampled, 1);
    let mut canonical = numbers(1, 60);
    canonical.extend([1, 2, 33, 34]);
    let heard = submit(&mut s, &canonical, 3);
    run(&mut s);
    let notes = heard.0.lock().unwrap();
    sampled.extend([33, 34]);
    assert_eq!(notes.tokens, expected(&sampled, 3));
    assert_eq!(notes.started.as_ref().unwrap().reused, 61);
}

#[test]
fn cancelling_frees_the_slot_and_keeps_the_work() {
    let mut s = scheduler(runner(), Options { parallel: 1, ..options() });
    let prompt = numbers(1, 200);
    let heard = Heard::default();
    let cancelled = request(&prompt, 9);
    let cancel = cancelled.cancel.clone();
    s.submit(cancelled, Box::new(heard.clone()));
    let waiting = Heard::default();
    let second = request(&prompt, 9);
    let second_cancel = second.cancel.clone();
    s.submit(second, Box::new(waiting.clone()));
    for _ in 0..5 {
        s.step().unwrap();
    }
    cancel.set();
    second_cancel.set();
    run(&mut s);
    for notes in [&heard, &waiting] {
        assert_eq!(notes.0.lock().unwrap().outcome, Some(Err("cancelled".into())));
    }
    let (reply, started) = ask(&mut s, &prompt, 9);
    assert_eq!(reply, expected(&prompt, 9));
    assert_eq!(started.reused, 40);
}

#[test]
fn a_slow_client_holds_its_own_sequence_only() {
    let mut s = scheduler(runner(), options());
    let (slow, quick) = (submit(&mut s, &numbers(1, 20), 20), submit(&mut s, &numbers(2, 20), 20));
    slow.0.lock().unwrap().holds_at = Some(5);
    for _ in 0..100 {
        s.step().unwrap();
    }
    assert_eq!(slow.0.lock().unwrap().tokens, expected(&numbers(1, 20), 5));
    assert_eq!(quick.0.lock().unwrap().tokens, expected(&numbers(2, 20), 20));
    slow.0.lock().unwrap().holds_at = None;
    run(&mut s);
    assert_eq!(slow.0.lock().unwrap().tokens, expected(&numbers(1, 20), 20));
}

#[test]
fn a_panicking_client_disturbs_nobody() {
    let mut s = scheduler(runner(), options());
    let bad = submit(&mut s, &numbers(1, 20), 20);
    bad.0.lock().unwrap().panics_at = Some(3);
    let good = submit(&mut s, &numbers(2, 20), 20);
    run(&mut s);
    assert!(matches!(&bad.0.lock().unwrap().outcome, Some(Err(e)) if e.contains("asked to panic")));
    assert_eq!(good.0.lock().unwrap().tokens, expected(&numbers(2, 20), 20));
    assert_eq!(ask(&mut s, &numbers(1, 20), 20).0, expected(&numbers(1, 20), 20));
}

#[test]
fn the_context_ends_an_answer_and_refuses_a_prompt() {
    let mut s = scheduler(runner(), Options { ctx: 30, ..options() });
    let heard = submit(&mut s, &numbers(1, 20), 100);
    run(&mut s);
    let notes = heard.0.lock().unwrap();
    assert_eq!(notes.outcome, Some(Ok(End::ContextFull)));
    // The token chosen last has no place to be computed, but it is an answer all the same.
    assert_eq!(notes.tokens, expected(&numbers(1, 20), 11));
    let long = submit(&mut s, &numbers(1, 30), 1);
    run(&mut s);
    let text = "Prompt has 30 tokens, but the configured context size is 30 tokens";
    assert_eq!(long.0.lock().unwrap().outcome, Some(Err(text.into())));
}

fn with_disk(dir: &std::path::Path) -> Scheduler {
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
    let disk = Disk {
        store: KvStore::open(dir, store).unwrap(),
        options: DiskOptions {
            tokens_min: 10,
            cold_max: 1000,
            continued_interval: 50,
            trim: 4,
            align: 8,
            growth_min: 1,
        },
    };
    Scheduler::new(Box::new(runner()), options(), Box::new(TestTexts), Some(disk))
}

#[test]
fn a_restart_resumes_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut talk = numbers(1, 120);
    let mut s = with_disk(dir.path());
    let (reply, _) = ask(&mut s, &talk, 5);
    s.shut_down();
    drop(s);
    talk.extend(&reply);
    talk.extend(numbers(3, 3));
    let (reply, started) = ask(&mut with_disk(dir.path()), &talk, 5);
    assert_eq!(reply, expected(&talk, 5));
    assert_eq!((started.reused, started.source), (124, Source::Disk));
}

#[test]
fn a_kill_loses_only_what_came_after_the_last_frontier() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = numbers(1, 120);
    let mut s = with_disk(dir.path());
    ask(&mut s, &prompt, 5);
    drop(s);
    let (reply, started) = ask(&mut with_disk(dir.path()), &prompt, 5);
    assert_eq!(reply, expected(&prompt, 5));
    // Cold cut: 120 − 4, down to a multiple of 8.
    assert_eq!((started.reused, started.source), (112, Source::Disk));
}

#[test]
fn a_damaged_file_costs_a_prefill_once() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = numbers(1, 60);
    let mut s = with_disk(dir.path());
    ask(&mut s, &prompt, 5);
    s.shut_down();
    drop(s);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - 8;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let mut s = with_disk(dir.path());
    let (reply, started) = ask(&mut s, &prompt, 5);
    assert_eq!(reply, expected(&prompt, 5));
    assert_eq!((started.reused, started.source), (0, Source::Cold));
}

#[test]
fn the_worker_refuses_what_exceeds_its_queue_and_ends_cleanly() {
    let options = Options { parallel: 1, queue_max: 2, ..options() };
    let worker = Worker::spawn(scheduler(runner(), options)).unwrap();
    let heard: Vec<Heard> = (0..50).map(|_| Heard::default()).collect();
    let mut busy = 0;
    for (i, h) in heard.iter().enumerate() {
        let prompt = numbers(u32::try_from(i).unwrap(), 100);
        match worker.submit(request(&prompt, 50), Box::new(h.clone())) {
            Ok(()) => {}
            Err(Error::Busy { waiting }) => {
                assert!(waiting >= 2);
                busy += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(busy > 0);
    worker.shut_down();
    let answered = heard.iter().filter(|h| h.0.lock().unwrap().outcome.is_some()).count();
    assert_eq!(answered + busy, 50);
    let late = worker.submit(request(&[1], 1), Box::new(Heard::default()));
    assert!(matches!(late, Err(Error::ShuttingDown)));
}
