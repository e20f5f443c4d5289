//! One step: everything that wants to go on, in one call of the runner.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use ds4_kvstore::Reason;
use ds4_model::{Runner, Span};

use crate::admit::Waiting;
use crate::frontier::mark_bytes;
use crate::guard::panic_text;
use crate::pace::Pace;
use crate::plan::Part;
use crate::slot::Slot;
use crate::{Client, Counters, Disk, Error, Options, Request, Result, Texts};

/// Time that a token of a prompt may take for the sake of short steps, in times of what it takes in the
/// largest chunk; and the same where other sequences wait for it between two of their tokens.
const SLOWDOWN: f64 = 1.5;
const SLOWDOWN_SHARED: f64 = 3.0;
/// Shortest and longest automatic distance of marks.
const MARKS_APART: std::ops::RangeInclusive<usize> = 256..=4096;

/// The owner of a runner and its live sequences.
pub struct Scheduler {
    pub(crate) runner: Box<dyn Runner>,
    pub(crate) options: Options,
    pub(crate) texts: Box<dyn Texts>,
    pub(crate) disk: Option<Disk>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) queue: VecDeque<Waiting>,
    /// Requests that began.
    pub(crate) turn: u64,
    /// Requests that ended.
    pub(crate) ended: u64,
    /// Whether everything active was held by its client in the last step.
    pub(crate) is_held: bool,
    /// Chunks of prompts that have the runner to themselves, and of those that share it.
    pub(crate) pace: Pace,
    pub(crate) pace_shared: Pace,
    /// Bytes of a mark, about.
    pub(crate) mark_bytes: u64,
    /// Distance of marks, in tokens.
    pub(crate) mark_interval: usize,
    /// Bytes of a saved state by bytes of its sequence, as last seen.
    pub(crate) state_ratio: f64,
    pub(crate) counters: Counters,
    /// Panics outside calls since the last call.
    pub(crate) n_resets: u32,
    pub(crate) logits: Vec<f32>,
    /// What a call other than a step's met, after which nothing works any more.
    pub(crate) lost: Option<String>,
}

impl Scheduler {
    /// A scheduler without live sequences.
    pub fn new(
        mut runner: Box<dyn Runner>,
        options: Options,
        texts: Box<dyn Texts>,
        disk: Option<Disk>,
    ) -> Self {
        let mark_bytes = mark_bytes(runner.dims());
        let mark_interval = mark_interval(&options, runner.chunk_max(), mark_bytes);
        let accepts = disk.as_ref().is_some_and(|disk| disk.store.options().accepts_family);
        runner.accept_other_weights(accepts);
        Self {
            mark_bytes,
            mark_interval,
            pace: Pace::new(options.step, SLOWDOWN),
            pace_shared: Pace::new(options.step_shared, SLOWDOWN_SHARED),
            runner,
            options,
            texts,
            disk,
            slots: Vec::new(),
            queue: VecDeque::new(),
            turn: 0,
            ended: 0,
            is_held: false,
            state_ratio: 0.5,
            counters: Counters::default(),
            n_resets: 0,
            logits: Vec::new(),
            lost: None,
        }
    }

    /// Puts a request at the end of the queue.
    pub fn submit(&mut self, request: Request, client: Box<dyn Client>) {
        self.queue.push_back(Waiting::new(request, client));
    }

    /// Requests that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Requests that have a slot.
    pub fn active(&self) -> usize {
        self.slots.iter().filter(|s| !s.is_idle()).count()
    }

    /// Tokens held by live sequences.
    pub fn tokens_held(&self) -> usize {
        self.slots.iter().map(|s| s.tokens.len()).sum()
    }

    /// Tokens held, and those that prompts in progress are going to add.
    pub(crate) fn tokens_promised(&self) -> usize {
        let promised = |s: &Slot| s.work.as_ref().map_or(0, |w| w.target.len());
        self.slots.iter().map(|s| s.tokens.len().max(promised(s))).sum()
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Does one piece of work; `false` when there is none. The error is one after which the runner
    /// cannot be used; every request has been told.
    pub fn step(&mut self) -> Result<bool> {
        match catch_unwind(AssertUnwindSafe(|| self.try_step())) {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.reset(&panic_text(&*panic));
                Ok(self.waiting() > 0)
            }
        }
    }

    fn try_step(&mut self) -> Result<bool> {
        // A slot whose sequence could not be opened again is none.
        let runner = &self.runner;
        self.slots.retain(|slot| slot.work.is_some() || runner.seq_len(slot.id).is_ok());
        self.drop_cancelled();
        self.admit();
        self.check_device()?;
        let parts = self.plan();
        if parts.is_empty() {
            return Ok(self.active() > 0);
        }
        let spans: Vec<Span<'_>> = parts
            .iter()
            .map(|p| {
                let seq = self.slots[p.slot].id;
                Span { seq, tokens: &p.tokens, n_logits: p.n_logits }
            })
            .collect();
        let (runner, logits) = (&mut self.runner, &mut self.logits);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| runner.forward(&spans, logits)));
        match outcome {
            Ok(Ok(())) => {
                self.measure(&parts, began);
                self.deliver(&parts);
                self.check_device()?;
            }
            Ok(Err(e)) => self.refused(&parts, e)?,
            Err(panic) => self.panicked(&parts, &panic_text(&*panic)),
        }
        Ok(true)
    }

    fn measure(&mut self, parts: &[Part], began: Instant) {
        let took = began.elapsed();
        self.n_resets = 0;
        self.counters.steps += 1;
        self.counters.step_us += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let prefilled = parts.iter().filter(|p| !p.is_decode).map(|p| p.tokens.len()).sum();
        if prefilled > 0 {
            let most = self.runner.chunk_max();
            let is_shared = parts.iter().any(|p| p.is_decode);
            let pace = if is_shared { &mut self.pace_shared } else { &mut self.pace };
            pace.measured(prefilled, took, most);
        }
    }

    /// Ends requests nobody waits for; what they computed stays.
    fn drop_cancelled(&mut self) {
        for ix in 0..self.slots.len() {
            let is_set = |s: &Slot| s.work.as_ref().is_some_and(|w| w.request.cancel.is_set());
            if is_set(&self.slots[ix]) {
                self.finish(ix, Err(Error::Cancelled));
            }
        }
        let (gone, kept): (VecDeque<_>, _) =
            self.queue.drain(..).partition(|w| w.request.cancel.is_set());
        self.queue = kept;
        for waiting in gone {
            self.counters.cancelled += 1;
            waiting.refuse(Error::Cancelled);
        }
    }

    /// Waits until everything handed to the disk cache is written.
    pub fn flush(&self) {
        if let Some(disk) = &self.disk {
            disk.store.flush();
        }
    }

    /// Ends all requests, stores every sequence and waits until the files are written.
    pub fn shut_down(&mut self) {
        for waiting in std::mem::take(&mut self.queue) {
            waiting.refuse(Error::ShuttingDown);
        }
        for ix in 0..self.slots.len() {
            self.finish(ix, Err(Error::ShuttingDown));
            self.store(ix, Reason::Shutdown);
        }
        self.flush();
    }
}

/// Distance of marks: a chunk, so that no way back costs more than that, if all sequences can be full
/// of them; else as much more as memory demands.
fn mark_interval(options: &Options, chunk_max: usize, mark_bytes: u64) -> usize {
    if let Some(interval) = options.mark_interval {
        return interval.max(1);
    }
    let tokens = options.parallel as u64 * u64::from(options.ctx);
    let marks = (options.marks_bytes_max / mark_bytes.max(1)).max(1);
    let apart = usize::try_from(tokens.div_ceil(marks)).unwrap_or(usize::MAX).max(chunk_max);
    apart.clamp(*MARKS_APART.start(), *MARKS_APART.end()).next_power_of_two()
}
