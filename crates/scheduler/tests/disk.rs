//! When sequences are written, what of them, and what becomes of files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{
    DISK, Heard, Mood, Moody, TestTexts, ask, disk, expected, numbers, options, request, run,
    runner, submit, with_disk,
};
use ds4_kvstore::{Reason, Verified, verify_file};
use ds4_scheduler::{Cuts, DiskOptions, Options, Request, Scheduler, Source};

/// Every whole file, by tokens.
fn files(dir: &Path) -> Vec<Verified> {
    let paths = fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    let mut files: Vec<Verified> = paths.map(|p| verify_file(&p).unwrap()).collect();
    files.sort_by_key(|f| f.header.tokens);
    files
}

fn kinds(dir: &Path) -> Vec<(Reason, u32)> {
    files(dir).iter().map(|f| (f.header.reason, f.header.tokens)).collect()
}

fn open(dir: &Path, options: Options, disk_options: DiskOptions) -> (Scheduler, Arc<Mutex<Mood>>) {
    let (runner, mood) = Moody::new(runner());
    let disk = disk(dir, disk_options);
    (Scheduler::new(Box::new(runner), options, Box::new(TestTexts), Some(disk)), mood)
}

/// Waits for the writer.
fn settle(s: &mut Scheduler, dir: &Path) -> Vec<(Reason, u32)> {
    s.flush();
    kinds(dir)
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
fn a_cold_prompt_is_stored_at_its_anchor_before_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let disk_options = DiskOptions { continued_interval: 0, ..DISK };
    let (mut s, _) = open(dir.path(), options(), disk_options);
    let prompt = numbers(1, 110);
    let cuts = Cuts { anchor: Some(83), ..Cuts::default() };
    s.submit(Request { cuts, ..request(&prompt, 3) }, Box::new(Heard::default()));
    while s.counters().generated_tokens == 0 {
        s.step().unwrap();
    }
    assert_eq!(settle(&mut s, dir.path()), [(Reason::Cold, 83)]);
    run(&mut s);
    // A new conversation under the same system text begins there, after a restart too.
    drop(s);
    let (mut s, _) = open(dir.path(), options(), disk_options);
    let mut other = prompt[..83].to_vec();
    other.extend(numbers(9, 12));
    let (reply, started) = ask(&mut s, &other, 3);
    assert_eq!(reply, expected(&other, 3));
    assert_eq!((started.reused, started.source), (83, Source::Disk));
    // It was not cold, so nothing more is stored for it.
    assert_eq!(settle(&mut s, dir.path()), [(Reason::Cold, 83)]);
}

#[test]
fn continued_frontiers_are_stored_in_prompts_and_answers_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let drafts = Options { draft_max: 3, ..options() };
    // Every 50 tokens, rounded up to 56.
    let disk_options = DiskOptions { cold_max: 0, ..DISK };
    let runner = Moody::new(common::drafting()).0;
    let disk = disk(dir.path(), disk_options);
    let mut s = Scheduler::new(Box::new(runner), drafts, Box::new(TestTexts), Some(disk));
    ask(&mut s, &numbers(1, 60), 120);
    let continued = |n| (Reason::Continued, n);
    assert_eq!(settle(&mut s, dir.path()), [56, 112, 168].map(continued));
    // What is stored is what a fresh computation would have stored.
    drop(s);
    let mut all = numbers(1, 60);
    all.extend(expected(&all, 120));
    all.truncate(170);
    let (mut s, mood) = open(dir.path(), options(), disk_options);
    let (reply, started) = ask(&mut s, &all, 3);
    assert_eq!((reply, started.reused), (expected(&all, 3), 168));
    s.flush();
    assert_eq!(mood.lock().unwrap().saves, 0, "the frontier is stored already");
}

#[test]
fn a_cut_that_is_a_frontier_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, mood) = open(dir.path(), options(), DISK);
    let cuts = Cuts { anchor: Some(56), ..Cuts::default() };
    s.submit(Request { cuts, ..request(&numbers(1, 70), 1) }, Box::new(Heard::default()));
    run(&mut s);
    assert_eq!(settle(&mut s, dir.path()), [(Reason::Cold, 56)]);
    assert_eq!(mood.lock().unwrap().saves, 1);
}

#[test]
fn a_sequence_is_stored_before_it_is_given_up_if_it_grew_enough() {
    let dir = tempfile::tempdir().unwrap();
    let one = Options { parallel: 1, ..options() };
    let disk_options = DiskOptions { continued_interval: 0, cold_max: 0, growth_min: 20, ..DISK };
    let (mut s, mood) = open(dir.path(), one, disk_options);
    ask(&mut s, &numbers(1, 90), 10);
    ask(&mut s, &numbers(2, 15), 1);
    assert_eq!(settle(&mut s, dir.path()), [(Reason::Evict, 99)]);
    // Back from disk, with little more, it is not written again.
    let mut more = numbers(1, 90);
    more.extend(expected(&more, 10));
    more.extend(numbers(5, 5));
    let (_, started) = ask(&mut s, &more, 3);
    assert_eq!((started.reused, started.source), (99, Source::Disk));
    ask(&mut s, &numbers(3, 15), 1);
    s.flush();
    assert_eq!(mood.lock().unwrap().saves, 1);
    s.shut_down();
    assert_eq!(kinds(dir.path()), [(Reason::Evict, 99)]);
}

#[test]
fn of_an_answer_whose_thoughts_will_be_dropped_the_part_before_them_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let disk_options = DiskOptions { continued_interval: 0, cold_max: 0, ..DISK };
    let (mut s, _) = open(dir.path(), options(), disk_options);
    let prompt = numbers(1, 120);
    let cuts = Cuts { stable: Some(119), ..Cuts::default() };
    s.submit(Request { cuts, ..request(&prompt, 30) }, Box::new(Heard::default()));
    run(&mut s);
    // Live, the next prompt begins at the mark there.
    let mut next = prompt[..119].to_vec();
    next.extend(numbers(8, 10));
    let (reply, started) = ask(&mut s, &next, 3);
    assert_eq!((reply, started.reused), (expected(&next, 3), 119));
    drop(s);
    let (mut s, _) = open(dir.path(), options(), disk_options);
    let cuts = Cuts { stable: Some(119), ..Cuts::default() };
    s.submit(Request { cuts, ..request(&prompt, 30) }, Box::new(Heard::default()));
    run(&mut s);
    s.shut_down();
    assert_eq!(kinds(dir.path()), [(Reason::Shutdown, 119)]);
    let (mut s, _) = open(dir.path(), options(), disk_options);
    let (reply, started) = ask(&mut s, &next, 3);
    assert_eq!((reply, started.reused, started.source), (expected(&next, 3), 119, Source::Disk));
}

#[test]
fn a_long_session_s_file_goes_when_its_successor_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let disk_options = DiskOptions { continued_interval: 0, cold_max: 30, ..DISK };
    let open = || open(dir.path(), options(), disk_options).0;
    let mut s = open();
    ask(&mut s, &numbers(1, 60), 5);
    s.shut_down();
    drop(s);
    let mut more = numbers(1, 60);
    more.extend(expected(&more, 5));
    more.extend(numbers(4, 20));
    let mut s = open();
    assert_eq!(ask(&mut s, &more, 5).1.source, Source::Disk);
    assert_eq!(settle(&mut s, dir.path()), [(Reason::Shutdown, 64)], "a crash loses nothing");
    s.shut_down();
    assert_eq!(kinds(dir.path()), [(Reason::Shutdown, 89)]);
}

#[test]
fn a_damaged_file_is_passed_over_for_the_next_best() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = numbers(1, 130);
    let (mut s, _) = open(dir.path(), options(), DiskOptions { cold_max: 0, ..DISK });
    ask(&mut s, &prompt, 1);
    s.flush();
    drop(s);
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let file = verify_file(&path).unwrap();
        if file.header.tokens == 112 {
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let (mut s, _) = open(dir.path(), options(), DiskOptions { cold_max: 0, ..DISK });
    let (reply, started) = ask(&mut s, &prompt, 4);
    assert_eq!(reply, expected(&prompt, 4));
    assert_eq!((started.reused, started.source), (56, Source::Disk));
}

#[test]
fn every_miss_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (mut s, _) = open(dir.path(), Options { parallel: 1, ctx: 2000, ..options() }, DISK);
    let why = |s: &mut Scheduler, prompt: &[u32]| ask(s, prompt, 1).1.why;
    let first = why(&mut s, &numbers(1, 70));
    assert_eq!(first, "live: no sequence yet; disk: no file of this model in the cache directory");
    let mut edited = numbers(1, 70);
    edited[3] = 48;
    edited.extend(numbers(2, 600));
    s.flush();
    let text = why(&mut s, &edited);
    assert!(
        text.starts_with("live: 3 of 670 tokens shared, the last mark among them at 0"),
        "{text}"
    );
    assert!(text.contains("live and \"[TokenId(48), "), "{text}");
    assert!(text.contains("files is a prefix of the prompt, the nearest, "), "{text}");
    assert!(!text.contains('\n'));
}

#[test]
fn other_tokens_for_stored_text_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let disk_options = DiskOptions { continued_interval: 0, cold_max: 0, ..DISK };
    let mut sampled = numbers(1, 100);
    sampled.push(common::PAIR);
    let (mut s, _) = open(dir.path(), options(), disk_options);
    ask(&mut s, &sampled, 1);
    s.shut_down();
    let mut canonical = numbers(1, 100);
    canonical.extend([1, 2, 0, 33, 34]);
    let (mut s, _) = open(dir.path(), options(), disk_options);
    let heard = submit(&mut s, &canonical, 3);
    run(&mut s);
    let notes = heard.0.lock().unwrap();
    sampled.extend([0, 33, 34]);
    assert_eq!(notes.tokens, expected(&sampled, 3));
    assert_eq!(notes.started.as_ref().unwrap().reused, 101);
}
