//! The walk over rows and tokens that row kernels share.

use super::Tile;
use crate::acts::{ActForm, Acts, Quant};

/// One row times `N` tokens.
///
/// Unsafe to call: the processor must have what the kernel was compiled for.
pub(super) type RowFn<const N: usize> = unsafe fn(&[u8], &[Quant<'_>; N]) -> [f32; N];

/// A kernel for each number of tokens that share one pass over a row.
pub(super) struct RowKernel {
    /// One token.
    pub one: RowFn<1>,
    /// Two tokens.
    pub two: RowFn<2>,
    /// Four tokens.
    pub four: RowFn<4>,
}

/// Tokens whose activations are looked up together.
const BATCH: usize = 16;

/// Computes the tile with `kernel`.
///
/// # Safety
/// The processor has the instructions the kernel was compiled for.
pub(super) unsafe fn rows(t: &Tile<'_>, kernel: &RowKernel) {
    for first in (0..t.toks.n).step_by(BATCH) {
        let n = (t.toks.n - first).min(BATCH);
        let x: [Quant<'_>; BATCH] = std::array::from_fn(|i| {
            // Entries past `n` repeat the last token and are not used.
            let row = t.toks.row(first + i.min(n - 1));
            quant(t.x, t.form, row)
        });
        for (r, row) in t.w.chunks_exact(t.row_bytes).enumerate() {
            let mut at = 0;
            let mut put = |y: &[f32]| {
                for y in y {
                    t.out.set(r, first + at, *y);
                    at += 1;
                }
            };
            let (fours, rest) = x[..n].as_chunks::<4>();
            let (twos, ones) = rest.as_chunks::<2>();
            // SAFETY: passed on to the caller.
            unsafe {
                fours.iter().for_each(|x| put(&(kernel.four)(row, x)));
                twos.iter().for_each(|x| put(&(kernel.two)(row, x)));
                ones.iter().for_each(|x| put(&(kernel.one)(row, &[*x])));
            }
        }
    }
}

/// Row `row` in a quantised form.
pub(super) fn quant(x: &Acts, form: ActForm, row: usize) -> Quant<'_> {
    match form {
        ActForm::Q8_0 => x.q8_0(row),
        ActForm::Q8K => x.q8_k(row),
        ActForm::F32 => unreachable!("row kernels read quantised activations"),
    }
}
