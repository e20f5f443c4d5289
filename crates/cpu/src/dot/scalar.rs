//! The specification of every product: plain loops, in the order given at [`super::tile`].

use ds4_gguf::TensorType;
use ds4_gguf::block::{Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::e8m0_half;

use super::dense::{SUMS, add_up};
use super::{Tile, unpack};
use crate::acts::{ActForm, Quant};

/// See [`super::tile`].
pub(super) fn tile(t: &Tile<'_>) {
    for r in 0..t.rows() {
        for k in 0..t.toks.n {
            t.out.set(r, k, dot(t, t.row(r), t.toks.row(k)));
        }
    }
}

/// One row times one token.
fn dot(t: &Tile<'_>, row: &[u8], tok: usize) -> f32 {
    use TensorType as T;
    match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0) => q8_0(row, t.x.q8_0(tok), 32),
        (T::Q8_0, ActForm::Q8K) => q8_0(row, t.x.q8_k(tok), 256),
        (T::Mxfp4, ActForm::Q8K) => mxfp4(row, t.x.q8_k(tok)),
        (T::Q2K, ActForm::Q8K) => q2_k(row, t.x.q8_k(tok)),
        (T::Q4K, ActForm::Q8K) => q4_k(row, t.x.q8_k(tok)),
        (T::Iq2Xxs, ActForm::Q8K) => iq2_xxs(row, t.x.q8_k(tok)),
        _ => dense(t, row, tok),
    }
}

/// Weights and activations as f32.
fn dense(t: &Tile<'_>, row: &[u8], tok: usize) -> f32 {
    let block = t.ty.block_elems();
    let (mut w, mut x) = ([0.0; 256], [0.0; 256]);
    let mut sums = [0.0f32; SUMS];
    for at in (0..t.cols).step_by(256) {
        let n = (t.cols - at).min(256);
        let bytes = &row[at / block * t.ty.block_bytes()..][..n / block * t.ty.block_bytes()];
        ds4_gguf::dequantize_row(t.ty, bytes, &mut w[..n]);
        t.x.values(t.form, tok, at, &mut x[..n]);
        for i in 0..n {
            sums[i % SUMS] = w[i].mul_add(x[i], sums[i % SUMS]);
        }
    }
    add_up(sums)
}

fn idot(w: &[i8], x: &[i8]) -> i32 {
    w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
}

/// The 256 values, their sums of 16 and the scale of each block.
fn blocks_of<'a>(x: &Quant<'a>) -> impl Iterator<Item = (&'a [i8; 256], &'a [i16; 16], f32)> {
    let sums = x.sums.as_chunks::<16>().0;
    x.q.as_chunks::<256>().0.iter().zip(sums).zip(x.d).map(|((q, s), d)| (q, s, *d))
}

/// `y ← s·(d_w·d_x) + y` over blocks of 32; the activations have a scale per `block`.
fn q8_0(row: &[u8], x: Quant<'_>, block: usize) -> f32 {
    let pairs = blocks::<Q8_0>(row).iter().zip(x.q.as_chunks::<32>().0).enumerate();
    pairs.fold(0.0, |y, (i, (w, q))| {
        (idot(&w.q, q) as f32).mul_add(w.d.get() * x.d[i * 32 / block], y)
    })
}

fn mxfp4(row: &[u8], x: Quant<'_>) -> f32 {
    let mut w = [0; 32];
    let pairs = blocks::<Mxfp4>(row).iter().zip(x.q.as_chunks::<32>().0).enumerate();
    pairs.fold(0.0, |y, (i, (b, q))| {
        unpack::mxfp4(b, &mut w);
        (idot(&w, q) as f32).mul_add(e8m0_half(b.e) * x.d[i / 8], y)
    })
}

fn q2_k(row: &[u8], x: Quant<'_>) -> f32 {
    let mut w = [0; 256];
    blocks::<Q2K>(row).iter().zip(blocks_of(&x)).fold(0.0, |y, (b, (q, sums, dx))| {
        unpack::q2_k(b, &mut w);
        let (mut s, mut m) = (0, 0);
        for (i, scale) in b.scales.into_iter().enumerate() {
            let at = 16 * i..16 * i + 16;
            s += i32::from(scale & 15) * idot(&w[at.clone()], &q[at]);
            m += i32::from(scale >> 4) * i32::from(sums[i]);
        }
        with_minima(b.d.get(), s, b.dmin.get(), m).mul_add(dx, y)
    })
}

fn q4_k(row: &[u8], x: Quant<'_>) -> f32 {
    let mut w = [0; 256];
    blocks::<Q4K>(row).iter().zip(blocks_of(&x)).fold(0.0, |y, (b, (q, sums, dx))| {
        unpack::q4_k(b, &mut w);
        let (mut s, mut m) = (0, 0);
        for i in 0..8 {
            let (scale, min) = b.scale_min(i);
            let at = 32 * i..32 * i + 32;
            s += i32::from(scale) * idot(&w[at.clone()], &q[at]);
            m += i32::from(min) * (i32::from(sums[2 * i]) + i32::from(sums[2 * i + 1]));
        }
        with_minima(b.d.get(), s, b.dmin.get(), m).mul_add(dx, y)
    })
}

/// `d·s − dmin·m`, one rounding for the product and one for the rest.
pub(super) fn with_minima(d: f32, s: i32, dmin: f32, m: i32) -> f32 {
    (-dmin).mul_add(m as f32, d * s as f32)
}

fn iq2_xxs(row: &[u8], x: Quant<'_>) -> f32 {
    let (mut w, mut scales) = ([0; 256], [0; 8]);
    blocks::<Iq2Xxs>(row).iter().zip(blocks_of(&x)).fold(0.0, |y, (b, (q, _, dx))| {
        unpack::iq2_xxs(b, &mut w, &mut scales);
        let group = |i: usize| idot(&w[32 * i..32 * i + 32], &q[32 * i..32 * i + 32]);
        let s: i32 = (0..8).map(|i| i32::from(scales[i]) * group(i)).sum();
        (s as f32).mul_add(b.d.get() * 0.125 * dx, y)
    })
}
