//! `ds4 eval`: a model's answers to held-out cases, judged and counted.
//!
//! Decoding is greedy, with drafts where the model has an MTP block, through the same session and
//! parser as a chat. The report is Markdown on stdout; progress goes to stderr.

mod cases;
mod judge;
mod report;

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ds4_engine::{Acceptance, Cancel, Request, Sampling, Sequence, Session, perplexity, stop_ids};
use ds4_model::TokenId;
use ds4_text::{Profile, Tokenizer};
use serde_json::json;

use crate::backend::Needs;
use crate::options::Eval;
use crate::{load, terminal};
use cases::{Case, Suite};
use judge::{Reply, Verdict};

/// Tokens of an answer at most; samples may be longer.
const ANSWER_MAX: usize = 200;
const SAMPLE_MAX: usize = 600;
/// Capacity: the longest needle prompt, its answer, and some room.
const CTX: u32 = 17_408;

/// One judged case.
struct Outcome {
    case: Case,
    reply: Reply,
    verdict: Verdict,
    prompt_tokens: usize,
}

/// A text's score.
struct Score {
    name: &'static str,
    tokens: usize,
    bytes: usize,
    nll: f64,
}

/// Everything a run gives.
struct Results {
    model: String,
    backend: &'static str,
    outcomes: Vec<Outcome>,
    scores: Vec<Score>,
    drafts: Acceptance,
    seconds: f64,
}

struct Run {
    session: Session,
    tokenizer: Tokenizer,
    stops: Vec<TokenId>,
    draft_max: usize,
    cancel: Cancel,
    drafts: Acceptance,
}

/// Runs a suite and prints its report.
pub(crate) fn run(options: &Eval) -> Result<()> {
    let suite = Suite::open(options.dir.as_deref())?;
    let cases = suite.cases(&options.only, options.limit)?;
    if cases.is_empty() {
        bail!(
            "no case of category {:?}; there are {}",
            options.only,
            suite.categories().join(", ")
        );
    }
    let cancel = terminal::interrupt()?;
    let loaded = load::open(&options.model, Needs::seq(CTX))?;
    let tokenizer = load::tokenizer(&loaded.file.gguf)?;
    let stops = stop_ids(tokenizer.specials());
    let model = format!("{} ({} bytes)", loaded.file.gguf.name(), loaded.file.gguf.data().len());
    let backend = loaded.backend;
    let session = Session::open(loaded.runner, CTX)?;
    let draft_max = options.model.draft_max;
    let drafts = Acceptance::default();
    let mut run = Run { session, tokenizer, stops, draft_max, cancel, drafts };
    let start = Instant::now();
    let outcomes = run.answer_all(&suite, cases)?;
    let scores = if options.only.is_empty() { run.score(&suite)? } else { Vec::new() };
    let seconds = start.elapsed().as_secs_f64();
    let results = Results { model, backend, outcomes, scores, drafts: run.drafts, seconds };
    report::print(&results, &mut std::io::stdout().lock())?;
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report::details(&results))?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Run {
    fn answer_all(&mut self, suite: &Suite, cases: Vec<Case>) -> Result<Vec<Outcome>> {
        let bar = terminal::progress_bar("answering", cases.len(), "cases");
        let mut outcomes = Vec::with_capacity(cases.len());
        for case in cases {
            if self.cancel.is_set() {
                bail!("interrupted");
            }
            let outcome = self.answer(suite, &case).with_context(|| case.id.clone())?;
            outcomes.push(outcome);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(outcomes)
    }

    fn answer(&mut self, suite: &Suite, case: &Case) -> Result<Outcome> {
        let prompt = self.prompt(suite, case)?;
        let is_sample = case.expect.is_none();
        let request = Request {
            prompt: &prompt,
            sampling: Sampling::GREEDY,
            max_tokens: if is_sample { SAMPLE_MAX } else { ANSWER_MAX },
            stops: &self.stops,
            draft_max: self.draft_max,
            cancel: &self.cancel,
        };
        let go_on = &mut |_: TokenId, _: &[f32]| ControlFlow::Continue(());
        let generated = self.session.generate(&request, &mut |_| {}, go_on)?;
        self.drafts.add(&generated.stats.drafts);
        let ids: Vec<u32> = generated.ids.iter().map(|t| t.0).collect();
        let raw = self.tokenizer.decode(&ids)?;
        let is_whole = matches!(generated.end, ds4_engine::End::Stop(_));
        let reply = Reply::parse(raw, case.thinking, is_whole)?;
        let verdict = judge::judge(case, &reply);
        Ok(Outcome { case: case.clone(), reply, verdict, prompt_tokens: prompt.len() })
    }

    /// The prompt of a case, rendered as every other prompt is.
    fn prompt(&self, suite: &Suite, case: &Case) -> Result<Vec<TokenId>> {
        let mode = if case.thinking { "thinking" } else { "chat" };
        let messages = suite.expand(case)?;
        let input = json!([{"thinking_mode": mode, "drop_thinking": true, "messages": messages}]);
        let rendered = ds4_api::check::render_json(&self.tokenizer, Profile::April, &input)?;
        let ids = rendered[0]["token_ids"].as_array();
        let Some(ids) = ids else { bail!("not rendered: {}", rendered[0]["error"]) };
        let id = |v: &serde_json::Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        ids.iter().map(|v| id(v).map(TokenId).context("a token id is no number")).collect()
    }

    /// Held-out texts, teacher-forced: every token after BOS counts, EOS included.
    fn score(&mut self, suite: &Suite) -> Result<Vec<Score>> {
        let specials = self.tokenizer.specials();
        let (bos, eos) = (TokenId(specials.bos), TokenId(specials.eos));
        let mut scores = Vec::new();
        for (name, documents) in suite.texts() {
            let mut score = Score { name, tokens: 0, bytes: 0, nll: 0.0 };
            for text in documents {
                let mut ids = vec![bos];
                ids.extend(self.tokenizer.encode_plain(text).into_iter().map(TokenId));
                ids.push(eos);
                self.session.reopen(CTX)?;
                let runner = self.session.runner();
                let mut seq = Sequence::open(runner, CTX)?;
                let got = perplexity(runner, &mut seq, &ids, 1, &self.cancel, &mut |_| {})?;
                seq.close(runner);
                score.tokens += got.scored;
                score.bytes += text.len();
                score.nll += got.nll;
            }
            scores.push(score);
        }
        Ok(scores)
    }
}
