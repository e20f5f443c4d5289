//! Products of several heads with several f32 rows: the inner loops of attention and of the
//! indexer, blocked so that a row in a register serves four heads.
//!
//! Every sum has a fixed order of its own, so a head's result does not depend on the heads and rows
//! computed beside it.
//!
//! Contains `unsafe`: calls of functions compiled for more than the baseline.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::dot::Isa;

/// Heads computed together.
const HEADS: usize = 4;
/// Rows computed together.
const ROWS: usize = 2;
/// Partial sums of a product: value `d` goes to sum `d mod 8`.
const LANES: usize = 8;
/// Values of an output computed together.
const WIDTH: usize = 2 * LANES;

/// `out[h · stride + j] = scale · (q_h · rows[j])` for every head of `q`, of the rows' length each.
pub(crate) fn scores(q: &[f32], rows: &[&[f32]], scale: f32, out: &mut [f32], stride: usize) {
    products(q, rows, |h, j, dot| out[h * stride + j] = dot * scale);
}

/// `out[j] = Σ_h weights[h] · max(0, q_h · rows[j])` (§2.8).
pub(crate) fn relu_scores(q: &[f32], weights: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    out.fill(0.0);
    products(q, rows, |h, j, dot| out[j] += weights[h] * dot.max(0.0));
}

/// Calls `put(h, j, q_h · rows[j])` for every head and row; for a row, heads come in order.
fn products(q: &[f32], rows: &[&[f32]], put: impl FnMut(usize, usize, f32)) {
    match Isa::current() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::current` is one that this processor has.
        Isa::Avx512 => blocks(q, rows, |q, rows| unsafe { avx512::products(q, rows) }, put),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => blocks(q, rows, |q, rows| unsafe { avx2::products(q, rows) }, put),
        _ => blocks(q, rows, portable::products, put),
    }
}

/// The products of all heads and rows, [`HEADS`] times `R` at a time.
fn blocks<const R: usize>(
    q: &[f32],
    rows: &[&[f32]],
    products: impl Fn(&[&[f32]; HEADS], &[&[f32]; R]) -> [[f32; R]; HEADS],
    mut put: impl FnMut(usize, usize, f32),
) {
    let Some(dim) = rows.first().map(|row| row.len()) else { return };
    for (b, block) in q.chunks(HEADS * dim).enumerate() {
        let n = block.len() / dim;
        // Past the last head, and the last row, it is computed once more and not used.
        let heads = std::array::from_fn(|h| &block[h.min(n - 1) * dim..][..dim]);
        for (r, some) in rows.chunks(R).enumerate() {
            let found = products(&heads, &std::array::from_fn(|j| some[j.min(some.len() - 1)]));
            for (h, found) in found.iter().enumerate().take(n) {
                for (j, dot) in found.iter().enumerate().take(some.len()) {
                    put(b * HEADS + h, r * R + j, *dot);
                }
            }
        }
    }
}

/// `sums_h += Σ_j weights[h · stride + j] · rows[j]` for every head of `sums`.
pub(crate) fn add_rows(sums: &mut [f32], rows: &[&[f32]], weights: &[f32], stride: usize) {
    let Some(dim) = rows.first().map(|row| row.len()) else { return };
    let isa = Isa::current();
    for (b, block) in sums.chunks_mut(HEADS * dim).enumerate() {
        let n = block.len() / dim;
        let first = |h: usize| (b * HEADS + h.min(n - 1)) * stride;
        let weights = std::array::from_fn(|h| &weights[first(h)..][..rows.len()]);
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::current` is one that this processor has.
            Isa::Avx2 => unsafe { avx2::add_rows(block, rows, &weights) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { avx512::add_rows(block, rows, &weights) },
            _ => portable::add_rows(block, rows, &weights),
        }
        for (sums, weights) in block.chunks_exact_mut(dim).zip(weights) {
            for (d, sum) in sums.iter_mut().enumerate().skip(dim / WIDTH * WIDTH) {
                for (row, weight) in rows.iter().zip(weights) {
                    *sum += weight * row[d];
                }
            }
        }
    }
}

/// Sum of eight values, halves first, and of the products that no lane took.
fn finish(v: [f32; LANES], q: &[f32], row: &[f32]) -> f32 {
    let f: [f32; 4] = std::array::from_fn(|i| v[i] + v[i + 4]);
    let whole = row.len() / LANES * LANES;
    let rest: f32 = q[whole..].iter().zip(&row[whole..]).map(|(q, r)| q * r).sum();
    (f[0] + f[2]) + (f[1] + f[3]) + rest
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    fn near(found: f32, expected: f64, what: &str) {
        assert!((f64::from(found) - expected).abs() < 1e-5, "{what}: {found}, expected {expected}");
    }

    /// Calls `test` with every instruction set of the processor; it is chosen for the whole
    /// process, so one test at a time.
    fn with_every_isa(test: fn()) {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        for isa in Isa::available() {
            Isa::select(isa);
            test();
        }
    }

    #[test]
    fn all_sizes_equal_the_plain_sums() {
        with_every_isa(all_sizes);
    }

    fn all_sizes() {
        for (heads, n, dim) in [(1, 1, 8), (4, 2, 64), (5, 3, 20), (7, 9, 96), (64, 33, 19)] {
            let what = format!("{heads} heads, {n} rows of {dim}");
            let (q, r, w) = (noise(heads * dim, 1), noise(n * dim, 2), noise(heads * n, 3));
            let rows: Vec<&[f32]> = r.chunks(dim).collect();
            let mut out = vec![0.0; heads * n];
            scores(&q, &rows, 0.5, &mut out, n);
            let mut relu = vec![0.0; n];
            relu_scores(&q, &w[..heads], &rows, &mut relu);
            let mut sums = noise(heads * dim, 4);
            let before = sums.clone();
            add_rows(&mut sums, &rows, &w, n);
            for h in 0..heads {
                let head = &q[h * dim..][..dim];
                for j in 0..n {
                    near(out[h * n + j], 0.5 * dot(head, rows[j]), &what);
                }
                for d in 0..dim {
                    let column: Vec<f32> = rows.iter().map(|r| r[d]).collect();
                    let expected = f64::from(before[h * dim + d]) + dot(&w[h * n..][..n], &column);
                    near(sums[h * dim + d], expected, &what);
                }
            }
            for j in 0..n {
                let part = |h: usize| f64::from(w[h]) * dot(&q[h * dim..][..dim], rows[j]).max(0.0);
                near(relu[j], (0..heads).map(part).sum(), &what);
            }
        }
    }

    /// A head alone and a row alone give the bits they give in company.
    #[test]
    fn neighbours_do_not_matter() {
        with_every_isa(neighbours);
    }

    fn neighbours() {
        let (heads, n, dim) = (6, 5, 40);
        let (q, r, w) = (noise(heads * dim, 5), noise(n * dim, 6), noise(heads * n, 7));
        let rows: Vec<&[f32]> = r.chunks(dim).collect();
        let (mut all, mut sums) = (vec![0.0; heads * n], vec![0.0; heads * dim]);
        scores(&q, &rows, 1.0, &mut all, n);
        add_rows(&mut sums, &rows, &w, n);
        for h in 0..heads {
            let mut own = vec![0.0; dim];
            for j in 0..n {
                let mut one = [0.0];
                scores(&q[h * dim..][..dim], &rows[j..=j], 1.0, &mut one, 1);
                assert_eq!(one[0].to_bits(), all[h * n + j].to_bits());
                add_rows(&mut own, &rows[j..=j], &w[h * n + j..=h * n + j], 1);
            }
            let same = own.iter().zip(&sums[h * dim..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "head {h}");
        }
    }
}
