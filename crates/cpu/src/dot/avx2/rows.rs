//! AVX2 row kernels: 8 rows at a time, each read once.
//!
//! Every row's block gives 8 partial sums; those of 8 rows are added up crosswise into one register
//! with a row per lane, so that f32 arithmetic is done once per 8 rows.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::hint::black_box;

use ds4_gguf::TensorType;
use ds4_gguf::block::{Block, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::{E2M1_DOUBLED, e8m0_half};

use super::super::rows::{RowKernel, rows};
use super::super::{LANES, Tile};
use super::{f16s, iq2, load, load_ps, load16, store_ps};
use crate::acts::{ActForm, Quant};

/// Computes the tile if there is a kernel for its types; see [`super::super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(in super::super) unsafe fn tile(t: &Tile<'_>) -> bool {
    use TensorType as T;
    let kernel = match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0) => RowKernel { one: q8_0::<1, 1>, two: q8_0::<2, 1>, four: None },
        (T::Q8_0, ActForm::Q8K) => RowKernel { one: q8_0::<1, 8>, two: q8_0::<2, 8>, four: None },
        (T::Mxfp4, ActForm::Q8K) => RowKernel { one: mxfp4::<1>, two: mxfp4::<2>, four: None },
        (T::Iq2Xxs, ActForm::Q8K) => RowKernel { one: iq2_xxs::<1>, two: iq2_xxs::<2>, four: None },
        (T::Q2K, ActForm::Q8K) => RowKernel { one: q2_k::<1>, two: q2_k::<2>, four: None },
        (T::Q4K, ActForm::Q8K) => RowKernel { one: q4_k::<1>, two: q4_k::<2>, four: None },
        _ => return false,
    };
    // SAFETY: the caller's promise.
    unsafe { rows(t, &kernel) };
    true
}

/// The rows as `n` blocks each.
#[expect(clippy::inline_always, reason = "its lengths are to be known to the caller's loops")]
#[inline(always)]
pub(in super::super) fn row_blocks<'a, B: Block>(
    rows: &[&'a [u8]; LANES],
    n: usize,
) -> [&'a [B]; LANES] {
    let mut w: [&[B]; LANES] = [&[]; LANES];
    for r in 0..LANES {
        w[r] = &blocks::<B>(rows[r])[..n];
    }
    w
}

/// Asks for the block of the next 8 rows that lies where this one does: short rows end before the
/// processor's own prefetching has begun. Rows of small blocks are long; there it costs more than
/// it brings.
#[target_feature(enable = "avx2")]
pub(in super::super) fn prefetch<B>(b: &B, row_bytes: usize) {
    let next = std::ptr::from_ref(b).cast::<i8>().wrapping_add(LANES * row_bytes);
    for line in (0..size_of::<B>()).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line));
    }
}

/// The activations of `N` tokens as `n` blocks of `B`.
#[expect(clippy::inline_always, reason = "its lengths are to be known to the caller's loops")]
#[inline(always)]
pub(in super::super) fn x_blocks<'a, const N: usize, const B: usize>(
    x: &[Quant<'a>; N],
    n: usize,
) -> [&'a [[i8; B]]; N] {
    let mut q: [&[[i8; B]]; N] = [&[]; N];
    for k in 0..N {
        q[k] = &x[k].q.as_chunks::<B>().0[..n];
    }
    q
}

/// The first `n` scales of every token.
#[expect(clippy::inline_always, reason = "its lengths are to be known to the caller's loops")]
#[inline(always)]
pub(in super::super) fn scales<'a, const N: usize>(x: &[Quant<'a>; N], n: usize) -> [&'a [f32]; N] {
    let mut d: [&[f32]; N] = [&[]; N];
    for k in 0..N {
        d[k] = &x[k].d[..n];
    }
    d
}

/// `Q8_0` rows; `PER` weight blocks share a scale of the activations.
#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0<const N: usize, const PER: usize>(
    rows: &[&[u8]; LANES],
    x: &[Quant<'_>; N],
) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Q8_0>();
    let w = row_blocks::<Q8_0>(rows, n);
    let q = x_blocks::<N, 32>(x, n);
    let d = scales(x, n.div_ceil(PER));
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..n {
        let dw = f16s(|r| w[r][i].d);
        for k in 0..N {
            let x = load(&q[k][i]);
            let s = from_fn(|r| {
                let v = load(&w[r][i].q);
                let p = _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(x, v));
                _mm256_madd_epi16(p, ones)
            });
            let scale = _mm256_mul_ps(dw, _mm256_set1_ps(d[k][i / PER]));
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(add_up(s)), scale, acc[k]);
        }
    }
    acc.map(|a| store_ps(a))
}

/// `MXFP4` rows: doubled values up to 12 and half the scale.
#[target_feature(enable = "avx2,fma,f16c")]
fn mxfp4<const N: usize>(rows: &[&[u8]; LANES], x: &[Quant<'_>; N]) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Mxfp4>();
    let w = row_blocks::<Mxfp4>(rows, n);
    let q = x_blocks::<N, 32>(x, n);
    let d = scales(x, n.div_ceil(8));
    let values = _mm256_broadcastsi128_si256(load16(&E2M1_DOUBLED));
    let nibble = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..n {
        let dw = load_ps(&w.map(|w| e8m0_half(w[i].e)));
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        for r in 0..LANES {
            let codes = load16(&w[r][i].qs);
            let codes = _mm256_set_m128i(_mm_srli_epi16::<4>(codes), codes);
            let v = _mm256_shuffle_epi8(values, _mm256_and_si256(codes, nibble));
            let size = _mm256_abs_epi8(v);
            for k in 0..N {
                let x = _mm256_sign_epi8(load(&q[k][i]), v);
                s[k][r] = _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones);
            }
        }
        for k in 0..N {
            let scale = _mm256_mul_ps(dw, _mm256_set1_ps(d[k][i / 8]));
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(add_up(s[k])), scale, acc[k]);
        }
    }
    acc.map(|a| store_ps(a))
}

/// `Q2_K` rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn q2_k<const N: usize>(rows: &[&[u8]; LANES], x: &[Quant<'_>; N]) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Q2K>();
    let w = row_blocks::<Q2K>(rows, n);
    let q = x_blocks::<N, 256>(x, n);
    let d = scales(x, n);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..n {
        let x256: [&[i8; 256]; N] = from_fn(|k| &q[k][i]);
        let sums: [__m256i; N] = from_fn(|k| load(&x[k].sums.as_chunks::<16>().0[i]));
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        let mut m = [[_mm256_setzero_si256(); LANES]; N];
        for r in 0..LANES {
            prefetch(&w[r][i], rows[r].len());
            let p = q2_k_block(&w[r][i], &x256, &sums);
            for k in 0..N {
                (s[k][r], m[k][r]) = p[k];
            }
        }
        let (dw, dmin) = (f16s(|r| w[r][i].d), f16s(|r| w[r][i].dmin));
        for k in 0..N {
            acc[k] = with_minima(acc[k], (dw, s[k]), (dmin, m[k]), d[k][i]);
        }
    }
    acc.map(|a| store_ps(a))
}

/// Partial sums of values and of minima of one block.
#[target_feature(enable = "avx2")]
fn q2_k_block<const N: usize>(
    b: &Q2K,
    x: &[&[i8; 256]; N],
    sums: &[__m256i; N],
) -> [(__m256i, __m256i); N] {
    let low4 = _mm_set1_epi8(15);
    let low2 = _mm256_set1_epi8(3);
    let packed = load16(&b.scales);
    let mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(packed), low4));
    let sc = _mm_and_si128(packed, low4);
    let mut s = [_mm256_setzero_si256(); N];
    for half in 0..2 {
        let v = load(&b.qs.as_chunks::<32>().0[half]);
        // Scales of the half's 8 sub-blocks, 16 bit, in both lanes.
        let sc = if half == 0 { sc } else { _mm_srli_si128::<8>(sc) };
        let sc = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(sc));
        let v =
            [v, _mm256_srli_epi16::<2>(v), _mm256_srli_epi16::<4>(v), _mm256_srli_epi16::<6>(v)];
        for j in 0..4 {
            let v = _mm256_and_si256(v[j], low2);
            let sc = _mm256_shuffle_epi8(sc, load(&PAIRS[j]));
            for k in 0..N {
                let x = load(&x[k].as_chunks::<32>().0[4 * half + j]);
                let p = _mm256_madd_epi16(_mm256_maddubs_epi16(v, x), sc);
                s[k] = _mm256_add_epi32(s[k], p);
            }
        }
    }
    from_fn(|k| (s[k], _mm256_madd_epi16(mins, sums[k])))
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
fn q4_k<const N: usize>(rows: &[&[u8]; LANES], x: &[Quant<'_>; N]) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Q4K>();
    let w = row_blocks::<Q4K>(rows, n);
    let q = x_blocks::<N, 256>(x, n);
    let d = scales(x, n);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..n {
        let x256: [&[i8; 256]; N] = from_fn(|k| &q[k][i]);
        // Sums of 32 in the low half.
        let sums: [__m256i; N] = from_fn(|k| {
            let u = load(&x[k].sums.as_chunks::<16>().0[i]);
            let high = _mm256_extracti128_si256::<1>(u);
            _mm256_zextsi128_si256(_mm_hadd_epi16(_mm256_castsi256_si128(u), high))
        });
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        let mut m = [[_mm256_setzero_si256(); LANES]; N];
        for r in 0..LANES {
            prefetch(&w[r][i], rows[r].len());
            let p = q4_k_block(&w[r][i], &x256, &sums);
            for k in 0..N {
                (s[k][r], m[k][r]) = p[k];
            }
        }
        let (dw, dmin) = (f16s(|r| w[r][i].d), f16s(|r| w[r][i].dmin));
        for k in 0..N {
            acc[k] = with_minima(acc[k], (dw, s[k]), (dmin, m[k]), d[k][i]);
        }
    }
    acc.map(|a| store_ps(a))
}

/// Partial sums of values and of minima of one block.
#[target_feature(enable = "avx2")]
fn q4_k_block<const N: usize>(
    b: &Q4K,
    x: &[&[i8; 256]; N],
    sums: &[__m256i; N],
) -> [(__m256i, __m256i); N] {
    let nibble = _mm256_set1_epi8(15);
    let packed = q4_k_scales(b);
    let sc = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(packed));
    let mut s = [_mm256_setzero_si256(); N];
    for j in 0..4 {
        let v = load(&b.qs.as_chunks::<32>().0[j]);
        let low = _mm256_and_si256(v, nibble);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
        let sc_low = _mm256_shuffle_epi8(sc, load(&SAME[2 * j]));
        let sc_high = _mm256_shuffle_epi8(sc, load(&SAME[2 * j + 1]));
        for k in 0..N {
            let x = &x[k].as_chunks::<32>().0;
            let p = _mm256_madd_epi16(_mm256_maddubs_epi16(low, load(&x[2 * j])), sc_low);
            s[k] = _mm256_add_epi32(s[k], p);
            let p = _mm256_madd_epi16(_mm256_maddubs_epi16(high, load(&x[2 * j + 1])), sc_high);
            s[k] = _mm256_add_epi32(s[k], p);
        }
    }
    let mins = _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_srli_si128::<8>(packed)));
    from_fn(|k| (s[k], _mm256_madd_epi16(mins, sums[k])))
}

/// The 8 scales and then the 8 minima of a `Q4_K` block (§6.5).
#[target_feature(enable = "avx2")]
pub(in super::super) fn q4_k_scales(b: &Q4K) -> __m128i {
    let [a, m, c] = from_fn(|i| u32::from_le_bytes(from_fn(|k| b.scales[4 * i + k])));
    let high = (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030);
    let scales = u64::from(a & 0x3f3f_3f3f) | u64::from(high) << 32;
    let high = ((c >> 4) & 0x0f0f_0f0f) | ((m >> 2) & 0x3030_3030);
    let mins = u64::from(m & 0x3f3f_3f3f) | u64::from(high) << 32;
    _mm_set_epi64x(mins.cast_signed(), scales.cast_signed())
}

/// `IQ2_XXS` rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn iq2_xxs<const N: usize>(rows: &[&[u8]; LANES], x: &[Quant<'_>; N]) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Iq2Xxs>();
    let w = row_blocks::<Iq2Xxs>(rows, n);
    let q = x_blocks::<N, 256>(x, n);
    let d = scales(x, n);
    let eighth = _mm256_set1_ps(0.125);
    let mut acc = [_mm256_setzero_ps(); N];
    let mut signs = [iq2::Signs::zero(); LANES];
    for i in 0..n {
        let mut x = [[_mm256_setzero_si256(); 8]; N];
        for k in 0..N {
            x[k] = iq2::pairs(&q[k][i]);
        }
        for r in 0..LANES {
            prefetch(&w[r][i], rows[r].len());
            signs[r] = iq2::Signs::of(&w[r][i]);
        }
        // Through memory: loads of parts are cheaper than moving them across halves of registers.
        let signs = black_box(&signs);
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        for r in 0..LANES {
            let p = iq2_xxs_block(&w[r][i], &signs[r], &x);
            for k in 0..N {
                s[k][r] = p[k];
            }
        }
        let dw = _mm256_mul_ps(f16s(|r| w[r][i].d), eighth);
        for k in 0..N {
            let scale = _mm256_mul_ps(dw, _mm256_set1_ps(d[k][i]));
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(add_up(s[k])), scale, acc[k]);
        }
    }
    acc.map(|a| store_ps(a))
}

/// Partial sums of one block; `x` in the order of [`iq2::pairs`]. A 16-bit sum holds at most
/// 4 · 43 · 127 < 2¹⁵.
#[target_feature(enable = "avx2")]
fn iq2_xxs_block<const N: usize>(
    b: &Iq2Xxs,
    signs: &iq2::Signs,
    x: &[[__m256i; 8]; N],
) -> [__m256i; N] {
    let mut s = [_mm256_setzero_si256(); N];
    for j in 0..4 {
        let (low, low_signs) = iq2::half(b, signs, j, 0);
        let (high, high_signs) = iq2::half(b, signs, j, 1);
        let scales = signs.scales(j);
        for k in 0..N {
            let p = _mm256_maddubs_epi16(low, _mm256_sign_epi8(x[k][2 * j], low_signs));
            let u = _mm256_maddubs_epi16(high, _mm256_sign_epi8(x[k][2 * j + 1], high_signs));
            let p = _mm256_madd_epi16(_mm256_add_epi16(p, u), scales);
            s[k] = _mm256_add_epi32(s[k], p);
        }
    }
    s
}

/// `acc + (dw·Σs − dmin·Σm)·dx`.
#[target_feature(enable = "avx2,fma")]
pub(in super::super) fn with_minima(
    acc: __m256,
    (dw, s): (__m256, [__m256i; LANES]),
    (dmin, m): (__m256, [__m256i; LANES]),
    dx: f32,
) -> __m256 {
    let y = _mm256_mul_ps(dw, _mm256_cvtepi32_ps(add_up(s)));
    let y = _mm256_fnmadd_ps(dmin, _mm256_cvtepi32_ps(add_up(m)), y);
    _mm256_fmadd_ps(y, _mm256_set1_ps(dx), acc)
}

/// Lane `r` = the sum of the lanes of `s[r]`. With shuffles: `hadd` is three instructions in one.
#[target_feature(enable = "avx2")]
pub(in super::super) fn add_up(s: [__m256i; LANES]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = s;
    let twos = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let fours = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    // Rows 0 to 3 and 4 to 7; each 128-bit half has the sums of its half of the lanes.
    let (low, high) = (fours(twos(a, b), twos(c, d)), fours(twos(e, f), twos(g, h)));
    let first = _mm256_inserti128_si256::<1>(low, _mm256_castsi256_si128(high));
    _mm256_add_epi32(first, _mm256_permute2x128_si256::<0x31>(low, high))
}
