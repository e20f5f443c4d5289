//! AVX2 products in f32.

use std::arch::x86_64::*;

use ds4_gguf::TensorType;

use super::super::Tile;
use super::super::dense::{self, DenseKernel, SUMS};
use super::{load, load_ps, load16, store_to_ps};

/// Computes the tile; see [`super::super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(t: &Tile<'_>) {
    let kernel = DenseKernel { one: product, two: product, many: product };
    // SAFETY: the caller's promise.
    unsafe { dense::tile(t, &kernel) }
}

/// See [`DenseKernel`].
#[target_feature(enable = "avx2,fma,f16c")]
fn product<const R: usize, const T: usize>(
    ty: TensorType,
    w: &[&[u8]; R],
    x: &[&[f32]; T],
    sums: &mut [[[f32; SUMS]; T]; R],
) {
    match ty {
        TensorType::F16 => columns::<16, R, T>(w, x, sums, |b| halves(b)),
        TensorType::Bf16 => columns::<16, R, T>(w, x, sums, |b| brain_halves(b)),
        _ => columns::<32, R, T>(w, x, sums, |b| floats(b)),
    }
}

/// Elements of which `read` reads 8 from `C` bytes.
#[target_feature(enable = "avx2,fma,f16c")]
fn columns<const C: usize, const R: usize, const T: usize>(
    w: &[&[u8]; R],
    x: &[&[f32]; T],
    sums: &mut [[[f32; SUMS]; T]; R],
    read: impl Fn(&[u8; C]) -> __m256 + Copy,
) {
    let n = x[0].len() / SUMS;
    // Slices of one known length each, so that the loops have no bounds checks.
    let (mut w16, mut x16): ([&[_]; R], [&[_]; T]) = ([&[]; R], [&[]; T]);
    for r in 0..R {
        w16[r] = &w[r].as_chunks::<C>().0.as_chunks::<2>().0[..n];
    }
    for k in 0..T {
        x16[k] = &x[k].as_chunks::<8>().0.as_chunks::<2>().0[..n];
    }
    if R * T > 4 {
        // The sums of one half fill the registers; the columns are near when the other half comes.
        add::<C, R, T, 1, 0>(&w16, &x16, sums, read);
        add::<C, R, T, 1, 1>(&w16, &x16, sums, read);
    } else {
        add::<C, R, T, 2, 0>(&w16, &x16, sums, read);
    }
    if n * SUMS < x[0].len() {
        let (mut wn, mut xn) = ([[[[0; C]; 2]]; R], [[[[0.0; 8]; 2]]; T]);
        for (to, w) in wn.iter_mut().zip(w) {
            let rest = &w[n * 2 * C..];
            to.as_flattened_mut().as_flattened_mut()[..rest.len()].copy_from_slice(rest);
        }
        for (to, x) in xn.iter_mut().zip(x) {
            let rest = &x[n * SUMS..];
            to.as_flattened_mut().as_flattened_mut()[..rest.len()].copy_from_slice(rest);
        }
        let (w, x) = (wn.each_ref().map(|w| &w[..]), xn.each_ref().map(|x| &x[..]));
        add::<C, R, T, 1, 0>(&w, &x, sums, read);
        add::<C, R, T, 1, 1>(&w, &x, sums, read);
    }
}

/// `H` halves of every 16 columns, from half `FIRST` on.
#[target_feature(enable = "avx2,fma,f16c")]
fn add<const C: usize, const R: usize, const T: usize, const H: usize, const FIRST: usize>(
    w: &[&[[[u8; C]; 2]]; R],
    x: &[&[[[f32; 8]; 2]]; T],
    sums: &mut [[[f32; SUMS]; T]; R],
    read: impl Fn(&[u8; C]) -> __m256,
) {
    let n = x[0].len();
    let (mut w, mut x) = (*w, *x);
    for w in &mut w {
        *w = &w[..n];
    }
    for x in &mut x {
        *x = &x[..n];
    }
    let mut acc = [[[_mm256_setzero_ps(); H]; T]; R];
    for r in 0..R {
        for k in 0..T {
            for h in 0..H {
                acc[r][k][h] = load_ps(&sums[r][k].as_chunks::<8>().0[FIRST + h]);
            }
        }
    }
    for i in 0..n {
        for h in 0..H {
            let mut v = [_mm256_setzero_ps(); R];
            for r in 0..R {
                v[r] = read(&w[r][i][FIRST + h]);
            }
            for k in 0..T {
                let x = load_ps(&x[k][i][FIRST + h]);
                for r in 0..R {
                    acc[r][k][h] = _mm256_fmadd_ps(v[r], x, acc[r][k][h]);
                }
            }
        }
    }
    for r in 0..R {
        for k in 0..T {
            for h in 0..H {
                let to = &mut sums[r][k].as_chunks_mut::<8>().0[FIRST + h];
                store_to_ps(to, acc[r][k][h]);
            }
        }
    }
}

/// 8 × f16.
#[target_feature(enable = "avx2,f16c")]
fn halves<const C: usize>(b: &[u8; C]) -> __m256 {
    _mm256_cvtph_ps(load16(b))
}

/// 8 × bf16.
#[target_feature(enable = "avx2")]
fn brain_halves<const C: usize>(b: &[u8; C]) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load16(b))))
}

/// 8 × f32.
#[target_feature(enable = "avx2")]
fn floats<const C: usize>(b: &[u8; C]) -> __m256 {
    _mm256_castsi256_ps(load(b))
}
