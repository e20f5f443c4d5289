//! Block formats taken apart into small integers and their scales, one block at a time.
//!
//! Used by the scalar kernels and to unpack panels of weights for many tokens. The loops are
//! written so that the compiler turns them into vector instructions, of the caller's instruction
//! set where the function is inlined.

use ds4_gguf::block::{Iq2Xxs, Mxfp4, Q2K, Q4K};
use ds4_gguf::tables::{IQ2_XXS_GRID, iq2_signs};

/// Values 0..=3 (§6.3); sub-block `s` of 16 has scale `scales[s] & 15`, minimum `scales[s] >> 4`.
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
pub(super) fn q2_k(b: &Q2K, q: &mut [i8; 256]) {
    for (q, b) in q.as_chunks_mut::<128>().0.iter_mut().zip(b.qs.as_chunks::<32>().0) {
        for (j, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for l in 0..32 {
                q[l] = ((b[l] >> (2 * j)) & 3).cast_signed();
            }
        }
    }
}

/// Values 0..=15 (§6.5); sub-block `s` of 32 has `scale_min(s)`.
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
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
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
pub(super) fn iq2_xxs(b: &Iq2Xxs, q: &mut [i8; 256], scales: &mut [u8; 8]) {
    let groups = b.groups.iter().zip(q.as_chunks_mut::<32>().0).zip(scales);
    for ((g, q), scale) in groups {
        let s = u32::from_le_bytes(g.signs_scale);
        for (k, q) in q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let m = IQ2_XXS_GRID[usize::from(g.index[k])];
            let minus = MINUS[(s >> (7 * k)) as usize & 127];
            // Byte by byte `!m + 1` where negative; no byte overflows, since none is 0.
            let v = (m ^ minus) + (minus & 0x0101_0101_0101_0101);
            *q = v.to_le_bytes().map(u8::cast_signed);
        }
        *scale = (2 * (s >> 28) + 1) as u8;
    }
}

/// A byte of ones for every negative element of a sign selector.
static MINUS: [u64; 128] = {
    let mut t = [0; 128];
    let mut i = 0;
    while i < 1024 {
        let negative = iq2_signs((i / 8) as u8) >> (i % 8) & 1;
        t[i / 8] |= (negative as u64 * 0xff) << (8 * (i % 8));
        i += 1;
    }
    t
};

/// Doubled values 0..=12 with sign (§6.7); the scale is `e8m0_half(e)`.
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
pub(super) fn mxfp4(b: &Mxfp4, q: &mut [i8; 32]) {
    for l in 0..16 {
        q[l] = e2m1_doubled(b.qs[l] & 15);
        q[l + 16] = e2m1_doubled(b.qs[l] >> 4);
    }
}

/// 0, 1, 2, 3, 4, 6, 8, 12, and the same negative: without a table, so that 16 go at a time.
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
fn e2m1_doubled(code: u8) -> i8 {
    let c = (code & 7).cast_signed();
    let v = c + i8::from(c == 5) + 2 * i8::from(c == 6) + 5 * i8::from(c == 7);
    if code & 8 == 0 { v } else { -v }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp4_values_are_those_of_the_table() {
        for (code, v) in ds4_gguf::tables::E2M1_DOUBLED.iter().enumerate() {
            assert_eq!(e2m1_doubled(code as u8), *v, "code {code}");
        }
    }
}
