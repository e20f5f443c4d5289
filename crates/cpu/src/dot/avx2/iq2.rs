//! `IQ2_XXS` blocks with AVX2: signs and magnitudes of 64 weights at a time.
//!
//! The format was made for tables, and a processor without byte permutes over 256 entries has to
//! load each group of eight weights by itself. What is left to save is instructions: two groups
//! share every other one of them. Group `g` lies in the low half of a register and group `g + 2`
//! in the high half, so that the sign selectors of both can be spread without crossing halves,
//! and a 16-bit sum holds four products before it meets the scale.

use std::arch::x86_64::*;

use ds4_gguf::block::Iq2Xxs;
use ds4_gguf::tables::IQ2_XXS_GRID;

use super::{load, load16};

/// First group of each pair; the other one is two further.
pub(super) const FIRST: [usize; 4] = [0, 1, 4, 5];

/// The group of each 32-bit element of [`Signs::all_scales`].
pub(super) const GROUP: [usize; 8] = [0, 1, 4, 5, 2, 3, 6, 7];

/// Signs and scales of a block, taken apart for all of its groups at once.
#[derive(Clone, Copy)]
pub(super) struct Signs {
    /// Per half of pairs: four bytes of eight signs and the same bytes doubled, for two groups in
    /// each half of the register.
    words: [__m256i; 2],
    /// Odd scales 1..=31 of the pairs, twice 16 bits each.
    scales: __m256i,
}

impl Signs {
    /// Room for those of a block.
    #[target_feature(enable = "avx2")]
    pub(super) fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self { words: [zero; 2], scales: zero }
    }

    /// The signs and scales of `b`.
    #[target_feature(enable = "avx2")]
    pub(super) fn of(b: &Iq2Xxs) -> Self {
        let (halves, _) = b.groups.as_chunks::<4>();
        let low = _mm256_castsi256_ps(load(&halves[0]));
        let high = _mm256_castsi256_ps(load(&halves[1]));
        // Groups 0, 1, 4, 5 in the low half and 2, 3, 6, 7 in the high half.
        let v = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(low, high));
        // Four times seven bits to four bytes: the upper two begin at bit 16 when moved by two.
        let t = _mm256_blend_epi16::<0xaa>(v, _mm256_slli_epi32::<2>(v));
        let even = _mm256_and_si256(t, _mm256_set1_epi16(0x7f));
        let odd = _mm256_and_si256(_mm256_add_epi16(t, t), _mm256_set1_epi16(0x7f00));
        let seven = _mm256_or_si256(even, odd);
        // The eighth bit is the parity of the seven.
        let parity = _mm256_broadcastsi128_si256(load16(&PARITY));
        let folded = _mm256_xor_si256(seven, _mm256_srli_epi16::<4>(seven));
        let folded = _mm256_and_si256(folded, _mm256_set1_epi8(15));
        let signs = _mm256_or_si256(seven, _mm256_shuffle_epi8(parity, folded));
        let twice = _mm256_add_epi8(signs, signs);
        let scale = _mm256_shuffle_epi8(_mm256_srli_epi16::<11>(v), load(&UPPER));
        Self {
            words: [_mm256_unpacklo_epi32(signs, twice), _mm256_unpackhi_epi32(signs, twice)],
            scales: _mm256_or_si256(scale, _mm256_set1_epi16(1)),
        }
    }

    /// The scales of all groups, twice 16 bits each, in the order of [`GROUP`].
    #[target_feature(enable = "avx2")]
    pub(super) fn all_scales(&self) -> __m256i {
        self.scales
    }

    /// The scales of pair `j`, 16 bit.
    #[target_feature(enable = "avx2")]
    pub(super) fn scales(&self, j: usize) -> __m256i {
        _mm256_shuffle_epi8(self.scales, load(&DWORD[j]))
    }

    /// Elements `16h..16h + 16` of both groups of pair `j`: positive or negative, never 0.
    #[target_feature(enable = "avx2")]
    fn spread(&self, j: usize, h: usize) -> __m256i {
        // Bit `l` for element `l`; element 0 takes bit 1 of the doubled byte, because bit 0 could
        // not make 1 − bit negative.
        let bits = _mm256_set1_epi64x(0x8040_2010_0804_0202_u64.cast_signed());
        let v = _mm256_shuffle_epi8(self.words[j / 2], load(&SPREAD[2 * (j % 2) + h]));
        _mm256_sub_epi8(_mm256_set1_epi8(1), _mm256_and_si256(v, bits))
    }
}

/// Magnitudes and signs of elements `16h..16h + 16` of the groups of pair `j`.
#[target_feature(enable = "avx2")]
pub(super) fn half(b: &Iq2Xxs, s: &Signs, j: usize, h: usize) -> (__m256i, __m256i) {
    let [a, c] = [FIRST[j], FIRST[j] + 2].map(|g| {
        let ix = &b.groups[g].index.as_chunks::<2>().0[h];
        u16::from_le_bytes(*ix)
    });
    let size = _mm256_set_m128i(magnitudes(c), magnitudes(a));
    (size, s.spread(j, h))
}

/// The magnitudes of two codebook entries.
#[target_feature(enable = "avx2")]
fn magnitudes(index: u16) -> __m128i {
    let low = &raw const IQ2_XXS_GRID[usize::from(index & 0xff)];
    let high = &raw const IQ2_XXS_GRID[usize::from(index >> 8)];
    // SAFETY: both point to 8 readable bytes.
    unsafe { _mm_castpd_si128(_mm_loadh_pd(_mm_load_sd(low.cast()), high.cast())) }
}

/// Activations in the order of [`half()`]: register `2j + h`.
#[target_feature(enable = "avx2")]
pub(super) fn pairs(x: &[i8; 256]) -> [__m256i; 8] {
    let (x, _) = x.as_chunks::<16>();
    let mut out = [_mm256_setzero_si256(); 8];
    for (j, first) in FIRST.into_iter().enumerate() {
        for h in 0..2 {
            let (low, high) = (&x[2 * first + h], &x[2 * first + 4 + h]);
            out[2 * j + h] = _mm256_set_m128i(load16(high), load16(low));
        }
    }
    out
}

/// Bit 7 = parity of the index.
static PARITY: [u8; 16] = {
    let mut p = [0; 16];
    let mut i = 0;
    while i < 16 {
        p[i] = ((i as u32).count_ones() as u8 & 1) << 7;
        i += 1;
    }
    p
};

/// For `shuffle_epi8`: byte 2 of every 32 bits, as 16 bits twice.
static UPPER: [i8; 32] = {
    let mut p = [-1; 32];
    let mut i = 0;
    while i < 32 {
        p[i] = (i % 16 / 4 * 4 + 2) as i8;
        i += 2;
    }
    p
};

/// For `shuffle_epi8`: 32-bit element `j` of the half everywhere.
static DWORD: [[i8; 32]; 4] = {
    let mut p = [[0; 32]; 4];
    let mut i = 0;
    while i < 128 {
        p[i / 32][i % 32] = (i / 32 * 4 + i % 4) as i8;
        i += 1;
    }
    p
};

/// For `shuffle_epi8` of [`Signs::words`]: bytes of group `u` and chunks `2h`, `2h + 1`, eight
/// times each, at `2u + h`.
static SPREAD: [[i8; 32]; 4] = {
    let mut p = [[0; 32]; 4];
    let mut i = 0;
    while i < 128 {
        let (u, h, e) = (i / 64, i / 32 % 2, i % 16);
        let byte = 8 * u + 2 * h + e / 8;
        p[i / 32][i % 32] = if e % 8 == 0 { byte + 4 } else { byte } as i8;
        i += 1;
    }
    p
};
