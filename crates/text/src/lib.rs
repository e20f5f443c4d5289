//! Everything between UTF-8 and token ids, both ways.
//!
//! A [`Tokenizer`] is built from the vocabulary of a model file. It has three ways in, and the
//! difference between them is the safety rule of this crate: ordinary text never becomes a control
//! token ([`Tokenizer::encode_plain`]); a conversation is rendered to a [`Prompt`], in which only
//! the template's own segments are control ([`Tokenizer::encode_segments`]); and only text that
//! somebody else has already rendered is searched for the literals of control tokens
//! ([`Tokenizer::encode_with_control`]).
//!
//! [`render()`] turns a [`Conversation`] into a [`Prompt`], in one of two [`Profile`]s.
//!
//! The way out is [`Detok`], which never cuts a character, and [`parse::Parser`], which takes the
//! model's output apart into reasoning, content and tool calls.
//!
//! Pre-tokenizer and merges are written here instead of taken from the `tokenizers` crate: it gives
//! the same ids (compared over 60,000 random strings), but needs 72 crates and, on the machine of
//! the first measurements (two Zen 1 cores), 183 ms to build and a second for each megabyte, where
//! `examples/encode_speed.rs` measures 60–105 ms and 15–20 MB/s.
//!
//! This crate knows no request format, no HTTP and no sampling. "§A.2" in a comment names a section
//! of the model's token and text protocol.
#![forbid(unsafe_code)]

mod alphabet;
mod bpe;
mod class;
mod control;
mod detok;
mod error;
pub mod limits;
mod literal;
mod message;
pub mod parse;
mod prompt;
mod pyjson;
pub mod render;
mod split;
mod tokenizer;
mod utf8;
mod vocab;

pub use control::{
    ASSISTANT, BOS, Control, DSML, EOS, EOT, LATEST_REMINDER, Specials, THINK_CLOSE, THINK_OPEN,
    Task, USER,
};
pub use detok::Detok;
pub use error::Error;
pub use message::{
    Arguments, Conversation, Effort, Message, Replay, ResponseFormat, Role, Tail, Thinking,
    ToolCall, ToolChoice,
};
pub use prompt::{Prompt, Sampled, Segment};
pub use pyjson::{object_to_python_json, to_python_json};
pub use render::{Profile, render};
pub use tokenizer::Tokenizer;
pub use vocab::Vocab;
