//! The walk over rows and tokens that row kernels share.

use super::{LANES, Tile};
use crate::acts::{ActForm, Acts, Quant};

/// Some rows times `N` tokens.
///
/// Unsafe to call: the processor must have what the kernel was compiled for.
pub(super) type RowsFn<const N: usize> =
    unsafe fn(&[&[u8]; LANES], &[Quant<'_>; N]) -> [[f32; LANES]; N];

/// A kernel for each number of tokens that share one pass over the rows.
pub(super) struct RowKernel {
    /// One token.
    pub one: RowsFn<1>,
    /// Two tokens.
    pub two: RowsFn<2>,
    /// Four tokens, where there are registers enough.
    pub four: Option<RowsFn<4>>,
}

/// Computes the tile with `kernel`.
///
/// # Safety
/// The processor has the instructions the kernel was compiled for.
pub(super) unsafe fn rows(t: &Tile<'_>, kernel: &RowKernel) {
    for first in (0..t.rows()).step_by(LANES) {
        let rows = t.lanes(first);
        let n = (t.rows() - first).min(LANES);
        let put = |tok: usize, y: &[f32; LANES]| t.out.set_rows(first, tok, &y[..n]);
        let x = |tok: usize| quant(t.x, t.form, t.toks.row(tok));
        let mut tok = 0;
        while let (Some(four), true) = (kernel.four, tok + 4 <= t.toks.n) {
            // SAFETY: passed on to the caller.
            let y = unsafe { four(&rows, &[x(tok), x(tok + 1), x(tok + 2), x(tok + 3)]) };
            for (k, y) in y.iter().enumerate() {
                put(tok + k, y);
            }
            tok += 4;
        }
        while tok + 2 <= t.toks.n {
            // SAFETY: passed on to the caller.
            let y = unsafe { (kernel.two)(&rows, &[x(tok), x(tok + 1)]) };
            put(tok, &y[0]);
            put(tok + 1, &y[1]);
            tok += 2;
        }
        if tok < t.toks.n {
            // SAFETY: passed on to the caller.
            put(tok, &unsafe { (kernel.one)(&rows, &[x(tok)]) }[0]);
        }
    }
}

/// Row `row` in a quantised form.
#[inline]
pub(super) fn quant(x: &Acts, form: ActForm, row: usize) -> Quant<'_> {
    match form {
        ActForm::Q8_0 => x.q8_0(row),
        ActForm::Q8K => x.q8_k(row),
        ActForm::F32 => unreachable!("integer kernels read quantised activations"),
    }
}
