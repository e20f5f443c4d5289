//! `IQ2_XXS` blocks with AVX-512: tables in registers, signs and magnitudes as masks.
//!
//! A codebook entry has eight elements of three sizes: two bit planes of a byte each say which are
//! at least 25 and which are 43. A plane of the whole codebook fills four registers, and byte
//! permutes look up 64 entries in it at a time. Read as masks, planes turn a register of eights
//! into magnitudes with two blends. The eight signs of a selector are its seven bits and their
//! parity: one product with a matrix of bits.
//!
//! Register `v` of a block holds element `v` of each group's four codebook entries: eight bytes of
//! group `g` at `8g`. So a lane belongs to one group in all four registers, and the four are added
//! up before they meet the scale.

use std::arch::x86_64::*;
use std::hint::black_box;

use ds4_gguf::block::Iq2Xxs;
use ds4_gguf::tables::{IQ2_XXS_GRID, IQ2_XXS_LEVELS};

use super::{load, store};

/// Masks of the four registers of two blocks.
#[repr(C, align(64))]
#[derive(Default)]
pub(super) struct Masks {
    /// Negative elements.
    minus: [u64; 8],
    /// Elements of the second or third size.
    more: [u64; 8],
    /// Elements of the third size.
    most: [u64; 8],
}

impl Masks {
    /// Those of `a`, and then those of `b`.
    #[target_feature(enable = "avx512vl,avx512vbmi,gfni")]
    pub(super) fn of(&mut self, a: &Iq2Xxs, b: &Iq2Xxs) {
        let (a, b) = (load(&a.groups), load(&b.groups));
        let index = _mm512_permutex2var_epi8(a, load(&GATHER), b);
        store(&mut self.more, look_up(&MORE, index));
        store(&mut self.most, look_up(&MOST, index));
        let sevens = |v| _mm512_multishift_epi64_epi8(load(&SEVENS), v);
        let signs = _mm512_permutex2var_epi8(sevens(a), load(&GATHER), sevens(b));
        // Bit `i` of the result is the parity of the bits that byte `7 − i` of the matrix chooses.
        let parity = _mm512_set1_epi64(0x0102_0408_1020_407f);
        store(&mut self.minus, _mm512_gf2p8affine_epi64_epi8::<0>(signs, parity));
    }

    /// Masks are made in vector registers and used in mask registers: through memory, because
    /// moving them there one by one is slower than loading them.
    pub(super) fn through_memory(&self) -> &Self {
        black_box(self)
    }

    /// Magnitudes of register `v`; those of the second block are registers 4 to 7.
    #[target_feature(enable = "avx512vl,avx512vbmi")]
    pub(super) fn magnitudes(&self, v: usize) -> __m512i {
        let [low, more, most] = IQ2_XXS_LEVELS.map(|l| _mm512_set1_epi8(l.cast_signed()));
        let size = _mm512_mask_blend_epi8(self.more[v], low, more);
        _mm512_mask_blend_epi8(self.most[v], size, most)
    }

    /// `x` with the signs of register `v`.
    #[target_feature(enable = "avx512vl,avx512vbmi")]
    pub(super) fn sign(&self, v: usize, x: __m512i) -> __m512i {
        _mm512_mask_sub_epi8(x, self.minus[v], _mm512_setzero_si512(), x)
    }
}

/// Odd scales 1..=31: the scale of group `g` in 32-bit lane `2g`, the odd lanes are 0.
#[target_feature(enable = "avx512f")]
pub(super) fn scales(b: &Iq2Xxs) -> __m512i {
    // The scale's four bits are the highest; the bit below becomes the odd one.
    _mm512_or_si512(_mm512_srli_epi64::<59>(load(&b.groups)), _mm512_set1_epi64(1))
}

/// Activations in the order of a block's registers.
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(x: &[i8; 256]) -> [__m512i; 4] {
    let (x, _) = x.as_chunks::<64>();
    // Two registers of eights of groups: elements 0 and 1 of four groups, elements 2 and 3.
    let two = |first: usize, a: usize| {
        let order = if first == 0 { &ZERO_ONE } else { &TWO_THREE };
        _mm512_permutex2var_epi64(load(&x[a]), load(order), load(&x[a + 1]))
    };
    let mut out = [_mm512_setzero_si512(); 4];
    for pair in 0..2 {
        let (low, high) = (two(2 * pair, 0), two(2 * pair, 2));
        out[2 * pair] = _mm512_shuffle_i64x2::<0b01_00_01_00>(low, high);
        out[2 * pair + 1] = _mm512_shuffle_i64x2::<0b11_10_11_10>(low, high);
    }
    out
}

/// Entries of a table of 256 bytes.
#[target_feature(enable = "avx512vl,avx512vbmi")]
fn look_up(table: &[u8; 256], index: __m512i) -> __m512i {
    let (t, _) = table.as_chunks::<64>();
    let low = _mm512_permutex2var_epi8(load(&t[0]), index, load(&t[1]));
    let high = _mm512_permutex2var_epi8(load(&t[2]), index, load(&t[3]));
    _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high)
}

/// Which elements of each codebook entry are of the second or third size.
static MORE: [u8; 256] = plane(IQ2_XXS_LEVELS[1]);
/// Which elements of each codebook entry are of the third size.
static MOST: [u8; 256] = plane(IQ2_XXS_LEVELS[2]);

/// A bit per element of each entry: whether it is at least `size`.
const fn plane(size: u8) -> [u8; 256] {
    let mut p = [0; 256];
    let mut i = 0;
    while i < 2048 {
        let element = (IQ2_XXS_GRID[i / 8] >> (8 * (i % 8))) as u8;
        p[i / 8] |= ((element >= size) as u8) << (i % 8);
        i += 1;
    }
    p
}

/// For `permutex2var_epi8`: bytes 0, 1, 2, 3 of every eight of one register, then of another.
static GATHER: [u8; 64] = {
    let mut p = [0; 64];
    let mut i = 0;
    while i < 64 {
        p[i] = (i / 32 * 64 + i % 8 * 8 + i / 8 % 4) as u8;
        i += 1;
    }
    p
};

/// For `multishift`: the four selectors of seven bits behind the 32 bits of indices.
static SEVENS: [u8; 64] = {
    let mut p = [0; 64];
    let mut i = 0;
    while i < 64 {
        p[i] = (32 + i % 4 * 7) as u8;
        i += 1;
    }
    p
};

/// For `permutex2var_epi64`: elements 0 of the four groups in two registers, then elements 1.
static ZERO_ONE: [u64; 8] = [0, 4, 8, 12, 1, 5, 9, 13];
/// Elements 2, then elements 3.
static TWO_THREE: [u64; 8] = [2, 6, 10, 14, 3, 7, 11, 15];
