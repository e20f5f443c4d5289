//! The thread that owns the scheduler, and the handle through which others reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Client, Counters, Error, Request, Result, Scheduler};

/// How often clients that hold their sequences are asked again.
const HELD_POLL: Duration = Duration::from_millis(2);

/// What the worker is asked.
enum Command {
    Submit(Box<Request>, Box<dyn Client>),
    Shutdown,
}

/// Numbers for health checks and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// Requests that have a slot.
    pub active: usize,
    /// Tokens held by live sequences.
    pub tokens_held: usize,
    /// Whether the runner can still be used.
    pub is_alive: bool,
    /// What was done so far.
    pub counters: Counters,
}

#[derive(Debug, Default)]
struct Shared {
    /// Sent to the worker but not yet seen by it.
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    active: AtomicUsize,
    tokens_held: AtomicUsize,
    is_dead: AtomicBool,
    is_closing: AtomicBool,
    counters: std::sync::Mutex<Counters>,
}

/// A running scheduler.
#[derive(Debug)]
pub struct Worker {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    queue_max: usize,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts the thread.
    pub fn spawn(scheduler: Scheduler) -> std::io::Result<Self> {
        let (commands, inbox) = channel();
        let shared = Arc::new(Shared::default());
        let queue_max = scheduler.options.queue_max;
        let theirs = Arc::clone(&shared);
        let body = move || run(scheduler, &inbox, &theirs);
        let thread = std::thread::Builder::new().name("ds4-worker".into()).spawn(body)?;
        let thread = std::sync::Mutex::new(Some(thread));
        Ok(Self { commands, shared, queue_max, thread })
    }

    /// Hands a request over, or says at once why it cannot be taken.
    pub fn submit(&self, request: Request, client: Box<dyn Client>) -> Result<()> {
        if self.shared.is_dead.load(Ordering::Relaxed) {
            return Err(Error::Failed("the device is lost".to_owned()));
        }
        if self.shared.is_closing.load(Ordering::Relaxed) {
            return Err(Error::ShuttingDown);
        }
        let waiting = self.shared.waiting.load(Ordering::Relaxed)
            + self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        if waiting >= self.queue_max {
            self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Busy { waiting });
        }
        let command = Command::Submit(Box::new(request), client);
        self.commands.send(command).map_err(|_| Error::ShuttingDown)
    }

    /// Present load.
    pub fn status(&self) -> Status {
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        Status {
            waiting: load(&self.shared.waiting) + load(&self.shared.in_flight),
            active: load(&self.shared.active),
            tokens_held: load(&self.shared.tokens_held),
            is_alive: !self.shared.is_dead.load(Ordering::Relaxed),
            counters: *lock(&self.shared.counters),
        }
    }

    /// Ends all requests, stores every sequence, and waits for the thread.
    pub fn shut_down(&self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        let _ = self.commands.send(Command::Shutdown);
        let thread = self.thread.lock().ok().and_then(|mut t| t.take());
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the worker thread panicked");
        }
    }
}

/// Says that the runner is gone when the thread unwinds, so that nobody waits for it.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.is_dead.store(true, Ordering::Relaxed);
            self.0.is_closing.store(true, Ordering::Relaxed);
        }
    }
}

fn run(mut scheduler: Scheduler, inbox: &Receiver<Command>, shared: &Shared) {
    let _alarm = Alarm(shared);
    let mut is_busy = false;
    loop {
        if !take_commands(&mut scheduler, inbox, shared, is_busy) {
            scheduler.shut_down();
            publish(&scheduler, shared);
            return;
        }
        match scheduler.step() {
            Ok(busy) => is_busy = busy || scheduler.waiting() > 0,
            Err(error) => {
                tracing::error!("the device is lost: {error}");
                shared.is_dead.store(true, Ordering::Relaxed);
                shared.is_closing.store(true, Ordering::Relaxed);
                publish(&scheduler, shared);
                refuse_all(inbox);
                return;
            }
        }
        publish(&scheduler, shared);
    }
}

/// Takes what has arrived, waiting for something when there is nothing to do; `false` to end.
fn take_commands(
    scheduler: &mut Scheduler,
    inbox: &Receiver<Command>,
    shared: &Shared,
    is_busy: bool,
) -> bool {
    let (mut wait, mut pause) = (!is_busy, scheduler.is_held);
    loop {
        let command = if wait {
            inbox.recv().map_err(|_| TryRecvError::Disconnected)
        } else if pause {
            inbox.recv_timeout(HELD_POLL).map_err(|e| match e {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            })
        } else {
            inbox.try_recv()
        };
        (wait, pause) = (false, false);
        match command {
            Ok(Command::Submit(request, client)) => {
                scheduler.submit(*request, client);
                shared.waiting.store(scheduler.waiting(), Ordering::Relaxed);
                shared.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => return false,
            Err(TryRecvError::Empty) => return true,
        }
    }
}

fn publish(scheduler: &Scheduler, shared: &Shared) {
    shared.waiting.store(scheduler.waiting(), Ordering::Relaxed);
    shared.active.store(scheduler.active(), Ordering::Relaxed);
    shared.tokens_held.store(scheduler.tokens_held(), Ordering::Relaxed);
    *lock(&shared.counters) = *scheduler.counters();
}

fn lock(counters: &std::sync::Mutex<Counters>) -> std::sync::MutexGuard<'_, Counters> {
    counters.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tells requests that arrive after the end.
fn refuse_all(inbox: &Receiver<Command>) {
    while let Ok(Command::Submit(_, mut client)) = inbox.try_recv() {
        client.done(Err(Error::ShuttingDown), &ds4_engine::Stats::default());
    }
}
