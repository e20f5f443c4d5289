//! `ds4 cache`: what lies in a cache directory, whoever wrote it. Needs no model.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use ds4_kvstore::{Item, Listed, Verified, list, verify_file};
use serde_json::{Value, json};

use crate::machine::gib;
use crate::options::Usage;

/// Characters of a file's text that `ls` shows, and `show`.
const LS_TEXT: usize = 40;
const SHOW_TEXT: usize = 600;
/// Hex digits of a name in a table.
const SHORT: usize = 12;

/// Flags of `cache`.
#[derive(Args, Debug)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with a cache directory.
#[derive(Subcommand, Debug)]
pub(crate) enum CacheCommand {
    /// List the files
    Ls(Which),
    /// Show a file: header, sections, text, tool calls
    Show(Which),
    /// Check every byte of the files; exit status 1 if one is damaged
    Verify(Which),
    /// Remove files by name, those set aside, or all
    Rm {
        #[command(flatten)]
        which: Which,
        /// Remove every file of this engine, and what killed writers left
        #[arg(long)]
        all: bool,
        /// Remove the files that were found damaged and set aside
        #[arg(long)]
        bad: bool,
    },
}

/// Which files of which directory.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// The directory, and files of it by name or by the beginning of one
    #[arg(value_name = "DIR|NAME")]
    pub args: Vec<PathBuf>,
    /// The directory
    #[arg(long, value_name = "DIR", env = "DS4_KV_DISK_DIR")]
    pub kv_disk_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A directory and the files of it that were named.
struct Chosen {
    items: Vec<Item>,
    is_named: bool,
}

/// Runs the command.
pub(crate) fn run(command: &CacheCommand) -> Result<()> {
    let mut out = io::stdout().lock();
    match command {
        CacheCommand::Ls(which) => ls(&mut out, &choose(which)?.items, which.json)?,
        CacheCommand::Show(which) => {
            let chosen = choose(which)?;
            if !chosen.is_named {
                return Err(Usage("specify which file to show, by its name".to_owned()).into());
            }
            show(&mut out, &chosen.items, which.json)?;
        }
        CacheCommand::Verify(which) => verify(&mut out, &choose(which)?.items, which.json)?,
        CacheCommand::Rm { which, all, bad } => rm(&mut out, which, *all, *bad)?,
    }
    Ok(out.flush()?)
}

/// Finds the directory and the named files in it.
fn choose(which: &Which) -> Result<Chosen> {
    let mut dir = which.kv_disk_dir.clone();
    let mut names = Vec::new();
    for arg in &which.args {
        if arg.is_dir() {
            dir = Some(arg.clone());
        } else if let Some(parent) = arg.parent().filter(|p| !p.as_os_str().is_empty()) {
            dir.get_or_insert_with(|| parent.to_owned());
            names.push(arg.file_name().unwrap_or_default().to_string_lossy().into_owned());
        } else {
            if arg.is_file() {
                dir.get_or_insert_with(|| PathBuf::from("."));
            }
            names.push(arg.to_string_lossy().into_owned());
        }
    }
    let Some(dir) = dir else {
        if let Some(name) = names.first() {
            bail!("{name}: no such directory, and no --kv-disk-dir to look for a file in");
        }
        return Err(Usage("specify the cache directory or --kv-disk-dir DIR".to_owned()).into());
    };
    let items = list(&dir)?;
    if names.is_empty() {
        return Ok(Chosen { items, is_named: false });
    }
    let mut taken = vec![false; items.len()];
    for name in &names {
        taken[find(&items, name, &dir)?] = true;
    }
    let items = items.into_iter().zip(taken).filter(|(_, taken)| *taken).map(|(i, _)| i).collect();
    Ok(Chosen { items, is_named: true })
}

/// The one file whose name begins so.
fn find(items: &[Item], name: &str, dir: &Path) -> Result<usize> {
    let begins = |item: &Item| {
        let file = item.path.file_name().unwrap_or_default().to_string_lossy();
        !name.is_empty() && file.starts_with(name)
    };
    let found: Vec<usize> = (0..items.len()).filter(|&ix| begins(&items[ix])).collect();
    match found[..] {
        [ix] => Ok(ix),
        [] => bail!("{}: no cache file begins with {name:?}", dir.display()),
        _ => bail!("{}: {} cache files begin with {name:?}", dir.display(), found.len()),
    }
}

fn ls(out: &mut dyn Write, items: &[Item], is_json: bool) -> Result<()> {
    if is_json {
        let all: Vec<Value> = items.iter().map(to_json).collect();
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?);
    }
    let (now, mut bytes) = (now_s(), 0);
    writeln!(
        out,
        "{:SHORT$}  {:>7}  {:>10}  {:9}  {:>5}  {:>6}  {:8}  text",
        "name", "tokens", "size", "reason", "hits", "used", "model"
    )?;
    for item in items {
        bytes += item.bytes;
        let name = &item.name[..SHORT];
        let size = gib(item.bytes);
        match &item.what {
            Listed::Whole(v) => {
                let h = &v.header;
                let (model, text) = (hex(&v.identity.model[..4]), one_line(&v.text, LS_TEXT));
                let (reason, used) = (h.reason.name(), age(now, h.last_used));
                writeln!(
                    out,
                    "{name}  {:>7}  {size:>10}  {reason:9}  {:>5}  {used:>6}  {model}  {text}",
                    h.tokens, h.hits
                )?;
            }
            other => writeln!(out, "{name}  {:>7}  {size:>10}  {}", "", state(other))?,
        }
    }
    let files = if items.len() == 1 { "file" } else { "files" };
    Ok(writeln!(out, "{} {files}, {}", items.len(), gib(bytes))?)
}

fn show(out: &mut dyn Write, items: &[Item], is_json: bool) -> Result<()> {
    for item in items {
        let v = match &item.what {
            Listed::Whole(v) => v,
            other => bail!("{}: {}", item.path.display(), state(other)),
        };
        if is_json {
            let mut object = to_json(item);
            object["text"] = json!(v.text);
            object["tools"] = v.tools.iter().map(tool_json).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
        } else {
            write_file(out, item, v)?;
        }
    }
    Ok(())
}

fn write_file(out: &mut dyn Write, item: &Item, v: &Verified) -> Result<()> {
    let (h, now) = (&v.header, now_s());
    writeln!(out, "file          {}", item.path.display())?;
    writeln!(out, "size          {} bytes ({})", item.bytes, gib(item.bytes))?;
    writeln!(out, "tokens        {} of a context of {}", h.tokens, h.ctx)?;
    writeln!(out, "reason        {}", h.reason.name())?;
    writeln!(out, "created       {} ({} ago)", h.created, age(now, h.created))?;
    writeln!(out, "last used     {} ({} ago)", h.last_used, age(now, h.last_used))?;
    writeln!(out, "hits          {}", h.hits)?;
    writeln!(out, "expert bits   {}", h.quant_bits)?;
    writeln!(out, "model         {}", hex(&v.identity.model))?;
    writeln!(out, "family        {}", hex(&v.identity.family))?;
    let [key, tokens, logits, state] = v.section_bytes;
    writeln!(
        out,
        "payload       key {key}, tokens {tokens}, logits {logits}, state {state} bytes"
    )?;
    writeln!(out, "text          {} bytes", v.text.len())?;
    let shown: String = v.text.chars().take(SHOW_TEXT).collect();
    let rest = v.text.chars().count().saturating_sub(SHOW_TEXT);
    for line in shown.lines() {
        writeln!(out, "  | {}", printable(line))?;
    }
    if rest > 0 {
        writeln!(out, "  | … and {rest} characters more")?;
    }
    writeln!(out, "tool calls    {}", v.tools.len())?;
    for tool in &v.tools {
        let block = String::from_utf8_lossy(&tool.dsml);
        writeln!(out, "  {}  {}", printable(&tool.id), one_line(&block, 2 * LS_TEXT))?;
    }
    Ok(())
}

fn verify(out: &mut dyn Write, items: &[Item], is_json: bool) -> Result<()> {
    let mut damaged = 0;
    let mut all = Vec::new();
    for item in items {
        let (state, why) = match &item.what {
            Listed::Whole(_) => match verify_file(&item.path) {
                Ok(_) => ("ok", String::new()),
                Err(e) => ("damaged", e.to_string()),
            },
            Listed::Refused(e @ ds4_kvstore::Error::Foreign { .. }) => ("foreign", e.to_string()),
            Listed::Refused(e) => ("damaged", e.to_string()),
            other => (state_name(other), String::new()),
        };
        damaged += usize::from(state == "damaged");
        if is_json {
            all.push(json!({"name": item.name, "path": item.path, "state": state, "error": why}));
        } else {
            writeln!(out, "{state:9}  {}", if why.is_empty() { &item.name } else { &why })?;
        }
    }
    if is_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    }
    out.flush()?;
    match damaged {
        0 => Ok(()),
        1 => bail!("1 file is damaged"),
        n => bail!("{n} files are damaged"),
    }
}

fn rm(out: &mut dyn Write, which: &Which, all: bool, bad: bool) -> Result<()> {
    let chosen = choose(which)?;
    if !chosen.is_named && !all && !bad {
        return Err(Usage("specify which files to remove, --bad or --all".to_owned()).into());
    }
    // Another engine's files go only by name.
    let goes = |item: &Item| match &item.what {
        _ if chosen.is_named => true,
        Listed::Bad => all || bad,
        Listed::Refused(ds4_kvstore::Error::Foreign { .. }) => false,
        Listed::Whole(_) | Listed::Refused(_) | Listed::Temporary => all,
    };
    let (mut n, mut bytes) = (0, 0);
    for item in chosen.items.iter().filter(|item| goes(item)) {
        match fs::remove_file(&item.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                bail!("{}: {e}", item.path.display());
            }
            _ => {}
        }
        n += 1;
        bytes += item.bytes;
    }
    if which.json {
        return Ok(writeln!(out, "{}", json!({"removed": n, "bytes": bytes}))?);
    }
    let files = if n == 1 { "file" } else { "files" };
    Ok(writeln!(out, "removed {n} {files}, {}", gib(bytes))?)
}

/// What is known of a file without reading all of it.
fn to_json(item: &Item) -> Value {
    let mut object = json!({
        "name": item.name,
        "path": item.path,
        "bytes": item.bytes,
        "state": state_name(&item.what),
    });
    match &item.what {
        Listed::Whole(v) => {
            let h = &v.header;
            object["tokens"] = json!(h.tokens);
            object["hits"] = json!(h.hits);
            object["reason"] = json!(h.reason.name());
            object["quant_bits"] = json!(h.quant_bits);
            object["ctx"] = json!(h.ctx);
            object["created"] = json!(h.created);
            object["last_used"] = json!(h.last_used);
            object["model"] = json!(hex(&v.identity.model));
            object["family"] = json!(hex(&v.identity.family));
            object["payload_bytes"] = json!(h.payload_bytes);
            object["text_bytes"] = json!(v.text.len());
            object["tool_calls"] = json!(v.tools.len());
        }
        Listed::Refused(e) => object["error"] = json!(e.to_string()),
        Listed::Bad | Listed::Temporary => {}
    }
    object
}

fn tool_json(tool: &ds4_kvstore::ToolEntry) -> Value {
    json!({"id": tool.id, "dsml": String::from_utf8_lossy(&tool.dsml)})
}

fn state_name(what: &Listed) -> &'static str {
    match what {
        Listed::Whole(_) => "whole",
        Listed::Refused(ds4_kvstore::Error::Foreign { .. }) => "foreign",
        Listed::Refused(_) => "damaged",
        Listed::Bad => "set aside",
        Listed::Temporary => "temporary",
    }
}

/// The same in words, with the reason.
fn state(what: &Listed) -> String {
    match what {
        Listed::Refused(ds4_kvstore::Error::Foreign { what, .. }) => format!("foreign: {what}"),
        Listed::Refused(ds4_kvstore::Error::Damaged { what, .. }) => format!("damaged: {what}"),
        Listed::Refused(e) => format!("unreadable: {e}"),
        other => state_name(other).to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The beginning of a text on one line.
fn one_line(text: &str, most: usize) -> String {
    let mut line: String = text.chars().take(most).collect();
    if text.chars().nth(most).is_some() {
        line.push('…');
    }
    printable(&line)
}

/// Text from a file without what a terminal would obey.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escape).collect()
}

/// Time since `then`, in the largest unit.
fn age(now: u64, then: u64) -> String {
    let s = now.saturating_sub(then);
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..86_400 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
