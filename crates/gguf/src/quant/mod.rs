//! f32 to stored formats, with the least weighted squared error that a bounded search finds.
//!
//! The weight of a column is how much an error there matters, usually the mean square of the
//! activation that multiplies it. Deterministic: equal input gives equal bytes on every machine.

mod affine;
mod codebook;
mod round;

use crate::TensorType;
use crate::block::{self, Block, F16};

/// An element that the format cannot hold, or a weight that is none.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Unencodable {
    /// Not a number, infinite or too large.
    #[error("element {index} is {value}, which {ty} cannot hold")]
    Value {
        /// Position in the row.
        index: usize,
        /// The element.
        value: f32,
        /// The format.
        ty: TensorType,
    },
    /// Column weights are finite and not negative.
    #[error("the weight of column {index} is {value}; weights are finite and not negative")]
    Weight {
        /// Position in the row.
        index: usize,
        /// The weight.
        value: f32,
    },
}

/// Encodes a row, or any whole number of blocks, as `ty`. `weights` has one value per element, in
/// any unit; plain types ignore it.
///
/// # Panics
/// If `bytes` or `weights` do not have the length that belongs to `row`.
pub fn quantize_row(
    ty: TensorType,
    row: &[f32],
    weights: Option<&[f32]>,
    bytes: &mut [u8],
) -> Result<(), Unencodable> {
    let n = row.len();
    assert_eq!(Some(bytes.len()), ty.row_bytes(n), "bytes of {n} elements of {ty}");
    if let Some(weights) = weights {
        assert_eq!(weights.len(), n, "weights of {n} elements");
    }
    check(ty, row, weights)?;
    match ty {
        TensorType::F32 => each(row, bytes, f32::to_le_bytes),
        TensorType::F16 => each(row, bytes, |x| F16::new(x).0),
        TensorType::Bf16 => each(row, bytes, |x| half::bf16::from_f32(x).to_le_bytes()),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be an i32")]
        TensorType::I32 => each(row, bytes, |x| (x as i32).to_le_bytes()),
        TensorType::Q8_0 => each_block(row, weights, bytes, round::q8_0),
        TensorType::Mxfp4 => each_block(row, weights, bytes, round::mxfp4),
        TensorType::Q2K => each_block(row, weights, bytes, affine::q2_k),
        TensorType::Q4K => each_block(row, weights, bytes, affine::q4_k),
        TensorType::Iq2Xxs => each_block(row, weights, bytes, codebook::iq2_xxs),
    }
    Ok(())
}

fn check(ty: TensorType, row: &[f32], weights: Option<&[f32]>) -> Result<(), Unencodable> {
    let fits = |x: f32| match ty {
        TensorType::F32 | TensorType::Bf16 => true,
        // 2^31 is the smallest float that is too large.
        TensorType::I32 => x.fract() == 0.0 && (-2_147_483_648.0..2_147_483_648.0).contains(&x),
        TensorType::Mxfp4 => x.is_finite(),
        // The largest binary16: the scales are stored as such.
        _ => x.abs() <= 65504.0,
    };
    if let Some(index) = row.iter().position(|&x| !fits(x)) {
        return Err(Unencodable::Value { index, value: row[index], ty });
    }
    let weights = weights.unwrap_or_default();
    match weights.iter().position(|&w| !(w.is_finite() && w >= 0.0)) {
        Some(index) => Err(Unencodable::Weight { index, value: weights[index] }),
        None => Ok(()),
    }
}

fn each<const N: usize>(row: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    for (b, &x) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(row) {
        *b = encode(x);
    }
}

fn each_block<B: Block, const N: usize>(
    row: &[f32],
    weights: Option<&[f32]>,
    bytes: &mut [u8],
    encode: impl Fn(&[f32; N], &[f32; N]) -> B,
) {
    const { assert!(N == B::TYPE.block_elems()) };
    let (row, _) = row.as_chunks::<N>();
    let weights = weights.map(|w| w.as_chunks::<N>().0);
    for (i, (x, block)) in row.iter().zip(block::blocks_mut::<B>(bytes)).enumerate() {
        let w = weights.map_or([1.0; N], |w| relative(&w[i]));
        *block = encode(x, &w);
    }
}

/// Weights with mean 1. None is 0, so that a column that was never seen still has a best value;
/// all equal if none was seen.
fn relative<const N: usize>(weights: &[f32; N]) -> [f32; N] {
    const LEAST: f64 = 1e-4;
    let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / N as f64;
    if mean == 0.0 {
        return [1.0; N];
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most N")]
    weights.map(|w| (f64::from(w) / mean + LEAST) as f32)
}

/// The nearest integer, ties to even, of a value below 2^22 in magnitude. Adding 1.5 · 2^23 leaves
/// no bits below the point; unlike `round_ties_even` it is fast on every CPU.
#[inline]
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// An integer from 0 to 255 in a float, as a byte.
#[inline]
fn code(x: f32) -> u8 {
    debug_assert!((0.0..=255.0).contains(&x), "{x}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
    {
        x as u8
    }
}
