//! Compiles the kernels of the shapes that ship, or of a model file, with nvcc, packs the results
//! and prints registers and spills.
//!
//! ```text
//! cargo run --release -p ds4-cuda --example images -- NVCC [--check | --out DIR] [--arch LIST] [FILE…]
//! ```
//! Without files: the published shape and nano, into `crates/cuda/images`; with `--check`, nothing is
//! written: the table must be the one that is there, line by line.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for developers")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ds4_cuda::{Defines, images};
use ds4_model::{Dims, ModelFile, Numerics, shapes};

/// Every architecture that ships; all others take PTX.
const ARCHS: &str = "80,86,89,90a,100a,120a,ptx";
/// Of the demo model: code for `sm_80` runs on 86 and 89, too. All archives stay below 4 MiB together.
const DEMO_ARCHS: &str = "80,90a";

fn main() {
    let mut args = std::env::args().skip(1);
    let nvcc = args.next().expect("the path of nvcc");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (mut out, mut archs, mut shapes) = (root.join("images"), ARCHS.to_owned(), Vec::new());
    let (mut ships, mut checks) = (true, false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--out" => (out, ships) = (args.next().unwrap().into(), false),
            "--check" => checks = true,
            "--arch" => archs = args.next().unwrap(),
            "quant" => shapes.push(ds4_model::testing::quant_dims()),
            "flash" => shapes.push(shapes::flash()),
            file => shapes.push(ModelFile::open(Path::new(file), None).unwrap().dims),
        }
    }
    if shapes.is_empty() {
        let nano = root.join("../../models/nano.gguf");
        shapes = vec![shapes::flash(), ModelFile::open(&nano, None).unwrap().dims];
    }
    if ships && !checks {
        for old in std::fs::read_dir(&out).into_iter().flatten().flatten() {
            if old.path().extension().is_some_and(|e| e == "zst") {
                std::fs::remove_file(old.path()).unwrap();
            }
        }
    }
    std::fs::create_dir_all(&out).unwrap();
    let mut table = format!("# registers and spilled bytes of sources {}\n", images::sources_key());
    // Shapes side by side: a compiler has one thread.
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        for dims in &shapes {
            let (nvcc, root, out) = (&nvcc, &root, &out);
            let archs = if ships && !dims.is_flash() { DEMO_ARCHS } else { &archs };
            let out = (!checks).then_some(out.as_path());
            all.push(scope.spawn(move || archive(nvcc, root, out, archs, dims)));
        }
        for part in all {
            table.push_str(&part.join().unwrap());
        }
    });
    let path = out.join("registers.tsv");
    if checks {
        return check(&std::fs::read_to_string(&path).unwrap(), &table);
    }
    print!("{table}");
    if ships {
        std::fs::write(path, table).unwrap();
    }
}

/// Ends the program with an error where a kernel needs other registers than the table says.
fn check(there: &str, now: &str) {
    let lines: BTreeSet<&str> = there.lines().collect();
    let others: Vec<&str> = now.lines().filter(|line| !lines.contains(line)).collect();
    println!(
        "{} kernels compiled, {} not as in registers.tsv",
        now.lines().count() - 1,
        others.len()
    );
    for line in &others {
        println!("{line}");
    }
    std::process::exit(i32::from(!others.is_empty()));
}

/// Compiles a shape for all of `archs`, writes the archive into `out`, and returns the lines of the table.
fn archive(nvcc: &str, root: &Path, out: Option<&Path>, archs: &str, dims: &Dims) -> String {
    let mut table = String::new();
    let numerics = Numerics { rope_f32: true, ..dims.profile_g() };
    let defines = Defines::new(dims, numerics).unwrap();
    let shape = if dims.is_flash() { "flash" } else { "nano" };
    let mut list = Vec::new();
    for arch in archs.split(',') {
        let file = std::env::temp_dir().join(format!("ds4-{}-{shape}-{arch}", std::process::id()));
        let mut command = Command::new(nvcc);
        command
            .arg("-std=c++20")
            .arg("-I")
            .arg(root.join("kernels"))
            .arg("-I")
            .arg(root.join("emu"));
        command.args(defines.flags()).arg("-o").arg(&file).arg(root.join("kernels/ds4.cu"));
        let name = if arch == "ptx" {
            command.args(["-ptx", "-arch=compute_80"]);
            arch.to_owned()
        } else {
            command.args(["-cubin", "-Xptxas", "-v"]);
            command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
            format!("sm_{arch}")
        };
        let done = command.output().unwrap();
        let log = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{log}");
        report(shape, &name, &log, &mut table);
        list.push((name, std::fs::read(&file).unwrap()));
        std::fs::remove_file(&file).unwrap();
    }
    let Some(out) = out else { return table };
    let packed = images::pack(&list).unwrap();
    let path = out.join(images::archive_name(&defines));
    println!("{}: {} bytes", path.display(), packed.len());
    std::fs::write(path, packed).unwrap();
    table
}

/// One line per kernel: registers, spilled bytes, shared memory.
fn report(shape: &str, arch: &str, log: &str, table: &mut String) {
    let mut kernel = "";
    let mut spills = "0";
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or("");
        }
        if let Some((before, _)) = line.split_once(" bytes spill stores") {
            spills = before.rsplit(' ').next().unwrap_or("0");
        }
        if let Some((_, rest)) = line.split_once("Used ") {
            let registers = rest.split(' ').next().unwrap_or("?");
            writeln!(table, "{shape}\t{arch}\t{kernel}\t{registers}\t{spills}").unwrap();
        }
    }
}
