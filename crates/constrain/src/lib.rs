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
//!
//! # Two kinds of forms
//!
//! Where the *request* demands a form, everything after the reasoning is under the grammar, and the
//! answer cannot end before it is complete. Text that is certain is forced in its canonical tokens,
//! as the model was trained to write it ([`Constraint::forced`]).
//!
//! Where the *model* may call functions and need not, it is free until it opens a block of calls: a
//! `<` and the token that marks tags. From there on a guard holds the structure (§C.7), because one
//! bad token there loses a whole call. The guard must not change what is valid already. So it
//! forces nothing; lets tags stand apart; takes objects and arrays with their keys in any order and
//! numbers in any notation, where a schema that the *request* enforces is followed to the letter;
//! and takes strings for what patterns and enumerations say, but not for their `format`, which in
//! JSON Schema is a remark. A form that cannot be compiled may then be dropped
//! ([`Form::is_guard`]). Reasoning is never touched.
//!
//! # Calls
//!
//! Only declared functions are called, each with its required parameters, none twice, in any order
//! (`dsml.rs`). A schema that names parameters and is silent about others means no others. A
//! parameter is written as text where its schema says string, else as JSON; both where it may be
//! both. `strict` functions have their whole schema enforced or are refused; of others, what is
//! beyond the compiler is left to the model, with a warning.
//!
//! # Tokens
//!
//! Added tokens are no text: the trie has them behind a byte that no text contains, and only a
//! grammar that names one by its id allows it. So content can never become control, and guard stops
//! (`<｜User｜>` and its like) never occur in an answer under a grammar. Tokens may cut characters
//! anywhere; the grammar is over bytes and admits UTF-8 only.
//!
//! # Hostile requests
//!
//! Schemas are material from outside. Before the compiler sees one, its size is checked, keywords
//! that it would not enforce are found and named with their place (`schema/keywords.rs`), and what
//! its combinations multiply to is computed (`schema/cost.rs`). Compilation then runs on a thread
//! of its own within a time ([`limits`]). What still shows only while the model writes ends that
//! answer with [`Error::Stuck`].
//!
//! # What is not enforced
//!
//! Of JSON Schema: `not`, `if`, `contains`, `uniqueItems`, `propertyNames`, `dependent…`,
//! `unevaluated…` beside combinations, overlapping `patternProperties`, `oneOf` whose alternatives
//! may overlap, references that leave the document, `$dynamicRef`; formats beyond ten; numbers
//! beyond 2⁵³; patterns with look-around, back-references or word boundaries. Each is refused by
//! [`Rigour::Strict`] and reported by [`Rigour::Lenient`]. Enforced more narrowly than the
//! specification has it: keys of an object come in the order of the schema, whole numbers are
//! written without a fraction, known formats are obeyed, and JSON strings are not written with
//! escapes that they do not need.
//!
//! # Cost
//!
//! `examples/measure.rs`, two cores of an AMD EPYC, the published vocabulary of 129,280 tokens: the
//! trie takes 0.6 s and 49 MB, once; a schema compiles in 3 ms, thirty functions in 20 ms; a mask
//! takes 0.02 to 0.14 ms in the median and up to 2.6 ms where free text may turn into a tag.
//! Compiled forms are kept, because agents send the same functions with every turn.
//!
//! The grammar engine is llguidance; this crate writes its grammars, decides what they say, and
//! keeps its types to itself. No HTTP, no sampling, no model.
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
mod source;
mod vocabulary;

pub use constraint::{Begin, Constraint};
pub use error::Error;
pub use form::{Answer, Calls, Form, Functions, Rigour, Spacing, Wishes};
pub use grammars::{Grammar, Grammars};
