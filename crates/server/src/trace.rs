//! A readable log of what went in and what came out, for those who wonder why a prompt missed the
//! cache or a call was not recognised. Written on a thread of its own.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use crate::limits::TRACES_MAX;

/// Where traces go.
#[derive(Debug)]
pub struct Trace(SyncSender<Record>);

/// What a request was and became.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Request id, API and the like, in one line.
    pub(crate) title: String,
    /// The prompt, control tokens by their literals.
    pub(crate) prompt: String,
    /// What was found for earlier answers of the conversation.
    pub(crate) notes: Vec<String>,
    /// Where the beginning of the prompt came from, and why not more of it.
    pub(crate) cache: String,
    /// What the model wrote.
    pub(crate) output: String,
    /// Name and arguments of the calls in it.
    pub(crate) calls: Vec<String>,
    /// The end, in one line.
    pub(crate) end: String,
}

impl Trace {
    /// Appends to a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let (sender, records) = sync_channel::<Record>(TRACES_MAX);
        let name = path.display().to_string();
        thread::Builder::new().name("ds4-trace".into()).spawn(move || {
            let mut out = BufWriter::new(file);
            for record in records {
                if let Err(error) = write(&mut out, &record) {
                    tracing::warn!("cannot write the trace {name}: {error}");
                    return;
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Writes a record some time; never waits.
    pub(crate) fn write(&self, record: Record) {
        if let Err(TrySendError::Full(record)) = self.0.try_send(record) {
            tracing::warn!("the trace is behind; dropped {}", record.title);
        }
    }
}

fn write(out: &mut BufWriter<File>, record: &Record) -> io::Result<()> {
    out.write_all(record.text().as_bytes())?;
    out.flush()
}

impl Record {
    fn text(&self) -> String {
        let mut text = format!("==== {}\n", self.title);
        let mut part = |name: &str, body: &str| {
            let _ = writeln!(text, "---- {name}\n{body}");
        };
        part("prompt", &self.prompt);
        let cache = [std::slice::from_ref(&self.cache), &self.notes].concat();
        part("cache", &cache.join("\n"));
        part("output", &self.output);
        if !self.calls.is_empty() {
            part("calls", &self.calls.join("\n"));
        }
        part("end", &self.end);
        text
    }
}
