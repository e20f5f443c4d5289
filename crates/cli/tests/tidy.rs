//! The house rules that no lint knows: small files, a head on each, nothing unfinished, and a map
//! that names every module.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test that called")]

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 800;
/// Code is kept within a hundred by its formatter; comments may stand out a little.
const COLUMNS_MAX: usize = 110;
const MAP_LINES_MAX: usize = 250;

/// Marks of unfinished work, in two halves so that this file is free of them.
const UNFINISHED: [(&str, &str); 3] = [("TO", "DO"), ("FIX", "ME"), ("unimplemented", "!(")];

/// Modules that mean the same in every crate.
const COMMON: [&str; 3] = ["lib", "error", "limits"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// Rust files under `dir`, but for build outputs.
fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for path in entries(dir) {
        if path.is_dir() && stem(&path) != "target" {
            sources(&path, out);
        } else if path.extension().is_some_and(|end| end == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn files_are_small_finished_and_say_what_they_are() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    sources(&root().join("fuzz"), &mut files);
    assert!(files.len() > 100);
    let unfinished = UNFINISHED.map(|(start, end)| format!("{start}{end}"));
    let mut faults = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.display();
        if !text.starts_with("//!") {
            faults.push(format!("{name} does not begin with //!"));
        }
        if text.lines().count() > LINES_MAX {
            faults.push(format!("{name} has more than {LINES_MAX} lines"));
        }
        for (line, ix) in text.lines().zip(1..) {
            if line.chars().count() > COLUMNS_MAX {
                faults.push(format!("{name}:{ix} is longer than {COLUMNS_MAX} columns"));
            }
            if let Some(mark) = unfinished.iter().find(|mark| line.contains(*mark)) {
                faults.push(format!("{name}:{ix} has the mark {mark}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Where each crate's modules are listed: `* **name**: `module` what it is · …`.
#[test]
fn the_map_names_every_module_and_no_other() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() <= MAP_LINES_MAX, "more than {MAP_LINES_MAX} lines");
    let mut faults = Vec::new();
    for dir in entries(&root().join("crates")) {
        let name = stem(&dir);
        let start = format!("* **{name}**: ");
        let Some((_, rest)) = map.split_once(&start) else {
            faults.push(format!("no list of the modules of {name}"));
            continue;
        };
        let list = rest.split("\n\n").next().unwrap().split("\n* **").next().unwrap();
        let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        let modules = entries(&dir.join("src"));
        let modules: Vec<&str> = modules.iter().map(|path| stem(path)).collect();
        for module in &modules {
            if !named.contains(module) && !COMMON.contains(module) {
                faults.push(format!("{name}: {module} is not named"));
            }
        }
        for module in named.iter().filter(|module| !modules.contains(module)) {
            faults.push(format!("{name}: there is no {module}"));
        }
    }
    assert!(faults.is_empty(), "ARCHITECTURE.md, *Modules*: {}", faults.join("; "));
}
