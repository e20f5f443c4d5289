//! AVX2 products in f32.

use std::arch::x86_64::*;

use ds4_gguf::TensorType;

use super::super::Tile;
use super::super::dense::{self, DenseKernel, SUMS};
use super::{load, load_ps, load16};

/// Computes the tile; see [`super::super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(t: &Tile<'_>) {
    let kernel = DenseKernel { one: product, two: product, three: product };
    // SAFETY: the caller's promise.
    unsafe { dense::tile(t, &kernel) }
}

/// `R` rows times `T` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn product<const R: usize, const T: usize>(
    ty: TensorType,
    w: &[&[u8]; R],
    x: &[&[f32]; T],
) -> [[f32; R]; T] {
    match ty {
        TensorType::F16 => columns::<2, R, T>(w, x, |b| halves(b)),
        TensorType::Bf16 => columns::<2, R, T>(w, x, |b| brain_halves(b)),
        _ => columns::<4, R, T>(w, x, |b| floats(b)),
    }
}

/// Elements of `B` bytes that `read` reads 16 at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn columns<const B: usize, const R: usize, const T: usize>(
    w: &[&[u8]; R],
    x: &[&[f32]; T],
    read: impl Fn(&[u8]) -> [__m256; 2],
) -> [[f32; R]; T] {
    let cols = x[0].len();
    let whole = cols / SUMS;
    let x16 = x.map(|x| &x.as_chunks::<SUMS>().0[..whole]);
    let w16 = w.map(|w| &w[..whole * SUMS * B]);
    let mut acc = [[[_mm256_setzero_ps(); 2]; R]; T];
    for i in 0..whole {
        let v = w16.map(|w| read(&w[i * SUMS * B..(i + 1) * SUMS * B]));
        step(&mut acc, &v, &x16.map(|x| &x[i]));
    }
    let rest = cols - whole * SUMS;
    if rest > 0 {
        let v = w.map(|w| {
            let mut b = [0; 64];
            b[..rest * B].copy_from_slice(&w[whole * SUMS * B..cols * B]);
            read(&b[..SUMS * B])
        });
        let x = x.map(|x| {
            let mut b = [0.0; SUMS];
            b[..rest].copy_from_slice(&x[whole * SUMS..]);
            b
        });
        step(&mut acc, &v, &x.each_ref());
    }
    acc.map(|a| a.map(|a| add_up(a)))
}

/// 16 columns.
#[target_feature(enable = "avx2,fma")]
fn step<const R: usize, const T: usize>(
    acc: &mut [[[__m256; 2]; R]; T],
    w: &[[__m256; 2]; R],
    x: &[&[f32; SUMS]; T],
) {
    for k in 0..T {
        let (x, _) = x[k].as_chunks::<8>();
        for r in 0..R {
            for h in 0..2 {
                acc[k][r][h] = _mm256_fmadd_ps(w[r][h], load_ps(&x[h]), acc[k][r][h]);
            }
        }
    }
}

/// 16 × f16.
#[target_feature(enable = "avx2,f16c")]
fn halves(b: &[u8]) -> [__m256; 2] {
    let (b, _) = b.as_chunks::<16>();
    [_mm256_cvtph_ps(load16(&b[0])), _mm256_cvtph_ps(load16(&b[1]))]
}

/// 16 × bf16.
#[target_feature(enable = "avx2")]
fn brain_halves(b: &[u8]) -> [__m256; 2] {
    let (b, _) = b.as_chunks::<16>();
    let wide = |b| _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load16(b)));
    [_mm256_castsi256_ps(wide(&b[0])), _mm256_castsi256_ps(wide(&b[1]))]
}

/// 16 × f32.
#[target_feature(enable = "avx2")]
fn floats(b: &[u8]) -> [__m256; 2] {
    let (b, _) = b.as_chunks::<32>();
    [_mm256_castsi256_ps(load(&b[0])), _mm256_castsi256_ps(load(&b[1]))]
}

/// The sum of the 16 sums, in halves.
#[target_feature(enable = "avx2")]
fn add_up(s: [__m256; 2]) -> f32 {
    let v = _mm256_add_ps(s[0], s[1]);
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
