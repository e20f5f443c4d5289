//! Errors on their way out: one line on stderr, and the exit status.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use crate::options::Usage;
use crate::serve::DeviceLost;

/// Prints an error after the tool's name and returns the exit status: 2 for wrong usage, 70 for a lost
/// device, 1 for other failures, 0 when only the reader of our output has gone away.
pub(crate) fn report(tool: &str, error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{tool}: {}", line(error));
    } else {
        eprintln!("{tool}: {}", line(error));
    }
    match error {
        error if error.is::<Usage>() => ExitCode::from(2),
        error if error.is::<DeviceLost>() || is_device(error) => ExitCode::from(70),
        _ => ExitCode::FAILURE,
    }
}

/// Whether the device failed while it was used.
pub(crate) fn is_device(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let model = cause.downcast_ref::<ds4_model::Error>();
        let engine = cause.downcast_ref::<ds4_engine::Error>();
        matches!(model, Some(ds4_model::Error::Device(_)))
            || matches!(engine, Some(ds4_engine::Error::Model(ds4_model::Error::Device(_))))
    })
}

/// Whether the reader of our output has gone away.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |cause: &(dyn Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json =
            cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        kind.or(json) == Some(io::ErrorKind::BrokenPipe)
    };
    error.chain().any(is_pipe)
}

/// An error with its causes on one line. A cause that its successor already tells is left out.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if out.ends_with(&text) {
            continue;
        }
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(&text);
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn causes_are_joined_on_one_line() {
        let error = anyhow!("no space\nleft").context("cannot write x");
        assert_eq!(line(&error), "cannot write x: no space left");
        let pipe: anyhow::Result<()> =
            Err(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert!(is_closed_pipe(&pipe.unwrap_err()));
        assert!(!is_closed_pipe(&error));
        let lost = || ds4_model::Error::Device("gone".to_owned());
        assert!(is_device(&anyhow::Error::from(lost()).context("while answering")));
        assert!(is_device(&ds4_engine::Error::from(lost()).into()));
        assert!(!is_device(&error));
    }
}
