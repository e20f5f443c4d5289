//! How one runner is shared: prompts beside prompts, answers beside prompts, beginnings, memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    Heard, Moody, ask, drafting, expected, numbers, options, request, run, runner, scheduler,
    submit,
};
use ds4_engine::testing::ScriptedRunner;
use ds4_engine::{End, Stats};
use ds4_model::TokenId;
use ds4_scheduler::{Client, Cuts, Error, Options, Request, Scheduler, Source, Started, Worker};

/// A runner of larger chunks.
fn wide() -> ScriptedRunner {
    let mut runner = runner();
    runner.chunk = 64;
    runner
}

fn steps_until(s: &mut Scheduler, heard: &Heard, n: usize) -> usize {
    (0..10_000)
        .take_while(|_| {
            s.step().unwrap();
            heard.0.lock().unwrap().tokens.len() < n
        })
        .count()
        + 1
}

#[test]
fn a_long_prompt_does_not_starve_a_short_one() {
    let mut s = scheduler(wide(), Options { ctx: 20_000, ..options() });
    let long = submit(&mut s, &numbers(1, 10_000), 1);
    for _ in 0..5 {
        s.step().unwrap();
    }
    let short = submit(&mut s, &numbers(2, 100), 1);
    // Half of each step is the short one's.
    let steps = steps_until(&mut s, &short, 1);
    assert!(steps <= 7, "{steps} steps");
    assert!(long.0.lock().unwrap().tokens.is_empty());
    run(&mut s);
    assert_eq!(long.0.lock().unwrap().tokens, expected(&numbers(1, 10_000), 1));
}

#[test]
fn prompts_share_every_chunk_and_leave_nothing_of_it() {
    let (runner, mood) = Moody::new(wide());
    let options = Options {
        parallel: 4,
        ctx: 2000,
        mark_interval: Some(1000),
        step: Duration::from_secs(1),
        ..options()
    };
    let mut s = scheduler(runner, options);
    let prompts: Vec<Vec<u32>> =
        (1..).zip([10, 300, 900, 900]).map(|(seed, n)| numbers(seed, n)).collect();
    let heard: Vec<Heard> = prompts.iter().map(|p| submit(&mut s, p, 1)).collect();
    s.step().unwrap();
    let mut first = mood.lock().unwrap().calls[0].iter().map(|(_, n)| *n).collect::<Vec<_>>();
    first.sort_unstable();
    assert_eq!(first, [10, 18, 18, 18]);
    run(&mut s);
    for (heard, prompt) in heard.iter().zip(&prompts) {
        assert_eq!(heard.0.lock().unwrap().tokens, expected(prompt, 1));
    }
    let calls = &mood.lock().unwrap().calls;
    let full = calls.iter().filter(|c| c.iter().map(|(_, n)| n).sum::<usize>() == 64).count();
    assert!(full * 64 >= 1900, "{full} of {} calls are full", calls.len());
}

#[test]
fn answers_go_on_beside_a_long_prompt() {
    let (runner, mood) = Moody::new(wide());
    let mut s = scheduler(runner, Options { ctx: 5000, chunk_shared: 16, ..options() });
    let talking = submit(&mut s, &numbers(1, 20), 50);
    steps_until(&mut s, &talking, 1);
    let long = submit(&mut s, &numbers(2, 4000), 1);
    let steps = steps_until(&mut s, &talking, 50);
    assert_eq!(steps, 49, "a token in every step");
    assert!(long.0.lock().unwrap().tokens.is_empty());
    let calls = mood.lock().unwrap().calls.clone();
    assert!(calls.iter().skip(3).take(48).all(|c| c.iter().map(|(_, n)| n).sum::<usize>() == 17));
}

#[test]
fn chunks_of_fixed_points_end_there_for_everybody() {
    let (runner, mood) = Moody::new(wide());
    let options =
        Options { chunk_fixed: Some(32), ctx: 1000, mark_interval: Some(512), ..options() };
    let mut s = scheduler(runner, options);
    let (a, b) = (submit(&mut s, &numbers(1, 333), 5), submit(&mut s, &numbers(2, 90), 5));
    run(&mut s);
    assert_eq!(a.0.lock().unwrap().tokens, expected(&numbers(1, 333), 5));
    assert_eq!(b.0.lock().unwrap().tokens, expected(&numbers(2, 90), 5));
    let calls = &mood.lock().unwrap().calls;
    let prefills = calls.iter().flatten().filter(|(_, n)| *n > 1);
    assert!(prefills.into_iter().all(|(_, n)| [32, 333 % 32, 90 % 32].contains(n)));
}

#[test]
fn equal_beginnings_are_computed_once() {
    let (runner, mood) = Moody::new(wide());
    let options = Options { parallel: 8, ctx: 4000, ..options() };
    let mut s = scheduler(runner, options);
    let shared = numbers(1, 2000);
    let prompts: Vec<Vec<u32>> =
        (0..8).map(|i| shared.iter().copied().chain(numbers(30 + i, 40)).collect()).collect();
    let heard: Vec<Heard> = prompts.iter().map(|p| submit(&mut s, p, 5)).collect();
    run(&mut s);
    for (prompt, heard) in prompts.iter().zip(&heard) {
        assert_eq!(heard.0.lock().unwrap().tokens, expected(prompt, 5));
    }
    let computed: usize = mood.lock().unwrap().calls.iter().flatten().map(|(_, n)| n).sum();
    // Once what is shared, eight times what is not, and the answers.
    assert!(computed <= 2000 + 8 * (40 + 5), "{computed} tokens");
    assert_eq!(s.counters().deferred, 7);
    // The same prompt again and again costs nothing at all.
    let heard: Vec<Heard> = (0..4).map(|_| submit(&mut s, &prompts[0], 5)).collect();
    run(&mut s);
    assert!(heard.iter().all(|h| h.0.lock().unwrap().started.as_ref().unwrap().reused == 2040));
}

#[test]
fn who_waits_for_a_beginning_goes_on_when_that_is_cancelled() {
    let options = Options { parallel: 3, ctx: 4000, mark_interval: Some(512), ..options() };
    let mut s = scheduler(wide(), options);
    let shared = numbers(1, 2000);
    let first = request(&shared, 5);
    let cancel = first.cancel.clone();
    s.submit(first, Box::new(Heard::default()));
    let prompts: Vec<Vec<u32>> =
        (0..2).map(|i| shared.iter().copied().chain(numbers(30 + i, 40)).collect()).collect();
    let heard: Vec<Heard> = prompts.iter().map(|p| submit(&mut s, p, 5)).collect();
    // Somebody else does not wait with them.
    let other = submit(&mut s, &numbers(9, 50), 3);
    for _ in 0..8 {
        s.step().unwrap();
    }
    assert_eq!(s.waiting(), 2);
    assert_eq!(other.0.lock().unwrap().tokens.len(), 3);
    cancel.set();
    run(&mut s);
    for (prompt, heard) in prompts.iter().zip(&heard) {
        let notes = heard.0.lock().unwrap();
        assert_eq!(notes.tokens, expected(prompt, 5));
        assert!(notes.started.as_ref().unwrap().reused > 100);
    }
}

#[test]
fn side_requests_do_not_push_out_the_main_session() {
    let mut s = scheduler(wide(), Options { ctx: 4000, ..options() });
    let main = numbers(1, 3000);
    ask(&mut s, &main, 4);
    for i in 10..20 {
        ask(&mut s, &numbers(i, 80), 4);
    }
    let (reply, started) = ask(&mut s, &main, 4);
    assert_eq!((reply, started.reused), (expected(&main, 4), 3000));
}

#[test]
fn a_retry_takes_its_own_place_and_a_new_start_does_not() {
    let mut s = scheduler(wide(), Options { parallel: 3, ctx: 6000, ..options() });
    let prompt = numbers(1, 300);
    let cuts = Cuts { anchor: Some(100), ..Cuts::default() };
    let ask = |s: &mut Scheduler, prompt: &[u32], n: usize| {
        let heard = Heard::default();
        let asked = Request { cuts: cuts.clone(), ..request(prompt, n) };
        s.submit(asked, Box::new(heard.clone()));
        run(s);
        let notes = heard.0.lock().unwrap();
        assert_eq!(notes.tokens, expected(prompt, n));
        let started = notes.started.clone().unwrap();
        (started.reused, started.source)
    };
    // However long the answer was that nobody wants any more.
    ask(&mut s, &prompt, 2500);
    assert_eq!(ask(&mut s, &prompt, 2500), (300, Source::Rewound));
    // The conversation goes on; then somebody begins again from its first question.
    let mut more = prompt.clone();
    more.extend(expected(&prompt, 2500));
    more.extend(numbers(7, 50));
    assert_eq!(ask(&mut s, &more, 5), (2799, Source::Live));
    assert_eq!(ask(&mut s, &prompt, 5), (300, Source::Forked));
    // And somebody else under the same system text, just behind its end.
    let mut other = prompt[..100].to_vec();
    other.extend(numbers(8, 30));
    assert_eq!(ask(&mut s, &other, 5), (100, Source::Forked));
    assert_eq!(ask(&mut s, &more, 5).0, more.len());
}

#[test]
fn all_sequences_together_hold_no_more_than_they_may() {
    let (runner, mood) = Moody::new(wide());
    let options = Options { parallel: 6, ctx: 400, ctx_total: 600, queue_max: 64, ..options() };
    let mut s = scheduler(runner, options);
    let asked: Vec<(Vec<u32>, Heard)> = (0..12)
        .map(|i| {
            let prompt = numbers(i, 60 + 20 * i as usize);
            (prompt.clone(), submit(&mut s, &prompt, 30))
        })
        .collect();
    let mut most = 0;
    for _ in 0..10_000 {
        let busy = s.step().unwrap();
        most = most.max(s.tokens_held());
        if !busy && s.waiting() == 0 {
            break;
        }
    }
    assert!(most <= 600, "{most}");
    let mut cut = 0;
    for (prompt, heard) in &asked {
        let notes = heard.0.lock().unwrap();
        assert_eq!(notes.tokens, expected(prompt, notes.tokens.len()));
        cut += usize::from(notes.outcome == Some(Ok(End::ContextFull)));
        assert!(matches!(notes.outcome, Some(Ok(End::ContextFull | End::Length))));
    }
    assert!(cut < 6, "{cut} of 12 answers were cut short");
    assert!(mood.lock().unwrap().open <= 6);
}

#[test]
fn marks_stay_within_their_bytes() {
    let (runner, _) = Moody::new(wide());
    // A mark of this shape is some 25 MiB.
    let options = Options { marks_bytes_max: 200 << 20, ctx: 4000, marks_max: 100, ..options() };
    let mut s = scheduler(runner, options);
    let main = numbers(1, 3000);
    ask(&mut s, &main, 4);
    ask(&mut s, &numbers(2, 500), 4);
    // The ends are there, and some point in the middle.
    assert_eq!(ask(&mut s, &main, 4).1.reused, 3000);
    let mut edited = main[..2000].to_vec();
    edited.extend(numbers(5, 10));
    let (reply, started) = ask(&mut s, &edited, 4);
    assert_eq!(reply, expected(&edited, 4));
    assert!(started.reused > 0);
}

#[test]
fn marks_are_where_the_request_wants_them() {
    let mut s = scheduler(wide(), Options { mark_interval: Some(1000), ctx: 2000, ..options() });
    let prompt = numbers(1, 700);
    let cuts = Cuts { anchor: Some(123), marks: vec![123, 555], stable: None };
    s.submit(Request { cuts, ..request(&prompt, 300) }, Box::new(Heard::default()));
    run(&mut s);
    for (parts_at, reused) in [(560, 555), (300, 123)] {
        let mut other = prompt[..parts_at].to_vec();
        other.extend(numbers(40, 30));
        let (reply, started) = ask(&mut s, &other, 2);
        assert_eq!((reply, started.reused), (expected(&other, 2), reused));
        assert!(matches!(started.source, Source::Forked | Source::Rewound));
    }
}

/// Forbids a token for a while, and remembers which were chosen.
#[derive(Clone)]
struct Strict(Heard, Arc<Mutex<Vec<u32>>>);

impl Client for Strict {
    fn constrain(&mut self, logits: &mut [f32]) {
        // A rule that depends on everything chosen so far.
        let chosen = self.1.lock().unwrap();
        let sum: u32 = chosen.iter().sum();
        for (id, logit) in logits.iter_mut().enumerate() {
            if (u32::try_from(id).unwrap() + sum).is_multiple_of(4) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    fn token(&mut self, token: TokenId, logits: &[f32]) -> ControlFlow<()> {
        assert!(logits[token.0 as usize].is_finite(), "a forbidden token was chosen");
        let mut chosen = self.1.lock().unwrap();
        let sum: u32 = chosen.iter().sum();
        assert!(!(token.0 + sum).is_multiple_of(4));
        chosen.push(token.0);
        self.0.token(token, logits)
    }

    fn done(&mut self, outcome: Result<End, Error>, stats: &Stats) {
        self.0.done(outcome, stats);
    }

    fn started(&mut self, started: &Started) {
        self.0.started(started);
    }
}

#[test]
fn drafts_never_pass_a_mask() {
    let mut answers = Vec::new();
    for (inner, draft_max) in [(runner(), 0), (drafting(), 3)] {
        let mut s = scheduler(inner, Options { draft_max, ..options() });
        let strict = Strict(Heard::default(), Arc::default());
        let asked = Request { stops: Vec::new(), ..request(&numbers(1, 70), 60) };
        s.submit(asked, Box::new(strict.clone()));
        run(&mut s);
        let notes = strict.0.0.lock().unwrap();
        assert_eq!(notes.outcome, Some(Ok(End::Length)));
        answers.push((notes.tokens.clone(), notes.stats.drafts.steps));
        drop(notes);
        // The live logits are those before the mask: a free request goes on from them.
        let mut more = numbers(1, 70);
        more.extend(&answers.last().unwrap().0);
        assert_eq!(ask(&mut s, &more, 5).0, expected(&more, 5));
        let (reply, started) = ask(&mut s, &numbers(1, 70), 5);
        assert_eq!((reply, started.reused), (expected(&numbers(1, 70), 5), 70));
    }
    assert_eq!(answers[0].0, answers[1].0);
    assert!(answers[1].1 > 0, "drafts were made");
}

#[test]
fn a_cancelled_prompt_is_noticed_within_a_tenth_of_a_second() {
    let (runner, mood) = Moody::new(wide());
    mood.lock().unwrap().per_token = Duration::from_millis(1);
    let worker = Worker::spawn(scheduler(runner, Options { ctx: 20_000, ..options() })).unwrap();
    let mut longest = Duration::ZERO;
    for i in 0..10 {
        let heard = Heard::default();
        let asked = request(&numbers(i, 10_000), 5);
        let cancel = asked.cancel.clone();
        worker.submit(asked, Box::new(heard.clone())).unwrap();
        std::thread::sleep(Duration::from_millis(150 + 13 * u64::from(i)));
        let began = Instant::now();
        cancel.set();
        while heard.0.lock().unwrap().outcome.is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        longest = longest.max(began.elapsed());
        assert_eq!(heard.0.lock().unwrap().outcome, Some(Err("cancelled".into())));
    }
    // A chunk of 64 would take 64 ms here, and the machine may be busy.
    assert!(longest < Duration::from_millis(150), "{longest:?}");
    worker.shut_down();
}
