//! HTTP: what clients of OpenAI's and Anthropic's APIs talk to.
//!
//! A request comes in by a route (`route.rs`, `router.rs`), is prepared on a thread that may
//! compute (`prepare.rs`: converted by [`ds4_api`], rendered by [`ds4_turns`], with a form from
//! [`ds4_constrain`]) and handed to the worker of [`ds4_scheduler`]. From there two halves meet in
//! a channel: `answer.rs` is called on the worker's thread for every token and never waits;
//! `stream.rs` and `generate.rs` write what it tells in the client's form and wait for the
//! connection.
//!
//! ```text
//! body ─► prepare ─► exchange::submit ─► worker ─► answer ─┬─► stream    frames, signs of life
//!                                                         └─► generate  one body
//! ```
//!
//! A client that goes away drops its half, which sets the request's flag of cancellation; what was
//! computed stays. A client that is slow fills the channel, which holds its own sequence only
//! ([`ds4_scheduler::Client::is_ready`]); when it takes nothing at all for a while its connection
//! is closed (`stall.rs`).
//!
//! No environment, no flags, no printing: the command line gives [`Options`], a worker and sockets.

#![forbid(unsafe_code)]

mod answer;
mod body;
mod exchange;
mod generate;
mod id;
mod info;
mod json;
mod keys;
mod ledger;
pub mod limits;
mod listen;
mod metrics;
mod openapi;
mod options;
mod origin;
mod prepare;
mod reply;
mod route;
mod router;
mod script;
mod server;
mod stall;
mod stream;
mod text;
mod trace;

pub use keys::Keys;
pub use listen::{Listener, Stopped, serve};
pub use options::Options;
pub use script::Script;
pub use server::Server;
pub use trace::Trace;
