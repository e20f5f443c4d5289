//! The checking commands: JSON on stdin, JSON on stdout, so that anyone can hold this program
//! against another. They read a vocabulary at most.

use std::io::{self, Read, Write};

use anyhow::{Context, Result, anyhow};
use ds4_api::{RequestError, check};
use ds4_text::Profile;
use serde_json::Value;

use crate::load;
use crate::options::Source;

/// Array of strings to array of arrays of ids.
pub(crate) fn tokenize(model: &Source, is_plain: bool) -> Result<()> {
    let tokenizer = load::open_vocabulary(model)?;
    convert(|input| check::tokenize_json(&tokenizer, input, is_plain))
}

/// Array of arrays of ids to array of texts with their stream chunks.
pub(crate) fn detokenize(model: &Source) -> Result<()> {
    let tokenizer = load::open_vocabulary(model)?;
    convert(|input| check::detokenize_json(&tokenizer, input))
}

/// Array of conversations to array of prompts.
pub(crate) fn render(model: &Source, profile: &str) -> Result<()> {
    let tokenizer = load::open_vocabulary(model)?;
    let profile = Profile::from_name(profile).expect("one of the values the flag allows");
    convert(|input| check::render_json(&tokenizer, profile, input))
}

/// Array of raw outputs to array of messages.
pub(crate) fn parse() -> Result<()> {
    convert(check::parse_json)
}

fn convert(convert: impl FnOnce(&Value) -> Result<Value, RequestError>) -> Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
    let input: Value = serde_json::from_str(&text).context("stdin is not JSON")?;
    let output = convert(&input).map_err(|error| anyhow!("stdin: {}", error.message))?;
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &output)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
