//! A call that panicked or was refused: whoever caused it ends, everybody else goes on.
//!
//! A call of several sequences does not say whose fault it was, so each of its requests is computed
//! alone next time; the one that fails alone is the one that ends. A refused call has changed
//! nothing. After a panic the sequences are in an unknown state and start again from their marks.

use ds4_engine::End;

use crate::plan::Part;
use crate::{Error, Result, Scheduler};

/// Panics outside calls, with no successful call in between, after which nothing waits any longer.
const RESETS_MAX: u32 = 3;

impl Scheduler {
    /// A call was refused. A lost device ends everything.
    pub(crate) fn refused(&mut self, parts: &[Part], error: ds4_model::Error) -> Result<()> {
        self.counters.broken_steps += 1;
        tracing::error!("a step failed: {error}");
        let text = error.to_string();
        let error = Error::from(error);
        self.note_loss(&error);
        self.check_device()?;
        if let [part] = parts {
            self.finish(part.slot, Err(Error::Failed(text)));
            return Ok(());
        }
        for part in parts {
            self.work(part.slot).is_solo = true;
        }
        Ok(())
    }

    /// Remembers the loss of the device, which any call of the runner may notice.
    pub(crate) fn note_loss(&mut self, error: &Error) {
        if let Error::Engine(ds4_engine::Error::Model(ds4_model::Error::Device(what))) = error {
            self.lost.get_or_insert_with(|| what.clone());
        }
    }

    /// Ends everything when the device has been lost.
    pub(crate) fn check_device(&mut self) -> Result<()> {
        let Some(what) = self.lost.take() else { return Ok(()) };
        let error = || Error::from(ds4_model::Error::Device(what.clone()));
        self.abandon(&error);
        Err(error())
    }

    /// A call panicked.
    pub(crate) fn panicked(&mut self, parts: &[Part], text: &str) {
        self.counters.broken_steps += 1;
        tracing::error!("a step panicked: {text}");
        for part in parts {
            let ctx = self.options.ctx;
            let slot = &mut self.slots[part.slot];
            if let Err(e) = slot.rebuild(self.runner.as_mut(), ctx) {
                // Without a sequence there is nothing to go on with; the slot goes with the next step.
                slot.cut(0, None);
                self.finish(part.slot, Err(e.into()));
            }
        }
        match parts {
            [part] => self.finish(part.slot, Err(Error::Panicked(text.to_owned()))),
            parts => {
                for part in parts {
                    if let Some(work) = &mut self.slots[part.slot].work {
                        work.is_solo = true;
                    }
                }
            }
        }
    }

    /// Something outside a call panicked: what is live cannot be trusted any more. When that goes on,
    /// what waits may be the cause, and goes too.
    pub(crate) fn reset(&mut self, text: &str) {
        tracing::error!("the scheduler panicked: {text}");
        self.counters.broken_steps += 1;
        self.n_resets += 1;
        let error = || Error::Panicked(text.to_owned());
        if self.n_resets < RESETS_MAX {
            self.end_all(&error);
        } else {
            self.abandon(&error);
        }
        for slot in self.slots.drain(..) {
            self.runner.close_seq(slot.id);
        }
    }

    /// Tells everyone, at work or waiting, that there will be no answer.
    fn abandon(&mut self, error: &dyn Fn() -> Error) {
        self.end_all(error);
        for waiting in self.queue.drain(..) {
            waiting.refuse(error());
        }
    }

    fn end_all(&mut self, error: &dyn Fn() -> Error) {
        for slot in &mut self.slots {
            if let Some(work) = slot.work.take() {
                self.counters.failed += 1;
                let mut stats = work.stats;
                stats.generated_tokens = work.n;
                work.client.done(Err::<End, _>(error()), &stats);
            }
        }
    }
}
