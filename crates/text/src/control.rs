//! The control tokens that templates write, each named once by its literal text.
//!
//! Ids are looked up by that text in the loaded vocabulary; no id is a constant.

use crate::Error;
use crate::vocab::Vocab;

/// The text of the beginning-of-sentence token.
pub const BOS: &str = "<｜begin▁of▁sentence｜>";
/// The text of the end-of-sentence token.
pub const EOS: &str = "<｜end▁of▁sentence｜>";
/// The text that opens a user turn.
pub const USER: &str = "<｜User｜>";
/// The text that opens an assistant turn.
pub const ASSISTANT: &str = "<｜Assistant｜>";
/// The text that opens reasoning.
pub const THINK_OPEN: &str = "<think>";
/// The text that closes reasoning.
pub const THINK_CLOSE: &str = "</think>";
/// The marker inside the tags of tool calls; the angle brackets are ordinary text.
pub const DSML: &str = "｜DSML｜";
/// The text that opens a reminder.
pub const LATEST_REMINDER: &str = "<｜latest_reminder｜>";
/// A leftover end-of-turn token: never written, but generation stops at it.
pub const EOT: &str = "<|EOT|>";

/// User-defined tokens that are cut out before all others of their kind (§A.4); the file's token
/// types do not tell them apart.
pub(crate) const EARLY: [&str; 7] = [
    "<｜image2｜>",
    "<｜/table>｜",
    "<｜table｜>",
    "<｜/td｜>",
    "<｜td｜>",
    "<｜/tr｜>",
    "<｜tr｜>",
];

/// An internal classification task of the April profile (§B.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the tasks")]
pub enum Task {
    Action,
    Query,
    Authority,
    Domain,
    Title,
    ReadUrl,
}

impl Task {
    const ALL: [Self; 6] =
        [Self::Action, Self::Query, Self::Authority, Self::Domain, Self::Title, Self::ReadUrl];

    /// The task of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Its name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Query => "query",
            Self::Authority => "authority",
            Self::Domain => "domain",
            Self::Title => "title",
            Self::ReadUrl => "read_url",
        }
    }
}

/// A control token that a template may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the constants of the same names say it")]
pub enum Control {
    Bos,
    Eos,
    User,
    Assistant,
    ThinkOpen,
    ThinkClose,
    Dsml,
    LatestReminder,
    Task(Task),
}

impl Control {
    /// The token's text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Bos => BOS,
            Self::Eos => EOS,
            Self::User => USER,
            Self::Assistant => ASSISTANT,
            Self::ThinkOpen => THINK_OPEN,
            Self::ThinkClose => THINK_CLOSE,
            Self::Dsml => DSML,
            Self::LatestReminder => LATEST_REMINDER,
            Self::Task(Task::Action) => "<｜action｜>",
            Self::Task(Task::Query) => "<｜query｜>",
            Self::Task(Task::Authority) => "<｜authority｜>",
            Self::Task(Task::Domain) => "<｜domain｜>",
            Self::Task(Task::Title) => "<｜title｜>",
            Self::Task(Task::ReadUrl) => "<｜read_url｜>",
        }
    }
}

/// Ids of the control tokens of one vocabulary.
#[derive(Clone, Debug)]
pub struct Specials {
    /// Beginning of sentence: the first token of every prompt.
    pub bos: u32,
    /// End of sentence: the model's own stop.
    pub eos: u32,
    /// Opens a user turn.
    pub user: u32,
    /// Opens an assistant turn.
    pub assistant: u32,
    /// Opens reasoning.
    pub think_open: u32,
    /// Closes reasoning.
    pub think_close: u32,
    /// Marks the tags of tool calls.
    pub dsml: Option<u32>,
    /// Opens a reminder.
    pub latest_reminder: Option<u32>,
    /// A leftover end-of-turn token.
    pub eot: Option<u32>,
    tasks: [Option<u32>; 6],
}

impl Specials {
    /// Looks every control token up by its text.
    pub(crate) fn find(vocab: &Vocab) -> Result<Self, Error> {
        let need = |text: &str| {
            vocab.added_id(text).ok_or_else(|| {
                Error::vocab(format!("no control token {text:?}: not a DeepSeek V4 vocabulary"))
            })
        };
        Ok(Self {
            bos: need(BOS)?,
            eos: need(EOS)?,
            user: need(USER)?,
            assistant: need(ASSISTANT)?,
            think_open: need(THINK_OPEN)?,
            think_close: need(THINK_CLOSE)?,
            dsml: vocab.added_id(DSML),
            latest_reminder: vocab.added_id(LATEST_REMINDER),
            eot: vocab.added_id(EOT),
            tasks: Task::ALL.map(|t| vocab.added_id(Control::Task(t).text())),
        })
    }

    /// The id of a control token, when the vocabulary has it.
    pub fn id(&self, control: Control) -> Option<u32> {
        match control {
            Control::Bos => Some(self.bos),
            Control::Eos => Some(self.eos),
            Control::User => Some(self.user),
            Control::Assistant => Some(self.assistant),
            Control::ThinkOpen => Some(self.think_open),
            Control::ThinkClose => Some(self.think_close),
            Control::Dsml => self.dsml,
            Control::LatestReminder => self.latest_reminder,
            Control::Task(task) => self.tasks[task as usize],
        }
    }

    /// Whether generation ends at this token (§A.6): the end of sentence, and the tokens that can
    /// only mean that the model went on to somebody else's turn.
    pub fn is_stop(&self, id: u32) -> bool {
        id == self.eos || id == self.user || id == self.bos || Some(id) == self.eot
    }
}
