//! Stored formats to f32, written to be obviously right; bit-exact with the reference decoders.

use crate::TensorType;
use crate::block::{self, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use crate::tables::{E2M1_DOUBLED, IQ2_XXS_GRID, e8m0_half, iq2_signs};

/// Decodes a row, or any whole number of blocks: `out.len()` elements of type `ty` from `bytes`.
/// Integers become the float of the same value.
///
/// # Panics
/// If `bytes` is not exactly `out.len()` elements long.
pub fn dequantize_row(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    let n = out.len();
    assert_eq!(Some(bytes.len()), ty.row_bytes(n), "bytes of {n} elements of {ty}");
    match ty {
        TensorType::F32 => each(bytes, out, f32::from_le_bytes),
        TensorType::F16 => each(bytes, out, |b| block::F16(b).get()),
        TensorType::Bf16 => {
            each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
        }
        TensorType::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        TensorType::Q8_0 => each_block(bytes, out, q8_0),
        TensorType::Q2K => each_block(bytes, out, q2_k),
        TensorType::Q4K => each_block(bytes, out, q4_k),
        TensorType::Iq2Xxs => each_block(bytes, out, iq2_xxs),
        TensorType::Mxfp4 => each_block(bytes, out, mxfp4),
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (elems, _) = bytes.as_chunks::<N>();
    for (x, &b) in out.iter_mut().zip(elems) {
        *x = decode(b);
    }
}

fn each_block<B: block::Block, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&B, &mut [f32; N]),
) {
    const { assert!(N == B::TYPE.block_elems()) };
    let (out, _) = out.as_chunks_mut::<N>();
    for (x, b) in out.iter_mut().zip(blocks::<B>(bytes)) {
        decode(b, x);
    }
}

/// Decodes one block (§6.2).
pub fn q8_0(block: &Q8_0, out: &mut [f32; 32]) {
    let d = block.d.get();
    for (x, &q) in out.iter_mut().zip(&block.q) {
        *x = d * f32::from(q);
    }
}

/// Decodes one block (§6.3).
pub fn q2_k(block: &Q2K, out: &mut [f32; 256]) {
    let (d, dmin) = (block.d.get(), block.dmin.get());
    for (s, x) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block.scales[s] & 15);
        let min = dmin * f32::from(block.scales[s] >> 4);
        // Sub-block s = 8n + 2j + upper half of the 32 bytes.
        let (n, j, upper) = (s / 8, s % 8 / 2, s % 2);
        let bytes = &block.qs[32 * n + 16 * upper..][..16];
        for (x, &q) in x.iter_mut().zip(bytes) {
            *x = scale * f32::from((q >> (2 * j)) & 3) - min;
        }
    }
}

/// Decodes one block (§6.5).
pub fn q4_k(block: &Q4K, out: &mut [f32; 256]) {
    let (d, dmin) = (block.d.get(), block.dmin.get());
    for (j, x) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = block.scale_min(j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let bytes = &block.qs[32 * (j / 2)..][..32];
        for (x, &q) in x.iter_mut().zip(bytes) {
            *x = scale * f32::from((q >> (4 * (j % 2))) & 15) - min;
        }
    }
}

/// Decodes one block (§6.6).
pub fn iq2_xxs(block: &Iq2Xxs, out: &mut [f32; 256]) {
    let d = block.d.get();
    for (x, group) in out.as_chunks_mut::<32>().0.iter_mut().zip(&block.groups) {
        let word = u32::from_le_bytes(group.signs_scale);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for (k, x) in x.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let magnitudes = IQ2_XXS_GRID[usize::from(group.index[k])].to_le_bytes();
            let signs = iq2_signs((word >> (7 * k)).to_le_bytes()[0]);
            for (j, x) in x.iter_mut().enumerate() {
                let value = scale * f32::from(magnitudes[j]);
                *x = if signs >> j & 1 == 1 { -value } else { value };
            }
        }
    }
}

/// Decodes one block (§6.7).
pub fn mxfp4(block: &Mxfp4, out: &mut [f32; 32]) {
    let scale = e8m0_half(block.e);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&block.qs) {
        *low = scale * f32::from(E2M1_DOUBLED[usize::from(q & 15)]);
        *high = scale * f32::from(E2M1_DOUBLED[usize::from(q >> 4)]);
    }
}
