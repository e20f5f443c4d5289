//! Sequences, decoding and speculation on a runner whose logits are a function of the tokens.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test that called")]

use std::ops::ControlFlow;

use ds4_engine::testing::{Script, ScriptedRunner};
use ds4_engine::{
    Acceptance, Cancel, Decode, End, Error, Limits, Sampler, Sampling, Sequence, argmax,
};
use ds4_model::{Error as ModelError, TokenId};

const N_VOCAB: u32 = 12;

fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
    numbers.into_iter().map(TokenId).collect()
}

/// Splitmix64 of all tokens: any difference in what the runner has seen changes every logit.
fn hash(tokens: &[TokenId]) -> u64 {
    tokens.iter().fold(0x1234_5678, |h: u64, t| {
        let z = (h ^ u64::from(t.0)).wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
    })
}

fn hashed_logits(tokens: &[TokenId]) -> Vec<f32> {
    let h = hash(tokens);
    (0..N_VOCAB).map(|i| (h.rotate_left(i * 5) % 97) as f32 / 24.0).collect()
}

fn hashed() -> Script {
    Box::new(hashed_logits)
}

/// Drafts that follow the most probable path, each spoiled once in four.
fn good_drafts(tokens: &[TokenId]) -> Vec<TokenId> {
    let mut path = tokens.to_vec();
    for _ in 0..8 {
        let best = argmax(&hashed_logits(&path)).unwrap();
        let spoiled = TokenId((best.0 + 1) % N_VOCAB);
        path.push(if hash(&path).is_multiple_of(4) { spoiled } else { best });
    }
    path.split_off(tokens.len())
}

fn scripted(script: Script) -> ScriptedRunner {
    ScriptedRunner::new(N_VOCAB as usize, script)
}

struct Run {
    tokens: Vec<TokenId>,
    held: Vec<TokenId>,
    end: End,
    drafts: Acceptance,
    calls: usize,
}

fn run(mut runner: ScriptedRunner, sampling: Sampling, limits: &Limits<'_>, cap: u32) -> Run {
    let mut seq = Sequence::open(&mut runner, cap).unwrap();
    let prompt = ids([3, 1, 4, 1, 5]);
    seq.sync(&mut runner, &prompt, limits.cancel, &mut |_| {}).unwrap();
    let mut sampler = Sampler::new(sampling).unwrap();
    let (mut tokens, mut drafts) = (Vec::new(), Acceptance::default());
    let before = runner.spans.len();
    let decode = Decode {
        runner: &mut runner,
        seq: &mut seq,
        sampler: &mut sampler,
        limits: limits.clone(),
        drafts: &mut drafts,
    };
    let end = decode.run(&mut |token, row| {
        assert_eq!(row.len(), N_VOCAB as usize);
        tokens.push(token);
        ControlFlow::Continue(())
    });
    let held = seq.tokens().to_vec();
    let calls = runner.spans.len() - before;
    // Whatever ended it, the logits at hand are those after the last token held.
    let mut again = Sequence::open(&mut runner, cap).unwrap();
    again.sync(&mut runner, &held, &Cancel::default(), &mut |_| {}).unwrap();
    assert_eq!(seq.logits(), again.logits());
    Run { tokens, held, end: end.unwrap(), drafts, calls }
}

fn limits<'a>(max_tokens: usize, stops: &'a [TokenId], cancel: &'a Cancel) -> Limits<'a> {
    Limits { max_tokens, stops, draft_max: 0, cancel }
}

#[test]
fn drafts_change_neither_greedy_nor_seeded_output() {
    let cancel = Cancel::default();
    let warm = Sampling { temp: 0.8, top_k: 6, top_p: 0.95, min_p: 0.02, seed: 5 };
    let stops = ids([7]);
    for sampling in [Sampling::GREEDY, warm] {
        for (n, stops, cap) in [(40, &[][..], 100), (40, &stops, 100), (100, &[], 33), (1, &[], 9)]
        {
            let limits = limits(n, stops, &cancel);
            let plain = run(scripted(hashed()), sampling, &limits, cap);
            for (draft_max, margin) in [(1, 16), (2, 16), (3, 16), (8, 16), (15, 16), (3, 0)] {
                let case = format!("{sampling:?}, {n} tokens, depth {draft_max}, margin {margin}");
                let mut runner = scripted(hashed());
                runner.margin = margin;
                let runner = runner.with_drafts(Box::new(good_drafts));
                let limits = Limits { draft_max, ..limits.clone() };
                let spec = run(runner, sampling, &limits, cap);
                assert_eq!(spec.tokens, plain.tokens, "{case}");
                assert_eq!(spec.held, plain.held, "{case}");
                assert_eq!(spec.end, plain.end, "{case}");
                if sampling.temp == 0.0 && n == 40 && margin > 0 && stops.is_empty() {
                    assert!(spec.calls < plain.calls, "{case}: {} calls", spec.calls);
                    assert!(spec.drafts.rates()[0] > 0.5, "{case}: {:?}", spec.drafts);
                }
            }
        }
    }
}

#[test]
fn acceptance_is_counted_by_position() {
    let cancel = Cancel::default();
    // The model counts upwards; of three drafts the third is always wrong.
    let counts = |tokens: &[TokenId]| -> Vec<f32> {
        let next = tokens.last().unwrap().0 + 1;
        (0..N_VOCAB).map(|id| if id == next % N_VOCAB { 1.0 } else { 0.0 }).collect()
    };
    let drafts = |tokens: &[TokenId]| {
        let last = tokens.last().unwrap().0;
        ids([(last + 1) % 12, (last + 2) % 12, last])
    };
    let runner = scripted(Box::new(counts)).with_drafts(Box::new(drafts));
    let limits = Limits { draft_max: 3, ..limits(13, &[], &cancel) };
    let run = run(runner, Sampling::GREEDY, &limits, 100);
    assert_eq!(run.tokens, ids((6..12).chain(0..7)));
    // One token comes from the prompt, three from each of four steps.
    assert_eq!(run.calls, 4);
    assert_eq!(run.drafts.steps, 4);
    assert_eq!(run.drafts.proposed[..4], [4, 4, 3, 0]);
    assert_eq!(run.drafts.accepted[..4], [4, 4, 0, 0]);
    // A drafted stop token has held as well: 7 and 8 follow 6, and 8 ends the answer.
    let runner = scripted(Box::new(counts)).with_drafts(Box::new(drafts));
    let stops = ids([8]);
    let limits = Limits { stops: &stops, ..limits };
    let stopped = self::run(runner, Sampling::GREEDY, &limits, 100);
    assert_eq!((stopped.tokens, stopped.end), (ids([6, 7]), End::Stop(TokenId(8))));
    assert_eq!(stopped.drafts.accepted[..4], [1, 1, 0, 0]);
}

/// Two verified positions and the bonus token, against the product of filtered distributions.
#[test]
fn accepted_and_resampled_tokens_follow_the_filtered_distribution() {
    let probs: [f32; 6] = [0.34, 0.22, 0.18, 0.12, 0.09, 0.05];
    let script: Script = Box::new(move |_| probs.iter().map(|p| p.ln()).collect());
    // Drafts of a likely and of an unlikely token; the filters exclude the last two.
    let drafts = |_: &[TokenId]| ids([1, 3]);
    let mut runner = ScriptedRunner::new(6, script).with_drafts(Box::new(drafts));
    let sampling = Sampling { temp: 0.9, top_k: 0, top_p: 1.0, min_p: 0.3, seed: 11 };
    let mut sampler = Sampler::new(sampling).unwrap();
    let row: Vec<f32> = probs.iter().map(|p| p.ln()).collect();
    let p = sampler.distribution(&row).unwrap();
    assert_eq!(p.len(), 4);
    let (cancel, mut acceptance) = (Cancel::default(), Acceptance::default());
    let mut seq = Sequence::open(&mut runner, 60_000).unwrap();
    seq.sync(&mut runner, &ids([0]), &cancel, &mut |_| {}).unwrap();
    let n = 30_000;
    let mut tokens = Vec::new();
    let limits = Limits { draft_max: 2, ..limits(n, &[], &cancel) };
    let decode = Decode {
        runner: &mut runner,
        seq: &mut seq,
        sampler: &mut sampler,
        limits,
        drafts: &mut acceptance,
    };
    decode
        .run(&mut |token, _| {
            tokens.push(token.0 as usize);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(tokens.len(), n);
    // Disjoint pairs: a token and its successor are independent.
    let mut counts = [[0_u32; 6]; 6];
    for pair in tokens.chunks_exact(2) {
        counts[pair[0]][pair[1]] += 1;
    }
    let pairs = n as f64 / 2.0;
    let mut chi2 = 0.0;
    for (a, pa) in &p {
        for (b, pb) in &p {
            let want = pairs * pa * pb;
            let got = f64::from(counts[a.0 as usize][b.0 as usize]);
            chi2 += (got - want).powi(2) / want;
        }
    }
    // 15 degrees of freedom: 37.7 is exceeded once in a thousand seeds.
    assert!(chi2 < 37.7, "chi-square {chi2}, counts {counts:?}");
    let total: u32 = counts.iter().flatten().sum();
    let inside: u32 = counts[..4].iter().flat_map(|row| &row[..4]).sum();
    assert_eq!(inside, total, "a token outside the filters was chosen");
    // The first draft holds with p(1), the second with p(3) given the first.
    let rates = acceptance.rates();
    let steps = acceptance.steps as f64;
    let sigma = (p[1].1 * (1.0 - p[1].1) / steps).sqrt();
    assert!((rates[0] - p[1].1).abs() < 4.0 * sigma, "{rates:?} against {p:?}");
    assert!((rates[1] - p[1].1 * p[3].1).abs() < 4.0 * sigma, "{rates:?} against {p:?}");
}

#[test]
fn a_prompt_reuses_the_longest_common_beginning() {
    let mut runner = scripted(hashed());
    let cancel = Cancel::default();
    let mut seq = Sequence::open(&mut runner, 64).unwrap();
    let mut check = |prompt: &[TokenId], reused, spans: &[usize]| {
        runner.spans.clear();
        let mut heard = Vec::new();
        let synced = seq.sync(&mut runner, prompt, &cancel, &mut |n| heard.push(n)).unwrap();
        assert_eq!((synced.reused, synced.computed), (reused, prompt.len() - reused));
        assert_eq!(runner.spans, spans, "{prompt:?}");
        assert_eq!(seq.tokens(), prompt);
        assert_eq!(seq.logits(), hashed_logits(prompt), "{prompt:?}");
        assert_eq!((heard[0], heard[heard.len() - 1]), (reused, prompt.len()));
    };
    let long = ids((0..30).map(|i| i % 12));
    check(&long[..10], 0, &[8, 2]);
    // Unchanged: nothing to compute.
    check(&long[..10], 10, &[]);
    // Extended: chunks end where they would have ended.
    check(&long[..30], 10, &[6, 8, 6]);
    // A beginning of what is there: only its last token, for its logits.
    check(&long[..20], 19, &[1]);
    // Another ending.
    let other = [&long[..17], &ids([11, 11])].concat();
    check(&other, 17, &[2]);
    // Too far back for this runner: computed from the start.
    check(&ids([5, 5, 5]), 0, &[3]);
    check(&long, 0, &[8, 8, 8, 6]);
    check(&long[..4], 0, &[4]);
}

#[test]
fn a_second_turn_computes_only_its_own_tokens() {
    let mut runner = scripted(hashed());
    let cancel = Cancel::default();
    let mut seq = Sequence::open(&mut runner, 200).unwrap();
    let mut history = ids([1, 2, 3]);
    for turn in 0..4 {
        runner.spans.clear();
        let synced = seq.sync(&mut runner, &history, &cancel, &mut |_| {}).unwrap();
        if turn > 0 {
            // The last sampled token and the four of the new turn.
            assert_eq!(synced.computed, 5, "turn {turn}");
        }
        let mut drafts = Acceptance::default();
        let decode = Decode {
            runner: &mut runner,
            seq: &mut seq,
            sampler: &mut Sampler::new(Sampling::GREEDY).unwrap(),
            limits: limits(9, &[], &cancel),
            drafts: &mut drafts,
        };
        let end = decode.run(&mut |token, _| {
            history.push(token);
            ControlFlow::Continue(())
        });
        assert_eq!(end.unwrap(), End::Length);
        history.extend(ids([4, 5, 6, 7]));
    }
}

#[test]
fn cancelling_keeps_what_was_computed() {
    let mut runner = scripted(hashed());
    let cancel = Cancel::default();
    let mut seq = Sequence::open(&mut runner, 64).unwrap();
    let prompt = ids((0..30).map(|i| i % 12));
    let mut stop_at_16 = |n: usize| {
        if n == 16 {
            cancel.set();
        }
    };
    let got = seq.sync(&mut runner, &prompt, &cancel, &mut stop_at_16);
    assert!(matches!(got, Err(Error::Cancelled)));
    assert_eq!(seq.tokens(), &prompt[..16]);
    assert!(cancel.take());
    let synced = seq.sync(&mut runner, &prompt, &cancel, &mut |_| {}).unwrap();
    assert_eq!((synced.reused, synced.computed), (16, 14));
    assert_eq!(seq.logits(), hashed_logits(&prompt));
}

#[test]
fn a_cancelled_or_refused_token_ends_decoding() {
    let mut runner = scripted(hashed());
    let cancel = Cancel::default();
    let mut seq = Sequence::open(&mut runner, 64).unwrap();
    seq.sync(&mut runner, &ids([1]), &cancel, &mut |_| {}).unwrap();
    let mut drafts = Acceptance::default();
    let mut n = 0;
    let mut decode = |on_token: &mut ds4_engine::OnToken<'_>| {
        Decode {
            runner: &mut runner,
            seq: &mut seq,
            sampler: &mut Sampler::new(Sampling::GREEDY).unwrap(),
            limits: limits(20, &[], &cancel),
            drafts: &mut drafts,
        }
        .run(on_token)
        .unwrap()
    };
    let end = decode(&mut |_, _| {
        n += 1;
        if n == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((end, n), (End::Receiver, 3));
    let end = decode(&mut |_, _| {
        n += 1;
        cancel.set();
        ControlFlow::Continue(())
    });
    assert_eq!((end, n), (End::Cancelled, 4));
}

#[test]
fn a_snapshot_can_be_returned_to_from_any_distance() {
    let mut runner = scripted(hashed());
    let cancel = Cancel::default();
    let mut seq = Sequence::open(&mut runner, 64).unwrap();
    let prompt = ids([1, 2, 3]);
    seq.sync(&mut runner, &prompt, &cancel, &mut |_| {}).unwrap();
    let snapshot = seq.snapshot(&mut runner).unwrap();
    for i in 0..50 {
        seq.append(&mut runner, &ids([i % 12]), 1).unwrap();
    }
    seq.restore(&mut runner, snapshot).unwrap();
    assert_eq!(seq.tokens(), prompt);
    assert_eq!(seq.logits(), hashed_logits(&prompt));
    seq.append(&mut runner, &ids([9]), 1).unwrap();
    assert_eq!(seq.logits(), hashed_logits(&ids([1, 2, 3, 9])));
}

#[test]
fn impossible_prompts_are_errors() {
    let mut runner = scripted(hashed());
    let cancel = Cancel::default();
    let mut seq = Sequence::open(&mut runner, 8).unwrap();
    let mut sync =
        |prompt: &[TokenId]| seq.sync(&mut runner, prompt, &cancel, &mut |_| {}).unwrap_err();
    assert!(matches!(sync(&[]), Error::EmptyPrompt));
    let range = sync(&ids([1, 12]));
    assert!(matches!(range, Error::Model(ModelError::TokenRange { id: 12, n_vocab: 12 })));
    let full = sync(&ids([1; 9]));
    assert!(matches!(full, Error::Model(ModelError::ContextFull { more: 9, cap: 8, .. })));
}

#[test]
fn perplexity_scores_every_token_after_the_context() {
    // Every token has probability 1/4 under three others and eight excluded ones.
    let script: Script =
        Box::new(|_| (0..N_VOCAB).map(|id| if id < 4 { 0.0 } else { f32::NEG_INFINITY }).collect());
    let mut runner = scripted(script);
    let tokens = ids((0..50).map(|i| i % 4));
    for (context, scored) in [(32, 18), (0, 49), (1, 49), (49, 1), (50, 0), (99, 0)] {
        let mut seq = Sequence::open(&mut runner, 64).unwrap();
        let cancel = Cancel::default();
        let got =
            ds4_engine::perplexity(&mut runner, &mut seq, &tokens, context, &cancel, &mut |_| {})
                .unwrap();
        assert_eq!((got.tokens, got.scored), (50, scored));
        assert!((got.nll - scored as f64 * 4_f64.ln()).abs() < 1e-9, "{got:?}");
    }
}
