//! Constrained decoding: what an answer must look like, as masks over the vocabulary.
//!
//! A request becomes a [`Form`] ([`Form::of`]): JSON, JSON of a schema, text that matches a regular
//! expression, calls of declared functions. [`Grammars`] compiles it over the vocabulary of a
//! tokenizer into a [`Grammar`], and [`Grammar::begin`] gives a [`Constraint`] for one answer:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use ds4_constrain::{Begin, Error, Form, Grammars, Wishes};
//! # fn answer(tokenizer: Arc<ds4_text::Tokenizer>, conversation: ds4_text::Conversation,
//! #     logits: &mut [f32], sample: impl Fn(&[f32]) -> u32) -> Result<(), Error> {
//! let grammars = Grammars::new(tokenizer); // one for the model; builds its trie at the first need
//! let Some(form) = Form::of(&conversation, Wishes::default()) else { return Ok(()) };
//! let grammar = grammars.compile(&form)?; // milliseconds, seconds at worst: not on the worker
//! let mut constraint = grammar.begin(Begin::of(&conversation))?;
//! loop {
//!     constraint.mask(logits)?; // before a token is chosen
//!     let token = sample(logits);
//!     constraint.accept(token)?; // every chosen token, the end of sequence included
//!     if constraint.is_finished() {
//!         break; // nothing but the end may follow
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod constraint;
mod dsml;
mod error;
mod form;
mod grammars;
mod lark;
pub mod limits;
mod parameters;
mod pattern;
mod schema;
mod vocabulary;

pub use constraint::{Begin, Constraint};
pub use error::Error;
pub use form::{Answer, Calls, Form, Functions, Rigour, Spacing, Wishes};
pub use grammars::{Grammar, Grammars};
