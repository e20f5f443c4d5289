//! The compiled kernels in the repository are those of its sources, for every shape that ships, and
//! none that decoding waits for spills registers on Hopper.

use std::path::{Path, PathBuf};

use ds4_cuda::{Defines, images};
use ds4_model::{Dims, ModelFile, Numerics, shapes};

/// Kernels of every token.
const HOT: [&str; 16] = [
    "mv_1",
    "mv_2",
    "mv_8",
    "mv_16",
    "mv_staged_8",
    "mv_staged_16",
    "mv_query_1",
    "hc_fused",
    "hc_pre",
    "exp_gate_up_iq2",
    "exp_down_q2k",
    "attn_one",
    "exp_down_ring_q2k",
    "attn_few",
    "attn_combine",
    "rows",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images")
}

fn shipped() -> Vec<Dims> {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano.gguf");
    vec![shapes::flash(), ModelFile::open(&nano, None).expect("the demo model").dims]
}

#[test]
fn images_are_those_of_the_sources() {
    let mut bytes = 0;
    for dims in shipped() {
        let numerics = Numerics { rope_f32: true, ..dims.profile_g() };
        let defines = Defines::new(&dims, numerics).expect("it has kernels");
        let path = folder().join(images::archive_name(&defines));
        let size = std::fs::metadata(&path).map(|m| m.len());
        bytes += size.unwrap_or_else(|_| {
            panic!(
                "{} is missing: the kernels have changed; build the images again \
                 (crates/cuda/images/README.md)",
                path.display()
            )
        });
    }
    assert!(bytes <= 4 << 20, "{bytes} bytes of images");
}

#[test]
fn hot_kernels_do_not_spill() {
    let table = std::fs::read_to_string(folder().join("registers.tsv")).expect("it is committed");
    let head = table.lines().next().unwrap_or_default();
    assert!(head.ends_with(&images::sources_key()), "registers.tsv is of other sources");
    let mut seen = 0;
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [shape, arch, kernel, registers, spills] = fields[..] else { panic!("{line}") };
        if shape == "flash" && arch == "sm_90a" && HOT.contains(&kernel) {
            assert_eq!(spills, "0", "{kernel} spills with {registers} registers");
            seen += 1;
        }
    }
    assert_eq!(seen, HOT.len(), "every hot kernel is in the table");
}
