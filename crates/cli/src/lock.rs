//! One process on a GPU: a lock file that says who.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::options::Usage;

/// Held until the process ends; the system gives it back whatever that end is.
static HELD: Mutex<Option<File>> = Mutex::new(None);

/// Takes the lock for the rest of this process.
pub(crate) fn take() -> Result<()> {
    let file = take_at(&path())?;
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(())
}

/// Gives the lock back: the GPU is not used after all.
pub(crate) fn release() {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// `DS4_LOCK_FILE`, else a file whose name has the device in it.
fn path() -> PathBuf {
    let named = env::var_os("DS4_LOCK_FILE").filter(|name| !name.is_empty());
    let visible = env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    named.map_or_else(|| PathBuf::from("/tmp").join(name(&visible)), PathBuf::from)
}

/// The first device of `CUDA_VISIBLE_DEVICES` is the one that is used.
fn name(visible: &str) -> String {
    let first = visible.split(',').next().unwrap_or_default();
    let plain: String = first.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    format!("ds4.cuda{}.lock", if plain.is_empty() { "0" } else { &plain })
}

fn take_at(path: &Path) -> Result<File> {
    let name = path.display();
    // A folder for everyone is no place to follow links to files that would be overwritten.
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        bail!("{name}: the lock is not a plain file; remove it or set DS4_LOCK_FILE");
    }
    let all = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    // Another user's file can be locked all the same.
    let mut file = all.or_else(|_| File::open(path)).with_context(|| {
        format!("cannot open the lock {name}; set DS4_LOCK_FILE or use --no-lock")
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(refusal(&mut file).into()),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {name}; use --no-lock"));
        }
    }
    // Only for people: the lock holds without it.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", process::id()));
    Ok(file)
}

fn refusal(file: &mut File) -> Usage {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    let pid = text.trim().parse::<u32>().map_or_else(|_| "unknown".to_owned(), |n| n.to_string());
    Usage(format!("another ds4 process is already running (pid {pid}); refusing to start"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_learns_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = take_at(&path).unwrap();
        let error = take_at(&path).unwrap_err();
        let pid = process::id();
        let want = format!("another ds4 process is already running (pid {pid}); refusing to start");
        assert!(error.is::<Usage>());
        assert_eq!(error.to_string(), want);
        drop(held);
        take_at(&path).unwrap();
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("precious"), dir.path().join("lock"));
        fs::write(&target, "data").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(take_at(&link).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "data");
    }

    #[test]
    fn each_device_has_its_own() {
        assert_eq!(name(""), "ds4.cuda0.lock");
        assert_eq!(name("3,1"), "ds4.cuda3.lock");
        assert_eq!(name("GPU-8f1/..,0"), "ds4.cudaGPU-8f1.lock");
    }
}
