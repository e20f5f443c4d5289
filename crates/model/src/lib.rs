//! Placeholder for the crate being written.
