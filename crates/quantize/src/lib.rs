//! Writes a model file in other formats: which tensor gets which type is a [`Recipe`], how much an
//! error in a column matters comes from an [`Imatrix`], and [`convert()`] streams tensor by tensor, so
//! that a file far larger than memory is converted with a few hundred megabytes.
//!
//! The encoders themselves are `ds4_gguf::quant`.

#![forbid(unsafe_code)]

mod convert;
mod error;
mod imatrix;
mod recipe;

pub use convert::{Options, Report, TensorReport, convert};
pub use error::{Error, Result};
pub use imatrix::Imatrix;
pub use recipe::{Class, Override, Recipe};
