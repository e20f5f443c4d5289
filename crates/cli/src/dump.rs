//! Looking at the model instead of listening to it: tokens, log probabilities, perplexity.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ds4_engine::{Cancel, Logprob, Request, Sampling, Sequence, perplexity, top_logprobs};
use ds4_gguf::write::replace_file;
use ds4_model::TokenId;
use ds4_text::Tokenizer;

use crate::backend::Needs;
use crate::chat::{Talk, prompt_ids, prompt_text};
use crate::number::g9;
use crate::options::{Chat, Model, Prompt, Source};
use crate::{load, terminal};

/// Tokens of a text at its beginning that are not scored.
const CONTEXT_TOKENS: usize = 32;

/// `--dump-tokens`: the ids on one line, then a line for each.
pub(crate) fn tokens(source: &Source, prompt: &Prompt) -> Result<()> {
    let text = prompt_text(prompt)?;
    let tokenizer = load::open_vocabulary(source)?;
    let ids = tokenizer.encode_with_control(&text);
    let out = &mut BufWriter::new(io::stdout().lock());
    let list: Vec<String> = ids.iter().map(u32::to_string).collect();
    writeln!(out, "[{}]", list.join(", "))?;
    for &id in &ids {
        write!(out, "{id:>6}  ")?;
        out.write_all(tokenizer.token_bytes(id)?)?;
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// `--dump-logprobs`: a greedy answer with the most probable tokens of each step.
pub(crate) fn logprobs(options: &Chat, prompt: &Prompt, path: &Path, top_k: usize) -> Result<()> {
    let text = prompt_text(prompt)?;
    let mut talk = Talk::open(options)?;
    let (ids, _) = prompt_ids(&mut talk, &text)?;
    // The file is tried before hours of work, not after them.
    let mut n = 0;
    replace_file(path, |file| {
        let steps = greedy(&mut talk, &ids, options.max_tokens, top_k)?;
        n = steps.len();
        let json = logprobs_json(&talk.tokenizer, ids.len(), options.ctx, top_k, &steps)?;
        let written = file.write_all(json.as_bytes());
        written.with_context(|| format!("cannot write {}", path.display()))
    })?;
    eprintln!("ds4: wrote {n} steps to {}", path.display());
    Ok(())
}

/// A greedy answer with the most probable tokens of each step.
fn greedy(talk: &mut Talk, prompt: &[TokenId], max_tokens: usize, top_k: usize) -> Result<Steps> {
    let eos = TokenId(talk.tokenizer.specials().eos);
    let mut steps = Steps::new();
    let mut failure = None;
    let cancel = terminal::interrupt()?;
    let request = Request {
        prompt,
        sampling: Sampling::GREEDY,
        max_tokens,
        // The end token is recorded, so it must be reported; the receiver stops at it.
        stops: &[],
        draft_max: 0,
        cancel: &cancel,
    };
    let working = terminal::Working::start();
    let generated = talk.session.generate(&request, &mut |_| {}, &mut |token, row| {
        match top_logprobs(row, top_k) {
            Ok(top) => steps.push((token, top)),
            Err(error) => failure = Some(error),
        }
        if failure.is_some() || token == eos {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    drop(working);
    if let Some(error) = failure {
        return Err(error.into());
    }
    generated?;
    Ok(steps)
}

/// Chosen tokens with the most probable ones.
type Steps = Vec<(TokenId, Vec<Logprob>)>;

/// The JSON of the C engine, byte for byte in its layout.
fn logprobs_json(
    tokenizer: &Tokenizer,
    prompt_tokens: usize,
    ctx: u32,
    top_k: usize,
    steps: &[(TokenId, Vec<Logprob>)],
) -> Result<String> {
    let head = format!(
        "{{\n  \"source\":\"ds4\",\n  \"prompt_tokens\":{prompt_tokens},\n  \"ctx\":{ctx},\n  \
         \"top_k\":{top_k},\n  \"steps\":["
    );
    let step = |(ix, (token, top)): (usize, &(TokenId, Vec<Logprob>))| {
        let selected = token_json(tokenizer, *token)?;
        let entries = top.iter().map(|entry| {
            let token = token_json(tokenizer, entry.id)?;
            let (logit, logprob) = (g9(f64::from(entry.logit)), g9(entry.logprob));
            Ok(format!("{{\"token\":{token},\"logit\":{logit},\"logprob\":{logprob}}}"))
        });
        let entries = entries.collect::<Result<Vec<String>>>()?.join(",");
        Ok(format!("\n    {{\"step\":{ix},\"selected\":{selected},\"top_logprobs\":[{entries}]}}"))
    };
    let steps = steps.iter().enumerate().map(step).collect::<Result<Vec<String>>>()?;
    Ok(format!("{head}{}\n  ]\n}}\n", steps.join(",")))
}

fn token_json(tokenizer: &Tokenizer, id: TokenId) -> Result<String> {
    let bytes = tokenizer.token_bytes(id.0)?;
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let text = text_json(bytes);
    Ok(format!("{{\"id\":{},\"text\":{text},\"bytes\":[{}]}}", id.0, list.join(",")))
}

/// A JSON string; of bytes that are not UTF-8, each high one becomes `\u00XX`.
fn text_json(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => return serde_json::Value::from(text).to_string(),
        Err(_) => bytes.iter().map(|&b| char::from(b)).collect::<String>(),
    };
    let ascii = serde_json::Value::from(text).to_string();
    let escape = |c: char| {
        if c.is_ascii() { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) }
    };
    ascii.chars().map(escape).collect()
}

/// `--perplexity-file`: how well the model predicts a text.
pub(crate) fn score(model: &Model, ctx: u32, path: &Path) -> Result<()> {
    let text = load::read_text(path)?;
    let mut loaded = load::open(model, Needs::seq(ctx))?;
    let tokenizer = load::tokenizer(&loaded.file.gguf)?;
    let ids = tokenizer.encode_with_control(&text);
    let tokens: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
    let n = tokens.len();
    if n <= CONTEXT_TOKENS {
        let name = path.display();
        bail!("{name}: {n} tokens; at least {} are needed", CONTEXT_TOKENS + 1);
    }
    if n > ctx as usize {
        bail!("{}: {n} tokens do not fit into a context of {ctx}; use --ctx {n}", path.display());
    }
    let cap = u32::try_from(n)?;
    loaded.plan(cap, "use a shorter text")?;
    let runner = &mut *loaded.runner;
    let mut seq = Sequence::open(runner, cap)?;
    let bar = terminal::progress_bar("scoring", n, "tokens");
    let mut progress = |done: usize| bar.set_position(done as u64);
    let cancel = Cancel::default();
    let got = perplexity(runner, &mut seq, &tokens, CONTEXT_TOKENS, &cancel, &mut progress)?;
    bar.finish_and_clear();
    writeln!(
        io::stdout(),
        "tokens={} scored={} nll={:.9} avg_nll={:.9} ppl={:.9}",
        got.tokens,
        got.scored,
        got.nll,
        got.avg_nll(),
        got.ppl()
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_utf8_is_escaped_byte_by_byte() {
        for (bytes, want) in [
            (&b"plain \"x\"\n"[..], r#""plain \"x\"\n""#),
            ("é中".as_bytes(), "\"é中\""),
            (b"\xe4\xb8", r#""\u00e4\u00b8""#),
            (b"a\xff\\", r#""a\u00ff\\""#),
        ] {
            assert_eq!(text_json(bytes), want);
        }
    }
}
