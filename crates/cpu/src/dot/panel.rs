//! Rows of a matrix rearranged for many tokens: unpacked once, multiplied many times.
//!
//! A panel holds `L` rows, one per lane of a vector register of 32-bit sums. Four consecutive
//! weights of a row lie side by side, so one broadcast of four activation bytes meets four weights
//! of every row.

use ds4_gguf::TensorType;
use ds4_gguf::block::{Block, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::e8m0_half;

use super::unpack;

/// Four weights of each of `L` rows.
pub(super) type Quad<const L: usize> = [[i8; 4]; L];

/// `L` unpacked rows; which parts are used depends on the format. Values of all rows for the same
/// place in a row are adjacent.
#[derive(Default)]
pub(super) struct Panel<const L: usize> {
    /// `[cols / 4]` weights.
    pub q: Vec<Quad<L>>,
    /// `[cols / sub-block]` integer scales, times the multiplier asked for.
    pub scale: Vec<[i32; L]>,
    /// `[cols / 32]` minima of two sub-blocks of 16: the first in the low 16 bits.
    pub mins: Vec<[i32; L]>,
    /// `[cols / 32]` sums of the weights, for formats with signed weights.
    pub sums: Vec<[i32; L]>,
    /// `[blocks]` scales.
    pub d: Vec<[f32; L]>,
    /// `[blocks]` scales of the minima.
    pub dmin: Vec<[f32; L]>,
}

/// How an instruction set lays rows into a panel.
pub(super) trait Layout<const L: usize> {
    /// Integer scales are multiplied by this: 1, or 0x10001 to have them in both halves.
    const TIMES: i32;
    /// [`Panel::sums`] are wanted.
    const SUMS: bool;
    /// Turns 32 weights of each row into 8 quads.
    fn transpose(rows: &[&[i8; 32]; L], quads: &mut [Quad<L>; 8]);
}

impl<const L: usize> Panel<L> {
    /// Takes over `rows` of `cols` columns.
    #[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
    #[inline(always)]
    pub(super) fn fill<Y: Layout<L>>(&mut self, ty: TensorType, rows: &[&[u8]; L], cols: usize) {
        self.q.resize(cols / 4, [[0; 4]; L]);
        match ty {
            TensorType::Q8_0 => {
                self.fill_blocks::<Y, Q8_0, 32>(rows, 0, |p, r, i, b, w| {
                    *w = b.q;
                    p.d[i][r] = b.d.get();
                });
            }
            TensorType::Mxfp4 => {
                self.fill_blocks::<Y, Mxfp4, 32>(rows, 0, |p, r, i, b, w| {
                    unpack::mxfp4(b, w);
                    p.d[i][r] = e8m0_half(b.e);
                });
            }
            TensorType::Iq2Xxs => {
                self.fill_blocks::<Y, Iq2Xxs, 256>(rows, 8, |p, r, i, b, w| {
                    let mut scales = [0; 8];
                    unpack::iq2_xxs(b, w, &mut scales);
                    for (k, s) in scales.into_iter().enumerate() {
                        p.scale[8 * i + k][r] = i32::from(s) * Y::TIMES;
                    }
                    p.d[i][r] = b.d.get() * 0.125;
                });
            }
            TensorType::Q2K => self.fill_blocks::<Y, Q2K, 256>(rows, 16, |p, r, i, b, w| {
                unpack::q2_k(b, w);
                for (k, s) in b.scales.as_chunks::<2>().0.iter().enumerate() {
                    p.scale[16 * i + 2 * k][r] = i32::from(s[0] & 15) * Y::TIMES;
                    p.scale[16 * i + 2 * k + 1][r] = i32::from(s[1] & 15) * Y::TIMES;
                    p.mins[8 * i + k][r] = i32::from(s[0] >> 4) | i32::from(s[1] >> 4) << 16;
                }
                (p.d[i][r], p.dmin[i][r]) = (b.d.get(), b.dmin.get());
            }),
            TensorType::Q4K => self.fill_blocks::<Y, Q4K, 256>(rows, 8, |p, r, i, b, w| {
                unpack::q4_k(b, w);
                for k in 0..8 {
                    let (scale, min) = b.scale_min(k);
                    p.scale[8 * i + k][r] = i32::from(scale) * Y::TIMES;
                    p.mins[8 * i + k][r] = i32::from(min) * 0x10001;
                }
                (p.d[i][r], p.dmin[i][r]) = (b.d.get(), b.dmin.get());
            }),
            _ => unreachable!("panels are for quantised weights"),
        }
    }

    /// `each` unpacks block `i` of row `r` and stores its scales, of which there are `subs`.
    #[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
    #[inline(always)]
    fn fill_blocks<Y: Layout<L>, B: Block, const W: usize>(
        &mut self,
        rows: &[&[u8]; L],
        subs: usize,
        each: impl Fn(&mut Self, usize, usize, &B, &mut [i8; W]),
    ) {
        let rows = rows.map(|row| blocks::<B>(row));
        let n = rows[0].len();
        self.d.resize(n, [0.0; L]);
        self.scale.resize(n * subs, [0; L]);
        self.dmin.resize(n, [0.0; L]);
        self.mins.resize(n * W / 32, [0; L]);
        self.sums.resize(n * W / 32, [0; L]);
        let mut w = [[0; W]; L];
        for i in 0..n {
            for (r, row) in rows.iter().enumerate() {
                each(self, r, i, &row[i], &mut w[r]);
            }
            let (quads, _) = self.q[i * W / 4..(i + 1) * W / 4].as_chunks_mut::<8>();
            for (k, quads) in quads.iter_mut().enumerate() {
                let part: [&[i8; 32]; L] = std::array::from_fn(|r| &w[r].as_chunks::<32>().0[k]);
                Y::transpose(&part, quads);
                if Y::SUMS {
                    let sum = |w: &[i8; 32]| w.iter().map(|w| i32::from(*w)).sum();
                    self.sums[i * W / 32 + k] = part.map(sum);
                }
            }
        }
    }
}
