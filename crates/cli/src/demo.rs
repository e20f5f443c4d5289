//! The model inside the program, for when no file is given. Replacing it means replacing this file.

use anyhow::Result;
use ds4_gguf::Gguf;
use ds4_model::testing::{QUANT_SEED, quant_gguf};

/// What it is, for people.
pub(crate) const NOTICE: &str = "no model given and no ./ds4flash.gguf here: using the built-in test model, \
    whose weights are random and whose answers are noise; -m FILE runs a real one";

/// The quantised oracle model of the test suite, with its MTP block.
pub(crate) fn open() -> Result<Gguf> {
    Ok(quant_gguf(QUANT_SEED)?)
}
