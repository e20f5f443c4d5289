//! The moments at which sequences go to the disk cache and come back.

use ds4_kvstore::{Hit, KvStore, Reason, Saved, Snapshot};
use ds4_model::TokenId;

use crate::slot::Slot;
use crate::{DiskOptions, Scheduler};

/// The disk cache of a scheduler.
#[derive(Debug)]
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
        let mut key = ds4_kvstore::KeyBuilder::new();
        self.texts.encode(&slot.tokens, &mut key);
        let text = self.texts.text(&slot.tokens);
        let tools = self.texts.tools(&slot.tokens);
        let ids: Vec<u32> = slot.tokens.iter().map(|t| t.0).collect();
        let snapshot = Snapshot {
            reason,
            key: key.bytes(),
            text: &text,
            tokens: &ids,
            logits: slot.logits.as_deref().unwrap_or(&[]),
            tools: &tools,
        };
        let (runner, id) = (&mut self.runner, slot.id);
        let saved = disk.store.save(&snapshot, &mut |w| {
            runner.save_seq(id, w).map(|_| ()).map_err(|e| e.to_string())
        });
        slot.saved = len;
        report(saved, reason, len);
    }

    /// Loads a file into slot `into`; the tokens it holds, or `None` after saying why not.
    pub(crate) fn load(&mut self, hit: &Hit, key: &[u8], into: usize) -> Option<Vec<TokenId>> {
        let disk = self.disk.as_mut()?;
        let mut loaded = match disk.store.load(hit, key) {
            Ok(loaded) => loaded,
            Err(e) => {
                tracing::warn!("cache file set aside: {e}");
                return None;
            }
        };
        let mut reader = match loaded.sequence() {
            Ok(reader) => reader,
            Err(e) => {
                tracing::warn!("cache file not read: {e}");
                return None;
            }
        };
        let id = match self.runner.load_seq(&mut reader, self.options.ctx) {
            Ok(id) => id,
            Err(e) => {
                tracing::warn!("cache file not loaded: {e}");
                return None;
            }
        };
        if self.runner.seq_len(id).ok().map(|n| n as usize) != Some(loaded.tokens.len()) {
            self.runner.close_seq(id);
            tracing::warn!("cache file not loaded: its state has another length than its tokens");
            return None;
        }
        let tokens: Vec<TokenId> = loaded.tokens.iter().map(|&t| TokenId(t)).collect();
        let mut slot = Slot::holding(id, tokens.clone());
        slot.logits = Some(loaded.logits).filter(|l| !l.is_empty());
        slot.saved = slot.tokens.len();
        let old = std::mem::replace(&mut self.slots[into], slot);
        self.runner.close_seq(old.id);
        self.texts.learn(&tokens, &loaded.tools);
        Some(tokens)
    }
}

fn report(saved: ds4_kvstore::Result<Saved>, reason: Reason, tokens: usize) {
    let reason = reason.name();
    match saved {
        Ok(Saved::Written { name, bytes, evicted }) => {
            tracing::info!(tokens, reason, bytes, evicted = evicted.len(), "stored {name}.kv");
        }
        Ok(Saved::Skipped(cause)) => tracing::debug!(tokens, reason, "not stored: {cause}"),
        Err(e) if e.is_disk_full() => {
            tracing::warn!("disk full, the KV cache is not written any more: {e}");
        }
        Err(e) => tracing::warn!(tokens, reason, "not stored: {e}"),
    }
}
