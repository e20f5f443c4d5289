//! Other people's request types, converted to conversations; no HTTP.
//!
//! One file per provider turns a JSON body into a [`Request`]: the conversation that
//! [`ds4_text::render()`] takes, and what the client asked of sampling. [`chat`] is OpenAI's Chat
//! Completions. [`check`] has the JSON-to-JSON functions behind the checking commands, which hold
//! this implementation against others.
#![forbid(unsafe_code)]

mod april;
pub mod chat;
pub mod check;
pub mod completions;
mod content;
mod error;
mod failure;
mod fields;
pub mod limits;
pub mod messages;
pub mod models;
mod request;
pub mod responses;
mod schema;
mod settings;
mod tools;
pub mod wire;

pub use error::RequestError;
pub use failure::{ApiError, ErrorKind};
pub use request::{Alias, Api, RawCompletion, Request, ResponsesOptions, Rules, Sampling};
