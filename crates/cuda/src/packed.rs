//! The forms of stored rows (`packed.cuh`) on the host: values to bytes and back, without loss for
//! values that the model's numerics have rounded.

use half::{bf16, f16};

/// How the rows of a part are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RowForm {
    /// As they are.
    #[default]
    F32,
    /// As f16.
    F16,
    /// E4M3 codes with a scale for every 64 of so many first channels, the rest as f16.
    Fp8 { plain: usize },
    /// E2M1 codes with a scale for every 32.
    Fp4,
}

/// Forms of attention rows and of index rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowForms {
    pub kv: RowForm,
    pub index: RowForm,
}

impl RowForm {
    /// Bytes of a row of `width` values.
    pub(crate) const fn bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => 4 * width,
            Self::F16 => 2 * width,
            Self::Fp8 { plain } => plain + 2 * (width - plain) + (plain / 32).next_multiple_of(16),
            Self::Fp4 => width / 2 + (width / 16).next_multiple_of(16),
        }
    }

    /// Rows of `width` values as they are stored.
    pub(crate) fn pack(self, values: &[f32], width: usize) -> Vec<u8> {
        let size = self.bytes(width);
        let mut bytes = vec![0; values.len() / width.max(1) * size];
        for (row, to) in values.chunks_exact(width).zip(bytes.chunks_exact_mut(size)) {
            match self {
                Self::F32 => put(to, row.iter().map(|v| v.to_le_bytes())),
                Self::F16 => put(to, row.iter().map(|v| f16::from_f32(*v).to_le_bytes())),
                Self::Fp8 { plain } => pack_fp8(row, plain, to),
                Self::Fp4 => pack_fp4(row, to),
            }
        }
        bytes
    }

    /// The values of stored rows, appended to `values`.
    pub(crate) fn unpack(self, bytes: &[u8], width: usize, values: &mut Vec<f32>) {
        let of = if self == Self::Fp4 { values_of(8, E2M1) } else { values_of(0x80, E4M3) };
        for row in bytes.chunks_exact(self.bytes(width)) {
            match self {
                Self::F32 => {
                    values.extend(row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
                }
                Self::F16 => values.extend(halves(row)),
                Self::Fp8 { plain } => unpack_fp8(row, plain, width, &of, values),
                Self::Fp4 => unpack_fp4(row, width, &of, values),
            }
        }
    }
}

fn put<const N: usize>(to: &mut [u8], values: impl Iterator<Item = [u8; N]>) {
    to.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(to, v)| *to = v);
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())
}

/// Exponent of the smallest power of two that `most / limit` does not exceed (§6.9).
fn exponent(most: f32, limit: f32, least: i32) -> i32 {
    let bits = (most * (1.0 / limit)).to_bits();
    ((bits >> 23).cast_signed() - 127 + i32::from(bits & 0x007f_ffff != 0)).max(least)
}

fn most(block: &[f32]) -> f32 {
    block.iter().fold(0.0, |m, v| m.max(v.abs()))
}

fn power(k: i32) -> f32 {
    2.0_f32.powi(k)
}

/// Codes are numbers of exponent and mantissa in a row: that of a value on the grid, from its bits.
fn code(v: f32, mantissa: u32, least: i32) -> u8 {
    let a = v.abs();
    let bits = if a < power(least) {
        // A small whole number, as the last bits of a sum.
        (a * power(mantissa.cast_signed() - least) + power(23)).to_bits() & 0xff
    } else {
        (a.to_bits() >> (23 - mantissa)) - ((126 + least).cast_unsigned() << mantissa)
    };
    u8::try_from(bits).unwrap_or(u8::MAX)
}

fn value(code: u8, mantissa: u32, least: i32) -> f32 {
    let (exponent, rest) = (code >> mantissa, code & ((1 << mantissa) - 1));
    let one = if exponent == 0 { 0.0 } else { power(mantissa.cast_signed()) };
    let exponent = i32::from(exponent.max(1)) - 1 + least - mantissa.cast_signed();
    (one + f32::from(rest)) * power(exponent)
}

/// Mantissa bits and exponent of the smallest normal number.
const E4M3: (u32, i32) = (3, -6);
const E2M1: (u32, i32) = (1, 0);

fn signed(v: f32, sign: u8, form: (u32, i32)) -> u8 {
    code(v, form.0, form.1) | if v.is_sign_negative() { sign } else { 0 }
}

fn unsigned(code: u8, sign: u8, form: (u32, i32)) -> f32 {
    let v = value(code & (sign - 1), form.0, form.1);
    if code & sign == 0 { v } else { -v }
}

/// The values of all codes.
fn values_of(sign: u8, form: (u32, i32)) -> [f32; 256] {
    let mut all = [0.0; 256];
    let codes = 0..=2 * (sign - 1) + 1;
    codes.zip(&mut all).for_each(|(code, v)| *v = unsigned(code, sign, form));
    all
}

fn pack_fp8(row: &[f32], plain: usize, to: &mut [u8]) {
    let (codes, rest) = to.split_at_mut(plain);
    let (tail, scales) = rest.split_at_mut(2 * (row.len() - plain));
    let blocks = row[..plain].chunks(64).zip(codes.chunks_mut(64));
    let scales = scales.as_chunks_mut::<2>().0.iter_mut();
    for ((block, codes), scale) in blocks.zip(scales) {
        let k = exponent(most(block).max(1e-4), 448.0, -24);
        let down = power(-k);
        *scale = f16::from_f32(power(k)).to_le_bytes();
        codes.iter_mut().zip(block).for_each(|(c, v)| *c = signed(v * down, 0x80, E4M3));
    }
    put(tail, row[plain..].iter().map(|v| f16::from_f32(*v).to_le_bytes()));
}

fn unpack_fp8(row: &[u8], plain: usize, width: usize, of: &[f32; 256], values: &mut Vec<f32>) {
    let (codes, rest) = row.split_at(plain);
    let (tail, scales) = rest.split_at(2 * (width - plain));
    for (codes, scale) in codes.chunks(64).zip(halves(scales)) {
        let exact = codes.iter().map(|c| of[usize::from(*c)] * scale);
        if scale < power(-15) {
            // The device multiplies in f16, which cannot hold all of these.
            values.extend(exact.map(|v| f16::from_f32(v).to_f32()));
        } else {
            values.extend(exact);
        }
    }
    values.extend(halves(tail));
}

/// The channel of the upper or lower half's nibble `p` of word `word` (`idx_channel`).
const fn channel(word: usize, blocks: usize, p: usize, upper: usize) -> usize {
    word % blocks * 32 + 8 * (word / blocks) + 2 * p + upper
}

fn pack_fp4(row: &[f32], to: &mut [u8]) {
    let blocks = row.len() / 32;
    let (words, scales) = to.split_at_mut(row.len() / 2);
    let exponents: Vec<i32> = row.chunks(32).map(|block| exponent(most(block), 6.0, -24)).collect();
    let nibble = |word: usize, p: usize, upper: usize| {
        let v = row[channel(word, blocks, p, upper)] * power(-exponents[word % blocks]);
        u32::from(signed(v, 8, E2M1)) << (4 * p + 16 * upper)
    };
    let word = |w: usize| (0..8).fold(0, |all, i| all | nibble(w, i / 2, i % 2));
    put(words, (0..row.len() / 8).map(|w| word(w).to_le_bytes()));
    put(scales, exponents.iter().map(|k| bf16::from_f32(power(*k)).to_le_bytes()));
}

fn unpack_fp4(row: &[u8], width: usize, of: &[f32; 256], values: &mut Vec<f32>) {
    let (blocks, first) = (width / 32, values.len());
    let (words, scales) = row.split_at(width / 2);
    values.resize(first + width, 0.0);
    for (w, word) in words.as_chunks::<4>().0.iter().enumerate() {
        let word = u32::from_le_bytes(*word);
        let scale = bf16::from_le_bytes(scales.as_chunks::<2>().0[w % blocks]).to_f32();
        for i in 0..8 {
            let (p, upper) = (i / 2, i % 2);
            let code = word >> (4 * p + 16 * upper) & 15;
            values[first + channel(w, blocks, p, upper)] = of[code as usize] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a block as a row has them: every code at some scale, rounded to f16.
    fn rows(width: usize, block: usize, sign: u8, form: (u32, i32), rows: usize) -> Vec<f32> {
        let value = |i: usize| {
            let (row, at) = (i / width, i % width);
            let k = i32::try_from((row * 7 + at / block * 3) % 35).unwrap() - 28;
            let code = u8::try_from((at * 37 + row * 11) % (2 * usize::from(sign) - 2)).unwrap();
            // 0x7f and 0xff of E4M3 are not numbers.
            let code = if sign == 0x80 && code & 0x7f == 0x7f { code - 1 } else { code };
            f16::from_f32(unsigned(code, sign, form) * power(k)).to_f32()
        };
        (0..rows * width).map(value).collect()
    }

    fn round_trip(form: RowForm, width: usize, values: &[f32]) {
        let bytes = form.pack(values, width);
        assert_eq!(bytes.len(), values.len() / width * form.bytes(width));
        let mut found = Vec::new();
        form.unpack(&bytes, width, &mut found);
        for (i, (a, b)) in values.iter().zip(&found).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{form:?}, value {i}: {a} and {b}");
        }
    }

    #[test]
    fn packed_rows_lose_nothing() {
        for (width, plain) in [(512, 448), (96, 64)] {
            let mut values = rows(width, 64, 0x80, E4M3, 60);
            // The rotated channels are any f16.
            for (i, v) in values.iter_mut().enumerate().filter(|(i, _)| i % width >= plain) {
                *v = f16::from_f32((i as f32).sin() * 3.0).to_f32();
            }
            round_trip(RowForm::Fp8 { plain }, width, &values);
            round_trip(RowForm::F16, width, &values);
        }
        for width in [64, 128] {
            round_trip(RowForm::Fp4, width, &rows(width, 32, 8, E2M1, 60));
        }
        assert_eq!(RowForm::Fp8 { plain: 448 }.bytes(512), 592);
        assert_eq!(RowForm::Fp4.bytes(128), 80);
    }
}
