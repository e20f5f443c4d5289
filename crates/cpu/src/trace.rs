//! What each thread did when: a recorder that costs one load where it is off.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ds4_gguf::TensorType;

/// One piece of work of one thread.
#[derive(Clone, Debug)]
pub struct Event {
    /// The matrix, as its file names it, or what was done.
    pub name: String,
    /// Thread of the pool; 0 is the caller.
    pub thread: usize,
    /// Begin, since the recorder was switched on.
    pub begin: Duration,
    /// End.
    pub end: Duration,
    /// Of that, time to unpack weights for many tokens.
    pub unpack: Duration,
    /// What was read and multiplied.
    pub work: Work,
}

/// Amounts of a piece of work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Format of the weights, of a product with weights.
    pub ty: Option<TensorType>,
    /// Bytes of weights or rows that are read.
    pub bytes: u64,
    /// Multiply-adds.
    pub macs: u64,
    /// Tokens that share the weights.
    pub tokens: usize,
}

/// Collects events while it is on.
#[derive(Debug)]
pub(crate) struct Recorder {
    on: AtomicBool,
    log: Mutex<(Instant, Vec<Event>)>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { on: AtomicBool::new(false), log: Mutex::new((Instant::now(), Vec::new())) }
    }
}

thread_local! {
    /// Time to unpack weights in the running piece of work; `None` where nobody asks.
    static UNPACK: Cell<Option<Duration>> = const { Cell::new(None) };
}

impl Recorder {
    /// Begins anew.
    pub(crate) fn start(&self) {
        *self.log() = (Instant::now(), Vec::new());
        self.on.store(true, Ordering::Relaxed);
    }

    /// Ends, and gives what was recorded.
    pub(crate) fn stop(&self) -> Vec<Event> {
        self.on.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.log().1)
    }

    /// Runs `f` as a piece of work of a thread.
    pub(crate) fn piece<R>(
        &self,
        thread: usize,
        name: &str,
        work: impl FnOnce() -> Work,
        f: impl FnOnce() -> R,
    ) -> R {
        if !self.on.load(Ordering::Relaxed) {
            return f();
        }
        UNPACK.set(Some(Duration::ZERO));
        let begin = Instant::now();
        let result = f();
        let end = Instant::now();
        let unpack = UNPACK.take().unwrap_or_default();
        let (zero, events) = &mut *self.log();
        let (begin, end) = (begin.duration_since(*zero), end.duration_since(*zero));
        events.push(Event { name: name.to_owned(), thread, begin, end, unpack, work: work() });
        result
    }

    fn log(&self) -> std::sync::MutexGuard<'_, (Instant, Vec<Event>)> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `f`, which unpacks weights.
pub(crate) fn unpacking<R>(f: impl FnOnce() -> R) -> R {
    let Some(sum) = UNPACK.get() else { return f() };
    let begin = Instant::now();
    let result = f();
    UNPACK.set(Some(sum + begin.elapsed()));
    result
}

/// What all pieces of one kind took together.
#[derive(Clone, Debug)]
pub struct Component {
    /// The matrices' common name, without layer and suffix, or what was done.
    pub name: String,
    /// Their share of the recorded time: while several pieces run, each has its part of it.
    pub seconds: f64,
    /// Time of all threads.
    pub busy: f64,
    /// Of that, time to unpack weights.
    pub unpack: f64,
    /// Amounts of all pieces; tokens of the largest.
    pub work: Work,
}

/// Components in the order in which they first appear, and the seconds in which no piece ran.
pub fn summary(events: &[Event]) -> (Vec<Component>, f64) {
    let mut all: Vec<Component> = Vec::new();
    let ix: Vec<usize> = events.iter().map(|e| place(&mut all, e)).collect();
    // The ends of pieces in order of time.
    let mut turns: Vec<(Duration, bool, usize)> = Vec::with_capacity(2 * events.len());
    for (i, e) in events.iter().enumerate() {
        turns.push((e.begin, true, i));
        turns.push((e.end, false, i));
    }
    turns.sort();
    let (mut running, mut idle): (Vec<usize>, f64) = (Vec::new(), 0.0);
    let mut last = turns.first().map_or(Duration::ZERO, |t| t.0);
    for (time, begins, i) in turns {
        let passed = time.saturating_sub(last).as_secs_f64();
        for r in &running {
            all[ix[*r]].seconds += passed / running.len() as f64;
        }
        if running.is_empty() {
            idle += passed;
        }
        last = time;
        if begins { running.push(i) } else { running.retain(|r| *r != i) }
    }
    (all, idle)
}

/// Adds an event to its component; returns which.
fn place(all: &mut Vec<Component>, e: &Event) -> usize {
    let name = kind(&e.name);
    let found = all.iter().position(|c| c.name == name && c.work.ty == e.work.ty);
    let ix = found.unwrap_or(all.len());
    if found.is_none() {
        let work = Work { ty: e.work.ty, ..Work::default() };
        let name = name.to_owned();
        all.push(Component { name, seconds: 0.0, busy: 0.0, unpack: 0.0, work });
    }
    let c = &mut all[ix];
    c.busy += e.end.saturating_sub(e.begin).as_secs_f64();
    c.unpack += e.unpack.as_secs_f64();
    c.work.bytes += e.work.bytes;
    c.work.macs += e.work.macs;
    c.work.tokens = c.work.tokens.max(e.work.tokens);
    ix
}

/// `attn_q_b` of `blk.3.attn_q_b.weight`.
fn kind(name: &str) -> &str {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let inner = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    inner.map_or(name, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, thread: usize, begin: u64, end: u64) -> Event {
        let ms = Duration::from_millis;
        let work = Work { bytes: 10, ..Work::default() };
        let unpack = Duration::ZERO;
        Event { name: name.to_owned(), thread, begin: ms(begin), end: ms(end), unpack, work }
    }

    #[test]
    fn time_is_shared_by_what_runs_at_once() {
        let events = [
            event("blk.0.a.weight", 0, 0, 10),
            event("b", 1, 5, 10),
            event("blk.17.a.weight", 1, 12, 13),
        ];
        let (all, idle) = summary(&events);
        assert_eq!(all.iter().map(|c| &c.name[..]).collect::<Vec<_>>(), ["a", "b"]);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(all[0].seconds, 0.0085);
        near(all[1].seconds, 0.0025);
        near(all[0].busy, 0.011);
        near(idle, 0.002);
        assert_eq!(all[0].work.bytes, 20);
        assert!(summary(&[]).0.is_empty());
    }
}
