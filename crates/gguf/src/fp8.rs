//! The number formats of the official checkpoint (§6.8): FP8 with a scale per 128 × 128 tile, FP4
//! with a scale per 32 elements of a row.

use crate::block::Mxfp4;
use crate::tables::{E2M1, E4M3, e8m0};

/// Side of the tiles that share one scale in an FP8 matrix.
pub const FP8_TILE: usize = 128;

/// Elements that share one scale in an FP4 row.
pub const FP4_BLOCK: usize = 32;

/// Decodes one row of an FP8 matrix: E4M3 `codes`, and the E8M0 `scales` of the row of tiles it
/// lies in (row `r` of the matrix has row `r / 128` of the scales), one per 128 columns.
///
/// # Panics
/// If the lengths do not match.
pub fn fp8_row(codes: &[u8], scales: &[u8], out: &mut [f32]) {
    assert_eq!(codes.len(), out.len(), "codes and elements");
    assert_eq!(codes.len().div_ceil(FP8_TILE), scales.len(), "tiles and scales");
    let tiles = codes.chunks(FP8_TILE).zip(out.chunks_mut(FP8_TILE)).zip(scales);
    for ((codes, out), &scale) in tiles {
        let scale = e8m0(scale);
        for (x, &code) in out.iter_mut().zip(codes) {
            *x = E4M3[usize::from(code)] * scale;
        }
    }
}

/// Decodes one row of an FP4 matrix: byte `k` holds elements `2k` (low nibble) and `2k + 1`;
/// one E8M0 scale per 32 elements.
///
/// # Panics
/// If the lengths do not match.
pub fn fp4_row(packed: &[u8], scales: &[u8], out: &mut [f32]) {
    assert_eq!(packed.len() * 2, out.len(), "nibbles and elements");
    assert_eq!(scales.len() * FP4_BLOCK, out.len(), "scales and elements");
    let blocks = packed.chunks(FP4_BLOCK / 2).zip(out.chunks_mut(FP4_BLOCK)).zip(scales);
    for ((packed, out), &scale) in blocks {
        let scale = e8m0(scale);
        for (pair, &byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
            *pair = [byte & 15, byte >> 4].map(|code| E2M1[usize::from(code)] * scale);
        }
    }
}

/// Repacks one row of an FP4 matrix as MXFP4 blocks; the values stay the same.
///
/// # Panics
/// If the lengths do not match.
pub fn fp4_to_mxfp4(packed: &[u8], scales: &[u8], out: &mut [Mxfp4]) {
    assert_eq!(packed.len() * 2, out.len() * FP4_BLOCK, "nibbles and blocks");
    assert_eq!(scales.len(), out.len(), "scales and blocks");
    let (packed, _) = packed.as_chunks::<{ FP4_BLOCK / 2 }>();
    for ((packed, &e), block) in packed.iter().zip(scales).zip(out) {
        let code = |i: usize| packed[i / 2] >> (4 * (i % 2)) & 15;
        *block = Mxfp4 { e, qs: std::array::from_fn(|l| code(l) | code(l + 16) << 4) };
    }
}
