//! Files of `testdata/` for the tests of this crate.

use std::path::PathBuf;

/// A path below `testdata/`.
pub(crate) fn testdata(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata")).join(name)
}

/// The bytes of a file of `testdata/quant`.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = testdata("quant").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The floats of a file of `testdata/quant`.
pub(crate) fn floats(name: &str) -> Vec<f32> {
    bytes(name).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}
