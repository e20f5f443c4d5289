//! Sequences in time: prefix reuse, sampling, speculation. No HTTP, no terminal, no tensor.
//!
//! A [`Sequence`] is the tokens a [`ds4_model::Runner`] holds. [`Sequence::sync`] makes it hold a
//! prompt, computing only what is new; [`Decode`] continues it token by token, choosing with a
//! [`Sampler`] and, where an MTP block is loaded, verifying several drafted tokens in one call.
//!
//! The engine sees ids and logits; it never sees a weight, and below it nobody sees a request. Time
//! and randomness enter only here: a seed, the tokens and the backend fix every answer.

#![forbid(unsafe_code)]

mod answer;
mod cancel;
mod decode;
mod dialogue;
mod error;
mod exp;
mod logprobs;
mod sample;
mod sequence;
mod session;
mod spec;
mod stats;
mod stop;
pub mod testing;

pub use answer::{AnswerReader, stop_ids};
pub use cancel::Cancel;
pub use decode::{Decode, End, Limits, OnToken};
pub use dialogue::Dialogue;
pub use error::{Error, Result};
pub use logprobs::{Logprob, Perplexity, log_sum_exp, logprob, perplexity, top_logprobs};
pub use sample::{Sampler, Sampling, argmax};
pub use sequence::{Sequence, Snapshot, Synced, check_ids};
pub use session::{Generated, Request, Session};
pub use spec::{Acceptance, DRAFT_MAX};
pub use stats::{Stats, per_second};
pub use stop::StopStrings;
