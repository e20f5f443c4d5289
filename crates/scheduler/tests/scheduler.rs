//! Requests through a scheduler: reuse, cancelling, the context, the queue, the disk.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    Heard, PAIR, ask, drafting, expected, numbers, options, request, run, runner, scheduler, submit,
};
use ds4_engine::End;
use ds4_scheduler::{Error, Options, Source, Worker};

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
    canonical.extend([1, 2, 0, 33, 34]);
    let heard = submit(&mut s, &canonical, 3);
    run(&mut s);
    let notes = heard.0.lock().unwrap();
    sampled.extend([0, 33, 34]);
    assert_eq!(notes.tokens, expected(&sampled, 3));
    assert_eq!(notes.started.as_ref().unwrap().reused, 61);
}

#[test]
fn a_prompt_is_not_spelled_by_what_happens_to_be_live() {
    let mut s = scheduler(runner(), options());
    let mut live = numbers(1, 60);
    live.extend([PAIR, 5]);
    ask(&mut s, &live, 1);
    let mut prompt = numbers(1, 60);
    // The same text as the pair, but what follows belongs to the same stretch of text.
    prompt.extend([1, 2, 33, 34]);
    let heard = submit(&mut s, &prompt, 3);
    run(&mut s);
    let notes = heard.0.lock().unwrap();
    assert_eq!(notes.tokens, expected(&prompt, 3));
    assert!(notes.started.as_ref().unwrap().reused <= 60);
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
