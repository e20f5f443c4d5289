//! Persistent worker threads that fork and join in about a microsecond.
//!
//! A step has hundreds of parallel sections, each tens of microseconds long: sleeping and waking
//! would cost more than the work. Workers therefore spin between sections and park only after
//! [`IDLE`] without one, so an idle chat burns no processor.
//!
//! Contains `unsafe`: a persistent thread can be lent a borrowed closure in no other way.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cores::default_threads;
use crate::trace::Recorder;

/// A worker without work for this long parks.
const IDLE: Duration = Duration::from_millis(2);

/// Turns of a spin loop before the thread offers its core to others: about 30 µs.
const SPINS: u32 = 2000;

/// A parallel section: called once per thread with `(thread, threads)`.
type Section = dyn Fn(usize, usize) + Sync;

/// Worker threads; the calling thread is one of them.
///
/// Sections do not nest: a section started inside a section runs on its own thread alone. Calls
/// from several threads take turns. A panic in a section becomes a panic of the caller, after all
/// threads have left the section.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
    /// Of what the threads do in sections.
    pub(crate) recorder: Recorder,
}

/// Alone in its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

#[derive(Debug)]
struct Shared {
    /// Number of the latest section; a change starts the workers.
    epoch: Line<AtomicU32>,
    /// Workers that have not left the section.
    busy: Line<AtomicUsize>,
    /// Set while a section runs.
    section: UnsafeCell<Option<*const Section>>,
    /// Workers that are parked or about to be.
    parked: AtomicUsize,
    threads: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `section` is written only by the holder of `turn` while no worker is busy, and read by
// workers only between the release of a new `epoch` and their decrement of `busy`. What it points
// to is `Sync`, so it may be called from every thread.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is not tied to a thread.
unsafe impl Send for Shared {}

thread_local! {
    /// This thread is inside a section.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; 0 means one per physical core.
    ///
    /// Where the system refuses to start so many, the pool is smaller.
    pub fn new(threads: usize) -> Self {
        let threads = if threads == 0 { default_threads() } else { threads };
        let shared = Arc::new(Shared {
            epoch: Line::default(),
            busy: Line::default(),
            section: UnsafeCell::new(None),
            parked: AtomicUsize::new(0),
            threads: AtomicUsize::new(1),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let spawn = |ix| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("ds4-cpu-{ix}"));
            thread.spawn(move || shared.work(ix)).ok()
        };
        let workers: Vec<_> = (1..threads).map_while(spawn).collect();
        shared.threads.store(workers.len() + 1, Ordering::Relaxed);
        Self { shared, workers, turn: Mutex::new(()), recorder: Recorder::default() }
    }

    /// Threads that take part in a section.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Sections that several threads were told to join, so far; wraps around.
    pub fn sections(&self) -> u32 {
        self.shared.epoch.0.load(Ordering::Relaxed)
    }

    /// Calls `f(thread, threads)` once on every thread, and returns when all calls have.
    pub fn run(&self, f: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || INSIDE.get() {
            f(0, 1);
            return;
        }
        let turn = lock(&self.turn);
        let s = &*self.shared;
        let section: &(dyn Fn(usize, usize) + Sync + '_) = &f;
        // SAFETY: only the lifetime changes. `join` below returns after the last use by a worker,
        // and nothing between here and there can unwind.
        let section: &'static Section =
            unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync + '_), _>(section) };
        // SAFETY: `turn` is held and the last section has been joined, so nobody else looks.
        unsafe { *s.section.get() = Some(section) };
        s.busy.0.store(self.workers.len(), Ordering::Relaxed);
        // SeqCst pairs with `park`: either a parking worker sees the new epoch or we see it parked.
        s.epoch.0.fetch_add(1, Ordering::SeqCst);
        if s.parked.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|w| w.thread().unpark());
        }
        INSIDE.set(true);
        let own = catch_unwind(AssertUnwindSafe(|| f(0, self.threads())));
        INSIDE.set(false);
        s.join();
        let theirs = lock(&s.panic).take();
        drop(turn);
        if let Some(p) = own.err().or(theirs) {
            resume_unwind(p);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for w in self.workers.drain(..) {
            w.thread().unpark();
            // A worker catches the panics of sections; nothing else in it panics.
            let _ = w.join();
        }
    }
}

impl Shared {
    /// Body of worker `ix`.
    fn work(&self, ix: usize) {
        INSIDE.set(true);
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the caller of `run` set the section before the epoch that was just acquired
            // and waits in `join`, so the pointer is valid until `busy` is decremented below.
            let section = unsafe { (*self.section.get()).map(|s| &*s) };
            let section = section.expect("a section is set before its epoch");
            let threads = self.threads.load(Ordering::Relaxed);
            if let Err(p) = catch_unwind(AssertUnwindSafe(|| section(ix, threads))) {
                *lock(&self.panic) = Some(p);
            }
            self.busy.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for an epoch other than `seen`: spinning, then offering the core, then parked.
    fn next_epoch(&self, seen: u32) -> u32 {
        let begin = Instant::now();
        loop {
            for _ in 0..SPINS {
                let epoch = self.epoch.0.load(Ordering::Acquire);
                if epoch != seen {
                    return epoch;
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() > IDLE {
                return self.park(seen);
            }
            std::thread::yield_now();
        }
    }

    fn park(&self, seen: u32) -> u32 {
        self.parked.fetch_add(1, Ordering::SeqCst);
        let epoch = loop {
            let epoch = self.epoch.0.load(Ordering::SeqCst);
            if epoch != seen {
                break epoch;
            }
            std::thread::park();
        };
        self.parked.fetch_sub(1, Ordering::SeqCst);
        epoch
    }

    /// Waits until every worker has left the section.
    fn join(&self) {
        loop {
            for _ in 0..SPINS {
                if self.busy.0.load(Ordering::Acquire) == 0 {
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
    }
}

/// Locks; a panic while the lock was held left nothing half done that matters here.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_once_and_results_are_seen() {
        for threads in [1, 2, 3, 7] {
            let pool = Pool::new(threads);
            for round in 0..500 {
                let hits: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(|t, n| {
                    assert_eq!(n, threads);
                    hits[t].fetch_add(round + 1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == round + 1));
            }
        }
    }

    #[test]
    fn workers_wake_from_parking() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            std::thread::sleep(IDLE * 2);
            let hits = AtomicUsize::new(0);
            pool.run(|_, _| {
                hits.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(hits.into_inner(), 3);
        }
    }

    #[test]
    fn a_panic_in_any_thread_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(3);
        for bad in 0..3 {
            let run = || pool.run(|t, _| assert!(t != bad, "thread {t} gives up"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            let hits = AtomicUsize::new(0);
            pool.run(|_, _| {
                hits.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(hits.into_inner(), 3);
        }
    }

    #[test]
    fn a_nested_section_runs_alone_and_callers_take_turns() {
        let pool = Pool::new(2);
        let hits = AtomicUsize::new(0);
        pool.run(|_, _| {
            pool.run(|t, n| {
                assert_eq!((t, n), (0, 1));
                hits.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(hits.load(Ordering::Relaxed), 2);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..200 {
                        pool.run(|_, _| {
                            hits.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(hits.into_inner(), 2 + 3 * 200 * 2);
    }
}
