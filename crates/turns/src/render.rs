//! A conversation to a prompt, with earlier turns in the tokens they were sampled in.

use ds4_model::TokenId;
use ds4_text::parse::{Declared, ParserOptions};
use ds4_text::{Conversation, Error, Message, Profile, Prompt, Role, Tail, render};

use crate::cuts::{Cuts, cuts};
use crate::entries::turn_id;
use crate::visible::Visible;
use crate::{Found, Note, Turns};

/// A rendered conversation.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The tokens of the prompt.
    pub prompt: Vec<TokenId>,
    /// The same before it became tokens, for traces.
    pub segments: Prompt,
    /// Where later prompts are likely to part from this one: behind system text and tools, at user
    /// turns and, without declared tools, before the reasoning, which a profile drops from history.
    pub cuts: ds4_scheduler::Cuts,
    /// What was found for the answers in the history.
    pub notes: Vec<Note>,
    /// What [`Turns::remember`] needs to keep the answer to come.
    pub turn: NextTurn,
}

/// The answer that a prompt asks for.
#[derive(Clone, Debug)]
pub struct NextTurn {
    pub(crate) visible: Visible,
    pub(crate) declared: Declared,
    /// The turn as the prompt begins it; `None` where it ends outside an answer.
    pub(crate) opened: Option<Opened>,
    in_block: bool,
    is_thinking: bool,
}

/// The beginning of an answer within a prompt.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// Tokens behind the one that opens or closes reasoning.
    pub(crate) ids: Vec<u32>,
    /// Whether reasoning was opened.
    pub(crate) thinking: bool,
}

impl NextTurn {
    /// How the answer is to be parsed.
    pub fn parser_options(&self) -> ParserOptions {
        ParserOptions {
            thinking: self.is_thinking,
            in_block: self.in_block,
            declared: self.declared.clone(),
            ..ParserOptions::default()
        }
    }
}

impl Turns {
    /// Renders a conversation up to the point where the model goes on.
    pub fn render(&self, profile: Profile, conversation: &Conversation) -> Result<Rendered, Error> {
        let mut conversation = conversation.clone();
        let (visible, notes) = self.attach(&mut conversation);
        let segments = render(profile, &conversation)?;
        let ids = self.tokenizer().encode_segments(segments.segments())?;
        let cuts = cuts(&ids, self.tokenizer().specials());
        let turn = self.next_turn(&conversation, visible, &ids, &cuts);
        let drops = turn.is_thinking && conversation.shown_tools().next().is_none();
        let stable = cuts.opening.filter(|_| drops);
        let cuts = ds4_scheduler::Cuts { anchor: cuts.anchor, marks: cuts.users, stable };
        let prompt = ids.into_iter().map(TokenId).collect();
        Ok(Rendered { prompt, segments, cuts, notes, turn })
    }

    /// Finds what was sampled for the answers in a history; also the visible hash of all messages
    /// but an answer that is still open.
    fn attach(&self, conversation: &mut Conversation) -> (Visible, Vec<Note>) {
        self.recall(&conversation.messages);
        let (mut visible, mut notes) = (Visible::default(), Vec::new());
        for (ix, message) in conversation.messages.iter_mut().enumerate() {
            if message.role == Role::Assistant {
                if message.tail != Tail::Closed {
                    break;
                }
                if self.options.replay {
                    let found = self.find(message, &visible);
                    notes.push(Note { message: ix, found });
                }
            }
            visible.push(message);
        }
        (visible, notes)
    }

    /// Learns turns of a history that are not in memory from the files that have them.
    fn recall(&self, messages: &[Message]) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.options.replay) else { return };
        let mut visible = Visible::default();
        let mut unknown: Vec<String> = Vec::new();
        for message in messages {
            if message.role == Role::Assistant && message.tail == Tail::Closed {
                let memory = self.memory();
                if message.calls.is_empty() {
                    let key = visible.answer(&message.content);
                    unknown.extend((!memory.knows_visible(&key)).then(|| turn_id(&key)));
                } else {
                    let ids = message.calls.iter().filter_map(|call| call.id.as_ref());
                    unknown.extend(ids.filter(|id| !memory.knows_call(id)).cloned());
                }
            }
            visible.push(message);
        }
        if unknown.is_empty() {
            return;
        }
        let ids: Vec<&str> = unknown.iter().map(String::as_str).collect();
        for (tokens, entries) in disk.find_tools(&ids) {
            self.learn(&tokens, &entries);
        }
    }

    fn find(&self, message: &mut Message, visible: &Visible) -> Found {
        let kept = if message.calls.is_empty() {
            self.memory().by_visible(&visible.answer(&message.content))
        } else {
            self.memory().by_calls(message.calls.iter().map(|call| call.id.as_deref()))
        };
        let Some(kept) = kept else { return Found::Unknown };
        let (found, replay) = kept.turn.replay(self.tokenizer(), message);
        message.replay = replay.map(Box::new);
        found
    }

    fn next_turn(
        &self,
        conversation: &Conversation,
        visible: Visible,
        ids: &[u32],
        cuts: &Cuts,
    ) -> NextTurn {
        let specials = self.tokenizer().specials();
        let opened = cuts.opening.and_then(|at| match ids[at] {
            id if id == specials.think_open => Some((at, true)),
            id if id == specials.think_close => Some((at, false)),
            _ => None,
        });
        let opened = opened.map(|(at, thinking)| Opened { ids: ids[at + 1..].to_vec(), thinking });
        let is_thinking =
            opened.as_ref().is_some_and(|o| o.thinking && !o.ids.contains(&specials.think_close));
        let mut names = conversation
            .shown_tools()
            .filter_map(|tool| Some(tool.get("name")?.as_str()?.to_owned()))
            .peekable();
        let declared = match names.peek() {
            None => Declared::None,
            Some(_) => Declared::Names(names.collect()),
        };
        NextTurn { visible, declared, opened, in_block: conversation.opens_block(), is_thinking }
    }
}
