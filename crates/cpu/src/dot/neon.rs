//! NEON kernels, with the dot product instructions where the processor has them.
//!
//! A block of a row is unpacked into bytes once and multiplied with every token of the tile.
//! Without `sdot`, products of bytes are 16-bit numbers: two of them fit when added, and are
//! widened in pairs.
//!
//! Every kernel is written once, for either way.
//!
//! Contains `unsafe`: loads, and the one instruction for which there is no stable function.

use std::arch::aarch64::*;
use std::arch::asm;

use ds4_gguf::TensorType;
use ds4_gguf::block::{Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::e8m0_half;
use half::slice::HalfFloatSliceExt as _;

use super::dense::{self, DenseKernel, SUMS};
use super::rows::quant;
use super::scalar::with_minima;
use super::{Tile, unpack};
use crate::acts::{ActForm, Quant};

/// Tokens that a pass over a row serves.
const TOKENS: usize = 16;

/// Computes the tile, with `sdot` if `DOT`; see [`super::tile`].
///
/// # Safety
/// The processor has NEON, and the dot product instructions if `DOT`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn tile<const DOT: bool>(t: &Tile<'_>) {
    use TensorType as T;
    match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0) => rows(t, |row, x, y| q8_0::<DOT, 32>(row, x, y)),
        (T::Q8_0, ActForm::Q8K) => rows(t, |row, x, y| q8_0::<DOT, 256>(row, x, y)),
        (T::Mxfp4, ActForm::Q8K) => rows(t, |row, x, y| mxfp4::<DOT>(row, x, y)),
        (T::Q2K, ActForm::Q8K) => rows(t, |row, x, y| q2_k::<DOT>(row, x, y)),
        (T::Q4K, ActForm::Q8K) => rows(t, |row, x, y| q4_k::<DOT>(row, x, y)),
        (T::Iq2Xxs, ActForm::Q8K) => rows(t, |row, x, y| iq2_xxs::<DOT>(row, x, y)),
        _ => {
            let kernel = DenseKernel { one: product, two: product, many: product };
            // SAFETY: the kernels demand nothing of the processor.
            unsafe { dense::tile(t, &kernel) }
        }
    }
}

/// Calls `dot(row, tokens, sums)` for every row and up to [`TOKENS`] tokens at a time.
#[target_feature(enable = "neon")]
fn rows(t: &Tile<'_>, dot: impl Fn(&[u8], &[Quant<'_>], &mut [f32])) {
    for first in (0..t.toks.n).step_by(TOKENS) {
        let n = TOKENS.min(t.toks.n - first);
        let mut x = [Quant { q: &[], d: &[], sums: &[] }; TOKENS];
        for (k, x) in x[..n].iter_mut().enumerate() {
            *x = quant(t.x, t.form, t.toks.row(first + k));
        }
        for r in 0..t.rows() {
            let mut y = [0.0; TOKENS];
            dot(t.row(r), &x[..n], &mut y[..n]);
            for (k, y) in y[..n].iter().enumerate() {
                t.out.set(r, first + k, *y);
            }
        }
    }
}

/// `Q8_0` rows; the activations have a scale per `X` columns.
#[target_feature(enable = "neon")]
fn q8_0<const DOT: bool, const X: usize>(row: &[u8], x: &[Quant<'_>], y: &mut [f32]) {
    for (i, b) in blocks::<Q8_0>(row).iter().enumerate() {
        for (x, y) in x.iter().zip(&mut *y) {
            let s = vaddvq_s32(dot32::<DOT>(&b.q, &x.q.as_chunks::<32>().0[i]));
            *y = (s as f32).mul_add(b.d.get() * x.d[32 * i / X], *y);
        }
    }
}

#[target_feature(enable = "neon")]
fn mxfp4<const DOT: bool>(row: &[u8], x: &[Quant<'_>], y: &mut [f32]) {
    let mut w = [0; 32];
    for (i, b) in blocks::<Mxfp4>(row).iter().enumerate() {
        unpack::mxfp4(b, &mut w);
        for (x, y) in x.iter().zip(&mut *y) {
            let s = vaddvq_s32(dot32::<DOT>(&w, &x.q.as_chunks::<32>().0[i]));
            *y = (s as f32).mul_add(e8m0_half(b.e) * x.d[i / 8], *y);
        }
    }
}

#[target_feature(enable = "neon")]
fn q2_k<const DOT: bool>(row: &[u8], x: &[Quant<'_>], y: &mut [f32]) {
    let mut w = [0; 256];
    for (i, b) in blocks::<Q2K>(row).iter().enumerate() {
        unpack::q2_k(b, &mut w);
        for (x, y) in x.iter().zip(&mut *y) {
            let q = x.q.as_chunks::<256>().0[i].as_chunks::<16>().0;
            let sums = x.sums.as_chunks::<16>().0[i];
            let (mut s, mut m) = (vdupq_n_s32(0), 0);
            for (k, (w, q)) in w.as_chunks::<16>().0.iter().zip(q).enumerate() {
                let p = dot16::<DOT>(vdupq_n_s32(0), w, q);
                s = vmlaq_n_s32(s, p, i32::from(b.scales[k] & 15));
                m += i32::from(b.scales[k] >> 4) * i32::from(sums[k]);
            }
            let s = with_minima(b.d.get(), vaddvq_s32(s), b.dmin.get(), m);
            *y = s.mul_add(x.d[i], *y);
        }
    }
}

#[target_feature(enable = "neon")]
fn q4_k<const DOT: bool>(row: &[u8], x: &[Quant<'_>], y: &mut [f32]) {
    let mut w = [0; 256];
    for (i, b) in blocks::<Q4K>(row).iter().enumerate() {
        unpack::q4_k(b, &mut w);
        for (x, y) in x.iter().zip(&mut *y) {
            let q = x.q.as_chunks::<256>().0[i].as_chunks::<32>().0;
            let sums = x.sums.as_chunks::<16>().0[i].as_chunks::<2>().0;
            let (mut s, mut m) = (vdupq_n_s32(0), 0);
            for (k, (w, q)) in w.as_chunks::<32>().0.iter().zip(q).enumerate() {
                let (scale, min) = b.scale_min(k);
                s = vmlaq_n_s32(s, dot32::<DOT>(w, q), i32::from(scale));
                m += i32::from(min) * (i32::from(sums[k][0]) + i32::from(sums[k][1]));
            }
            let s = with_minima(b.d.get(), vaddvq_s32(s), b.dmin.get(), m);
            *y = s.mul_add(x.d[i], *y);
        }
    }
}

#[target_feature(enable = "neon")]
fn iq2_xxs<const DOT: bool>(row: &[u8], x: &[Quant<'_>], y: &mut [f32]) {
    let (mut w, mut scales) = ([0; 256], [0; 8]);
    for (i, b) in blocks::<Iq2Xxs>(row).iter().enumerate() {
        unpack::iq2_xxs(b, &mut w, &mut scales);
        for (x, y) in x.iter().zip(&mut *y) {
            let q = x.q.as_chunks::<256>().0[i].as_chunks::<32>().0;
            let mut s = vdupq_n_s32(0);
            for ((w, q), scale) in w.as_chunks::<32>().0.iter().zip(q).zip(scales) {
                s = vmlaq_n_s32(s, dot32::<DOT>(w, q), i32::from(scale));
            }
            *y = (vaddvq_s32(s) as f32).mul_add(b.d.get() * 0.125 * x.d[i], *y);
        }
    }
}

/// Four sums that together are the product of 32 bytes with 32 others.
#[target_feature(enable = "neon")]
fn dot32<const DOT: bool>(w: &[i8; 32], x: &[i8; 32]) -> int32x4_t {
    let (w, x) = (w.as_chunks::<16>().0, x.as_chunks::<16>().0);
    dot16::<DOT>(dot16::<DOT>(vdupq_n_s32(0), &w[0], &x[0]), &w[1], &x[1])
}

/// Adds the products of 16 bytes with 16 others to `sums`, in any order. Activations are no less
/// than −127, so that two products fit 16 bits.
#[target_feature(enable = "neon")]
fn dot16<const DOT: bool>(sums: int32x4_t, w: &[i8; 16], x: &[i8; 16]) -> int32x4_t {
    // SAFETY: both point to 16 readable bytes.
    let (w, x) = unsafe { (vld1q_s8(w.as_ptr()), vld1q_s8(x.as_ptr())) };
    if DOT {
        let mut sums = sums;
        // SAFETY: the instruction changes its operand only, and `tile`'s caller knows that the
        // processor has it.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {s:v}.4s, {w:v}.16b, {x:v}.16b",
                s = inout(vreg) sums,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    } else {
        let p = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        vpadalq_s16(sums, vmlal_high_s8(p, w, x))
    }
}

/// See [`DenseKernel`].
fn product<const R: usize, const T: usize>(
    ty: TensorType,
    w: &[&[u8]; R],
    x: &[&[f32]; T],
    sums: &mut [[[f32; SUMS]; T]; R],
) {
    let mut space = [[0.0; SUMS]; R];
    let size = ty.block_bytes();
    for at in (0..x[0].len()).step_by(SUMS) {
        let n = SUMS.min(x[0].len() - at);
        for (v, w) in space.iter_mut().zip(w) {
            *v = [0.0; SUMS];
            widen(ty, &w[at * size..(at + n) * size], &mut v[..n]);
        }
        for k in 0..T {
            let mut values = [0.0; SUMS];
            values[..n].copy_from_slice(&x[k][at..at + n]);
            for (sums, v) in sums.iter_mut().zip(&space) {
                for (sum, (v, x)) in sums[k].iter_mut().zip(v.iter().zip(values)) {
                    *sum = v.mul_add(x, *sum);
                }
            }
        }
    }
}

/// Elements of `F32`, `F16` or `BF16` as f32.
fn widen(ty: TensorType, w: &[u8], v: &mut [f32]) {
    match ty {
        TensorType::F16 => {
            let mut halves = [half::f16::ZERO; SUMS];
            for (h, w) in halves.iter_mut().zip(w.as_chunks::<2>().0) {
                *h = half::f16::from_le_bytes(*w);
            }
            halves[..v.len()].convert_to_f32_slice(v);
        }
        TensorType::Bf16 => {
            for (v, w) in v.iter_mut().zip(w.as_chunks::<2>().0) {
                *v = f32::from_bits(u32::from(u16::from_le_bytes(*w)) << 16);
            }
        }
        _ => {
            for (v, w) in v.iter_mut().zip(w.as_chunks::<4>().0) {
                *v = f32::from_le_bytes(*w);
            }
        }
    }
}
