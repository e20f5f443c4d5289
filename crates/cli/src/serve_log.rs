//! Log lines on stderr: for people as the C engine writes them, or as JSON.

use std::fmt;
use std::io::{self, IsTerminal};

use anyhow::{Result, anyhow};
use time::{OffsetDateTime, UtcOffset};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::options::Usage;
use crate::serve_options::Log;

/// Starts logging; to be called before other threads are started, because the time zone cannot be
/// asked for safely later.
pub(crate) fn start(log: &Log) -> Result<()> {
    let levels: Targets =
        log.levels.parse().map_err(|e| Usage(format!("--log {}: {e}", log.levels)))?;
    let registry = tracing_subscriber::registry().with(levels);
    let started = if log.is_json {
        let lines = layer().json().flatten_event(true).with_writer(io::stderr);
        registry.with(lines).try_init()
    } else {
        let lines = Lines {
            offset: UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC),
            is_terminal: io::stderr().is_terminal(),
        };
        registry.with(layer().event_format(lines).with_writer(io::stderr)).try_init()
    };
    started.map_err(|e| anyhow!("cannot start logging: {e}"))
}

/// `MMDD HH:MM:SS message key=value`.
struct Lines {
    offset: UtcOffset,
    is_terminal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let t = OffsetDateTime::now_utc().to_offset(self.offset);
        let (month, day) = (u8::from(t.month()), t.day());
        let (hour, minute, second) = (t.hour(), t.minute(), t.second());
        write!(out, "{month:02}{day:02} {hour:02}:{minute:02}:{second:02} ")?;
        let (colour, word) = match *event.metadata().level() {
            Level::ERROR => ("\x1b[31m", "error: "),
            Level::WARN => ("\x1b[33m", "warning: "),
            Level::INFO => ("", ""),
            Level::DEBUG => ("\x1b[90m", "debug: "),
            Level::TRACE => ("\x1b[90m", "trace: "),
        };
        let is_coloured = self.is_terminal && !colour.is_empty();
        if is_coloured {
            out.write_str(colour)?;
        }
        out.write_str(word)?;
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out, "{}", if is_coloured { "\x1b[0m" } else { "" })
    }
}
