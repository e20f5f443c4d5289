//! AVX2 row kernels: 8 rows at a time, each read once.
//!
//! Every row's block gives 8 partial sums; those of 8 rows are added up crosswise into one register
//! with a row per lane, so that f32 arithmetic is done once per 8 rows.

use std::arch::x86_64::*;
use std::array::from_fn;

use ds4_gguf::TensorType;
use ds4_gguf::block::{Block, F16, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::{E2M1_DOUBLED, IQ2_XXS_GRID, e8m0_half};

use super::super::rows::{RowKernel, rows};
use super::super::{LANES, Tile};
use super::{load, load_ps, load16};
use crate::acts::{ActForm, Quant};

/// Computes the tile if there is a kernel for its types; see [`super::super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(t: &Tile<'_>) -> bool {
    use TensorType as T;
    let kernel = match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0) => RowKernel { one: q8_0::<1, 1>, two: q8_0::<2, 1> },
        (T::Q8_0, ActForm::Q8K) => RowKernel { one: q8_0::<1, 8>, two: q8_0::<2, 8> },
        (T::Mxfp4, ActForm::Q8K) => RowKernel { one: mxfp4::<1>, two: mxfp4::<2> },
        (T::Iq2Xxs, ActForm::Q8K) => RowKernel { one: iq2_xxs::<1>, two: iq2_xxs::<2> },
        (T::Q2K, ActForm::Q8K) => RowKernel { one: q2_k::<1>, two: q2_k::<2> },
        (T::Q4K, ActForm::Q8K) => RowKernel { one: q4_k::<1>, two: q4_k::<2> },
        _ => return false,
    };
    // SAFETY: the caller's promise.
    unsafe { rows(t, &kernel) };
    true
}

/// The rows as `n` blocks each.
fn row_blocks<'a, B: Block>(rows: &[&'a [u8]; LANES], n: usize) -> [&'a [B]; LANES] {
    from_fn(|r| &blocks::<B>(rows[r])[..n])
}

/// The activations of `N` tokens as `n` blocks of `B`.
fn x_blocks<'a, const N: usize, const B: usize>(
    x: &[Quant<'a>; N],
    n: usize,
) -> [&'a [[i8; B]]; N] {
    from_fn(|k| &x[k].q.as_chunks::<B>().0[..n])
}

/// The first `n` scales of every token.
fn scales<'a, const N: usize>(x: &[Quant<'a>; N], n: usize) -> [&'a [f32]; N] {
    from_fn(|k| &x[k].d[..n])
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
        let dw = f16s(w.map(|w| w[i].d));
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
    acc.map(|a| lanes(a))
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
    acc.map(|a| lanes(a))
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
            let p = q2_k_block(&w[r][i], &x256, &sums);
            for k in 0..N {
                (s[k][r], m[k][r]) = p[k];
            }
        }
        let (dw, dmin) = (f16s(w.map(|w| w[i].d)), f16s(w.map(|w| w[i].dmin)));
        for k in 0..N {
            acc[k] = with_minima(acc[k], (dw, s[k]), (dmin, m[k]), d[k][i]);
        }
    }
    acc.map(|a| lanes(a))
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
            let p = q4_k_block(&w[r][i], &x256, &sums);
            for k in 0..N {
                (s[k][r], m[k][r]) = p[k];
            }
        }
        let (dw, dmin) = (f16s(w.map(|w| w[i].d)), f16s(w.map(|w| w[i].dmin)));
        for k in 0..N {
            acc[k] = with_minima(acc[k], (dw, s[k]), (dmin, m[k]), d[k][i]);
        }
    }
    acc.map(|a| lanes(a))
}

/// Partial sums of values and of minima of one block.
#[target_feature(enable = "avx2")]
fn q4_k_block<const N: usize>(
    b: &Q4K,
    x: &[&[i8; 256]; N],
    sums: &[__m256i; N],
) -> [(__m256i, __m256i); N] {
    let nibble = _mm256_set1_epi8(15);
    let (sc, mins) = q4_k_scales(b);
    let sc = _mm256_broadcastsi128_si256(sc);
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
    let mins = _mm256_zextsi128_si256(mins);
    from_fn(|k| (s[k], _mm256_madd_epi16(mins, sums[k])))
}

/// The 8 scales and 8 minima of a `Q4_K` block, 16 bit each (§6.5).
#[target_feature(enable = "avx2")]
fn q4_k_scales(b: &Q4K) -> (__m128i, __m128i) {
    let [a, m, c] = from_fn(|i| u32::from_le_bytes(from_fn(|k| b.scales[4 * i + k])));
    let high = (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030);
    let scales = u64::from(a & 0x3f3f_3f3f) | u64::from(high) << 32;
    let high = ((c >> 4) & 0x0f0f_0f0f) | ((m >> 2) & 0x3030_3030);
    let mins = u64::from(m & 0x3f3f_3f3f) | u64::from(high) << 32;
    let v = _mm_set_epi64x(mins.cast_signed(), scales.cast_signed());
    (_mm_cvtepu8_epi16(v), _mm_cvtepu8_epi16(_mm_srli_si128::<8>(v)))
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
    for i in 0..n {
        let x256: [&[i8; 256]; N] = from_fn(|k| &q[k][i]);
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        for r in 0..LANES {
            let p = iq2_xxs_block(&w[r][i], &x256);
            for k in 0..N {
                s[k][r] = p[k];
            }
        }
        let dw = _mm256_mul_ps(f16s(w.map(|w| w[i].d)), eighth);
        for k in 0..N {
            let scale = _mm256_mul_ps(dw, _mm256_set1_ps(d[k][i]));
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(add_up(s[k])), scale, acc[k]);
        }
    }
    acc.map(|a| lanes(a))
}

/// Partial sums of one block.
#[target_feature(enable = "avx2")]
fn iq2_xxs_block<const N: usize>(b: &Iq2Xxs, x: &[&[i8; 256]; N]) -> [__m256i; N] {
    let mut s = [_mm256_setzero_si256(); N];
    for (g, group) in b.groups.iter().enumerate() {
        let bits = u32::from_le_bytes(group.signs_scale);
        let at = |k: usize| IQ2_XXS_GRID[usize::from(group.index[k])].cast_signed();
        let sign = |k: usize| SIGNS[(bits >> (7 * k)) as usize & 127].cast_signed();
        let size = _mm256_set_epi64x(at(3), at(2), at(1), at(0));
        let signs = _mm256_set_epi64x(sign(3), sign(2), sign(1), sign(0));
        let sc = _mm256_set1_epi16((2 * (bits >> 28) + 1) as i16);
        for k in 0..N {
            let x = _mm256_sign_epi8(load(&x[k].as_chunks::<32>().0[g]), signs);
            let p = _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), sc);
            s[k] = _mm256_add_epi32(s[k], p);
        }
    }
    s
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

/// `acc + (dw·Σs − dmin·Σm)·dx`.
#[target_feature(enable = "avx2,fma")]
fn with_minima(
    acc: __m256,
    (dw, s): (__m256, [__m256i; LANES]),
    (dmin, m): (__m256, [__m256i; LANES]),
    dx: f32,
) -> __m256 {
    let y = _mm256_mul_ps(dw, _mm256_cvtepi32_ps(add_up(s)));
    let y = _mm256_fnmadd_ps(dmin, _mm256_cvtepi32_ps(add_up(m)), y);
    _mm256_fmadd_ps(y, _mm256_set1_ps(dx), acc)
}

/// One f16 per lane.
#[target_feature(enable = "avx2,f16c")]
fn f16s(v: [F16; LANES]) -> __m256 {
    let [a, b, c, d, e, f, g, h] = v.map(|v| i16::from_le_bytes(v.0));
    _mm256_cvtph_ps(_mm_set_epi16(h, g, f, e, d, c, b, a))
}

/// Lane `r` = the sum of the lanes of `s[r]`.
#[target_feature(enable = "avx2")]
fn add_up(s: [__m256i; LANES]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = s;
    // Rows 0 to 3 and 4 to 7; each 128-bit half has the sums of its half of the lanes.
    let low = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let high = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
    let first = _mm256_inserti128_si256::<1>(low, _mm256_castsi256_si128(high));
    let second = _mm256_zextsi128_si256(_mm256_extracti128_si256::<1>(low));
    _mm256_add_epi32(first, _mm256_blend_epi32::<0xf0>(second, high))
}

#[target_feature(enable = "avx2")]
fn lanes(v: __m256) -> [f32; LANES] {
    let mut y = [0.0; LANES];
    // SAFETY: `y` has room for 8 values; the store needs no alignment.
    unsafe { _mm256_storeu_ps(y.as_mut_ptr(), v) };
    y
}
