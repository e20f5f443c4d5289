//! The moments at which sequences go to the disk cache and come back.

use std::time::Instant;

use ds4_kvstore::{Hit, KeyBuilder, KvStore, Reason, Skip, Snapshot};
use ds4_model::{Error as ModelError, Result as ModelResult, TokenId};

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
        let Some(disk) = &self.disk else { return };
        let slot = &self.slots[ix];
        let is_last = matches!(reason, Reason::Evict | Reason::Shutdown);
        // What a later prompt cannot agree with is of no use to it.
        let stable = slot.stable.filter(|&at| is_last && slot.frontiers.at(at).is_some());
        let len = stable.unwrap_or(slot.tokens.len());
        let grew = len.saturating_sub(slot.saved);
        let enough = if is_last { disk.options.growth_min.max(1) } else { 1 };
        if len < disk.options.tokens_min || grew < enough {
            return;
        }
        let store = disk.store.clone();
        let tokens = slot.tokens[..len].to_vec();
        let mut key = KeyBuilder::new();
        self.texts.encode(&tokens, &mut key);
        let tools = self.texts.tools(&tokens);
        match store.check(key.bytes(), len, reason, self.state_bytes(len)) {
            Ok(()) => {}
            Err(Skip::Stored) => {
                store.add_tools(key.bytes(), tools);
                self.slots[ix].saved = len;
                return;
            }
            Err(skip) => {
                let (reason, cause) = (reason.name(), skip.name());
                tracing::debug!("kv cache: skipped tokens={len} reason={reason}: {cause}");
                return;
            }
        }
        let state = match self.copy_state(ix, stable) {
            Ok(state) => state,
            Err(e) => {
                tracing::warn!("kv cache: not stored tokens={len} reason={}: {e}", reason.name());
                return;
            }
        };
        self.state_ratio = state.len() as f64 / self.seq_bytes(len).max(1) as f64;
        let slot = &mut self.slots[ix];
        let prompt = slot.work.as_ref().filter(|_| reason == Reason::Cold);
        store.save(Snapshot {
            reason,
            key: key.into_bytes(),
            text: self.texts.text(&tokens),
            tokens: tokens.iter().map(|t| t.0).collect(),
            logits: slot.logits.clone().filter(|_| stable.is_none()).unwrap_or_default(),
            tools,
            state,
            replaces: slot.replaces.take(),
            trimmed: prompt.map_or(0, |work| work.prompt_len - len),
        });
        slot.saved = len;
    }

    /// The runner's bytes of a sequence, or of its beginning up to a mark.
    fn copy_state(&mut self, ix: usize, at: Option<usize>) -> ModelResult<Vec<u8>> {
        let began = Instant::now();
        let slot = &self.slots[ix];
        let mut state = Vec::new();
        match at.and_then(|at| slot.frontiers.at(at)) {
            None => {
                self.runner.save_seq(slot.id, &mut state)?;
            }
            Some(frontier) => {
                let copy = self.runner.fork(slot.id, &frontier.mark, frontier.mark.len)?;
                let saved = self.runner.save_seq(copy, &mut state);
                self.runner.close_seq(copy);
                saved?;
            }
        }
        self.counters.copy_us += u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(state)
    }

    fn seq_bytes(&self, len: usize) -> u64 {
        self.runner.seq_bytes(u32::try_from(len).expect("within a u32 capacity"))
    }

    /// Bytes of a saved state of `len` tokens, about.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of bytes in memory"
    )]
    fn state_bytes(&self, len: usize) -> u64 {
        (self.seq_bytes(len) as f64 * self.state_ratio) as u64
    }

    /// Loads a file into slot `into`, an empty one; `false` after saying why not.
    pub(crate) fn load(&mut self, hit: &Hit, key: &[u8], into: usize) -> bool {
        let Some(disk) = self.disk.clone() else { return false };
        let began = Instant::now();
        // The store says itself what is wrong with a file.
        let Ok(mut loaded) = disk.store.load(hit, key) else { return false };
        let Ok(mut reader) = loaded.sequence() else { return false };
        let id = match self.runner.load_seq(&mut reader, self.options.ctx) {
            Ok(id) => id,
            Err(e @ (ModelError::Memory(_) | ModelError::Device(_))) => {
                tracing::warn!("kv cache: load failed: {e}");
                return false;
            }
            Err(e) => {
                disk.store.refuse(hit, &e.to_string());
                return false;
            }
        };
        if self.runner.seq_len(id).ok().map(|n| n as usize) != Some(loaded.tokens.len()) {
            self.runner.close_seq(id);
            disk.store.refuse(hit, "its state has another length than its tokens");
            return false;
        }
        let tokens: Vec<TokenId> = loaded.tokens.iter().map(|&t| TokenId(t)).collect();
        self.texts.learn(&tokens, &loaded.tools);
        let mut slot = Slot::holding(id, tokens);
        slot.logits = Some(loaded.logits).filter(|l| !l.is_empty());
        slot.saved = slot.tokens.len();
        let is_consumed = slot.tokens.len() > disk.options.cold_max;
        slot.replaces = is_consumed.then(|| hit.name.clone());
        let old = std::mem::replace(&mut self.slots[into], slot);
        self.runner.close_seq(old.id);
        disk.store.used(hit, key);
        tracing::info!(
            "kv cache: hit tokens={} text={} key=tokens load={} ms consumed={is_consumed} \
             file={}.kv",
            hit.tokens,
            hit.key_bytes,
            began.elapsed().as_millis(),
            hit.name,
        );
        if let Err(e) = self.mark(into, false) {
            tracing::warn!("a loaded sequence was not marked: {e}");
        }
        true
    }
}
