//! AVX-512 products in f32: the 16 sums of a product are one register.

use std::arch::x86_64::*;

use ds4_gguf::TensorType;

use super::super::Tile;
use super::super::dense::{self, DenseKernel, SUMS};
use super::{load, load_ps, store_ps};

/// Computes the tile; see [`super::super::tile`].
///
/// # Safety
/// The processor has AVX-512.
pub(super) unsafe fn tile(t: &Tile<'_>) {
    let kernel = DenseKernel { one: product, two: product, many: product };
    // SAFETY: the caller's promise.
    unsafe { dense::tile(t, &kernel) }
}

/// See [`DenseKernel`].
#[target_feature(enable = "avx512vl,avx512bw")]
fn product<const R: usize, const T: usize>(
    ty: TensorType,
    w: &[&[u8]; R],
    x: &[&[f32]; T],
    sums: &mut [[[f32; SUMS]; T]; R],
) {
    match ty {
        TensorType::F16 => columns::<32, R, T>(w, x, sums, |b| halves(b)),
        TensorType::Bf16 => columns::<32, R, T>(w, x, sums, |b| brain_halves(b)),
        _ => columns::<64, R, T>(w, x, sums, |b| _mm512_castsi512_ps(load(b))),
    }
}

/// Elements of which `read` reads 16 from `C` bytes.
#[target_feature(enable = "avx512vl,avx512bw")]
fn columns<const C: usize, const R: usize, const T: usize>(
    w: &[&[u8]; R],
    x: &[&[f32]; T],
    sums: &mut [[[f32; SUMS]; T]; R],
    read: impl Fn(&[u8; C]) -> __m512,
) {
    let n = x[0].len() / SUMS;
    // Slices of one known length each, so that the loop has no bounds checks.
    let (mut w16, mut x16): ([&[_]; R], [&[_]; T]) = ([&[]; R], [&[]; T]);
    for r in 0..R {
        w16[r] = &w[r].as_chunks::<C>().0[..n];
    }
    for k in 0..T {
        x16[k] = &x[k].as_chunks::<SUMS>().0[..n];
    }
    let mut acc = [[_mm512_setzero_ps(); T]; R];
    for r in 0..R {
        for k in 0..T {
            acc[r][k] = load_ps(&sums[r][k]);
        }
    }
    for i in 0..n {
        let mut v = [_mm512_setzero_ps(); R];
        for r in 0..R {
            v[r] = read(&w16[r][i]);
        }
        for k in 0..T {
            let x = load_ps(&x16[k][i]);
            for r in 0..R {
                acc[r][k] = _mm512_fmadd_ps(v[r], x, acc[r][k]);
            }
        }
    }
    if n * SUMS < x[0].len() {
        for r in 0..R {
            let mut bytes = [0; C];
            let rest = &w[r][n * C..];
            bytes[..rest.len()].copy_from_slice(rest);
            let v = read(&bytes);
            for k in 0..T {
                let mut values = [0.0; SUMS];
                let rest = &x[k][n * SUMS..];
                values[..rest.len()].copy_from_slice(rest);
                acc[r][k] = _mm512_fmadd_ps(v, load_ps(&values), acc[r][k]);
            }
        }
    }
    for r in 0..R {
        for k in 0..T {
            store_ps(&mut sums[r][k], acc[r][k]);
        }
    }
}

/// 16 × f16.
#[target_feature(enable = "avx512f")]
fn halves<const C: usize>(b: &[u8; C]) -> __m512 {
    _mm512_cvtph_ps(load32(b))
}

/// 16 × bf16.
#[target_feature(enable = "avx512f")]
fn brain_halves<const C: usize>(b: &[u8; C]) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load32(b))))
}

/// 32 bytes.
#[target_feature(enable = "avx512f")]
fn load32<const C: usize>(b: &[u8; C]) -> __m256i {
    super::super::avx2::load(b)
}
