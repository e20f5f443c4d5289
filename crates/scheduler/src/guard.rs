//! A client that may panic: its own request ends, nobody else notices.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ds4_engine::{End, Stats};
use ds4_model::TokenId;

use crate::{Client, Error, Result, Started};

/// A [`Client`] behind a wall.
pub(crate) struct Guarded {
    client: Box<dyn Client>,
    panic: Option<String>,
}

impl Guarded {
    pub(crate) fn new(client: Box<dyn Client>) -> Self {
        Self { client, panic: None }
    }

    /// The message of its panic, if it had one.
    pub(crate) fn panicked(&self) -> Option<Error> {
        self.panic.as_ref().map(|text| Error::Panicked(text.clone()))
    }

    fn call<T>(&mut self, otherwise: T, f: impl FnOnce(&mut dyn Client) -> T) -> T {
        let client = &mut self.client;
        match catch_unwind(AssertUnwindSafe(|| f(client.as_mut()))) {
            Ok(value) => value,
            Err(panic) => {
                self.panic = Some(panic_text(&*panic));
                otherwise
            }
        }
    }

    pub(crate) fn started(&mut self, started: &Started) {
        self.call((), |c| c.started(started));
    }

    pub(crate) fn prefill(&mut self, done: usize) {
        self.call((), |c| c.prefill(done));
    }

    pub(crate) fn is_ready(&mut self) -> bool {
        self.call(true, |c| c.is_ready())
    }

    pub(crate) fn is_constrained(&mut self) -> bool {
        self.call(true, |c| c.is_constrained())
    }

    pub(crate) fn constrain(&mut self, logits: &mut [f32]) {
        self.call((), |c| c.constrain(logits));
    }

    pub(crate) fn token(&mut self, token: TokenId, logits: &[f32]) -> ControlFlow<()> {
        self.call(ControlFlow::Break(()), |c| c.token(token, logits))
    }

    pub(crate) fn done(mut self, outcome: Result<End>, stats: &Stats) {
        self.call((), |c| c.done(outcome, stats));
        if let Some(text) = self.panic {
            tracing::error!("a client panicked: {text}");
        }
    }
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())
}
