//! Other people's APIs: requests to conversations, answers to their events and bodies. No HTTP, no
//! model.
//!
//! One module per provider's API turns a JSON body into a [`Request`]: [`chat`] and [`completions`]
//! (OpenAI's older APIs), [`responses`] (its newer one), [`messages`] (Anthropic's). A request
//! holds the conversation that [`ds4_text::render()`] takes, what the client asked of sampling,
//! and whatever the answer must know. [`wire`] is the way back: events of [`ds4_text::parse`] to
//! the frames of a stream or to a body, in the shape of the API that the request came by.
//! [`ApiError`] is an error in each of these shapes, [`models`] the lists of models.
//!
//! Requests are read by one of two sets of [`Rules`]: what the hosted API of the model's maker
//! accepts, with its errors word for word, or whatever has a sensible meaning. What is ignored is
//! told in [`Request::warnings`].
//!
//! [`check`] has the JSON-to-JSON functions behind the checking commands, which hold this
//! implementation against others.
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
