//! The directory of cache files: index, lookup by prefix, loading with distrust, eviction.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::header::{HEADER_BYTES, HITS_OFFSET, LAST_USED_OFFSET};
use crate::payload::{KINDS, Kind, Section, check_hash, read_at, read_section, read_sections};
use crate::{Error, Header, Result, ToolEntry, evict, key, payload, tools};

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files together never take more than this, in bytes.
    pub budget_bytes: u64,
    /// Sequences shorter than this are neither stored nor loaded, in tokens.
    pub tokens_min: u32,
    /// Identity of model, quantisation policy and layout; other files are ignored.
    pub fingerprint: [u8; 32],
    /// Bits of the routed experts, for the header.
    pub quant_bits: u8,
    /// Context size of this server: larger sequences cannot be loaded.
    pub ctx: u32,
    /// Vocabulary size; token ids of a file must be below it.
    pub n_vocab: u32,
}

/// One usable file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// 40 hex digits.
    pub name: String,
    /// Its header.
    pub header: Header,
    /// Bytes of the key encoding it was stored under.
    pub key_bytes: usize,
    /// Size on disk.
    pub file_bytes: u64,
}

/// A file whose key is a prefix of a prompt's encoding.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Its name.
    pub name: String,
    /// Cached tokens.
    pub tokens: u32,
    /// Bytes of the prompt's encoding it covers.
    pub key_bytes: usize,
}

/// Why no file served a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The directory holds no file of this model.
    Empty,
    /// No stored key is a prefix of the prompt; `nearest` is the file with the longest common start
    /// in the key lengths stored.
    NoPrefix {
        /// Usable files that were considered.
        files: usize,
    },
    /// The prompt is shorter than the smallest stored key or than the minimum.
    TooShort,
    /// The matching file holds more tokens than this context.
    TooLong {
        /// Its tokens.
        tokens: u32,
    },
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => write!(f, "no file of this model in the cache directory"),
            Self::NoPrefix { files } => {
                write!(f, "none of {files} files is a prefix of the prompt")
            }
            Self::TooShort => write!(f, "the prompt is shorter than anything stored"),
            Self::TooLong { tokens } => write!(f, "the file holds {tokens} tokens, above --ctx"),
        }
    }
}

/// A verified file, open for reading its sequence.
#[derive(Debug)]
pub struct Loaded {
    /// Token ids of the sequence.
    pub tokens: Vec<u32>,
    /// Logits after the last token; empty when they were not stored.
    pub logits: Vec<f32>,
    /// Tool-call ids and their sampled blocks; material from a file, to be parsed again before use.
    pub tools: Vec<ToolEntry>,
    path: PathBuf,
    file: File,
    sequence: Section,
}

impl Loaded {
    /// A reader of the runner's state, bounded and already checked against its checksum.
    pub fn sequence(&mut self) -> Result<impl Read + use<>> {
        payload::section_reader(&self.path, &mut self.file, &self.sequence)
    }
}

/// An open cache directory.
#[derive(Debug)]
pub struct KvStore {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) entries: Vec<Entry>,
    /// Set when the disk was full: nothing is written any more.
    pub(crate) full: bool,
    /// Distinguishes temporary files of one process.
    pub(crate) writes: u64,
}

impl KvStore {
    /// Opens a directory, making it (mode 0700) when absent, removes what a killed writer left and
    /// indexes the files of this model. Unreadable files are skipped; damaged ones are set aside.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        make_dir(dir)?;
        let mut store =
            Self { dir: dir.to_owned(), options, entries: Vec::new(), full: false, writes: 0 };
        for item in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
            let Ok(item) = item else { continue };
            let Ok(file_name) = item.file_name().into_string() else { continue };
            if file_name.contains(".kv.tmp.") {
                remove_stale(&item.path(), &file_name);
            } else if let Some(name) = key_stem(&file_name) {
                store.index(name);
            }
        }
        store.evict_to_budget(None)?;
        Ok(store)
    }

    fn index(&mut self, name: &str) {
        let path = self.path(name);
        match read_entry(&path, name, &self.options.fingerprint) {
            Ok(entry) => self.entries.push(entry),
            Err(Error::Damaged { .. }) => self.set_aside(name),
            // Another model's good file, or one that cannot be read now: leave it alone.
            Err(_) => {}
        }
    }

    /// Usable files, in no order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether writing was given up because the disk is full.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Bytes of all usable files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.file_bytes).sum()
    }

    /// The longest file whose key is a prefix of `encoding`, or why there is none.
    pub fn find(&self, encoding: &[u8]) -> std::result::Result<Hit, Miss> {
        if self.entries.is_empty() {
            return Err(Miss::Empty);
        }
        let mut ends: Vec<usize> =
            self.entries.iter().map(|e| e.key_bytes).filter(|&n| n <= encoding.len()).collect();
        ends.sort_unstable();
        ends.dedup();
        if ends.is_empty() {
            return Err(Miss::TooShort);
        }
        let names = key::prefix_names(encoding, &ends);
        let mut too_long = None;
        for (end, name) in ends.iter().zip(&names).rev() {
            let Some(e) = self.entries.iter().find(|e| e.name == *name && e.key_bytes == *end)
            else {
                continue;
            };
            if e.header.tokens >= self.options.ctx {
                too_long = Some(Miss::TooLong { tokens: e.header.tokens });
            } else if e.header.tokens >= self.options.tokens_min {
                return Ok(Hit { name: name.clone(), tokens: e.header.tokens, key_bytes: *end });
            }
        }
        Err(too_long.unwrap_or(Miss::NoPrefix { files: self.entries.len() }))
    }

    /// Opens a hit, checking everything against `encoding`; on any failure the file is set aside and
    /// the caller goes on without it.
    pub fn load(&mut self, hit: &Hit, encoding: &[u8]) -> Result<Loaded> {
        let path = self.path(&hit.name);
        match self.load_checked(&path, hit, encoding) {
            Ok(loaded) => {
                self.touch(&hit.name);
                Ok(loaded)
            }
            Err(e) => {
                self.entries.retain(|x| x.name != hit.name);
                if matches!(e, Error::Damaged { .. }) {
                    self.set_aside(&hit.name);
                }
                Err(e)
            }
        }
    }

    fn load_checked(&self, path: &Path, hit: &Hit, encoding: &[u8]) -> Result<Loaded> {
        let mut parts = open_parts(path, &self.options.fingerprint)?;
        for (section, kind) in parts.sections.iter().zip(KINDS) {
            check_hash(path, &mut parts.file, section, kind)?;
        }
        let stored = read_section(path, &mut parts.file, &parts.sections[0])?;
        if encoding.get(..hit.key_bytes) != Some(&stored[..]) {
            return Err(Error::damaged(path, "its key is not the prompt's prefix"));
        }
        let tokens = self.read_tokens(path, &mut parts)?;
        let logits = self.read_logits(path, &mut parts)?;
        let tools = parts.read_tools(path)?;
        let sequence = parts.sections[3];
        Ok(Loaded { tokens, logits, tools, path: path.to_owned(), file: parts.file, sequence })
    }

    fn read_tokens(&self, path: &Path, parts: &mut Parts) -> Result<Vec<u32>> {
        let bytes = read_section(path, &mut parts.file, &parts.sections[1])?;
        let (words, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || words.len() != parts.header.tokens as usize {
            return Err(Error::damaged(path, "token count differs from the header's"));
        }
        let tokens: Vec<u32> = words.iter().map(|w| u32::from_le_bytes(*w)).collect();
        match tokens.iter().find(|&&t| t >= self.options.n_vocab) {
            Some(t) => Err(Error::damaged(path, format!("token id {t} outside the vocabulary"))),
            None => Ok(tokens),
        }
    }

    fn read_logits(&self, path: &Path, parts: &mut Parts) -> Result<Vec<f32>> {
        let bytes = read_section(path, &mut parts.file, &parts.sections[2])?;
        let (words, rest) = bytes.as_chunks::<4>();
        let whole = words.is_empty() || words.len() == self.options.n_vocab as usize;
        if !rest.is_empty() || !whole {
            return Err(Error::damaged(path, "logits of another vocabulary"));
        }
        let logits: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        if logits.iter().any(|x| x.is_nan()) {
            return Err(Error::damaged(path, "a logit is not a number"));
        }
        Ok(logits)
    }

    /// Counts a use, in the file and in the index. Failing to write it loses nothing.
    fn touch(&mut self, name: &str) {
        let path = self.path(name);
        let Some(entry) = self.entries.iter_mut().find(|e| e.name == name) else { return };
        entry.header.hits = entry.header.hits.saturating_add(1);
        entry.header.last_used = now_s();
        let Ok(mut file) = OpenOptions::new().write(true).open(path) else { return };
        let hits = entry.header.hits.to_le_bytes();
        let used = entry.header.last_used.to_le_bytes();
        for (at, bytes) in [(HITS_OFFSET, &hits[..]), (LAST_USED_OFFSET, &used[..])] {
            if file.seek(SeekFrom::Start(at)).is_err() || file.write_all(bytes).is_err() {
                return;
            }
        }
    }

    /// The tool maps of every file that names one of `ids`.
    pub fn find_tools(&self, ids: &[&str]) -> Vec<ToolEntry> {
        let mut found = Vec::new();
        for entry in self.entries.iter().filter(|e| e.header.has_tools) {
            let path = self.path(&entry.name);
            let Ok(mut parts) = open_parts(&path, &self.options.fingerprint) else { continue };
            let Ok(map) = parts.read_tools(&path) else { continue };
            found.extend(map.into_iter().filter(|t| ids.contains(&t.id.as_str())));
        }
        found
    }

    /// Removes one file.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let path = self.path(name);
        self.entries.retain(|e| e.name != name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, e)),
            _ => Ok(()),
        }
    }

    /// Drops the least worthy files until the budget holds; returns the names.
    pub fn evict_to_budget(&mut self, immune: Option<&str>) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        while self.bytes() > self.options.budget_bytes {
            let victim = evict::victim(&self.entries, now_s(), immune)
                .or_else(|| evict::victim(&self.entries, now_s(), None));
            let Some(ix) = victim else { break };
            let name = self.entries[ix].name.clone();
            self.remove(&name)?;
            gone.push(name);
        }
        Ok(gone)
    }

    fn set_aside(&self, name: &str) {
        let path = self.path(name);
        // When even renaming fails the file is not in the index, so it is not tried again either.
        let _ = fs::rename(&path, path.with_extension("kv.bad"));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.kv"))
    }
}

/// A file taken apart, bounds checked, contents not yet.
struct Parts {
    header: Header,
    file: File,
    sections: [Section; 4],
    tools_at: u64,
    file_bytes: u64,
}

impl Parts {
    fn read_tools(&mut self, path: &Path) -> Result<Vec<ToolEntry>> {
        if !self.header.has_tools {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(self.tools_at)).map_err(|e| Error::io(path, e))?;
        let rest = self.file_bytes.saturating_sub(self.tools_at);
        (&mut self.file).take(rest).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        Ok(tools::decode(&bytes))
    }
}

fn open_parts(path: &Path, fingerprint: &[u8; 32]) -> Result<Parts> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let file_bytes = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let mut head = [0u8; HEADER_BYTES + 4];
    read_at(path, &mut file, 0, &mut head)?;
    let (fixed, text_len) = head.split_at(HEADER_BYTES);
    let header = Header::decode(fixed.try_into().expect("split at its length"))
        .map_err(|what| Error::damaged(path, what))?;
    let text = u64::from(u32::from_le_bytes(text_len.try_into().expect("4 bytes")));
    let start = (HEADER_BYTES as u64 + 4).saturating_add(text);
    let end = start.saturating_add(header.payload_bytes);
    if end > file_bytes {
        let missing = end - file_bytes;
        return Err(Error::damaged(path, format!("file is cut short by {missing} bytes")));
    }
    if !header.has_tools && end != file_bytes {
        return Err(Error::damaged(path, "bytes behind the payload"));
    }
    let sections = read_sections(path, &mut file, start, header.payload_bytes, fingerprint)?;
    Ok(Parts { header, file, sections, tools_at: end, file_bytes })
}

pub(crate) fn read_entry(path: &Path, name: &str, fingerprint: &[u8; 32]) -> Result<Entry> {
    let parts = open_parts(path, fingerprint)?;
    let key_bytes = usize::try_from(parts.sections[0].bytes)
        .map_err(|_| Error::damaged(path, "key is larger than memory"))?;
    let (header, file_bytes) = (parts.header, parts.file_bytes);
    Ok(Entry { name: name.to_owned(), header, key_bytes, file_bytes })
}

/// What a full check of one file found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The header.
    pub header: Header,
    /// The human-readable text.
    pub text: String,
    /// The model fingerprint inside.
    pub fingerprint: [u8; 32],
    /// Tool calls in its map.
    pub tools: usize,
}

/// Checks a file of any model: container, every checksum, name against key.
pub fn verify_file(path: &Path) -> Result<Verified> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut head = [0u8; HEADER_BYTES + 4];
    read_at(path, &mut file, 0, &mut head)?;
    let text_bytes = u32::from_le_bytes(head[HEADER_BYTES..].try_into().expect("4 bytes"));
    let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let text_at = HEADER_BYTES as u64 + 4;
    if u64::from(text_bytes) > size.saturating_sub(text_at) {
        return Err(Error::damaged(path, "text is cut short"));
    }
    let mut text = vec![0u8; text_bytes as usize];
    read_at(path, &mut file, text_at, &mut text)?;
    let mut fingerprint = [0u8; 32];
    read_at(path, &mut file, text_at + u64::from(text_bytes) + 8, &mut fingerprint)?;
    let mut parts = open_parts(path, &fingerprint)?;
    for (section, kind) in parts.sections.iter().zip(KINDS) {
        check_hash(path, &mut parts.file, section, kind)?;
    }
    let stored = read_section(path, &mut parts.file, &parts.sections[Kind::Key as usize - 1])?;
    if path.file_stem().and_then(|s| s.to_str()) != Some(&key::key_name(&stored)) {
        return Err(Error::damaged(path, "its name is not the SHA-1 of its key"));
    }
    let tools = parts.read_tools(path)?.len();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Verified { header: parts.header, text, fingerprint, tools })
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

/// `Some(stem)` for 40 lower-case hex digits followed by `.kv`.
fn key_stem(file_name: &str) -> Option<&str> {
    let stem = file_name.strip_suffix(".kv")?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (stem.len() == 40 && stem.bytes().all(hex)).then_some(stem)
}

/// Removes a temporary file unless its writer still lives.
fn remove_stale(path: &Path, file_name: &str) {
    let pid = file_name.rsplit(".kv.tmp.").next().and_then(|s| s.split('.').next());
    let alive = pid.is_some_and(|p| Path::new("/proc").join(p).exists());
    let own = pid.is_some_and(|p| p == std::process::id().to_string());
    if !alive || own {
        let _ = fs::remove_file(path);
    }
}

/// Seconds since the epoch; 0 when the clock is before it.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
