//! A hash of what everybody can see of a conversation: the key of turns without tool calls.
//!
//! Reasoning is not part of it, because clients drop it; nor are declared tools and effort, which
//! may change between turns. White space around an answer does not count, because clients trim it.

use ds4_text::{Arguments, Message, Role};
use sha2::{Digest, Sha256};

/// Hash of an answer in its place.
pub(crate) type VisibleKey = [u8; 16];

/// The visible conversation up to some message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visible(Sha256);

impl Visible {
    /// Adds a message.
    pub(crate) fn push(&mut self, message: &Message) {
        match &message.role {
            Role::System | Role::Developer => self.part(b's', &message.content),
            Role::User => self.part(b'u', &message.content),
            Role::LatestReminder => self.part(b'r', &message.content),
            Role::Unknown(role) => {
                self.part(b'?', role);
                self.part(b'?', &message.content);
            }
            Role::Tool => {
                self.part(b't', message.call_id.as_deref().unwrap_or(""));
                self.part(b't', &message.content);
            }
            Role::Assistant => {
                self.part(b'a', message.content.trim());
                for call in &message.calls {
                    if let Some(id) = &call.id {
                        self.part(b'c', id);
                        continue;
                    }
                    self.part(b'n', &call.name);
                    match &call.arguments {
                        Arguments::Text(text) => self.part(b'n', text),
                        Arguments::Object(object) => {
                            self.part(b'n', &ds4_text::object_to_python_json(object));
                        }
                    }
                }
            }
        }
    }

    /// The key of an answer without tool calls that comes next.
    pub(crate) fn answer(&self, content: &str) -> VisibleKey {
        let mut all = self.clone();
        all.part(b'a', content.trim());
        let hash = all.0.finalize();
        std::array::from_fn(|i| hash[i])
    }

    fn part(&mut self, kind: u8, text: &str) {
        self.0.update([kind]);
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }
}
