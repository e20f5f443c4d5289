//! The moments at which sequences go to the disk cache and come back.

use ds4_kvstore::{Hit, KeyBuilder, KvStore, Reason, Skip, Snapshot};
use ds4_model::TokenId;

use crate::slot::Slot;
use crate::{DiskOptions, Scheduler};

/// The disk cache of a scheduler.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The files.
    pub store: KvStore,
    /// When to write them.
    pub options: DiskOptions,
}

impl Scheduler {
    /// Stores slot `ix` when it grew enough since it was last stored. A failure is reported and
    /// costs nothing but the file.
    pub(crate) fn store(&mut self, ix: usize, reason: Reason) {
        let Some(disk) = &mut self.disk else { return };
        let slot = &mut self.slots[ix];
        let len = slot.tokens.len();
        let grew = len.saturating_sub(slot.saved);
        if len < disk.options.tokens_min || grew == 0 {
            return;
        }
        let mut key = KeyBuilder::new();
        self.texts.encode(&slot.tokens, &mut key);
        let tools = self.texts.tools(&slot.tokens);
        let about = self.runner.seq_bytes(u32::try_from(len).expect("within a u32 capacity"));
        match disk.store.check(key.bytes(), len, reason, about) {
            Ok(()) => {}
            Err(Skip::Stored) => {
                disk.store.add_tools(key.bytes(), tools);
                slot.saved = len;
                return;
            }
            Err(skip) => {
                let cause = skip.name();
                tracing::debug!("kv cache: skipped tokens={len} reason={}: {cause}", reason.name());
                return;
            }
        }
        let mut state = Vec::new();
        if let Err(e) = self.runner.save_seq(slot.id, &mut state) {
            tracing::warn!("kv cache: not stored tokens={len} reason={}: {e}", reason.name());
            return;
        }
        disk.store.save(Snapshot {
            reason,
            key: key.into_bytes(),
            text: self.texts.text(&slot.tokens),
            tokens: slot.tokens.iter().map(|t| t.0).collect(),
            logits: slot.logits.clone().unwrap_or_default(),
            tools,
            state,
            replaces: None,
            trimmed: 0,
        });
        slot.saved = len;
    }

    /// Loads a file into slot `into`; the tokens it holds, or `None` after saying why not.
    pub(crate) fn load(&mut self, hit: &Hit, key: &[u8], into: usize) -> Option<Vec<TokenId>> {
        let disk = self.disk.as_mut()?;
        // The store says why itself.
        let mut loaded = disk.store.load(hit, key).ok()?;
        let mut reader = loaded.sequence().ok()?;
        let id = match self.runner.load_seq(&mut reader, self.options.ctx) {
            Ok(id) => id,
            Err(e @ (ds4_model::Error::Memory(_) | ds4_model::Error::Device(_))) => {
                tracing::warn!("kv cache: load failed: {e}");
                return None;
            }
            Err(e) => {
                disk.store.refuse(hit, &e.to_string());
                return None;
            }
        };
        if self.runner.seq_len(id).ok().map(|n| n as usize) != Some(loaded.tokens.len()) {
            self.runner.close_seq(id);
            disk.store.refuse(hit, "its state has another length than its tokens");
            return None;
        }
        let tokens: Vec<TokenId> = loaded.tokens.iter().map(|&t| TokenId(t)).collect();
        let mut slot = Slot::holding(id, tokens.clone());
        slot.logits = Some(loaded.logits).filter(|l| !l.is_empty());
        slot.saved = slot.tokens.len();
        let old = std::mem::replace(&mut self.slots[into], slot);
        self.runner.close_seq(old.id);
        disk.store.used(hit, key);
        self.texts.learn(&tokens, &loaded.tools);
        Some(tokens)
    }
}
