//! The row products with AVX2 and fused multiply-add.
//!
//! Eight accumulators of eight values: two rows, or two pieces of a row, for four heads.

use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps};

use super::{HEADS, LANES, ROWS, WIDTH, finish};

/// See [`super::portable::products`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn products(q: &[&[f32]; HEADS], rows: &[&[f32]; ROWS]) -> [[f32; ROWS]; HEADS] {
    let n = rows[0].len() / LANES;
    // Slices of one known length each, so that the loop has no bounds checks.
    let q8 = [pieces(q[0], n), pieces(q[1], n), pieces(q[2], n), pieces(q[3], n)];
    let r8 = [pieces(rows[0], n), pieces(rows[1], n)];
    let mut acc = [[_mm256_setzero_ps(); ROWS]; HEADS];
    for i in 0..n {
        let r = [load(&r8[0][i]), load(&r8[1][i])];
        for h in 0..HEADS {
            let q = load(&q8[h][i]);
            for j in 0..ROWS {
                acc[h][j] = _mm256_fmadd_ps(q, r[j], acc[h][j]);
            }
        }
    }
    let mut out = [[0.0; ROWS]; HEADS];
    for h in 0..HEADS {
        for j in 0..ROWS {
            out[h][j] = finish(values(acc[h][j]), q[h], rows[j]);
        }
    }
    out
}

/// See [`super::portable::add_rows`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn add_rows(sums: &mut [f32], rows: &[&[f32]], weights: &[&[f32]; HEADS]) {
    let dim = rows[0].len();
    let n = sums.len() / dim;
    let k = rows.len();
    let weights = [&weights[0][..k], &weights[1][..k], &weights[2][..k], &weights[3][..k]];
    for at in (0..dim / WIDTH * WIDTH).step_by(WIDTH) {
        let mut acc = [[_mm256_setzero_ps(); 2]; HEADS];
        for (h, acc) in acc.iter_mut().enumerate().take(n) {
            *acc = piece(&sums[h * dim..][..dim], at);
        }
        for (j, row) in rows.iter().enumerate() {
            let r = piece(row, at);
            for h in 0..HEADS {
                let w = _mm256_set1_ps(weights[h][j]);
                acc[h] = [_mm256_fmadd_ps(w, r[0], acc[h][0]), _mm256_fmadd_ps(w, r[1], acc[h][1])];
            }
        }
        for (h, acc) in acc.iter().enumerate().take(n) {
            let out = &mut sums[h * dim + at..][..WIDTH];
            out[..LANES].copy_from_slice(&values(acc[0]));
            out[LANES..].copy_from_slice(&values(acc[1]));
        }
    }
}

/// The [`WIDTH`] values of a row from `at` on.
#[target_feature(enable = "avx2,fma")]
fn piece(row: &[f32], at: usize) -> [__m256; 2] {
    let (whole, _) = row[at..at + WIDTH].as_chunks::<LANES>();
    [load(&whole[0]), load(&whole[1])]
}

/// The first `n` pieces of eight values.
#[target_feature(enable = "avx2,fma")]
fn pieces(x: &[f32], n: usize) -> &[[f32; LANES]] {
    &x.as_chunks::<LANES>().0[..n]
}

#[target_feature(enable = "avx2,fma")]
fn load(v: &[f32; LANES]) -> __m256 {
    // SAFETY: both are eight values of f32, without any other meaning of their bits.
    unsafe { std::mem::transmute::<[f32; LANES], __m256>(*v) }
}

#[target_feature(enable = "avx2,fma")]
fn values(v: __m256) -> [f32; LANES] {
    // SAFETY: as above.
    unsafe { std::mem::transmute::<__m256, [f32; LANES]>(v) }
}
