//! What must not change a result (§8.3): how a prompt is cut, what else is in the batch, threads,
//! going back, saving and loading, marks and forks. All comparisons are bit by bit.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod common;

use std::sync::Arc;

use common::{assert_same_bits, feed, feed_chunks, quant, runner, some_tokens, tiny, with_options};
use ds4_cpu::{CpuOptions, CpuRunner};
use ds4_model::memory::ROLLBACK_MAX;
use ds4_model::{Error, ModelFile, Numerics, Runner, SeqId, Span, TokenId};

/// Longer than every ring of the test models, and not a multiple of anything.
const LONG: usize = 101;

/// Every model and mode the suite runs on.
fn cases() -> Vec<(&'static str, Arc<ModelFile>, Numerics)> {
    vec![
        ("tiny plain", tiny(), Numerics::PLAIN),
        ("tiny sim", tiny(), Numerics::OFFICIAL),
        ("quant profile G", quant(), Numerics::PROFILE_G),
    ]
}

fn tokens(model: &ModelFile, n: usize, seed: u64) -> Vec<TokenId> {
    some_tokens(n, model.dims.n_vocab, seed)
}

/// Logits of `tokens` on a new sequence in one call.
fn clean(r: &mut CpuRunner, tokens: &[TokenId]) -> Vec<f32> {
    let seq = r.open_seq(400).unwrap();
    let logits = feed(r, seq, tokens);
    r.close_seq(seq);
    logits
}

/// Drafts of `seq` after a token.
fn draft(r: &mut CpuRunner, seq: SeqId, last: TokenId) -> Vec<TokenId> {
    let mut out = [TokenId(0); 3];
    let n = r.draft(seq, last, &mut out).unwrap();
    assert_eq!(n, 3, "the test models have an MTP block");
    out.to_vec()
}

#[test]
fn cuts_of_the_prompt() {
    for (name, model, numerics) in cases() {
        let mut r = runner(&model, numerics);
        let prompt = tokens(&model, LONG, 1);
        let whole = clean(&mut r, &prompt);
        let mut cuts: Vec<Vec<usize>> = vec![vec![1], vec![13, 1], vec![7, 21, 100], vec![2, 3, 5]];
        cuts.extend((3..=11).map(|c| vec![c, LONG]));
        for sizes in cuts {
            let seq = r.open_seq(400).unwrap();
            let cut = feed_chunks(&mut r, seq, &prompt, &sizes);
            assert_same_bits(&cut, &whole, &format!("{name}, cut {sizes:?}"));
            r.close_seq(seq);
        }
    }
}

#[test]
fn neighbours_in_the_batch() {
    for (name, model, numerics) in cases() {
        let mut r = runner(&model, numerics);
        let prompts = [31, 90, 6].map(|n| tokens(&model, n, n as u64));
        let alone = prompts.clone().map(|p| clean(&mut r, &p));
        let seqs = [0; 3].map(|_| r.open_seq(400).unwrap());
        let n_vocab = model.dims.n_vocab;
        let (mut logits, mut at) = (Vec::new(), [0; 3]);
        // Spans of different lengths, sometimes of one sequence, sometimes without logits.
        for round in 0.. {
            let mut spans = Vec::new();
            for i in [2, 0, 1] {
                let left = prompts[i].len() - at[i];
                let n = (round * 5 + i * 3) % 7;
                if left > 0 && n > 0 {
                    let n = n.min(left);
                    let n_logits = (round + i) % (n + 1);
                    spans.push((
                        i,
                        Span { seq: seqs[i], tokens: &prompts[i][at[i]..][..n], n_logits },
                    ));
                }
            }
            if at.iter().zip(&prompts).all(|(at, p)| *at == p.len()) {
                break;
            }
            let call: Vec<_> = spans.iter().map(|s| s.1).collect();
            r.forward(&call, &mut logits).unwrap();
            let mut rest = &logits[..];
            for (i, span) in spans {
                at[i] += span.tokens.len();
                let (own, others) = rest.split_at(span.n_logits * n_vocab);
                let from = (at[i] - span.n_logits) * n_vocab;
                assert_same_bits(own, &alone[i][from..][..own.len()], &format!("{name}, {i}"));
                rest = others;
            }
            assert!(rest.is_empty());
        }
    }
}

#[test]
fn threads_and_chunk_sizes() {
    let model = quant();
    let prompt = tokens(&model, LONG, 3);
    let mut reference = None;
    for (threads, chunk_max) in [(1, 512), (2, 512), (3, 512), (2, 64), (1, 1)] {
        let options = CpuOptions { threads, chunk_max, ..CpuOptions::default() };
        let mut r = with_options(&model, &options);
        assert_eq!((r.threads(), r.chunk_max()), (threads, chunk_max));
        let seq = r.open_seq(200).unwrap();
        let mut logits = feed_chunks(&mut r, seq, &prompt, &[chunk_max]);
        logits.extend(draft(&mut r, seq, TokenId(5)).iter().map(|t| t.0 as f32));
        let what = format!("{threads} threads, chunks of {chunk_max}");
        assert_same_bits(&logits, reference.get_or_insert_with(|| logits.clone()), &what);
    }
}

/// Two sequences that together exceed a step are computed in several.
#[test]
fn a_call_larger_than_a_step() {
    let model = tiny();
    let options = CpuOptions {
        threads: 2,
        numerics: Numerics::PLAIN,
        chunk_max: 16,
        ..CpuOptions::default()
    };
    let mut r = with_options(&model, &options);
    let prompts = [1, 2, 3].map(|seed| tokens(&model, 11, seed));
    let alone = prompts.clone().map(|p| clean(&mut r, &p)).concat();
    let seqs = [0; 3].map(|_| r.open_seq(64).unwrap());
    let spans: Vec<_> =
        (0..3).map(|i| Span { seq: seqs[i], tokens: &prompts[i], n_logits: 11 }).collect();
    let mut together = Vec::new();
    r.forward(&spans, &mut together).unwrap();
    assert_same_bits(&together, &alone, "three spans of 11 in steps of 16");
}

#[test]
fn rejected_drafts_leave_no_trace() {
    for (name, model, numerics) in cases() {
        let mut r = runner(&model, numerics);
        let prompt = tokens(&model, LONG, 4);
        let whole = clean(&mut r, &prompt);
        let n_vocab = model.dims.n_vocab;
        let (tried, straight) = (r.open_seq(400).unwrap(), r.open_seq(400).unwrap());
        for at in 0..prompt.len() {
            let wrong = tokens(&model, 3, 1000 + at as u64);
            feed(&mut r, tried, &wrong);
            r.truncate(tried, u32::try_from(at).unwrap()).unwrap();
            assert_eq!(r.seq_len(tried).unwrap() as usize, at);
            for seq in [tried, straight] {
                let row = feed(&mut r, seq, &prompt[at..=at]);
                let expected = &whole[at * n_vocab..][..n_vocab];
                assert_same_bits(&row, expected, &format!("{name}, position {at}"));
            }
            let drafts = [tried, straight].map(|seq| draft(&mut r, seq, TokenId(9)));
            assert_eq!(drafts[0], drafts[1], "{name}, draft after {at}");
        }
    }
}

#[test]
fn the_way_back_has_a_limit() {
    let model = tiny();
    let mut r = runner(&model, Numerics::OFFICIAL);
    let prompt = tokens(&model, LONG, 5);
    let seq = r.open_seq(400).unwrap();
    feed(&mut r, seq, &prompt);
    let len = u32::try_from(LONG).unwrap();
    let margin = u32::try_from(ROLLBACK_MAX).unwrap();
    let error = r.truncate(seq, len - margin - 1).unwrap_err();
    assert!(matches!(error, Error::NeedsReplay { len: 36, now: 101 }), "{error}");
    assert!(r.truncate(seq, len + 1).is_err());
    assert_eq!(r.seq_len(seq).unwrap(), len);
    let at = (len - margin) as usize;
    r.truncate(seq, len - margin).unwrap();
    let other = tokens(&model, 50, 6);
    let found = feed(&mut r, seq, &other);
    let fresh = clean(&mut r, &[&prompt[..at], &other].concat());
    assert_same_bits(&found, &fresh[at * model.dims.n_vocab..], "after the longest way back");
    // To the very beginning is always possible.
    r.truncate(seq, 0).unwrap();
    let again = feed(&mut r, seq, &prompt);
    assert_same_bits(&again, &clean(&mut r, &prompt), "from the beginning");
}

/// Many steps of drafting, verifying and going back, with lengths that vary.
#[test]
fn speculation_step_by_step_equals_plain_decoding() {
    for (name, model, numerics) in cases() {
        let mut r = runner(&model, numerics);
        let prompt = tokens(&model, 21, 7);
        let n_vocab = model.dims.n_vocab;
        let (plain, spec) = (r.open_seq(400).unwrap(), r.open_seq(400).unwrap());
        let pick = |row: &[f32]| TokenId(u32::try_from(common::argmax(row)).unwrap());
        let mut expected = Vec::new();
        let mut logits = feed(&mut r, plain, &prompt);
        for _ in 0..40 {
            let next = pick(&logits[logits.len() - n_vocab..]);
            expected.push(next);
            logits = feed(&mut r, plain, &[next]);
        }
        let logits = feed(&mut r, spec, &prompt);
        let mut found = vec![pick(&logits[logits.len() - n_vocab..])];
        while found.len() < 40 {
            let last = *found.last().unwrap();
            // A draft that is always right, sometimes right, and the block's own.
            let mut proposal = draft(&mut r, spec, last);
            let own = found.len() % 3;
            for (i, p) in proposal.iter_mut().enumerate().skip(own) {
                *p = expected.get(found.len() + i).copied().unwrap_or(TokenId(0));
            }
            let batch = [&[last], &proposal[..]].concat();
            let before = r.seq_len(spec).unwrap();
            let logits = feed(&mut r, spec, &batch);
            let best: Vec<_> = logits.chunks(n_vocab).map(pick).collect();
            let same = proposal.iter().zip(&best).take_while(|(a, b)| a == b).count();
            found.extend(&best[..=same]);
            r.truncate(spec, before + 1 + u32::try_from(same).unwrap()).unwrap();
        }
        assert_eq!(found[..40], expected[..40], "{name}");
    }
}

#[test]
fn saved_and_loaded() {
    for (name, model, numerics) in cases() {
        let mut r = runner(&model, numerics);
        let prompt = tokens(&model, LONG, 8);
        let whole = clean(&mut r, &prompt);
        let n_vocab = model.dims.n_vocab;
        let seq = r.open_seq(400).unwrap();
        for at in 0..LONG {
            let due = at < 20 || at % 13 == 0;
            if due {
                let mut bytes = Vec::new();
                let n = r.save_seq(seq, &mut bytes).unwrap();
                assert_eq!(n, bytes.len() as u64);
                let copy = r.load_seq(&mut &bytes[..], 300).unwrap();
                assert_eq!(r.seq_len(copy).unwrap() as usize, at);
                if at > 0 {
                    let drafts = [seq, copy].map(|seq| draft(&mut r, seq, TokenId(9)));
                    assert_eq!(drafts[0], drafts[1], "{name}, draft after {at}");
                }
                let mut again = Vec::new();
                r.save_seq(copy, &mut again).unwrap();
                assert!(bytes == again, "{name}: saving a loaded state of {at} tokens");
                let rest = feed(&mut r, copy, &prompt[at..]);
                assert_same_bits(&rest, &whole[at * n_vocab..], &format!("{name}, saved at {at}"));
                r.close_seq(copy);
            }
            feed(&mut r, seq, &prompt[at..=at]);
        }
    }
}

#[test]
fn marks_forks_and_rewinds() {
    for (name, model, numerics) in cases() {
        let mut r = runner(&model, numerics);
        let prompt = tokens(&model, LONG, 9);
        let other = tokens(&model, LONG, 10);
        let n_vocab = model.dims.n_vocab;
        let seq = r.open_seq(400).unwrap();
        let mut marks = Vec::new();
        for (at, token) in prompt.iter().enumerate() {
            if at % 15 == 0 {
                marks.push(r.mark(seq).unwrap().expect("this backend keeps marks"));
            }
            feed(&mut r, seq, &[*token]);
        }
        for mark in marks.iter().rev() {
            let at = mark.len as usize;
            let expected = clean(&mut r, &[&prompt[..at], &other[at..]].concat());
            let fork = r.fork(seq, mark, 300).unwrap();
            let found = feed(&mut r, fork, &other[at..]);
            let what = format!("{name}, fork at {at}");
            assert_same_bits(&found, &expected[at * n_vocab..], &what);
            r.close_seq(fork);
            r.rewind(seq, mark).unwrap();
            assert_eq!(r.seq_len(seq).unwrap(), mark.len);
            let found = feed(&mut r, seq, &other[at..]);
            let what = format!("{name}, rewound to {at}");
            assert_same_bits(&found, &expected[at * n_vocab..], &what);
            r.rewind(seq, mark).unwrap();
        }
    }
}

#[test]
fn a_mark_beyond_the_end_or_of_another_backend_is_refused() {
    let model = tiny();
    let mut r = runner(&model, Numerics::PLAIN);
    let (long, short) = (r.open_seq(64).unwrap(), r.open_seq(64).unwrap());
    feed(&mut r, long, &tokens(&model, 20, 1));
    let mut mark = r.mark(long).unwrap().unwrap();
    assert!(matches!(r.rewind(short, &mark), Err(Error::NeedsReplay { len: 20, now: 0 })));
    assert!(matches!(r.fork(short, &mark, 64), Err(Error::NeedsReplay { .. })));
    assert!(matches!(r.fork(long, &mark, 19), Err(Error::ContextFull { .. })));
    mark.state = Box::new(());
    assert!(matches!(r.rewind(long, &mark), Err(Error::State(_))));
}
