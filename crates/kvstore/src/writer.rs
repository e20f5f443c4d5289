//! The thread that writes files, so that nobody who computes waits for a disk.

use std::collections::VecDeque;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::save::{add_tools, publish, write_temp};
use crate::store::{Inner, State};
use crate::{Entry, Error, Reason, Result, Skip, Snapshot, ToolEntry, key};

/// Failures in a row after which nothing is written any more.
const FAILURES_MAX: u32 = 3;
/// The time over which writes are limited.
const HOUR: Duration = Duration::from_hours(1);

/// What the thread does.
#[derive(Debug)]
pub(crate) enum Job {
    Save(String, Arc<Snapshot>),
    AddTools(String, Vec<ToolEntry>),
}

/// Jobs and what limits them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    jobs: VecDeque<Job>,
    /// Snapshots not yet in the index, the one being written among them.
    pub(crate) pending: Vec<(String, Arc<Snapshot>)>,
    /// Whether a job is being done.
    is_working: bool,
    pub(crate) is_closing: bool,
    /// Bytes written within the last hour.
    written: VecDeque<(Instant, u64)>,
    failures: u32,
    pub(crate) is_off: bool,
}

impl Queue {
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && !self.is_working
    }

    fn bytes(&self) -> u64 {
        self.pending.iter().map(|(_, s)| s.bytes()).sum()
    }

    fn written(&mut self) -> u64 {
        while self.written.front().is_some_and(|(at, _)| at.elapsed() > HOUR) {
            self.written.pop_front();
        }
        self.written.iter().map(|(_, n)| n).sum()
    }
}

impl Inner {
    /// Whether a snapshot of about `bytes` would be taken. Before a sequence is given up, this waits
    /// for the writer; otherwise a busy one means no.
    pub(crate) fn check(
        &self,
        key: &[u8],
        tokens: usize,
        reason: Reason,
        bytes: u64,
    ) -> std::result::Result<(), Skip> {
        let o = &self.options;
        if tokens < o.tokens_min.max(1) as usize {
            return Err(Skip::TooFew);
        }
        if bytes + bytes / 100 > o.budget_bytes {
            return Err(Skip::TooLarge);
        }
        let name = key::key_name(key);
        let must = matches!(reason, Reason::Evict | Reason::Shutdown);
        let mut state = self.lock();
        if state.holds(&name) {
            return Err(Skip::Stored);
        }
        let limit = o.hourly_bytes_max;
        if limit > 0 && reason != Reason::Shutdown && state.queue.written() + bytes > limit {
            return Err(Skip::WornOut);
        }
        loop {
            if state.queue.is_off {
                return Err(Skip::Off);
            }
            let queued = state.queue.bytes();
            if queued == 0 || queued + bytes <= o.queue_bytes_max {
                return Ok(());
            }
            if !must {
                return Err(Skip::Busy);
            }
            state = self.wait(state);
        }
    }

    /// Hands a snapshot to the thread.
    pub(crate) fn push(&self, snapshot: Snapshot) {
        let name = key::key_name(&snapshot.key);
        let snapshot = Arc::new(snapshot);
        let mut state = self.lock();
        state.queue.pending.push((name.clone(), Arc::clone(&snapshot)));
        state.queue.jobs.push_back(Job::Save(name, snapshot));
        self.changed.notify_all();
    }

    /// Hands names to the thread, to be added to the map of a file that exists.
    pub(crate) fn push_tools(&self, key: &[u8], entries: Vec<ToolEntry>) {
        let name = key::key_name(key);
        let mut state = self.lock();
        if !entries.is_empty() && !state.queue.is_off {
            state.queue.jobs.push_back(Job::AddTools(name, entries));
            self.changed.notify_all();
        }
    }

    /// The thread: does jobs until the store is closed and nothing is left.
    pub(crate) fn write_jobs(&self) {
        let mut state = self.lock();
        loop {
            let Some(job) = state.queue.jobs.pop_front() else {
                if state.queue.is_closing {
                    return;
                }
                state = self.wait(state);
                continue;
            };
            state.queue.is_working = true;
            drop(state);
            let done = catch_unwind(AssertUnwindSafe(|| self.work(&job)));
            state = self.lock();
            state.queue.is_working = false;
            if done.is_err() {
                tracing::error!("kv cache: the writer panicked, nothing is written any more");
                state.queue.is_off = true;
                state.queue.pending.clear();
            }
            self.changed.notify_all();
        }
    }

    fn work(&self, job: &Job) {
        match job {
            Job::Save(name, snapshot) => {
                let began = Instant::now();
                let done = self.write(name, snapshot);
                self.settle(name, snapshot, done, began.elapsed());
            }
            Job::AddTools(name, entries) => match add_tools(&self.path(name), entries) {
                Ok(true) => self.lock().note_tools(name, entries),
                Ok(false) => {}
                Err(e) => tracing::debug!("kv cache: tool map not refreshed: {e}"),
            },
        }
    }

    /// Writes one file; `None` when it turned out larger than the budget, or writing was given up.
    fn write(&self, name: &str, snapshot: &Snapshot) -> Result<Option<Entry>> {
        let number = {
            let mut state = self.lock();
            if state.queue.is_off {
                return Ok(None);
            }
            state.writes += 1;
            state.writes
        };
        let temp = self.dir.join(format!("{name}.kv.tmp.{}.{number}", std::process::id()));
        let written = write_temp(&temp, snapshot, &self.options).and_then(|(header, bytes)| {
            if bytes + bytes / 100 > self.options.budget_bytes {
                return Ok(None);
            }
            publish(&temp, &self.path(name))?;
            Ok(Some(Entry {
                name: name.to_owned(),
                header,
                key_bytes: snapshot.key.len(),
                file_bytes: bytes,
                is_usable: true,
                is_covered: false,
            }))
        });
        if !matches!(written, Ok(Some(_))) {
            let _ = fs::remove_file(&temp);
        }
        written
    }

    /// Takes the outcome of a write into the index, and says what it was.
    fn settle(&self, name: &str, snapshot: &Snapshot, done: Result<Option<Entry>>, took: Duration) {
        let (tokens, reason) = (snapshot.tokens.len(), snapshot.reason.name());
        let mut state = self.lock();
        state.queue.pending.retain(|(pending, _)| pending != name);
        match done {
            Ok(Some(entry)) => {
                let bytes = entry.file_bytes;
                state.queue.failures = 0;
                state.queue.written.push_back((Instant::now(), bytes));
                state.stats.stored += 1;
                state.stats.stored_bytes += bytes;
                state.stats.stored_ms += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(
                    "kv cache: stored tokens={tokens} trimmed={} reason={reason} key=tokens \
                     size={:.2} MiB took={} ms file={name}.kv",
                    snapshot.trimmed,
                    mib(bytes),
                    took.as_millis(),
                );
                self.adopt(&mut state, entry, snapshot);
            }
            Ok(None) => {
                state.stats.skipped += 1;
                tracing::debug!("kv cache: skipped tokens={tokens} reason={reason}: too large");
            }
            Err(e) => state.write_failed(tokens, reason, &e),
        }
        self.changed.notify_all();
    }

    fn adopt(&self, state: &mut State, entry: Entry, snapshot: &Snapshot) {
        let name = entry.name.clone();
        state.index.ignored.remove(&name);
        state.index.entries.insert(name.clone(), entry);
        state.note_tools(&name, &snapshot.tools);
        self.cover(state, &snapshot.key);
        if let Some(old) = snapshot.replaces.as_ref().filter(|old| **old != name) {
            self.remove_file(state, old);
        }
        self.evict(state, Some(&name));
    }
}

impl State {
    fn write_failed(&mut self, tokens: usize, reason: &str, e: &Error) {
        self.stats.failed += 1;
        self.queue.failures += 1;
        if e.is_disk_full() {
            self.queue.is_off = true;
            tracing::warn!("kv cache: disk full, nothing is written any more: {e}");
        } else if self.queue.failures >= FAILURES_MAX {
            self.queue.is_off = true;
            tracing::warn!("kv cache: writing failed {FAILURES_MAX} times, given up: {e}");
        } else {
            tracing::warn!("kv cache: not stored tokens={tokens} reason={reason}: {e}");
        }
    }
}

/// Bytes as MiB, for logs.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
