//! Compiled kernels: those inside the binary, those in a folder, or made now by NVRTC.
//!
//! An image belongs to one shape, one architecture and one state of the sources; its file name says
//! which. `images/build.py` makes the files; a test compares them with the sources.

use ds4_model::{Error, Result};

use crate::device::DeviceInfo;
use crate::shape::Defines;

/// The sources of all kernels, by the names they include each other by.
pub(crate) const SOURCES: [(&str, &str); 25] = [
    ("ds4.cu", include_str!("../kernels/ds4.cu")),
    ("device.h", include_str!("../emu/device.h")),
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("seq.cuh", include_str!("../kernels/seq.cuh")),
    ("packed.cuh", include_str!("../kernels/packed.cuh")),
    ("hc.cuh", include_str!("../kernels/hc.cuh")),
    ("rows.cuh", include_str!("../kernels/rows.cuh")),
    ("index.cuh", include_str!("../kernels/index.cuh")),
    ("router.cuh", include_str!("../kernels/router.cuh")),
    ("ends.cuh", include_str!("../kernels/ends.cuh")),
    ("tables.cuh", include_str!("../kernels/tables.cuh")),
    ("repack.cuh", include_str!("../kernels/repack.cuh")),
    ("loads.cuh", include_str!("../kernels/loads.cuh")),
    ("mv_jobs.cuh", include_str!("../kernels/mv_jobs.cuh")),
    ("mv_ring.cuh", include_str!("../kernels/mv_ring.cuh")),
    ("mv_walk.cuh", include_str!("../kernels/mv_walk.cuh")),
    ("mv_mma.cuh", include_str!("../kernels/mv_mma.cuh")),
    ("mv_staged.cuh", include_str!("../kernels/mv_staged.cuh")),
    ("mv.cuh", include_str!("../kernels/mv.cuh")),
    ("experts_mv.cuh", include_str!("../kernels/experts_mv.cuh")),
    ("experts_ring.cuh", include_str!("../kernels/experts_ring.cuh")),
    ("mm.cuh", include_str!("../kernels/mm.cuh")),
    ("attn.cuh", include_str!("../kernels/attn.cuh")),
    ("attn_one.cuh", include_str!("../kernels/attn_one.cuh")),
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
    let digits =
        |b: &u8| [b >> 4, b & 15].map(|d| char::from_digit(u32::from(d), 16).expect("below 16"));
    sha.finalize().iter().take(8).flat_map(digits).collect()
}

/// A name of the state of all sources.
pub fn sources_key() -> String {
    let parts: Vec<&[u8]> = SOURCES.iter().map(|(_, text)| text.as_bytes()).collect();
    hash(&parts)
}

/// The file name of a shape's images, for the present sources.
pub fn archive_name(defines: &Defines) -> String {
    format!("{}.zst", defines.key(&sources_key()))
}

/// Packs images into an archive: each is an architecture, such as `sm_90a` or `ptx`, and its code.
///
/// # Errors
/// Whatever compression reports.
pub fn pack(images: &[(String, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    for (arch, code) in images {
        let mut head = [0_u8; HEAD];
        head[..arch.len()].copy_from_slice(arch.as_bytes());
        head[HEAD - 8..].copy_from_slice(&(code.len() as u64).to_le_bytes());
        plain.extend(head);
        plain.extend(code);
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 22)?;
    // Images of neighbouring architectures are much alike, and megabytes apart.
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG))?;
    encoder.set_parameter(zstd::zstd_safe::CParameter::EnableLongDistanceMatching(true))?;
    std::io::Write::write_all(&mut encoder, &plain)?;
    encoder.finish()
}

/// Bytes of an image's head in an archive: its architecture's name, then its size.
const HEAD: usize = 24;
/// Largest distance that compression looks back, as a power of two.
const WINDOW_LOG: u32 = 27;

/// The images of an archive.
fn unpack(packed: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let damaged = |e: &dyn std::fmt::Display| Error::Device(format!("damaged kernels: {e}"));
    let mut decoder = zstd::Decoder::new(packed).map_err(|e| damaged(&e))?;
    decoder.window_log_max(WINDOW_LOG).map_err(|e| damaged(&e))?;
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut decoder, &mut plain).map_err(|e| damaged(&e))?;
    let (mut rest, mut images) = (&plain[..], Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let (name, size) = head.split_at(HEAD - 8);
        let size = u64::from_le_bytes(size.try_into().expect("eight bytes"));
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some((code, after)) = after.split_at_checked(size) else {
            return Err(damaged(&"an image is cut off"));
        };
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        images.push((name, code.to_vec()));
        rest = after;
    }
    Ok(images)
}

/// The compiled kernels of a shape for a device: from the folder `DS4_CUDA_IMAGES`, from the binary,
/// or made by NVRTC where that is installed.
pub(crate) fn find(defines: &Defines, device: &DeviceInfo) -> Result<Vec<u8>> {
    let name = archive_name(defines);
    let folder = std::env::var_os("DS4_CUDA_IMAGES").map(std::path::PathBuf::from);
    let outside = folder.and_then(|folder| std::fs::read(folder.join(&name)).ok());
    let inside = IMAGES.iter().find(|(n, _)| **n == *name).map(|(_, packed)| *packed);
    if let Some(packed) = outside.as_deref().or(inside) {
        let mut images = unpack(packed)?;
        // `a` code runs on its own architecture only; other code also on later ones of its major.
        let (major, minor) = (device.arch / 10, device.arch % 10);
        let mut archs = vec![format!("sm_{}a", device.arch)];
        archs.extend((0..=minor).rev().map(|m| format!("sm_{}", major * 10 + m)));
        archs.push("ptx".to_owned());
        let found = archs.iter().find_map(|arch| images.iter().position(|(a, _)| a == arch));
        if let Some(at) = found {
            return Ok(images.swap_remove(at).1);
        }
    }
    crate::compile::compile(defines, device)
}
