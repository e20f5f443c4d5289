//! The model inside the program, for when no file is given. Replacing it means replacing this file.

use anyhow::Result;
use ds4_gguf::Gguf;

/// What it is, for people, and how to get the real one.
pub(crate) const NOTICE: &str = "no model given and no ./ds4flash.gguf here: using nano, the \
    built-in demo model of 16 million parameters; -m FILE runs the real one, a GGUF of \
    antirez/deepseek-v4-gguf on huggingface.co";

/// A small trained model of the same architecture, with its MTP block; see `training/`.
static NANO: &[u8] = include_bytes!("../../../models/nano.gguf");

/// Opens it in place: the program's own pages are the file.
pub(crate) fn open() -> Result<Gguf> {
    Ok(Gguf::from_bytes("nano (built in)", NANO)?)
}
