//! AVX-512 row kernels: 8 rows at a time, each read once.

use std::arch::x86_64::*;
use std::array::from_fn;

use ds4_gguf::TensorType;
use ds4_gguf::block::{Iq2Xxs, Q2K, Q4K};

use super::super::avx2::rows::{
    add_up, prefetch, q4_k_scales, row_blocks, scales, with_minima, x_blocks,
};
use super::super::avx2::{f16s, load as load256, store_ps};
use super::super::rows::{RowKernel, rows};
use super::super::{LANES, Tile};
use super::fill::{q2_k_mins, q2_k_products};
use super::iq2::{self, Masks};
use super::pairs::{mxfp4, q8_0};
use super::{both, fold, load};
use crate::acts::{ActForm, Quant};

/// Computes the tile if there is a kernel for its types; see [`super::super::tile`].
///
/// # Safety
/// The processor has what [`super::tile`] demands.
pub(super) unsafe fn tile(t: &Tile<'_>) -> bool {
    use TensorType as T;
    macro_rules! kernel {
        ($f:ident $(, $per:literal)?) => {
            RowKernel {
                one: $f::<1 $(, $per)?>,
                two: $f::<2 $(, $per)?>,
                four: Some($f::<4 $(, $per)?>),
            }
        };
    }
    if !t.cols.is_multiple_of(64) {
        // SAFETY: this instruction set includes the other one.
        return unsafe { super::super::avx2::rows::tile(t) };
    }
    let kernel = match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0) => kernel!(q8_0, 1),
        (T::Q8_0, ActForm::Q8K) => kernel!(q8_0, 8),
        (T::Mxfp4, ActForm::Q8K) => kernel!(mxfp4),
        (T::Iq2Xxs, ActForm::Q8K) => kernel!(iq2_xxs),
        (T::Q2K, ActForm::Q8K) => kernel!(q2_k),
        (T::Q4K, ActForm::Q8K) => kernel!(q4_k),
        _ => return false,
    };
    // SAFETY: the caller's promise.
    unsafe { rows(t, &kernel) };
    true
}

/// `Q2_K` rows, in the order of [`q2_k_products`].
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni")]
fn q2_k<const N: usize>(rows: &[&[u8]; LANES], x: &[Quant<'_>; N]) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Q2K>();
    let w = row_blocks::<Q2K>(rows, n);
    let q = x_blocks::<N, 256>(x, n);
    let d = scales(x, n);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..n {
        let mut x4 = [[_mm512_setzero_si512(); 4]; N];
        for k in 0..N {
            x4[k] = halves_of(q[k][i].as_chunks::<32>().0, [0, 1, 2, 3], 4);
        }
        let sums: [__m256i; N] = from_fn(|k| load256(&x[k].sums.as_chunks::<16>().0[i]));
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        let mut m = [[_mm256_setzero_si256(); LANES]; N];
        for r in 0..LANES {
            prefetch(&w[r][i], rows[r].len());
            let (v, mins) = (q2_k_products(&w[r][i]), q2_k_mins(&w[r][i]));
            for k in 0..N {
                let mut p = _mm512_setzero_si512();
                for j in 0..4 {
                    p = _mm512_dpbusd_epi32(p, v[j], x4[k][j]);
                }
                s[k][r] = fold(p);
                m[k][r] = _mm256_madd_epi16(mins, sums[k]);
            }
        }
        let (dw, dmin) = (f16s(|r| w[r][i].d), f16s(|r| w[r][i].dmin));
        for k in 0..N {
            acc[k] = with_minima(acc[k], (dw, s[k]), (dmin, m[k]), d[k][i]);
        }
    }
    finish(&acc)
}

/// Register `j`: chunk `first[j]` of 32 bytes and the one `step` further.
#[target_feature(enable = "avx512f")]
fn halves_of(x: &[[i8; 32]], first: [usize; 4], step: usize) -> [__m512i; 4] {
    let mut out = [_mm512_setzero_si512(); 4];
    for (out, j) in out.iter_mut().zip(first) {
        *out = both(load256(&x[j]), load256(&x[j + step]));
    }
    out
}

/// The lowest byte of every 32 bits.
const LOW_BYTES: u64 = 0x1111_1111_1111_1111;

/// `Q4_K` rows. Register `2c + h` of a block holds halves `h` of bytes `64c..64c + 64`: chunk
/// `4c + h` of 32 weights in the low half, `4c + 2 + h` in the high half.
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni")]
fn q4_k<const N: usize>(rows: &[&[u8]; LANES], x: &[Quant<'_>; N]) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Q4K>();
    let w = row_blocks::<Q4K>(rows, n);
    let q = x_blocks::<N, 256>(x, n);
    let d = scales(x, n);
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..n {
        let mut x4 = [[_mm512_setzero_si512(); 4]; N];
        // Sums of 32 in the low half.
        let mut sums = [_mm256_setzero_si256(); N];
        for k in 0..N {
            x4[k] = halves_of(q[k][i].as_chunks::<32>().0, [0, 1, 4, 5], 2);
            let u = load256(&x[k].sums.as_chunks::<16>().0[i]);
            let high = _mm256_extracti128_si256::<1>(u);
            sums[k] = _mm256_zextsi128_si256(_mm_hadd_epi16(_mm256_castsi256_si128(u), high));
        }
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        let mut m = [[_mm256_setzero_si256(); LANES]; N];
        for r in 0..LANES {
            prefetch(&w[r][i], rows[r].len());
            let (p, mins) = q4_k_block(&w[r][i], &x4);
            for k in 0..N {
                s[k][r] = p[k];
                m[k][r] = _mm256_madd_epi16(mins, sums[k]);
            }
        }
        let (dw, dmin) = (f16s(|r| w[r][i].d), f16s(|r| w[r][i].dmin));
        for k in 0..N {
            acc[k] = with_minima(acc[k], (dw, s[k]), (dmin, m[k]), d[k][i]);
        }
    }
    finish(&acc)
}

/// Partial sums of the values of one block, and its minima as 16-bit numbers in the low half.
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni")]
fn q4_k_block<const N: usize>(b: &Q4K, x: &[[__m512i; 4]; N]) -> ([__m256i; N], __m256i) {
    let nibble = _mm512_set1_epi8(15);
    let packed = q4_k_scales(b);
    let sc = _mm512_castsi128_si512(packed);
    let mut s = [_mm512_setzero_si512(); N];
    for (c, v) in b.qs.as_chunks::<64>().0.iter().enumerate() {
        let v = load(v);
        let v = [v, _mm512_srli_epi16::<4>(v)];
        for h in 0..2 {
            let v = _mm512_and_si512(v[h], nibble);
            // A sum of four products fits 16 bits: 4 · 15 · 127.
            let sc = _mm512_maskz_permutexvar_epi8(LOW_BYTES, load(&Q4_SCALES[2 * c + h]), sc);
            for k in 0..N {
                let p = _mm512_dpbusd_epi32(_mm512_setzero_si512(), v, x[k][2 * c + h]);
                s[k] = _mm512_dpwssd_epi32(s[k], p, sc);
            }
        }
    }
    let mins = _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_srli_si128::<8>(packed)));
    (folded(&s), mins)
}

/// Per register: the sub-block of 32 that each 32-bit lane belongs to, in its lowest byte.
static Q4_SCALES: [[u8; 64]; 4] = {
    let mut p = [[0; 64]; 4];
    let mut i = 0;
    while i < 256 {
        p[i / 64][i % 64] = (i / 128 * 4 + i / 64 % 2 + i % 64 / 32 * 2) as u8;
        i += 1;
    }
    p
};

/// `IQ2_XXS` rows.
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni,gfni")]
fn iq2_xxs<const N: usize>(rows: &[&[u8]; LANES], x: &[Quant<'_>; N]) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<Iq2Xxs>();
    let w = row_blocks::<Iq2Xxs>(rows, n);
    let q = x_blocks::<N, 256>(x, n);
    let d = scales(x, n);
    let eighth = _mm256_set1_ps(0.125);
    let mut acc = [_mm256_setzero_ps(); N];
    let mut masks: [Masks; LANES / 2] = Default::default();
    for i in 0..n {
        let mut x4 = [[_mm512_setzero_si512(); 4]; N];
        for k in 0..N {
            x4[k] = iq2::transposed(&q[k][i]);
        }
        for (p, masks) in masks.iter_mut().enumerate() {
            prefetch(&w[2 * p][i], rows[2 * p].len());
            prefetch(&w[2 * p + 1][i], rows[2 * p + 1].len());
            masks.of(&w[2 * p][i], &w[2 * p + 1][i]);
        }
        let mut s = [[_mm256_setzero_si256(); LANES]; N];
        for (p, masks) in masks.iter().enumerate() {
            let masks = masks.through_memory();
            for r in 0..2 {
                let p = 2 * p + r;
                let sums = iq2_xxs_block(masks, r, &w[p][i], &x4);
                for k in 0..N {
                    s[k][p] = sums[k];
                }
            }
        }
        let dw = _mm256_mul_ps(f16s(|r| w[r][i].d), eighth);
        for k in 0..N {
            let scale = _mm256_mul_ps(dw, _mm256_set1_ps(d[k][i]));
            acc[k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(add_up(s[k])), scale, acc[k]);
        }
    }
    finish(&acc)
}

/// Partial sums of the first or the second block of `masks`; `x` as [`iq2::transposed`].
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni,gfni")]
fn iq2_xxs_block<const N: usize>(
    masks: &Masks,
    which: usize,
    b: &Iq2Xxs,
    x: &[[__m512i; 4]; N],
) -> [__m256i; N] {
    let mut s = [_mm512_setzero_si512(); N];
    for v in 0..4 {
        let size = masks.magnitudes(4 * which + v);
        for k in 0..N {
            s[k] = _mm512_dpbusd_epi32(s[k], size, masks.sign(4 * which + v, x[k][v]));
        }
    }
    let scales = iq2::scales(b);
    let scales = _mm512_shuffle_epi32::<0b10_10_00_00>(scales);
    for s in &mut s {
        *s = _mm512_mullo_epi32(*s, scales);
    }
    folded(&s)
}

/// The sums as numbers.
#[target_feature(enable = "avx512f")]
fn finish<const N: usize>(acc: &[__m256; N]) -> [[f32; LANES]; N] {
    let mut y = [[0.0; LANES]; N];
    for (y, acc) in y.iter_mut().zip(acc) {
        *y = store_ps(*acc);
    }
    y
}

/// The sums of each register's halves.
#[target_feature(enable = "avx512f")]
fn folded<const N: usize>(s: &[__m512i; N]) -> [__m256i; N] {
    let mut y = [_mm256_setzero_si256(); N];
    for (y, s) in y.iter_mut().zip(s) {
        *y = fold(*s);
    }
    y
}
