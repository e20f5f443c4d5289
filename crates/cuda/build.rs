//! Lists the compiled kernels of `images/` as a table in the binary.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let folder =
        Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("images");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|e| e == "zst"))
        .collect();
    names.sort();
    let mut text = "/// Compiled kernels inside the binary: file names and their contents.\n\
                    static IMAGES: &[(&str, &[u8])] = &[\n"
        .to_owned();
    for name in names {
        let path = folder.join(&name);
        writeln!(text, "({name:?}, include_bytes!({:?})),", path.display())
            .expect("a string grows");
    }
    text.push_str("];\n");
    let out = Path::new(&std::env::var("OUT_DIR").expect("cargo sets it")).join("images.rs");
    std::fs::write(out, text).expect("OUT_DIR is writable");
}
