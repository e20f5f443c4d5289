//! `ds4 setup`: the configuration with which an agent talks to this server. It is printed, and on
//! request written: into a file of its own where the agent layers files, else merged into the
//! agent's own file, of which a copy is kept.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

mod clients;
mod probe;

pub(crate) use clients::Client;

use crate::options::Setup;

/// The name under which the server is known in every client.
const NAME: &str = "ds4";
/// The model's name.
const MODEL: &str = "deepseek-v4-flash";

/// What a client must be told.
struct Facts {
    /// Address of the server, without a slash at its end.
    url: String,
    key: Option<String>,
    /// Context length in tokens.
    ctx: u32,
}

/// A client's configuration.
struct Recipe {
    /// The file.
    path: PathBuf,
    /// What it must say.
    content: Content,
    /// How to start the client with it.
    run: String,
    /// What else there is to know.
    notes: &'static str,
}

enum Content {
    /// The whole file.
    Whole(String),
    /// Fields that the file must have, whatever else it has.
    Fields(Value),
}

/// Prints or writes a configuration.
pub(crate) fn run(setup: &Setup) -> Result<()> {
    let url = setup.url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
    let ctx =
        setup.ctx.or_else(|| probe::context(&url, setup.key.as_deref())).unwrap_or_else(|| {
            eprintln!("ds4: {url} does not answer; assuming the default context of 32768 tokens");
            32_768
        });
    let facts = Facts { url, key: setup.key.clone(), ctx };
    let recipe = setup.client.recipe(&facts, &setup.home);
    let old = read(&recipe.path)?;
    let new = content(&recipe, old.as_deref())?;
    let mut out = io::stdout().lock();
    writeln!(out, "# {}", recipe.path.display())?;
    match &recipe.content {
        Content::Whole(text) => writeln!(out, "{}", text.trim_end())?,
        Content::Fields(fields) => writeln!(out, "{fields:#}")?,
    }
    writeln!(out, "\n# start it with\n{}", recipe.run)?;
    if !recipe.notes.is_empty() {
        writeln!(out, "\n# {}", recipe.notes)?;
    }
    if !setup.write {
        writeln!(out, "\n# nothing was written: add --write for that")?;
        return Ok(());
    }
    match old {
        Some(old) if old == new => writeln!(out, "\n# the file says so already")?,
        Some(old) => {
            let copy = backup(&recipe.path, &old)?;
            replace(&recipe.path, &new)?;
            writeln!(out, "\n# written; the file as it was is {}", copy.display())?;
        }
        None => {
            replace(&recipe.path, &new)?;
            writeln!(out, "\n# written")?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The file as it should be.
fn content(recipe: &Recipe, old: Option<&str>) -> Result<String> {
    let fields = match &recipe.content {
        Content::Whole(text) => return Ok(text.clone()),
        Content::Fields(fields) => fields,
    };
    let mut all = match old.map(str::trim).filter(|old| !old.is_empty()) {
        None => Value::Object(serde_json::Map::new()),
        Some(old) => serde_json::from_str(old).with_context(|| {
            let path = recipe.path.display();
            format!("{path} is not plain JSON, so add the fields by hand (see without --write)")
        })?,
    };
    if !all.is_object() {
        bail!("{} is not a JSON object", recipe.path.display());
    }
    merge(&mut all, fields);
    Ok(format!("{all:#}\n"))
}

/// Sets fields, leaving all others.
fn merge(old: &mut Value, new: &Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (old, new) => old.clone_from(new),
    }
}

/// Keeps the file as it was, under a name that is free.
fn backup(path: &Path, old: &str) -> Result<PathBuf> {
    for number in 1..1000 {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".before-ds4-{number}"));
        let copy = PathBuf::from(name);
        match private().create_new(true).open(&copy) {
            Ok(mut file) => {
                file.write_all(old.as_bytes())?;
                return Ok(copy);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write {}", copy.display()));
            }
        }
    }
    bail!("there are too many copies of {}", path.display())
}

/// Writes a file as a whole or not at all.
fn replace(path: &Path, text: &str) -> Result<()> {
    let name = || format!("cannot write {}", path.display());
    let dir = path.parent().context("a file without a directory")?;
    fs::create_dir_all(dir).with_context(name)?;
    // A link is followed, so that a file kept elsewhere stays there.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut new = path.clone().into_os_string();
    new.push(".ds4-new");
    let mut file = private().create(true).truncate(true).open(&new).with_context(name)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(name)?;
    fs::rename(&new, &path).with_context(name)
}

/// Files may hold keys.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
