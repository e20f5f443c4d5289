//! Everything in a cache directory, whoever wrote it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result, Verified, read_file};

/// What a file in the directory is.
#[derive(Debug)]
pub enum Listed {
    /// A file of this engine, bounds checked.
    Whole(Box<Verified>),
    /// Named like one, but damaged, or another engine's.
    Refused(Error),
    /// Set aside earlier.
    Bad,
    /// Being written, or left by a killed writer.
    Temporary,
}

/// A file of the directory.
#[derive(Debug)]
pub struct Item {
    /// Where it is.
    pub path: PathBuf,
    /// 40 hex digits.
    pub name: String,
    /// Size on disk.
    pub bytes: u64,
    /// What it is.
    pub what: Listed,
}

/// The cache files of a directory, in order of name; other files are not mentioned.
pub fn list(dir: &Path) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for item in fs::read_dir(dir).map_err(|e| Error::io(dir, e))?.flatten() {
        let Ok(file_name) = item.file_name().into_string() else { continue };
        let path = item.path();
        let (name, what) = if let Some(name) = key_stem(&file_name) {
            (name, read_file(&path).map_or_else(Listed::Refused, |v| Listed::Whole(Box::new(v))))
        } else if let Some(name) = file_name.strip_suffix(".bad").and_then(key_stem) {
            (name, Listed::Bad)
        } else if let Some((name, _)) = temp_parts(&file_name) {
            (name, Listed::Temporary)
        } else {
            continue;
        };
        let bytes = item.metadata().map_or(0, |m| m.len());
        items.push(Item { name: name.to_owned(), bytes, what, path });
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

/// `Some(stem)` for 40 lower-case hex digits followed by `.kv`.
pub(crate) fn key_stem(file_name: &str) -> Option<&str> {
    file_name.strip_suffix(".kv").filter(|stem| is_key_name(stem))
}

fn is_key_name(stem: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    stem.len() == 40 && stem.bytes().all(hex)
}

/// Key name and process of a temporary file's name.
fn temp_parts(file_name: &str) -> Option<(&str, &str)> {
    let (name, rest) = file_name.split_once(".kv.tmp.")?;
    is_key_name(name).then(|| (name, rest.split('.').next().unwrap_or(rest)))
}

/// Removes temporary files whose writers are gone.
pub(crate) fn remove_stale(dir: &Path) {
    let Ok(items) = fs::read_dir(dir) else { return };
    for item in items.flatten() {
        let Ok(file_name) = item.file_name().into_string() else { continue };
        let Some((_, pid)) = temp_parts(&file_name) else { continue };
        let path = item.path();
        if !item.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // A living writer holds a lock; where there are no locks, its process is looked for.
        let is_free = match File::open(&path).map(|file| file.try_lock()) {
            Ok(Ok(())) => true,
            Ok(Err(fs::TryLockError::WouldBlock)) => false,
            _ => !Path::new("/proc").join(pid).exists(),
        };
        if is_free {
            let _ = fs::remove_file(path);
        }
    }
}
