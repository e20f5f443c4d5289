//! Many sequences on one runner.
//!
//! A [`Scheduler`] owns the [`ds4_model::Runner`] and a fixed number of slots, each a live sequence.
//! Every [`Scheduler::step`] is one `forward` call over all that want to go on: one token (and its
//! drafts) of each sequence that decodes, and a share of every prompt in progress. A request takes the
//! slot from which most of its prompt can be kept: by extending the live tokens, by going back to a
//! [`ds4_model::Mark`], by forking another sequence, or from the disk ([`ds4_kvstore`]); where another
//! prompt is just computing what it begins with, it waits for that.
//!
//! [`Worker`] runs the steps on a thread of its own and takes requests from any other. Whoever asked
//! hears of progress through a [`Client`], called on that thread; it must not block.
//!
//! No HTTP, no text beyond what [`Texts`] translates, no tensor.

#![forbid(unsafe_code)]

mod admit;
mod choose;
mod counters;
mod deliver;
mod disk;
mod error;
mod frontier;
mod guard;
mod identity;
mod keyed;
mod options;
mod pace;
mod plan;
mod recover;
mod request;
mod slot;
mod step;
mod worker;

pub use counters::Counters;
pub use disk::Disk;
pub use error::{Error, Result};
pub use identity::identity;
pub use options::{DiskOptions, Options};
pub use request::{Client, Cuts, Request, Source, Started, Texts};
pub use step::Scheduler;
pub use worker::{Status, Worker};
