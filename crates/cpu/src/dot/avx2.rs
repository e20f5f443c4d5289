//! AVX2 row kernels for quantised weights.
//!
//! The integer products follow one pattern. `maddubs` multiplies unsigned by signed bytes, so a
//! signed weight lends its sign to the activation; sums of two products fit 16 bits in every
//! format. `madd` with the sub-block's scale, or with ones, then widens to 32 bits.

use std::arch::x86_64::*;
use std::array::from_fn;

use ds4_gguf::TensorType;
use ds4_gguf::block::{Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::{E2M1_DOUBLED, IQ2_XXS_GRID, e8m0_half};

use super::Tile;
use super::rows::{RowKernel, rows};
use crate::acts::{ActForm, Quant};

/// Computes the tile if there is a kernel for its types; see [`super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(t: &Tile<'_>) -> bool {
    use TensorType as T;
    let kernel = match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0) => {
            RowKernel { one: q8_0::<1, 1>, two: q8_0::<2, 1>, four: q8_0::<4, 1> }
        }
        (T::Q8_0, ActForm::Q8K) => {
            RowKernel { one: q8_0::<1, 8>, two: q8_0::<2, 8>, four: q8_0::<4, 8> }
        }
        (T::Iq2Xxs, ActForm::Q8K) => {
            RowKernel { one: iq2_xxs::<1>, two: iq2_xxs::<2>, four: iq2_xxs::<4> }
        }
        (T::Q2K, ActForm::Q8K) => RowKernel { one: q2_k::<1>, two: q2_k::<2>, four: q2_k::<4> },
        (T::Q4K, ActForm::Q8K) => RowKernel { one: q4_k::<1>, two: q4_k::<2>, four: q4_k::<4> },
        (T::Mxfp4, ActForm::Q8K) => {
            RowKernel { one: mxfp4::<1>, two: mxfp4::<2>, four: mxfp4::<4> }
        }
        _ => return false,
    };
    // SAFETY: the caller's promise.
    unsafe { rows(t, &kernel) };
    true
}

/// Activations of `N` tokens in blocks of `B` values.
type Blocks<'a, const N: usize, const B: usize> = [&'a [[i8; B]]; N];

/// The activations as `n` blocks.
fn in_blocks<'a, const N: usize, const B: usize>(x: &[Quant<'a>; N], n: usize) -> Blocks<'a, N, B> {
    from_fn(|k| &x[k].q.as_chunks::<B>().0[..n])
}

/// The first `n` scales of every token.
fn scales<'a, const N: usize>(x: &[Quant<'a>; N], n: usize) -> [&'a [f32]; N] {
    from_fn(|k| &x[k].d[..n])
}

/// The first `n` groups of 16 sums of every token.
fn sums<'a, const N: usize>(x: &[Quant<'a>; N], n: usize) -> [&'a [[i16; 16]]; N] {
    from_fn(|k| &x[k].sums.as_chunks::<16>().0[..n])
}

/// `Q8_0` rows; `PER` weight blocks share a scale of the activations.
#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0<const N: usize, const PER: usize>(row: &[u8], x: &[Quant<'_>; N]) -> [f32; N] {
    let w = blocks::<Q8_0>(row);
    let q: Blocks<'_, N, 32> = in_blocks(x, w.len());
    let d = scales(x, w.len() / PER);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_ps(); N];
    for (i, b) in w.iter().enumerate() {
        let v = load(&b.q);
        let size = _mm256_abs_epi8(v);
        let dw = f16(b.d.0);
        for k in 0..N {
            let x = _mm256_sign_epi8(load(&q[k][i]), v);
            let s = _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones);
            let scale = _mm256_set1_ps(dw * d[k][i / PER]);
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), scale, acc[k]);
        }
    }
    acc.map(|a| sum_ps(a))
}

/// `MXFP4` rows: doubled values up to 12 and half the scale.
#[target_feature(enable = "avx2,fma,f16c")]
fn mxfp4<const N: usize>(row: &[u8], x: &[Quant<'_>; N]) -> [f32; N] {
    let w = blocks::<Mxfp4>(row);
    let q: Blocks<'_, N, 32> = in_blocks(x, w.len());
    let d = scales(x, w.len() / 8);
    let values = _mm256_broadcastsi128_si256(load16(&E2M1_DOUBLED));
    let nibble = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_ps(); N];
    for (i, b) in w.iter().enumerate() {
        let codes = load16(&b.qs);
        let codes = _mm256_set_m128i(_mm_srli_epi16::<4>(codes), codes);
        let v = _mm256_shuffle_epi8(values, _mm256_and_si256(codes, nibble));
        let size = _mm256_abs_epi8(v);
        let dw = e8m0_half(b.e);
        for k in 0..N {
            let x = _mm256_sign_epi8(load(&q[k][i]), v);
            let s = _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones);
            let scale = _mm256_set1_ps(dw * d[k][i / 8]);
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), scale, acc[k]);
        }
    }
    acc.map(|a| sum_ps(a))
}

/// `Q2_K` rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn q2_k<const N: usize>(row: &[u8], x: &[Quant<'_>; N]) -> [f32; N] {
    let w = blocks::<Q2K>(row);
    let q: Blocks<'_, N, 256> = in_blocks(x, w.len());
    let (d, sums) = (scales(x, w.len()), sums(x, w.len()));
    let low4 = _mm_set1_epi8(15);
    let low2 = _mm256_set1_epi8(3);
    let mut acc = [_mm256_setzero_ps(); N];
    for (i, b) in w.iter().enumerate() {
        let packed = load16(&b.scales);
        let mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(packed), low4));
        let sc = _mm_and_si128(packed, low4);
        let mut s = [_mm256_setzero_si256(); N];
        for half in 0..2 {
            let v = load(&b.qs.as_chunks::<32>().0[half]);
            // Scales of the half's 8 sub-blocks, 16 bit, in both lanes.
            let sc = if half == 0 { sc } else { _mm_srli_si128::<8>(sc) };
            let sc = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(sc));
            for j in 0..4 {
                let v = _mm256_and_si256(srl2(v, j), low2);
                let sc = _mm256_shuffle_epi8(sc, load(&PAIRS[j]));
                for k in 0..N {
                    let x = load(&q[k][i].as_chunks::<32>().0[4 * half + j]);
                    let p = _mm256_madd_epi16(_mm256_maddubs_epi16(v, x), sc);
                    s[k] = _mm256_add_epi32(s[k], p);
                }
            }
        }
        let (dw, dmin) = (f16(b.d.0), f16(b.dmin.0));
        for k in 0..N {
            let m = _mm256_madd_epi16(mins, load(&sums[k][i]));
            let (sd, sm) = (dw * d[k][i], -dmin * d[k][i]);
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[k]), _mm256_set1_ps(sd), acc[k]);
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(m), _mm256_set1_ps(sm), acc[k]);
        }
    }
    acc.map(|a| sum_ps(a))
}

/// For `shuffle_epi8`: 16-bit element `2j` of the lane everywhere in the low lane, `2j + 1` in the
/// high lane.
static PAIRS: [[i8; 32]; 4] = {
    let mut p = [[0; 32]; 4];
    let mut i = 0;
    while i < 128 {
        let (j, at) = (i / 32, i % 32);
        p[j][at] = (4 * j + 2 * (at / 16) + at % 2) as i8;
        i += 1;
    }
    p
};

/// For `shuffle_epi8`: 16-bit element `j` of the lane everywhere.
static SAME: [[i8; 32]; 8] = {
    let mut p = [[0; 32]; 8];
    let mut i = 0;
    while i < 256 {
        let (j, at) = (i / 32, i % 32);
        p[j][at] = (2 * j + at % 2) as i8;
        i += 1;
    }
    p
};

/// `Q4_K` rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k<const N: usize>(row: &[u8], x: &[Quant<'_>; N]) -> [f32; N] {
    let w = blocks::<Q4K>(row);
    let q: Blocks<'_, N, 256> = in_blocks(x, w.len());
    let (d, sums) = (scales(x, w.len()), sums(x, w.len()));
    let nibble = _mm256_set1_epi8(15);
    let mut acc = [_mm256_setzero_ps(); N];
    for (i, b) in w.iter().enumerate() {
        let (sc, mins) = q4_scales(b);
        let sc = _mm256_broadcastsi128_si256(sc);
        let mut s = [_mm256_setzero_si256(); N];
        for j in 0..4 {
            let v = load(&b.qs.as_chunks::<32>().0[j]);
            let low = _mm256_and_si256(v, nibble);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
            let sc_low = _mm256_shuffle_epi8(sc, load(&SAME[2 * j]));
            let sc_high = _mm256_shuffle_epi8(sc, load(&SAME[2 * j + 1]));
            for k in 0..N {
                let x = &q[k][i].as_chunks::<32>().0;
                let p = _mm256_madd_epi16(_mm256_maddubs_epi16(low, load(&x[2 * j])), sc_low);
                s[k] = _mm256_add_epi32(s[k], p);
                let p = _mm256_madd_epi16(_mm256_maddubs_epi16(high, load(&x[2 * j + 1])), sc_high);
                s[k] = _mm256_add_epi32(s[k], p);
            }
        }
        let (dw, dmin) = (f16(b.d.0), f16(b.dmin.0));
        for k in 0..N {
            let u = load(&sums[k][i]);
            let u = _mm_hadd_epi16(_mm256_castsi256_si128(u), _mm256_extracti128_si256::<1>(u));
            let m = _mm256_castsi128_si256(_mm_madd_epi16(mins, u));
            let m = _mm256_inserti128_si256::<1>(m, _mm_setzero_si128());
            let (sd, sm) = (dw * d[k][i], -dmin * d[k][i]);
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[k]), _mm256_set1_ps(sd), acc[k]);
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(m), _mm256_set1_ps(sm), acc[k]);
        }
    }
    acc.map(|a| sum_ps(a))
}

/// The 8 scales and 8 minima of a `Q4_K` block, 16 bit each (§6.5).
#[target_feature(enable = "avx2")]
fn q4_scales(b: &Q4K) -> (__m128i, __m128i) {
    let [a, m, c] = from_fn(|i| u32::from_le_bytes(from_fn(|k| b.scales[4 * i + k])));
    let scales =
        u64::from(a & 0x3f3f_3f3f) | u64::from((c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030)) << 32;
    let mins = u64::from(m & 0x3f3f_3f3f)
        | u64::from(((c >> 4) & 0x0f0f_0f0f) | ((m >> 2) & 0x3030_3030)) << 32;
    let v = _mm_set_epi64x(mins.cast_signed(), scales.cast_signed());
    (_mm_cvtepu8_epi16(v), _mm_cvtepu8_epi16(_mm_srli_si128::<8>(v)))
}

/// `IQ2_XXS` rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn iq2_xxs<const N: usize>(row: &[u8], x: &[Quant<'_>; N]) -> [f32; N] {
    let w = blocks::<Iq2Xxs>(row);
    let q: Blocks<'_, N, 256> = in_blocks(x, w.len());
    let d = scales(x, w.len());
    let mut acc = [_mm256_setzero_ps(); N];
    for (i, b) in w.iter().enumerate() {
        let mut s = [_mm256_setzero_si256(); N];
        for (g, group) in b.groups.iter().enumerate() {
            let bits = u32::from_le_bytes(group.signs_scale);
            let at = |k: usize| IQ2_XXS_GRID[usize::from(group.index[k])].cast_signed();
            let sign = |k: usize| SIGNS[(bits >> (7 * k)) as usize & 127].cast_signed();
            let size = _mm256_set_epi64x(at(3), at(2), at(1), at(0));
            let signs = _mm256_set_epi64x(sign(3), sign(2), sign(1), sign(0));
            let sc = _mm256_set1_epi16((2 * (bits >> 28) + 1) as i16);
            for k in 0..N {
                let x = _mm256_sign_epi8(load(&q[k][i].as_chunks::<32>().0[g]), signs);
                let p = _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), sc);
                s[k] = _mm256_add_epi32(s[k], p);
            }
        }
        let dw = f16(b.d.0) * 0.125;
        for k in 0..N {
            let scale = _mm256_set1_ps(dw * d[k][i]);
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[k]), scale, acc[k]);
        }
    }
    acc.map(|a| sum_ps(a))
}

/// A byte of 1 or −1 per element for every sign selector (§6.6).
static SIGNS: [u64; 128] = {
    let mut t = [0; 128];
    let mut i = 0;
    while i < 1024 {
        let bits = ds4_gguf::tables::iq2_signs((i / 8) as u8);
        let byte: u64 = if bits >> (i % 8) & 1 == 1 { 0xff } else { 1 };
        t[i / 8] |= byte << (8 * (i % 8));
        i += 1;
    }
    t
};

/// Every byte pair shifted right by `2j`.
#[target_feature(enable = "avx2")]
fn srl2(v: __m256i, j: usize) -> __m256i {
    match j {
        0 => v,
        1 => _mm256_srli_epi16::<2>(v),
        2 => _mm256_srli_epi16::<4>(v),
        _ => _mm256_srli_epi16::<6>(v),
    }
}

/// 32 bytes.
#[target_feature(enable = "avx2")]
fn load<T: Copy, const L: usize>(b: &[T; L]) -> __m256i {
    const { assert!(size_of::<T>() * L == 32) };
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
}

/// 16 bytes.
#[target_feature(enable = "avx2")]
fn load16<T: Copy>(b: &[T; 16]) -> __m128i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(b.as_ptr().cast()) }
}

#[target_feature(enable = "f16c")]
fn f16(b: [u8; 2]) -> f32 {
    let v = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes(b)));
    _mm_cvtss_f32(_mm_cvtph_ps(v))
}

/// Sum of the lanes.
#[target_feature(enable = "avx2")]
fn sum_ps(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
