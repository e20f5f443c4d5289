//! Products in f32: plain matrices in every form, and any matrix in plain mode.
//!
//! This file is the walk over rows and tokens; the sums are made by a [`DenseKernel`].

use std::cell::RefCell;

use ds4_gguf::TensorType;

use super::Tile;
use crate::acts::ActForm;

/// Sums that the columns of a product go to in turn.
pub(super) const SUMS: usize = 16;

/// Adds some columns of `R` rows of plain elements times `T` tokens to their sums.
///
/// Unsafe to call: the processor must have what the kernel was compiled for.
pub(super) type DenseFn<const R: usize, const T: usize> =
    unsafe fn(TensorType, &[&[u8]; R], &[&[f32]; T], &mut [[[f32; SUMS]; T]; R]);

/// Kernels for rows of `F32`, `F16` and `BF16`.
pub(super) struct DenseKernel {
    /// One token.
    pub one: DenseFn<4, 1>,
    /// Two tokens.
    pub two: DenseFn<2, 2>,
    /// Four tokens.
    pub many: DenseFn<3, TOKENS>,
}

/// Tokens that share a pass over rows in registers.
const TOKENS: usize = 4;

/// Columns of rows and tokens that the first-level cache holds.
const COLS: usize = 512;

/// Rows that are kept in a near cache while all tokens pass: a multiple of those of every kernel.
pub(super) const ROWS: usize = 12;

/// Rows and activations that had to be dequantised first.
#[derive(Default)]
struct Scratch {
    /// Rows as the bytes of f32.
    w: Vec<u8>,
    /// One row.
    row: Vec<f32>,
    /// Activations of some tokens.
    x: [Vec<f32>; TOKENS],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes the tile with `kernel`.
///
/// # Safety
/// The processor has the instructions the kernel was compiled for.
pub(super) unsafe fn tile(t: &Tile<'_>, kernel: &DenseKernel) {
    SCRATCH.with_borrow_mut(|s| {
        for first in (0..t.rows()).step_by(ROWS) {
            let n = (t.rows() - first).min(ROWS);
            let Scratch { w, row, x } = &mut *s;
            let plain = matches!(t.ty, TensorType::F32 | TensorType::F16 | TensorType::Bf16);
            let (ty, w, bytes) = if plain {
                (t.ty, &t.w[first * t.row_bytes..][..n * t.row_bytes], t.row_bytes)
            } else {
                dequantise(t, first, n, w, row);
                (TensorType::F32, &w[..n * t.cols * 4], t.cols * 4)
            };
            let rows = Rows { ty, w, bytes, first };
            // SAFETY: passed on to the caller.
            unsafe { tokens(t, kernel, &rows, x) };
        }
    });
}

/// Rows `first..first + n` of the tile as f32 bytes.
fn dequantise(t: &Tile<'_>, first: usize, n: usize, w: &mut Vec<u8>, row: &mut Vec<f32>) {
    row.resize(t.cols, 0.0);
    w.resize(w.len().max(ROWS * t.cols * 4), 0);
    for (r, w) in w.chunks_exact_mut(t.cols * 4).take(n).enumerate() {
        ds4_gguf::dequantize_row(t.ty, t.row(first + r), row);
        for (w, v) in w.as_chunks_mut::<4>().0.iter_mut().zip(&*row) {
            *w = v.to_le_bytes();
        }
    }
}

/// Some rows of plain elements; the first is row `first` of the tile.
struct Rows<'a> {
    ty: TensorType,
    w: &'a [u8],
    bytes: usize,
    first: usize,
}

/// All tokens times these rows.
///
/// # Safety
/// As [`tile`].
unsafe fn tokens(t: &Tile<'_>, kernel: &DenseKernel, rows: &Rows<'_>, x: &mut [Vec<f32>; TOKENS]) {
    let mut at = 0;
    while at < t.toks.n {
        let n = (t.toks.n - at).min(TOKENS);
        if t.form != ActForm::F32 {
            for (k, x) in x.iter_mut().enumerate().take(n) {
                x.resize(t.cols, 0.0);
                t.x.values(t.form, t.toks.row(at + k), 0, x);
            }
        }
        let x = |k: usize| match t.form {
            ActForm::F32 => t.x.row(t.toks.row(at + k)),
            _ => &x[k][..],
        };
        // SAFETY: passed on to the caller.
        unsafe {
            match n {
                1 => part(t, rows, at, kernel.one, &[x(0)]),
                2 => part(t, rows, at, kernel.two, &[x(0), x(1)]),
                // A third token alone is computed beside itself.
                _ => part(t, rows, at, kernel.many, &[x(0), x(1), x(2), x(n - 1)]),
            }
        }
        at += n;
    }
}

/// `T` tokens from `at` on times these rows.
///
/// # Safety
/// As [`tile`].
unsafe fn part<const R: usize, const T: usize>(
    t: &Tile<'_>,
    rows: &Rows<'_>,
    at: usize,
    f: DenseFn<R, T>,
    x: &[&[f32]; T],
) {
    let n = rows.w.len() / rows.bytes;
    let size = rows.bytes / t.cols;
    // A row for a single token is read only once, from front to back.
    let step = if T == 1 { t.cols } else { COLS };
    let mut sums = [[[0.0; SUMS]; T]; ROWS];
    for col in (0..t.cols).step_by(step) {
        let cols = col..(col + step).min(t.cols);
        let x = x.map(|x| &x[cols.clone()]);
        for (r, sums) in (0..n).step_by(R).zip(sums.as_chunks_mut::<R>().0) {
            let w = std::array::from_fn(|i| {
                let row = &rows.w[(r + i).min(n - 1) * rows.bytes..][..rows.bytes];
                &row[cols.start * size..cols.end * size]
            });
            // SAFETY: passed on to the caller.
            unsafe { f(rows.ty, &w, &x, sums) };
        }
    }
    for (r, sums) in sums.iter().enumerate().take(n) {
        for (k, sums) in sums.iter().enumerate().take(t.toks.n - at) {
            t.out.set(rows.first + r, at + k, add_up(*sums));
        }
    }
}

/// The sum of the sums, in halves.
pub(super) fn add_up(mut s: [f32; SUMS]) -> f32 {
    let mut n = SUMS;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            s[i] += s[i + n];
        }
    }
    s[0]
}
