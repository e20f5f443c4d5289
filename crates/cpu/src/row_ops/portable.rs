//! The specification of the row products, in plain Rust.

use super::{HEADS, LANES, ROWS, WIDTH, finish};

/// `q_h · rows[j]` of four heads and two rows.
pub(super) fn products(q: &[&[f32]; HEADS], rows: &[&[f32]; ROWS]) -> [[f32; ROWS]; HEADS] {
    q.map(|q| {
        rows.map(|row| {
            let mut acc = [0.0; LANES];
            for (q, r) in q.as_chunks::<LANES>().0.iter().zip(row.as_chunks::<LANES>().0) {
                for l in 0..LANES {
                    acc[l] += q[l] * r[l];
                }
            }
            finish(acc, q, row)
        })
    })
}

/// Adds the weighted rows to up to four heads, in whole pieces of [`WIDTH`] values.
pub(super) fn add_rows(sums: &mut [f32], rows: &[&[f32]], weights: &[&[f32]; HEADS]) {
    for (sums, weights) in sums.chunks_exact_mut(rows[0].len()).zip(weights) {
        for (row, weight) in rows.iter().zip(*weights) {
            let pieces = sums.as_chunks_mut::<WIDTH>().0.iter_mut();
            for (sums, row) in pieces.zip(row.as_chunks::<WIDTH>().0) {
                for l in 0..WIDTH {
                    sums[l] += weight * row[l];
                }
            }
        }
    }
}
