//! Rows of a matrix rearranged for many tokens: unpacked once, multiplied many times.
//!
//! A panel holds `L` rows, one per lane of a vector register of 32-bit sums. Four consecutive
//! weights of a row lie side by side, so one broadcast of four activation bytes meets four weights
//! of every row.

use ds4_gguf::TensorType;
use ds4_gguf::block::{Block, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::e8m0_half;

use super::unpack;

/// `L` unpacked rows; which parts are used depends on the format. Values of all rows for the same
/// place in a row are adjacent.
#[derive(Default)]
pub(super) struct Panel<const L: usize> {
    /// `[cols / 4][L][4]` weights.
    pub q: Vec<[[i8; 4]; L]>,
    /// `[cols / sub-block][L]` integer scales, times the multiplier asked for.
    pub scale: Vec<[i32; L]>,
    /// `[cols / 32][L]` minima of two sub-blocks of 16: the first in the low 16 bits.
    pub mins: Vec<[i32; L]>,
    /// `[cols / 32][L]` sums of the weights.
    pub sums: Vec<[i32; L]>,
    /// `[blocks][L]` scales.
    pub d: Vec<[f32; L]>,
    /// `[blocks][L]` scales of the minima.
    pub dmin: Vec<[f32; L]>,
}

impl<const L: usize> Panel<L> {
    /// Takes over `rows` of `cols` columns. Integer scales are multiplied by `times`: 1, or
    /// 0x10001 to have them in both halves of 32 bits.
    pub(super) fn fill(&mut self, ty: TensorType, rows: &[&[u8]; L], cols: usize, times: i32) {
        self.q.resize(cols / 4, [[0; 4]; L]);
        self.sums.resize(cols / 32, [0; L]);
        match ty {
            TensorType::Q8_0 => self.fill_q8_0(rows),
            TensorType::Mxfp4 => self.fill_mxfp4(rows),
            TensorType::Iq2Xxs => self.fill_iq2_xxs(rows, times),
            TensorType::Q2K => self.fill_q2_k(rows, times),
            TensorType::Q4K => self.fill_q4_k(rows, times),
            _ => unreachable!("panels are for quantised weights"),
        }
    }

    /// Room for one scale per `sub` columns, for minima if `mins`, and `n` blocks.
    fn grow(&mut self, n: usize, subs: usize, mins: bool) {
        self.d.resize(n, [0.0; L]);
        self.scale.resize(n * subs, [0; L]);
        if mins {
            self.dmin.resize(n, [0.0; L]);
            self.mins.resize(n * 8, [0; L]);
        }
    }

    /// Writes 32 weights of lane `r` at block of 32 number `i`, and their sum.
    #[inline(always)]
    fn put32(&mut self, r: usize, i: usize, w: &[i8; 32]) {
        let quads: &mut [[[i8; 4]; L]; 8] =
            self.q[8 * i..8 * i + 8].as_mut_array().expect("8 quads");
        for (quad, w) in quads.iter_mut().zip(w.as_chunks::<4>().0) {
            quad[r] = *w;
        }
    }

    fn fill_q8_0(&mut self, rows: &[&[u8]; L]) {
        for (r, row) in rows.iter().enumerate() {
            let row = blocks::<Q8_0>(row);
            self.grow(row.len(), 0, false);
            for (i, b) in row.iter().enumerate() {
                self.put32(r, i, &b.q);
                self.sums[i][r] = b.q.iter().map(|q| i32::from(*q)).sum();
                self.d[i][r] = b.d.get();
            }
        }
    }

    fn fill_mxfp4(&mut self, rows: &[&[u8]; L]) {
        let mut w = [0; 32];
        for (r, row) in rows.iter().enumerate() {
            let row = blocks::<Mxfp4>(row);
            self.grow(row.len(), 0, false);
            for (i, b) in row.iter().enumerate() {
                unpack::mxfp4(b, &mut w);
                self.put32(r, i, &w);
                self.sums[i][r] = w.iter().map(|q| i32::from(*q)).sum();
                self.d[i][r] = e8m0_half(b.e);
            }
        }
    }

    /// Calls `put` for every block of every row.
    fn each<B: Block>(
        &mut self,
        rows: &[&[u8]; L],
        mut put: impl FnMut(&mut Self, usize, usize, &B, &mut [i8; 256]),
    ) {
        let mut w = [0; 256];
        for (r, row) in rows.iter().enumerate() {
            for (i, b) in blocks::<B>(row).iter().enumerate() {
                put(self, r, i, b, &mut w);
                for (k, w) in w.as_chunks::<32>().0.iter().enumerate() {
                    self.put32(r, 8 * i + k, w);
                }
            }
        }
    }

    fn fill_iq2_xxs(&mut self, rows: &[&[u8]; L], times: i32) {
        self.grow(self.q.len() / 64, 8, false);
        self.each::<Iq2Xxs>(rows, |p, r, i, b, w| {
            let mut scales = [0; 8];
            unpack::iq2_xxs(b, w, &mut scales);
            for (k, w) in w.as_chunks::<32>().0.iter().enumerate() {
                p.scale[8 * i + k][r] = i32::from(scales[k]) * times;
                p.sums[8 * i + k][r] = w.iter().map(|q| i32::from(*q)).sum();
            }
            p.d[i][r] = b.d.get() * 0.125;
        });
    }

    fn fill_q2_k(&mut self, rows: &[&[u8]; L], times: i32) {
        self.grow(self.q.len() / 64, 16, true);
        self.each::<Q2K>(rows, |p, r, i, b, w| {
            unpack::q2_k(b, w);
            for (k, s) in b.scales.as_chunks::<2>().0.iter().enumerate() {
                p.scale[16 * i + 2 * k][r] = i32::from(s[0] & 15) * times;
                p.scale[16 * i + 2 * k + 1][r] = i32::from(s[1] & 15) * times;
                p.mins[8 * i + k][r] = i32::from(s[0] >> 4) | i32::from(s[1] >> 4) << 16;
            }
            p.d[i][r] = b.d.get();
            p.dmin[i][r] = b.dmin.get();
        });
    }

    fn fill_q4_k(&mut self, rows: &[&[u8]; L], times: i32) {
        self.grow(self.q.len() / 64, 8, true);
        self.each::<Q4K>(rows, |p, r, i, b, w| {
            unpack::q4_k(b, w);
            for k in 0..8 {
                let (scale, min) = b.scale_min(k);
                p.scale[8 * i + k][r] = i32::from(scale) * times;
                p.mins[8 * i + k][r] = i32::from(min) * 0x10001;
            }
            p.d[i][r] = b.d.get();
            p.dmin[i][r] = b.dmin.get();
        });
    }
}
