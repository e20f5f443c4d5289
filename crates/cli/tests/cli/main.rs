//! The program as its users meet it: what it prints, where, and how it exits.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test that called")]

mod answers;
mod backend;
mod bench;
mod cache;
mod checking;
mod diagnostics;
mod failures;
mod logits;
mod repl;
mod run;
mod serve;
mod setup;
mod usage;
