//! The directory of cache files: lookup by prefix, loading with distrust, eviction.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::file::Parts;
use crate::header::{HITS_OFFSET, LAST_USED_OFFSET};
use crate::index::Index;
use crate::listing::{key_stem, remove_stale};
use crate::writer::{Queue, mib};
use crate::{
    Entry, Error, Hit, Identity, Loaded, Miss, Nearest, Reason, Result, Skip, Snapshot, Stats,
    ToolEntry, key,
};

/// Files whose keys are read to find the nearest one to a prompt.
const NEAREST_FILES: usize = 8;
/// Longest key that is read for it, in bytes.
const NEAREST_BYTES: usize = 8 << 20;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files together never take more than this, in bytes.
    pub budget_bytes: u64,
    /// Sequences shorter than this are neither stored nor loaded, in tokens.
    pub tokens_min: u32,
    /// Whose files these are.
    pub identity: Identity,
    /// Whether files of the same model in another quantisation are loaded.
    pub accepts_family: bool,
    /// Bits of the routed experts, for the header.
    pub quant_bits: u8,
    /// Context size of this server: larger sequences cannot be loaded.
    pub ctx: u32,
    /// Vocabulary size; token ids of a file must be below it.
    pub n_vocab: u32,
    /// Bytes written within an hour at most, but for a clean exit; 0 for no limit.
    pub hourly_bytes_max: u64,
    /// Bytes that may wait for the writer.
    pub queue_bytes_max: u64,
}

/// An open cache directory; clones are the same store.
#[derive(Clone, Debug)]
pub struct KvStore(Arc<Handle>);

/// Ends the thread when the last clone goes.
#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    state: Mutex<State>,
    /// Jobs came or were done.
    pub(crate) changed: Condvar,
}

/// All that changes.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) queue: Queue,
    pub(crate) stats: Stats,
    /// Distinguishes temporary files of one process.
    pub(crate) writes: u64,
    /// The directory's time of change when it was last read.
    scanned: Option<SystemTime>,
}

impl KvStore {
    /// Opens a directory, making it (mode 0700) when absent, removes what a killed writer left and
    /// indexes the files. Unreadable files are skipped; damaged ones are set aside.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        make_dir(dir)?;
        fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let inner = Inner {
            dir: dir.to_owned(),
            options,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        {
            let mut state = inner.lock();
            remove_stale(dir);
            inner.scan(&mut state);
            inner.evict(&mut state, None);
            inner.report_open(&state);
        }
        let inner = Arc::new(inner);
        let theirs = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("ds4-kvstore".into())
            .spawn(move || theirs.write_jobs())
            .map_err(|e| Error::io(dir, e))?;
        Ok(Self(Arc::new(Handle { inner, thread: Some(thread) })))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0.inner.dir
    }

    /// What it was opened with.
    pub fn options(&self) -> &Options {
        &self.0.inner.options
    }

    /// Files that count against the budget, in order of name.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.inner.lock().index.entries.values().cloned().collect()
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        let state = self.0.inner.lock();
        Stats {
            files: state.index.entries.len() as u64,
            bytes: state.index.bytes(),
            is_off: state.queue.is_off,
            ..state.stats
        }
    }

    /// The longest file, or snapshot on its way to one, whose key is a prefix of `encoding`; or why
    /// there is none.
    pub fn find(&self, encoding: &[u8]) -> std::result::Result<Hit, Miss> {
        let inner = &self.0.inner;
        let ends = {
            let mut state = inner.lock();
            inner.scan(&mut state);
            state.index.key_lengths(encoding.len())
        };
        let names = key::prefix_names(encoding, &ends);
        let prefixes: Vec<_> = ends.into_iter().zip(names).collect();
        let mut state = inner.lock();
        let found = state.find(&prefixes, encoding, &inner.options);
        state.stats.misses += u64::from(found.is_err());
        found
    }

    /// The file that shares the longest beginning with a prompt that none is a prefix of, among those
    /// used last: for explanations.
    pub fn nearest(&self, encoding: &[u8]) -> Option<Nearest> {
        let inner = &self.0.inner;
        let mut entries: Vec<Entry> = inner.lock().index.usable().cloned().collect();
        entries.sort_by_key(|e| std::cmp::Reverse(e.header.last_used));
        let entries = entries.into_iter().filter(|e| e.key_bytes <= NEAREST_BYTES);
        let shared = entries.take(NEAREST_FILES).filter_map(|e| {
            let path = inner.path(&e.name);
            let stored = Parts::open(&path).and_then(|mut p| p.read_key(&path)).ok()?;
            let shared_bytes = stored.iter().zip(encoding).take_while(|(a, b)| a == b).count();
            Some(Nearest { name: e.name, shared_bytes, key_bytes: e.key_bytes })
        });
        shared.filter(|n| n.shared_bytes > 0).max_by_key(|n| n.shared_bytes)
    }

    /// Opens a hit, checking everything against `encoding`; on damage the file is set aside, and it
    /// is not found again.
    pub fn load(&self, hit: &Hit, encoding: &[u8]) -> Result<Loaded> {
        let inner = &self.0.inner;
        let pending = inner.lock().pending(&hit.name);
        if let Some(snapshot) = pending.filter(|s| encoding.starts_with(&s.key)) {
            return Ok(Loaded::from_memory(snapshot));
        }
        let path = inner.path(&hit.name);
        let loaded = Loaded::open(&path, &encoding[..hit.key_bytes], &inner.options);
        if let Err(e) = &loaded {
            let mut state = inner.lock();
            state.index.remove(&hit.name);
            if matches!(e, Error::Damaged { .. }) {
                inner.set_aside(&mut state, &hit.name, e);
            }
        }
        loaded
    }

    /// Counts a use of a hit whose sequence was taken over, in the file and in the index. Failing to
    /// write it loses nothing.
    pub fn used(&self, hit: &Hit, encoding: &[u8]) {
        let inner = &self.0.inner;
        let mut state = inner.lock();
        state.stats.hits += 1;
        state.stats.hit_tokens += u64::from(hit.tokens);
        inner.cover(&mut state, &encoding[..hit.key_bytes]);
        if let Some(entry) = state.index.entries.get_mut(&hit.name) {
            entry.header.hits = entry.header.hits.saturating_add(1);
            entry.is_covered = false;
            inner.touch(entry);
        }
    }

    /// Sets a hit aside that passed every check here but was refused by the runner.
    pub fn refuse(&self, hit: &Hit, why: &str) {
        let inner = &self.0.inner;
        let mut state = inner.lock();
        if state.index.remove(&hit.name).is_some() {
            let e = Error::damaged(&inner.path(&hit.name), why);
            inner.set_aside(&mut state, &hit.name, &e);
        }
    }

    /// Whether a snapshot would be taken, before its state is copied. Before a sequence is given up
    /// (evict, shutdown) this waits until the writer has room.
    pub fn check(
        &self,
        key: &[u8],
        tokens: usize,
        reason: Reason,
        bytes: u64,
    ) -> std::result::Result<(), Skip> {
        let checked = self.0.inner.check(key, tokens, reason, bytes);
        if checked.is_err() {
            self.0.inner.lock().stats.skipped += 1;
        }
        checked
    }

    /// Stores a sequence: found at once, written by the store's thread. What goes wrong is logged and
    /// counted there.
    pub fn save(&self, snapshot: Snapshot) {
        self.0.inner.push(snapshot);
    }

    /// Adds tool calls to the file of a sequence that is stored already.
    pub fn add_tools(&self, key: &[u8], entries: Vec<ToolEntry>) {
        self.0.inner.push_tools(key, entries);
    }

    /// Waits until everything handed over is on disk, or was given up.
    pub fn flush(&self) {
        let inner = &self.0.inner;
        let mut state = inner.lock();
        while !state.queue.is_idle() {
            state = inner.wait(state);
        }
    }

    /// Files that name one of `ids`: their tokens, verified, and their whole maps.
    pub fn find_tools(&self, ids: &[&str]) -> Vec<(Vec<u32>, Vec<ToolEntry>)> {
        let inner = &self.0.inner;
        let names = inner.files_with(ids);
        let read = |name: &String| {
            let path = inner.path(name);
            let mut parts = Parts::open(&path)?;
            Ok((parts.read_tokens(&path)?, parts.read_tools(&path)?))
        };
        names.iter().filter_map(|name| Result::ok(read(name))).collect()
    }

    /// Removes one file.
    pub fn remove(&self, name: &str) {
        let inner = &self.0.inner;
        inner.remove_file(&mut inner.lock(), name);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.lock().queue.is_closing = true;
        self.inner.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Whether these tokens are stored, or are about to be.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.index.entries.get(name).is_some_and(|e| e.is_usable) || self.pending(name).is_some()
    }

    fn pending(&self, name: &str) -> Option<Arc<Snapshot>> {
        self.queue.pending.iter().find(|(n, _)| n == name).map(|(_, s)| Arc::clone(s))
    }

    fn find(
        &self,
        prefixes: &[(usize, String)],
        encoding: &[u8],
        options: &Options,
    ) -> std::result::Result<Hit, Miss> {
        let pending = self.queue.pending.iter().filter(|(_, s)| encoding.starts_with(&s.key));
        let pending = pending.max_by_key(|(_, s)| s.key.len()).map(|(name, s)| Hit {
            name: name.clone(),
            tokens: u32::try_from(s.tokens.len()).unwrap_or(u32::MAX),
            key_bytes: s.key.len(),
        });
        let pending = pending.filter(|hit| hit.tokens < options.ctx);
        if self.index.usable().next().is_none() {
            return pending.ok_or(Miss::Empty);
        }
        if prefixes.is_empty() {
            return pending.ok_or(Miss::TooShort);
        }
        match (pending, self.index.longest(prefixes, options.ctx, options.tokens_min)) {
            (Some(pending), Ok(hit)) if hit.key_bytes > pending.key_bytes => Ok(hit),
            (Some(pending), _) => Ok(pending),
            (None, found) => found,
        }
    }

    /// Remembers which file names these calls.
    pub(crate) fn note_tools(&mut self, name: &str, entries: &[ToolEntry]) {
        let Some(files) = &mut self.index.tool_files else { return };
        for entry in entries {
            files.entry(entry.id.clone()).or_default().insert(name.to_owned());
        }
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.kv"))
    }

    /// Brings the index up to date with the directory, if that has changed: other processes may use
    /// it too.
    fn scan(&self, state: &mut State) {
        let changed = fs::metadata(&self.dir).and_then(|m| m.modified()).ok();
        if changed.is_some() && changed == state.scanned {
            return;
        }
        let Ok(items) = fs::read_dir(&self.dir) else { return };
        let mut present = HashSet::new();
        for item in items.flatten() {
            let Ok(file_name) = item.file_name().into_string() else { continue };
            let Some(name) = key_stem(&file_name) else { continue };
            present.insert(name.to_owned());
            let is_known = state.index.entries.contains_key(name);
            if !is_known && !state.index.ignored.contains_key(name) {
                self.index_file(state, name);
            }
        }
        state.index.entries.retain(|name, _| present.contains(name));
        state.index.ignored.retain(|name, _| present.contains(name));
        state.scanned = changed;
    }

    fn index_file(&self, state: &mut State, name: &str) {
        let path = self.path(name);
        match read_entry(&path, name, &self.options) {
            Ok((entry, mut parts)) => {
                if state.index.tool_files.is_some() {
                    let tools = parts.read_tools(&path).unwrap_or_default();
                    state.note_tools(name, &tools);
                }
                state.index.entries.insert(name.to_owned(), entry);
            }
            Err(e @ Error::Damaged { .. }) => self.set_aside(state, name, &e),
            Err(Error::Foreign { what, .. }) => {
                state.index.ignored.insert(name.to_owned(), what);
            }
            // It may be readable later.
            Err(_) => {}
        }
    }

    /// Renames a damaged file so that nobody tries it again.
    fn set_aside(&self, state: &mut State, name: &str, why: &Error) {
        let path = self.path(name);
        state.stats.set_aside += 1;
        tracing::warn!("kv cache: load failed, file set aside: {why}");
        if fs::rename(&path, path.with_extension("kv.bad")).is_err() {
            state.index.ignored.insert(name.to_owned(), why.to_string());
        }
    }

    /// Drops the least worthy files until the budget holds.
    pub(crate) fn evict(&self, state: &mut State, immune: Option<&str>) {
        while state.index.bytes() > self.options.budget_bytes {
            let now = now_s();
            let victim = state.index.victim(now, immune).or_else(|| state.index.victim(now, None));
            let Some(name) = victim else { break };
            let header = state.index.entries[&name].header.clone();
            let bytes = state.index.entries[&name].file_bytes;
            self.remove_file(state, &name);
            state.stats.evicted += 1;
            tracing::info!(
                "kv cache: evicted reason={} tokens={} hits={} size={:.2} MiB file={name}.kv",
                header.reason.name(),
                header.tokens,
                header.hits,
                mib(bytes),
            );
        }
    }

    pub(crate) fn remove_file(&self, state: &mut State, name: &str) {
        state.index.remove(name);
        if let Err(e) = fs::remove_file(self.path(name))
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("kv cache: {name}.kv not removed: {e}");
            state.index.ignored.insert(name.to_owned(), e.to_string());
        }
    }

    /// A conversation with this key is alive: its shorter files are of use with it, or not at all.
    pub(crate) fn cover(&self, state: &mut State, whole: &[u8]) {
        let ends = state.index.key_lengths(whole.len());
        let names = key::prefix_names(whole, &ends);
        let prefixes: Vec<_> = ends.into_iter().zip(names).collect();
        for name in state.index.cover(&prefixes, whole.len()) {
            if let Some(entry) = state.index.entries.get_mut(&name) {
                self.touch(entry);
            }
        }
    }

    /// Writes the time of use and the hits of an entry to its file.
    fn touch(&self, entry: &mut Entry) {
        entry.header.last_used = now_s();
        let Ok(mut file) = OpenOptions::new().write(true).open(self.path(&entry.name)) else {
            return;
        };
        let hits = entry.header.hits.to_le_bytes();
        let used = entry.header.last_used.to_le_bytes();
        for (at, bytes) in [(HITS_OFFSET, &hits[..]), (LAST_USED_OFFSET, &used[..])] {
            if file.seek(SeekFrom::Start(at)).is_err() || file.write_all(bytes).is_err() {
                return;
            }
        }
    }

    /// Names of usable files whose maps together have those of `ids` that any has. The first call
    /// reads every map.
    fn files_with(&self, ids: &[&str]) -> Vec<String> {
        let mut state = self.lock();
        self.scan(&mut state);
        if state.index.tool_files.is_none() {
            state.index.tool_files = Some(HashMap::new());
            let tagged: Vec<String> = state.index.usable().map(|e| e.name.clone()).collect();
            for name in tagged {
                let path = self.path(&name);
                let tools = Parts::open(&path).and_then(|mut p| p.read_tools(&path));
                state.note_tools(&name, &tools.unwrap_or_default());
            }
        }
        let index = &state.index;
        let files = index.tool_files.as_ref().expect("filled above");
        // Of several files that have a call the longest has most others too.
        let longest = |id: &&str| {
            let entries = files.get(*id)?.iter().filter_map(|name| index.entries.get(name));
            let longest = entries.filter(|e| e.is_usable).max_by_key(|e| e.header.tokens)?;
            Some(longest.name.clone())
        };
        let mut names: Vec<String> = ids.iter().filter_map(longest).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn report_open(&self, state: &State) {
        let o = &self.options;
        let quant = if o.accepts_family { "accept" } else { "reject" };
        let usable = state.index.usable().count();
        tracing::info!(
            "kv cache: open dir={} budget={:.0} MiB different-quant={quant} min-tokens={} \
             files={usable} others={} foreign={} used={:.2} MiB",
            self.dir.display(),
            mib(o.budget_bytes),
            o.tokens_min,
            state.index.entries.len() - usable,
            state.index.ignored.len(),
            mib(state.index.bytes()),
        );
    }
}

fn read_entry(path: &Path, name: &str, options: &Options) -> Result<(Entry, Parts)> {
    let parts = Parts::open(path)?;
    let key_bytes = usize::try_from(parts.key_bytes())
        .map_err(|_| Error::damaged(path, "key is larger than memory"))?;
    let same = parts.identity.model == options.identity.model;
    let family = options.accepts_family && parts.identity.family == options.identity.family;
    let entry = Entry {
        name: name.to_owned(),
        header: parts.header.clone(),
        key_bytes,
        file_bytes: parts.file_bytes,
        is_usable: same || family,
        is_covered: false,
    };
    Ok((entry, parts))
}

fn make_dir(dir: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(dir).map_err(|e| Error::io(dir, e))
}

/// Seconds since the epoch; 0 when the clock is before it.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
