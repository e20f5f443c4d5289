//! The server through its service and through sockets, over a runner whose delays and failures are
//! set by the test, and over nano.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod equal;
mod gone;
mod limits;
mod requests;
mod routes;
mod shutdown;
mod streams;
mod support;
