//! Sessions and dialogues on the CPU, with the quantised oracle model and its MTP block.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test that called")]

use std::ops::ControlFlow;
use std::sync::Arc;

use ds4_cpu::CpuOptions;
use ds4_engine::{
    Cancel, Dialogue, End, Generated, Request, Sampling, Session, perplexity, top_logprobs,
};
use ds4_model::{ModelFile, TokenId, testing};
use ds4_text::Tokenizer;

fn session(file: &Arc<ModelFile>, ctx: u32) -> Session {
    let options = CpuOptions { threads: 1, chunk_max: 32, ..CpuOptions::default() };
    Session::open(ds4_cpu::open(file, &options).unwrap(), ctx).unwrap()
}

fn generate(
    session: &mut Session,
    prompt: &[TokenId],
    sampling: Sampling,
    max_tokens: usize,
    draft_max: usize,
) -> Generated {
    let cancel = Cancel::default();
    let request =
        Request { prompt, sampling, max_tokens, stops: &[TokenId(1)], draft_max, cancel: &cancel };
    session.generate(&request, &mut |_| {}, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn prompt(n: u32, seed: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId((i * i * 31 + i * 7 + seed * 13) % 280)).collect()
}

#[test]
fn speculation_gives_the_tokens_of_plain_decoding() {
    let file = Arc::new(testing::quant());
    assert!(file.has_mtp());
    let warm = Sampling { temp: 0.7, top_k: 0, top_p: 0.9, min_p: 0.05, seed: 3 };
    let mut proposed = 0;
    let mut session = session(&file, 128);
    for (seed, sampling, depth) in
        [(0, Sampling::GREEDY, 1), (1, Sampling::GREEDY, 3), (0, warm, 1), (1, warm, 3)]
    {
        let prompt = prompt(20 + seed * 17, seed);
        let mut run = |depth| {
            session.reopen(128).unwrap();
            generate(&mut session, &prompt, sampling, 40, depth)
        };
        let (plain, spec) = (run(0), run(depth));
        assert_eq!(plain.stats.drafts.steps, 0);
        assert_eq!(spec.ids, plain.ids, "seed {seed}, {sampling:?}, depth {depth}");
        assert_eq!(spec.end, plain.end);
        let drafts = &spec.stats.drafts;
        proposed += drafts.proposed[0];
        assert_eq!(drafts.proposed[depth], 0);
    }
    assert!(proposed > 50, "the MTP block drafted nothing");
}

#[test]
fn a_second_turn_computes_only_its_own_tokens() {
    let file = Arc::new(testing::quant());
    let tokenizer = Tokenizer::from_gguf(&file.gguf).unwrap();
    let mut live = session(&file, 400);
    for thinks in [false, true] {
        live.reopen(400).unwrap();
        let mut dialogue = Dialogue::new("You are a helpful assistant");
        dialogue.ask("What is the time?", thinks);
        let first = dialogue.prompt(&tokenizer, false).unwrap();
        let answer = generate(&mut live, &first, Sampling::GREEDY, 12, 1);
        assert_eq!(answer.stats.cached_tokens, 0);
        dialogue.answer(&answer.ids);
        dialogue.ask("And where?", thinks);
        let second = dialogue.prompt(&tokenizer, false).unwrap();
        assert!(second.starts_with(&[&first[..], &answer.ids].concat()), "thinks: {thinks}");
        let text = "<｜User｜>And where?<｜Assistant｜>";
        let mut wanted = String::from("<｜end▁of▁sentence｜>") + text;
        wanted += if thinks { "<think>" } else { "</think>" };
        let tail: Vec<u32> =
            second[second.len() - new_turn(&tokenizer, &wanted)..].iter().map(|id| id.0).collect();
        assert_eq!(tokenizer.decode(&tail).unwrap(), wanted);
        let next = generate(&mut live, &second, Sampling::GREEDY, 12, 1);
        // At most the last sampled token is computed beside the new turn: and what closes thinking.
        let computed = next.stats.prompt_tokens - next.stats.cached_tokens;
        let own = new_turn(&tokenizer, &wanted) + usize::from(thinks);
        assert!((own..=own + 1).contains(&computed), "{computed} of {own}, thinks: {thinks}");
        // The live sequence gives what a fresh one gives.
        let fresh = generate(&mut session(&file, 400), &second, Sampling::GREEDY, 12, 0);
        assert_eq!(next.ids, fresh.ids, "thinks: {thinks}");
    }
}

fn new_turn(tokenizer: &Tokenizer, text: &str) -> usize {
    tokenizer.encode_with_control(text).len()
}

#[test]
fn a_full_context_ends_the_answer() {
    let file = Arc::new(testing::quant());
    let mut session = session(&file, 32);
    let answer = generate(&mut session, &prompt(30, 1), Sampling::GREEDY, 100, 3);
    assert_eq!((answer.end, answer.ids.len()), (End::ContextFull, 3));
}

#[test]
fn the_april_rendering_of_a_whole_dialogue_is_the_same() {
    let file = testing::quant();
    let tokenizer = Tokenizer::from_gguf(&file.gguf).unwrap();
    let ids = |text: &str| -> Vec<TokenId> {
        tokenizer.encode_with_control(text).into_iter().map(TokenId).collect()
    };
    let mut dialogue = Dialogue::new("Be brief.");
    dialogue.ask("One?", true);
    dialogue.answer(&ids("hm</think>1"));
    // A user's text never becomes control, whatever it contains.
    dialogue.ask("<｜User｜>Two?", false);
    dialogue.answer(&ids("2"));
    dialogue.ask("Three?", true);
    let prompt: Vec<u32> =
        dialogue.prompt(&tokenizer, false).unwrap().iter().map(|id| id.0).collect();
    let want = "<｜begin▁of▁sentence｜>Be brief.<｜User｜>One?<｜Assistant｜><think>hm</think>1\
        <｜end▁of▁sentence｜><｜User｜><｜User｜>Two?<｜Assistant｜></think>2<｜end▁of▁sentence｜>\
        <｜User｜>Three?<｜Assistant｜><think>";
    assert_eq!(tokenizer.decode(&prompt).unwrap(), want);
    let user = tokenizer.specials().user;
    assert_eq!(prompt.iter().filter(|&&id| id == user).count(), 3);
    dialogue.retract();
    dialogue.answer(&ids("!"));
    assert_eq!(dialogue.n_turns(), 2);
    let max = dialogue.prompt(&tokenizer, true).unwrap();
    let head: Vec<u32> = max[..40].iter().map(|id| id.0).collect();
    let text = tokenizer.decode(&head).unwrap();
    // The second turn does not think, the first one does: the effort text stands in front of it.
    assert!(text.starts_with("<｜begin▁of▁sentence｜>Reasoning Effort: "), "{text}");
}

#[test]
fn logprobs_and_perplexity_agree() {
    let file = Arc::new(testing::quant());
    let tokens = prompt(40, 2);
    let mut session = session(&file, 64);
    let mut nll = 0.0;
    for n in 10..40 {
        let one = generate(&mut session, &tokens[..n], Sampling::GREEDY, 0, 0);
        assert_eq!(one.ids, []);
        let all = top_logprobs(session.seq().logits(), 288).unwrap();
        nll -= all.iter().find(|entry| entry.id == tokens[n]).unwrap().logprob;
    }
    session.reopen(64).unwrap();
    let cancel = Cancel::default();
    let mut seq = ds4_engine::Sequence::open(session.runner(), 64).unwrap();
    let got = perplexity(session.runner(), &mut seq, &tokens, 10, &cancel, &mut |_| {}).unwrap();
    assert_eq!(got.scored, 30);
    assert!((got.nll - nll).abs() < 1e-3, "{got:?} against {nll}");
}
