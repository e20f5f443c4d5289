//! A chat whose lines come from a pipe.

use crate::run::{ds4_with, file};

const ARGS: [&str; 8] = ["-n", "8", "--temp", "0", "-c", "512", "--nothink", "--system="];

#[test]
fn a_second_turn_prefills_only_its_own_tokens() {
    let run = ds4_with(&ARGS, "Where are you?\n/stats\nAnd when?\n/stats\n");
    assert_eq!(run.code, 0, "{}", run.err);
    let kept: Vec<(usize, usize)> = run
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("ds4: last prompt: "))
        .map(|line| {
            let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
            (numbers.next().unwrap(), numbers.next().unwrap())
        })
        .collect();
    let [(first, 0), (second, kept)] = kept[..] else { panic!("{}", run.err) };
    // All of the first turn but its last sampled token, which was never an input.
    assert!(kept >= first && second - kept <= 1 + 1 + "And when?".len() + 3, "{}", run.err);
    assert_eq!(run.out.lines().count().min(2), 2, "{}", run.out);
}

#[test]
fn commands_answer_on_stderr() {
    let question = file("question.txt", "Where are you?");
    let lines = format!(
        "/help\n/think\n/think-max\n/nothink\n\n/foo\n/ctx\n/ctx 256\n/read {question}\n/stats\n\
         /reset\n/read no-such-file\n/quit\nnever said\n"
    );
    let run = ds4_with(&ARGS, &lines);
    assert_eq!(run.code, 0, "{}", run.err);
    for want in [
        "/read FILE",
        "Thinking mode: on",
        "maximum thinking needs --ctx 393216 or more",
        "Thinking mode: off",
        "ds4: unknown command /foo; /help lists the commands",
        "ds4: /ctx needs a number of tokens",
        "Context: 256 tokens",
        "of 256 tokens, 1 questions",
        "The conversation is forgotten.",
        "ds4: cannot read no-such-file: ",
    ] {
        assert!(run.err.contains(want), "{want}: {}", run.err);
    }
    assert_eq!(run.err.matches("ds4: prefill: ").count(), 2, "one answer, once more in /stats");
    let said = ds4_with(&ARGS, "Where are you?");
    assert_eq!(run.out, said.out, "a file is said like a line");
}

#[test]
fn a_context_that_is_full_takes_the_question_back() {
    let long = "word ".repeat(200);
    let lines = format!("Hi\n{long}\n/ctx 1024\n{long}\n/stats\n");
    let run = ds4_with(&["-n", "4", "--temp", "0", "-c", "128", "--nothink"], &lines);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("fit into 128; use a larger --ctx"), "{}", run.err);
    assert!(run.err.contains("; here: /ctx N or /reset"), "{}", run.err);
    assert!(run.err.contains("of 1024 tokens, 2 questions"), "{}", run.err);
}
