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
use super::{load, load_ps, load16, store, store_ps};
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

/// Asks for the block of the next 8 rows that lies where this one does: short rows end before the
/// processor's own prefetching has begun. Rows of small blocks are long; there it costs more than
/// it brings.
#[target_feature(enable = "avx2")]
fn prefetch<B: Block>(b: &B, row_bytes: usize) {
    let next = std::ptr::from_ref(b).cast::<i8>().wrapping_add(LANES * row_bytes);
    for line in (0..size_of::<B>()).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line));
    }
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
        let (dw, dmin) = (f16s(w.map(|w| w[i].d)), f16s(w.map(|w| w[i].dmin)));
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
        let (dw, dmin) = (f16s(w.map(|w| w[i].d)), f16s(w.map(|w| w[i].dmin)));
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
            prefetch(&w[r][i], rows[r].len());
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
    acc.map(|a| store_ps(a))
}

/// Partial sums of one block.
#[target_feature(enable = "avx2")]
fn iq2_xxs_block<const N: usize>(b: &Iq2Xxs, x: &[&[i8; 256]; N]) -> [__m256i; N] {
    // Position in `signs` and `scales` of each group.
    const AT: [usize; 8] = [0, 1, 4, 5, 2, 3, 6, 7];
    let (signs, scales) = iq2_xxs_signs(b);
    // Byte `k` of a group's signs to the 8 bytes of quarter `k`, then bit `l` to byte `l`.
    let spread =
        _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let one = _mm256_set1_epi8(1);
    let mut s = [_mm256_setzero_si256(); N];
    for (g, group) in b.groups.iter().enumerate() {
        let [i0, i1, i2, i3] = group.index;
        let size = _mm256_set_m128i(magnitudes(i2, i3), magnitudes(i0, i1));
        let v = _mm256_shuffle_epi8(_mm256_set1_epi32(signs[AT[g]]), spread);
        let v = _mm256_cmpeq_epi8(_mm256_and_si256(v, bits), bits);
        let signs = _mm256_or_si256(v, one);
        let scale = _mm256_set1_epi32(scales[AT[g]]);
        for k in 0..N {
            let x = _mm256_sign_epi8(load(&x[k].as_chunks::<32>().0[g]), signs);
            let p = _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), scale);
            s[k] = _mm256_add_epi32(s[k], p);
        }
    }
    s
}

/// The magnitudes of two codebook entries.
#[target_feature(enable = "avx2")]
fn magnitudes(i: u8, j: u8) -> __m128i {
    let (low, high) =
        (&raw const IQ2_XXS_GRID[usize::from(i)], &raw const IQ2_XXS_GRID[usize::from(j)]);
    // SAFETY: both point to 8 readable bytes.
    unsafe { _mm_castpd_si128(_mm_loadh_pd(_mm_load_sd(low.cast()), high.cast())) }
}

/// Per group, in the order 0, 1, 4, 5, 2, 3, 6, 7: four bytes of eight signs, and the odd scale
/// 1..=31 in both halves.
#[target_feature(enable = "avx2")]
fn iq2_xxs_signs(b: &Iq2Xxs) -> ([i32; 8], [i32; 8]) {
    let (halves, _) = b.groups.as_chunks::<4>();
    let a = _mm256_castsi256_ps(load(&halves[0]));
    let c = _mm256_castsi256_ps(load(&halves[1]));
    let v = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, c));
    // Four times seven bits to four bytes.
    let byte = |k: i32| _mm256_set1_epi32(0x7f << (8 * k));
    let v01 = _mm256_or_si256(
        _mm256_and_si256(v, byte(0)),
        _mm256_and_si256(_mm256_slli_epi32::<1>(v), byte(1)),
    );
    let v23 = _mm256_or_si256(
        _mm256_and_si256(_mm256_slli_epi32::<2>(v), byte(2)),
        _mm256_and_si256(_mm256_slli_epi32::<3>(v), byte(3)),
    );
    let seven = _mm256_or_si256(v01, v23);
    // The eighth bit is the parity of the seven.
    let parity = _mm256_broadcastsi128_si256(load16(&PARITY));
    let folded = _mm256_xor_si256(seven, _mm256_srli_epi16::<4>(seven));
    let folded = _mm256_and_si256(folded, _mm256_set1_epi8(15));
    let signs = _mm256_or_si256(seven, _mm256_shuffle_epi8(parity, folded));
    let scale = _mm256_or_si256(_mm256_srli_epi32::<27>(v), _mm256_set1_epi32(1));
    let scales = _mm256_or_si256(scale, _mm256_slli_epi32::<16>(scale));
    let mut out = ([0; 8], [0; 8]);
    store(&mut out.0, signs);
    store(&mut out.1, scales);
    out
}

/// Bit 7 = parity of the index.
static PARITY: [u8; 16] = {
    let mut p = [0; 16];
    let mut i = 0;
    while i < 16 {
        p[i] = ((i as u32).count_ones() as u8 & 1) << 7;
        i += 1;
    }
    p
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
