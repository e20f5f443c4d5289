//! Failures of the runner: who caused one ends, everybody else gets the answer they would get alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{
    Heard, Mood, Moody, ask, disk, drafting, expected, numbers, options, request, run, runner,
    scheduler, submit,
};
use ds4_engine::End;
use ds4_scheduler::{DiskOptions, Error, Options, Scheduler, Source, Worker};

/// A token that no answer has and no prompt but the guilty one's.
const EVIL: u32 = 45;

fn guilty() -> Vec<u32> {
    let mut prompt = numbers(7, 60);
    prompt[50] = EVIL;
    prompt
}

fn outcome(heard: &Heard) -> Result<End, String> {
    heard.0.lock().unwrap().outcome.clone().unwrap()
}

/// Three innocent requests in different states and a guilty one among them.
fn among_others(set: impl Fn(&mut Mood), expected_error: &str) {
    for inner in [runner(), drafting()] {
        let (runner, mood) = Moody::new(inner);
        set(&mut mood.lock().unwrap());
        let options = Options { parallel: 4, draft_max: 3, draft_batch_max: 4, ..options() };
        let mut s = scheduler(runner, options);
        let long = numbers(1, 150);
        let (decoding, _) = ask(&mut s, &numbers(2, 40), 30);
        assert_eq!(decoding, expected(&numbers(2, 40), 30));
        let innocent: Vec<(Vec<u32>, Heard)> = [numbers(3, 20), long, numbers(4, 33)]
            .into_iter()
            .map(|prompt| (prompt.clone(), submit(&mut s, &prompt, 40)))
            .collect();
        for _ in 0..6 {
            s.step().unwrap();
        }
        let bad = submit(&mut s, &guilty(), 5);
        run(&mut s);
        let error = outcome(&bad).unwrap_err();
        assert!(error.contains(expected_error), "{error}");
        for (prompt, heard) in innocent {
            let notes = heard.0.lock().unwrap();
            assert_eq!(notes.outcome, Some(Ok(End::Length)));
            assert_eq!(notes.tokens, expected(&prompt, 40));
        }
        assert!(s.counters().broken_steps >= 2);
        // What the others hold is as good as before.
        let mut more = numbers(3, 20);
        more.extend(expected(&more, 40));
        let (reply, started) = ask(&mut s, &more, 5);
        assert_eq!(reply, expected(&more, 5));
        assert!(started.reused >= 59, "{started:?}");
    }
}

#[test]
fn a_panic_in_a_call_ends_only_who_caused_it() {
    among_others(|mood| mood.panics_on = Some(EVIL), "the model panicked");
}

#[test]
fn a_panic_outside_calls_is_told_to_everybody_and_comes_to_rest() {
    let (runner, mood) = Moody::new(runner());
    let mut s = scheduler(runner, options());
    mood.lock().unwrap().panics_outside = true;
    let heard: Vec<Heard> = (0..20).map(|ix| submit(&mut s, &numbers(ix, 30), 5)).collect();
    run(&mut s);
    assert!(heard.iter().all(|h| outcome(h).unwrap_err().contains("planning panicked")));
    // Two at a time were at work; those behind them were not tried one after the other.
    assert!(s.counters().broken_steps <= 4, "{:?}", s.counters());
    assert_eq!(mood.lock().unwrap().open, 0);
    mood.lock().unwrap().panics_outside = false;
    assert_eq!(ask(&mut s, &numbers(1, 30), 5).0, expected(&numbers(1, 30), 5));
}

#[test]
fn a_refused_call_ends_only_who_caused_it() {
    among_others(|mood| mood.refuses = Some(EVIL), "refused");
}

#[test]
fn a_lost_device_ends_everybody_and_the_worker_says_so() {
    let (runner, mood) = Moody::new(runner());
    let worker = Worker::spawn(scheduler(runner, options())).unwrap();
    mood.lock().unwrap().per_token = Duration::from_millis(1);
    let heard: Vec<Heard> = (0..6).map(|_| Heard::default()).collect();
    for (i, h) in (0..).zip(&heard) {
        worker.submit(request(&numbers(i, 50), 50), Box::new(h.clone())).unwrap();
    }
    mood.lock().unwrap().is_lost = true;
    let end = Instant::now() + Duration::from_secs(5);
    while worker.status().is_alive && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!worker.status().is_alive);
    for h in &heard {
        assert!(outcome(h).unwrap_err().contains("unplugged"));
    }
    let late = worker.submit(request(&[1], 1), Box::new(Heard::default()));
    assert!(matches!(late, Err(Error::Failed(_))));
    worker.shut_down();
}

#[test]
fn a_device_that_is_lost_between_steps_ends_everybody_too() {
    let (runner, mood) = Moody::new(runner());
    let mut s = scheduler(runner, options());
    let before = submit(&mut s, &numbers(1, 30), 400);
    s.step().unwrap();
    mood.lock().unwrap().loses_seqs = true;
    let calls = mood.lock().unwrap().calls.len();
    let heard: Vec<Heard> = (2..6).map(|i| submit(&mut s, &numbers(i, 30), 8)).collect();
    assert!(s.step().unwrap_err().is_device_lost());
    for h in heard.iter().chain([&before]) {
        assert!(outcome(h).unwrap_err().contains("unplugged"));
    }
    assert_eq!(mood.lock().unwrap().calls.len(), calls, "nothing more is computed");
    assert_eq!((s.active(), s.waiting()), (0, 0));
}

#[test]
fn without_memory_for_more_sequences_there_are_fewer() {
    let (runner, mood) = Moody::new(runner());
    mood.lock().unwrap().seqs_max = Some(2);
    let mut s = scheduler(runner, Options { parallel: 8, ..options() });
    let asked: Vec<_> = (0..6).map(|i| (i, submit(&mut s, &numbers(i, 30), 8))).collect();
    run(&mut s);
    for (i, heard) in asked {
        assert_eq!(heard.0.lock().unwrap().tokens, expected(&numbers(i, 30), 8));
    }
    assert_eq!(mood.lock().unwrap().open, 2);
    mood.lock().unwrap().seqs_max = Some(0);
    let (runner, mood) = Moody::new(common::runner());
    mood.lock().unwrap().seqs_max = Some(0);
    let mut none = scheduler(runner, options());
    let heard = submit(&mut none, &numbers(1, 30), 8);
    run(&mut none);
    assert!(outcome(&heard).unwrap_err().contains("out of memory"));
}

#[test]
fn a_state_that_the_runner_refuses_is_set_aside_once() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = numbers(1, 60);
    let disk_options = DiskOptions { continued_interval: 0, cold_max: 0, ..common::DISK };
    let open = || {
        let (runner, mood) = Moody::new(runner());
        let texts = Box::new(common::TestTexts);
        let disk = disk(dir.path(), disk_options);
        (Scheduler::new(Box::new(runner), options(), texts, Some(disk)), mood)
    };
    let (mut s, _) = open();
    ask(&mut s, &prompt, 5);
    s.shut_down();
    let mut more = prompt.clone();
    more.extend(expected(&prompt, 5));
    let (mut s, mood) = open();
    mood.lock().unwrap().refuses_states = true;
    let (reply, started) = ask(&mut s, &more, 5);
    assert_eq!(reply, expected(&more, 5));
    assert_eq!(started.source, Source::Cold);
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|n| n.ends_with(".kv.bad")), "{names:?}");
}

#[test]
fn panicking_clients_end_alone_wherever_they_panic() {
    struct Bad(&'static str, Heard);
    impl ds4_scheduler::Client for Bad {
        fn started(&mut self, _: &ds4_scheduler::Started) {
            assert_ne!(self.0, "started");
        }
        fn prefill(&mut self, _: usize) {
            assert_ne!(self.0, "prefill");
        }
        fn is_ready(&mut self) -> bool {
            assert_ne!(self.0, "is_ready");
            true
        }
        fn constrain(&mut self, _: &mut [f32]) {
            assert_ne!(self.0, "constrain");
        }
        fn token(
            &mut self,
            token: ds4_model::TokenId,
            logits: &[f32],
        ) -> std::ops::ControlFlow<()> {
            assert_ne!(self.0, "token");
            self.1.token(token, logits)
        }
        fn done(&mut self, outcome: Result<End, Error>, stats: &ds4_engine::Stats) {
            self.1.done(outcome, stats);
            assert_ne!(self.0, "done");
        }
    }
    for place in ["started", "prefill", "is_ready", "constrain", "token", "done"] {
        let mut s = scheduler(runner(), options());
        let good = submit(&mut s, &numbers(1, 30), 20);
        let bad = Heard::default();
        s.submit(request(&numbers(2, 30), 20), Box::new(Bad(place, bad.clone())));
        run(&mut s);
        assert_eq!(good.0.lock().unwrap().tokens, expected(&numbers(1, 30), 20), "{place}");
        let ended = outcome(&bad);
        assert_eq!(ended.is_err(), place != "done", "{place}: {ended:?}");
        assert_eq!(ask(&mut s, &numbers(2, 30), 20).0, expected(&numbers(2, 30), 20), "{place}");
    }
}
