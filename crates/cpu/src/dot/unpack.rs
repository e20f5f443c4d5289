//! Block formats taken apart into small integers and their scales, one block at a time.
//!
//! Used by the scalar kernels and to unpack panels of weights for many tokens.

use ds4_gguf::block::{Iq2Xxs, Mxfp4, Q2K, Q4K};
use ds4_gguf::tables::{E2M1_DOUBLED, IQ2_XXS_GRID, iq2_signs};

/// Values 0..=3 (§6.3); sub-block `s` of 16 has scale `scales[s] & 15`, minimum `scales[s] >> 4`.
pub(super) fn q2_k(b: &Q2K, q: &mut [i8; 256]) {
    for (i, q) in q.iter_mut().enumerate() {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        *q = ((b.qs[32 * half + l] >> (2 * j)) & 3).cast_signed();
    }
}

/// Values 0..=15 (§6.5); sub-block `s` of 32 has `scale_min(s)`.
pub(super) fn q4_k(b: &Q4K, q: &mut [i8; 256]) {
    for (q, b) in q.as_chunks_mut::<64>().0.iter_mut().zip(b.qs.as_chunks::<32>().0) {
        for l in 0..32 {
            q[l] = (b[l] & 15).cast_signed();
            q[l + 32] = (b[l] >> 4).cast_signed();
        }
    }
}

/// Values ±8, ±25, ±43 (§6.6), and per group of 32 an odd scale 1..=31; the block's scale is
/// `d / 8`.
pub(super) fn iq2_xxs(b: &Iq2Xxs, q: &mut [i8; 256], scales: &mut [u8; 8]) {
    let groups = b.groups.iter().zip(q.as_chunks_mut::<32>().0).zip(scales);
    for ((g, q), scale) in groups {
        let s = u32::from_le_bytes(g.signs_scale);
        for (k, q) in q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let magnitudes = IQ2_XXS_GRID[usize::from(g.index[k])].to_le_bytes();
            let signs = iq2_signs((s >> (7 * k)) as u8 & 127);
            for (l, q) in q.iter_mut().enumerate() {
                let m = magnitudes[l].cast_signed();
                *q = if signs >> l & 1 == 1 { -m } else { m };
            }
        }
        *scale = (2 * (s >> 28) + 1) as u8;
    }
}

/// Doubled values 0..=12 with sign (§6.7); the scale is `e8m0_half(e)`.
pub(super) fn mxfp4(b: &Mxfp4, q: &mut [i8; 32]) {
    for l in 0..16 {
        q[l] = E2M1_DOUBLED[usize::from(b.qs[l] & 15)];
        q[l + 16] = E2M1_DOUBLED[usize::from(b.qs[l] >> 4)];
    }
}
