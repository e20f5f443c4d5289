//! What the model thought, in numbers: log probabilities of a row, perplexity of a text.
//!
//! These are properties of the model, so neither temperature nor filters enter.

use std::cmp::Ordering;

use ds4_model::{Runner, TokenId};

use crate::sample::highest;
use crate::{Cancel, Error, Result, Sequence};

/// One token of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// The token.
    pub id: TokenId,
    /// Its logit.
    pub logit: f32,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// Logarithm of the sum of the exponentials of a row: logit minus this is the log probability.
pub fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    let max = f64::from(highest(logits)?);
    Ok(max + logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln())
}

/// One token's entry.
pub fn logprob(logits: &[f32], id: TokenId) -> Result<Logprob> {
    let logit = logits[id.0 as usize];
    Ok(Logprob { id, logit, logprob: f64::from(logit) - log_sum_exp(logits)? })
}

/// The `k` most probable tokens, most probable first, lowest id first among equals.
pub fn top_logprobs(logits: &[f32], k: usize) -> Result<Vec<Logprob>> {
    let norm = log_sum_exp(logits)?;
    let rank =
        |a: &(u32, f32), b: &(u32, f32)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    if k > 0 && k < all.len() {
        all.select_nth_unstable_by(k - 1, rank);
    }
    all.truncate(k);
    all.sort_unstable_by(rank);
    let entry = |(id, logit)| Logprob { id: TokenId(id), logit, logprob: f64::from(logit) - norm };
    Ok(all.into_iter().map(entry).collect())
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens whose prediction was scored.
    pub scored: usize,
    /// Sum of −ln p of the scored tokens.
    pub nll: f64,
}

impl Perplexity {
    /// Mean −ln p of a scored token.
    pub fn avg_nll(&self) -> f64 {
        self.nll / self.scored as f64
    }

    /// `exp` of the mean.
    pub fn ppl(&self) -> f64 {
        self.avg_nll().exp()
    }
}

/// Rows of logits kept at once: bounds memory at 33 MB for a vocabulary of 129 280.
const ROWS_MAX: usize = 64;

/// Scores `tokens` teacher-forced in an empty sequence: token `i ≥ context` is predicted from all
/// before it. `progress` hears how many tokens are done.
pub fn perplexity(
    runner: &mut dyn Runner,
    seq: &mut Sequence,
    tokens: &[TokenId],
    context: usize,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize),
) -> Result<Perplexity> {
    assert!(seq.tokens().is_empty(), "the sequence is empty");
    crate::sequence::check_ids(tokens, runner.dims().n_vocab)?;
    let context = context.max(1);
    let mut sum = Perplexity { tokens: tokens.len(), ..Perplexity::default() };
    // The last token predicts nothing that is known.
    let inputs = &tokens[..tokens.len().saturating_sub(1)];
    let chunk = runner.chunk_max().clamp(1, ROWS_MAX);
    for (ix, span) in inputs.chunks(chunk).enumerate() {
        if cancel.is_set() {
            return Err(Error::Cancelled);
        }
        seq.append(runner, span, span.len())?;
        for row in 0..span.len() {
            let target = ix * chunk + row + 1;
            if target >= context {
                sum.nll -= logprob(seq.row(row), tokens[target])?.logprob;
                sum.scored += 1;
            }
        }
        progress(ix * chunk + span.len());
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_the_log_softmax() {
        let logits: Vec<f32> = [0.5_f32, 0.25, 0.25].iter().map(|p| p.ln() + 3.0).collect();
        let top = top_logprobs(&logits, 2).unwrap();
        assert_eq!(top.iter().map(|t| t.id.0).collect::<Vec<_>>(), [0, 1]);
        for (got, want) in top.iter().zip([0.5_f64, 0.25]) {
            assert!((got.logprob - want.ln()).abs() < 1e-6, "{got:?}");
        }
        assert_eq!(top_logprobs(&logits, 0).unwrap(), []);
        assert_eq!(top_logprobs(&logits, 9).unwrap().len(), 3);
        assert!(top_logprobs(&[f32::NAN], 1).is_err());
    }
}
