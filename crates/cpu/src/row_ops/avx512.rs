//! The row products with AVX-512: two rows to a register, four rows for four heads.
//!
//! The sums and their order are those of [`super::portable`]; sixteen of them are added up at once.
//!
//! Contains `unsafe`: loads and stores.

use std::arch::x86_64::{
    __m256, __m512, _mm256_castps_pd, _mm256_loadu_ps, _mm512_add_ps, _mm512_broadcast_f64x4,
    _mm512_castpd_ps, _mm512_castpd256_pd512, _mm512_castps_pd, _mm512_fmadd_ps,
    _mm512_insertf64x4, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_shuffle_ps, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpacklo_pd,
};

use super::{HEADS, LANES, WIDTH};

/// Rows computed together.
const ROWS: usize = 4;

/// `q_h · rows[j]` of four heads and four rows; see [`super::portable::products`].
#[target_feature(enable = "avx512f")]
pub(super) fn products(q: &[&[f32]; HEADS], rows: &[&[f32]; ROWS]) -> [[f32; ROWS]; HEADS] {
    let n = rows[0].len() / LANES;
    // Slices of one known length each, so that the loop has no bounds checks.
    let mut q8: [&[[f32; LANES]]; HEADS] = [&[]; HEADS];
    let mut r8: [&[[f32; LANES]]; ROWS] = [&[]; ROWS];
    for h in 0..HEADS {
        q8[h] = &q[h].as_chunks::<LANES>().0[..n];
    }
    for j in 0..ROWS {
        r8[j] = &rows[j].as_chunks::<LANES>().0[..n];
    }
    let mut acc = [[_mm512_setzero_ps(); 2]; HEADS];
    for i in 0..n {
        let r = [both(&r8[0][i], &r8[1][i]), both(&r8[2][i], &r8[3][i])];
        for h in 0..HEADS {
            let q = twice(&q8[h][i]);
            acc[h] = [_mm512_fmadd_ps(q, r[0], acc[h][0]), _mm512_fmadd_ps(q, r[1], acc[h][1])];
        }
    }
    let mut out = sums(&acc);
    let whole = n * LANES;
    if whole < rows[0].len() {
        for (out, q) in out.iter_mut().zip(q) {
            for (out, row) in out.iter_mut().zip(rows) {
                let rest = q[whole..].iter().zip(&row[whole..]);
                *out += rest.map(|(q, r)| q * r).sum::<f32>();
            }
        }
    }
    out
}

/// The sums of the halves of every register, in the order of [`super::finish`].
#[target_feature(enable = "avx512f")]
fn sums(acc: &[[__m512; 2]; HEADS]) -> [[f32; ROWS]; HEADS] {
    // Per head, a row in each 128 bits: values 0 to 3 plus values 4 to 7.
    let mut fours = [_mm512_setzero_ps(); HEADS];
    for (f, [a, b]) in fours.iter_mut().zip(acc) {
        let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(*a, *b);
        let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(*a, *b);
        *f = _mm512_add_ps(low, high);
    }
    let twos = |x: __m512, y: __m512| {
        let (x, y) = (_mm512_castps_pd(x), _mm512_castps_pd(y));
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
        _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)))
    };
    let (x, y) = (twos(fours[0], fours[1]), twos(fours[2], fours[3]));
    let even = _mm512_shuffle_ps::<0b10_00_10_00>(x, y);
    let odd = _mm512_shuffle_ps::<0b11_01_11_01>(x, y);
    // A row in each 128 bits, a head in each lane.
    let mut by_row = [0.0; ROWS * HEADS];
    // SAFETY: 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(by_row.as_mut_ptr(), _mm512_add_ps(even, odd)) };
    let mut out = [[0.0; ROWS]; HEADS];
    for (j, row) in by_row.as_chunks::<HEADS>().0.iter().enumerate() {
        for (out, sum) in out.iter_mut().zip(row) {
            out[j] = *sum;
        }
    }
    out
}

/// Adds the weighted rows to up to four heads; see [`super::portable::add_rows`].
#[target_feature(enable = "avx512f")]
pub(super) fn add_rows(sums: &mut [f32], rows: &[&[f32]], weights: &[&[f32]; HEADS]) {
    let whole = rows[0].len() / WIDTH * WIDTH;
    let pairs = whole / (2 * WIDTH) * (2 * WIDTH);
    for at in (0..pairs).step_by(2 * WIDTH) {
        add_pieces::<2>(sums, rows, weights, at);
    }
    if pairs < whole {
        add_pieces::<1>(sums, rows, weights, pairs);
    }
}

/// `V` pieces of [`WIDTH`] values from `at` on.
#[target_feature(enable = "avx512f")]
fn add_pieces<const V: usize>(
    sums: &mut [f32],
    rows: &[&[f32]],
    weights: &[&[f32]; HEADS],
    at: usize,
) {
    let (dim, k) = (rows[0].len(), rows.len());
    let weights = [&weights[0][..k], &weights[1][..k], &weights[2][..k], &weights[3][..k]];
    let mut acc = [[_mm512_setzero_ps(); V]; HEADS];
    for (acc, sums) in acc.iter_mut().zip(sums.chunks_exact(dim)) {
        for (acc, v) in acc.iter_mut().zip(sums[at..].as_chunks::<WIDTH>().0) {
            *acc = load16(v);
        }
    }
    for (j, row) in rows.iter().enumerate() {
        let mut r = [_mm512_setzero_ps(); V];
        for (r, v) in r.iter_mut().zip(row[at..at + V * WIDTH].as_chunks::<WIDTH>().0) {
            *r = load16(v);
        }
        for h in 0..HEADS {
            let w = _mm512_set1_ps(weights[h][j]);
            for v in 0..V {
                acc[h][v] = _mm512_fmadd_ps(w, r[v], acc[h][v]);
            }
        }
    }
    for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(dim)) {
        for (acc, v) in acc.iter().zip(sums[at..].as_chunks_mut::<WIDTH>().0) {
            // SAFETY: 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(v.as_mut_ptr(), *acc) };
        }
    }
}

/// Sixteen values.
#[target_feature(enable = "avx512f")]
fn load16(v: &[f32; WIDTH]) -> __m512 {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(v.as_ptr()) }
}

/// Two rows' values.
#[target_feature(enable = "avx512f")]
fn both(low: &[f32; LANES], high: &[f32; LANES]) -> __m512 {
    let low = _mm512_castpd256_pd512(_mm256_castps_pd(load(low)));
    _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(load(high))))
}

/// The same values twice.
#[target_feature(enable = "avx512f")]
fn twice(v: &[f32; LANES]) -> __m512 {
    _mm512_castpd_ps(_mm512_broadcast_f64x4(_mm256_castps_pd(load(v))))
}

#[target_feature(enable = "avx512f")]
fn load(v: &[f32; LANES]) -> __m256 {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(v.as_ptr()) }
}
