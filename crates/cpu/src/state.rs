//! A sequence's state in the form that marks, forks and files have: for every backend whose states
//! are interchangeable with this one's.

pub use crate::frontier::{CompEnd, Frontier, LayerEnd, MtpEnd, first_raw, needed_from, of_mark};
pub use crate::save::{Fill, Grown, Identity, load, save};
