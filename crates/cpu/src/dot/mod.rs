//! Matrix products over quantised rows: the choice of instruction set and of kernel.
//!
//! `scalar` is the specification; every other module computes the same sums with the vector
//! instructions its name says. A kernel gets a [`Tile`]: some consecutive rows of a matrix and
//! some tokens. It knows nothing of threads, jobs or the model.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod out;
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "kernels with panels are of other processors")
)]
mod panel;
mod peak;
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "kernels of eight rows are of other processors")
)]
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod unpack;

use ds4_gguf::TensorType;

use crate::acts::{ActForm, Acts};
pub use isa::Isa;
pub(crate) use out::Out;
pub(crate) use peak::{Instruction, instructions};

/// Rows of one matrix times chosen tokens of one activation set.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Storage format of the rows.
    pub ty: TensorType,
    /// The rows, contiguous.
    pub w: &'a [u8],
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Input columns.
    pub cols: usize,
    /// Activations.
    pub x: &'a Acts,
    /// Which form of them the product reads.
    pub form: ActForm,
    /// Which of them.
    pub toks: Toks<'a>,
    /// Where the result goes, one entry per row and token.
    pub out: Out<'a>,
}

/// A choice of rows of an activation set.
#[derive(Clone, Copy)]
pub(crate) struct Toks<'a> {
    /// Tokens in order; `None` means all.
    pub list: Option<&'a [u32]>,
    /// How many of them are left out at the beginning.
    pub first: usize,
    /// Activation rows per token.
    pub groups: usize,
    /// Which of them.
    pub group: usize,
    /// Number of tokens.
    pub n: usize,
}

impl Toks<'_> {
    /// The activation row of token `t`.
    pub(crate) fn row(&self, t: usize) -> usize {
        let t = self.first + t;
        self.list.map_or(t, |l| l[t] as usize) * self.groups + self.group
    }
}

/// Rows of a panel of integer weights.
pub(crate) const PANEL_ROWS: usize = panel::ROWS;

/// Whole multiples of so many rows waste nothing with `n` tokens.
pub(crate) fn rows_together(ty: TensorType, form: ActForm, n: usize) -> usize {
    use TensorType as T;
    match (ty, form) {
        (T::Q8_0, ActForm::Q8_0 | ActForm::Q8K)
        | (T::Mxfp4 | T::Q2K | T::Q4K | T::Iq2Xxs, ActForm::Q8K) => {
            if n < FEW {
                LANES
            } else {
                PANEL_ROWS
            }
        }
        _ => dense::ROWS,
    }
}

/// Fewer tokens than this get row kernels with every instruction set.
const FEW: usize = 5;

/// Rows that row kernels compute together.
const LANES: usize = 8;

impl<'a> Tile<'a> {
    /// Rows in the tile.
    fn rows(&self) -> usize {
        self.w.len() / self.row_bytes
    }

    /// Row `r`.
    fn row(&self, r: usize) -> &'a [u8] {
        &self.w[r * self.row_bytes..(r + 1) * self.row_bytes]
    }

    /// `L` rows from `first` on; past the last row, that one again.
    fn lanes<const L: usize>(&self, first: usize) -> [&'a [u8]; L] {
        let last = self.rows() - 1;
        std::array::from_fn(|i| self.row((first + i).min(last)))
    }
}

/// `out(r, t) = Σ_c w[r,c] · x[toks.row(t),c]`.
///
/// Every instruction set gives the same bits, for any number of rows and tokens: integer sums of a
/// block are exact; blocks are added in order, each by one fused multiply-add,
/// `y ← s·(d_w·d_x) + y`, and with minima `y ← (d_w·s − dmin·m)·d_x + y`; f32 products go to 16
/// sums, column `c` to sum `c mod 16`, which are added up in halves.
pub(crate) fn tile(isa: Isa, t: &Tile<'_>) {
    debug_assert!(isa.is_available());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: callers pass an instruction set that this processor has.
        Isa::Avx2 => unsafe { avx2::tile(t) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::tile(t) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { neon::tile::<false>(t) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDot => unsafe { neon::tile::<true>(t) },
        _ => scalar::tile(t),
    }
}
