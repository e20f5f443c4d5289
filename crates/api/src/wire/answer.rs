//! What has been answered so far, as a list of items. Every writer, streaming or not, reads this
//! list, so that a body cannot say anything else than its stream.
//!
//! Items never overlap: an item is closed before the next is opened. Events that refer to an item
//! that is not open are ignored.

use ds4_text::parse::Event;

use super::TokenLogprob;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Thinking,
    Text,
    Call,
}

/// Whether an item has ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Open,
    Whole,
    /// The output broke off inside it.
    Cut,
}

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    /// The text, or the arguments of a call.
    pub(super) text: String,
    /// Of a call: the function's name as the model wrote it.
    pub(super) name: String,
    /// Of a call: its id, without any API's prefix.
    pub(super) id: String,
    pub(super) status: Status,
    pub(super) logprobs: Vec<TokenLogprob>,
    /// Of a call: the index by which events name it.
    pub(super) index: usize,
}

/// A change of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Open(usize),
    Delta(usize, String),
    Close(usize),
}

#[derive(Default)]
pub(super) struct Answer {
    pub(super) items: Vec<Item>,
    /// Nothing may follow the first call.
    one_call: bool,
    is_done: bool,
}

impl Answer {
    pub(super) fn new(one_call: bool) -> Self {
        Self { one_call, ..Self::default() }
    }

    /// Whether everything that may be answered has been.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes an event; a call that begins takes the id from `new_id`, text takes `logprobs`.
    pub(super) fn push(
        &mut self,
        event: &Event,
        logprobs: Vec<TokenLogprob>,
        new_id: impl FnOnce() -> String,
    ) -> Vec<Step> {
        if self.is_done {
            return Vec::new();
        }
        match event {
            Event::Thinking(text) => self.push_text(Kind::Thinking, text, logprobs),
            Event::Text(text) => self.push_text(Kind::Text, text, logprobs),
            Event::ToolStart { index, name } => {
                let mut steps = self.close_open(Status::Whole);
                steps.push(self.open(Kind::Call));
                let item = self.items.last_mut().expect("just pushed");
                (item.index, item.id) = (*index, new_id());
                item.name.clone_from(name);
                steps
            }
            Event::ToolArgs { index, delta } => {
                let at = self.items.len();
                match self.open_call(*index) {
                    Some(item) if !delta.is_empty() => {
                        item.text.push_str(delta);
                        vec![Step::Delta(at - 1, delta.clone())]
                    }
                    _ => Vec::new(),
                }
            }
            Event::ToolEnd { index, arguments } => {
                let at = self.items.len();
                let one_call = self.one_call;
                let Some(item) = self.open_call(*index) else { return Vec::new() };
                item.status = if arguments.is_some() { Status::Whole } else { Status::Cut };
                if let Some(arguments) = arguments {
                    // The same object as the pieces; of a key given twice the last value only.
                    item.text.clone_from(arguments);
                }
                self.is_done = one_call;
                vec![Step::Close(at - 1)]
            }
        }
    }

    /// Ends the answer; `is_cut` when the output broke off. A call that has not ended is cut in
    /// any case.
    pub(super) fn finish(&mut self, is_cut: bool) -> Vec<Step> {
        self.is_done = true;
        self.close_open(if is_cut { Status::Cut } else { Status::Whole })
    }

    /// Whether there is a call that may be executed.
    pub(super) fn has_whole_call(&self) -> bool {
        self.calls().any(|call| call.status == Status::Whole)
    }

    /// Whether the output broke off inside a call.
    pub(super) fn has_cut_call(&self) -> bool {
        self.calls().any(|call| call.status == Status::Cut)
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.kind == Kind::Call)
    }

    /// The place of an item among the calls.
    pub(super) fn call_ix(&self, at: usize) -> usize {
        self.items[..at].iter().filter(|item| item.kind == Kind::Call).count()
    }

    /// All text of a kind.
    pub(super) fn text(&self, kind: Kind) -> String {
        let of_kind = self.items.iter().filter(|item| item.kind == kind);
        of_kind.map(|item| item.text.as_str()).collect()
    }

    fn push_text(&mut self, kind: Kind, text: &str, logprobs: Vec<TokenLogprob>) -> Vec<Step> {
        if text.is_empty() {
            return Vec::new();
        }
        let goes_on = |item: &Item| item.kind == kind && item.status == Status::Open;
        let mut steps = Vec::new();
        if !self.items.last().is_some_and(goes_on) {
            steps = self.close_open(Status::Whole);
            steps.push(self.open(kind));
        }
        let item = self.items.last_mut().expect("an item is open");
        item.text.push_str(text);
        item.logprobs.extend(logprobs);
        steps.push(Step::Delta(self.items.len() - 1, text.to_owned()));
        steps
    }

    fn open(&mut self, kind: Kind) -> Step {
        self.items.push(Item {
            kind,
            text: String::new(),
            name: String::new(),
            id: String::new(),
            status: Status::Open,
            logprobs: Vec::new(),
            index: 0,
        });
        Step::Open(self.items.len() - 1)
    }

    fn close_open(&mut self, status: Status) -> Vec<Step> {
        let Some(item) = self.items.last_mut().filter(|item| item.status == Status::Open) else {
            return Vec::new();
        };
        item.status = if item.kind == Kind::Call { Status::Cut } else { status };
        vec![Step::Close(self.items.len() - 1)]
    }

    fn open_call(&mut self, index: usize) -> Option<&mut Item> {
        let is_it =
            |i: &&mut Item| i.kind == Kind::Call && i.index == index && i.status == Status::Open;
        self.items.last_mut().filter(is_it)
    }
}
