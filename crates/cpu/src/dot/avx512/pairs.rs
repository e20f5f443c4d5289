//! AVX-512 row kernels of `Q8_0` and `MXFP4`: blocks of 32, two to a register.
//!
//! Weights are raised to become the unsigned factor. What that makes the sum too large by depends
//! on the activations alone, so all rows begin with the same numbers.

use std::arch::x86_64::*;

use ds4_gguf::block::{Block, Mxfp4, Q8_0, blocks};
use ds4_gguf::tables::{E2M1_DOUBLED, e8m0_half};

use super::super::LANES;
use super::super::avx2::rows::prefetch;
use super::super::avx2::{f16s, load as load256, store_ps};
use super::{both, load};
use crate::acts::Quant;

/// `Q8_0` rows; `PER` weight blocks share a scale of the activations.
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn q8_0<const N: usize, const PER: usize>(
    rows: &[&[u8]; LANES],
    x: &[Quant<'_>; N],
) -> [[f32; LANES]; N] {
    let raise = _mm512_set1_epi8(-128);
    pairs::<Q8_0, N, PER>(
        rows,
        x,
        128,
        |pair| {
            prefetch(pair, rows[0].len());
            let [a, b] = pair;
            _mm512_xor_si512(both(load256(&a.q), load256(&b.q)), raise)
        },
        |w, i, half| f16s(|r| w[r][i][half].d),
    )
}

/// `MXFP4` rows: doubled values up to 12 and half the scale.
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn mxfp4<const N: usize>(
    rows: &[&[u8]; LANES],
    x: &[Quant<'_>; N],
) -> [[f32; LANES]; N] {
    let (values, spread, halves) = (load(&RAISED), load(&SPREAD), load(&HALVES));
    pairs::<Mxfp4, N, 8>(
        rows,
        x,
        12,
        |pair| {
            let codes = _mm512_permutexvar_epi8(spread, two_blocks(pair));
            // The upper four bits of a byte are its neighbour's; the table repeats for all of them.
            _mm512_permutexvar_epi8(_mm512_srlv_epi64(codes, halves), values)
        },
        |w, i, half| {
            let d = |r: usize| e8m0_half(w[r][i][half].e);
            _mm256_set_ps(d(7), d(6), d(5), d(4), d(3), d(2), d(1), d(0))
        },
    )
}

/// Two blocks as they lie, zeros behind them.
#[target_feature(enable = "avx512bw")]
fn two_blocks(b: &[Mxfp4; 2]) -> __m512i {
    const MASK: u64 = (1 << size_of::<[Mxfp4; 2]>()) - 1;
    // SAFETY: the mask chooses the bytes of `b`; others are not read.
    unsafe { _mm512_maskz_loadu_epi8(MASK, b.as_ptr().cast()) }
}

/// `MXFP4` values as bytes, raised by 12.
static RAISED: [u8; 64] = {
    let mut t = [0; 64];
    let mut i = 0;
    while i < 64 {
        t[i] = (E2M1_DOUBLED[i % 16] + 12) as u8;
        i += 1;
    }
    t
};

/// For `permutexvar_epi8`: the codes of the first block twice, then those of the second.
static SPREAD: [u8; 64] = {
    let mut p = [0; 64];
    let mut i = 0;
    while i < 64 {
        p[i] = (i / 32 * size_of::<Mxfp4>() + 1 + i % 16) as u8;
        i += 1;
    }
    p
};

/// Bits to shift by: low halves of bytes stay, high halves come down.
static HALVES: [u64; 8] = [0, 0, 4, 4, 0, 0, 4, 4];

/// Rows of whole pairs of blocks: `read` gives a pair's weights, raised by `raised`, and
/// `scales(rows, i, half)` those of one block of pair `i` of each row.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn pairs<B: Block, const N: usize, const PER: usize>(
    rows: &[&[u8]; LANES],
    x: &[Quant<'_>; N],
    raised: u8,
    read: impl Fn(&[B; 2]) -> __m512i,
    scales: impl Fn(&[&[[B; 2]]; LANES], usize, usize) -> __m256,
) -> [[f32; LANES]; N] {
    let n = rows[0].len() / size_of::<[B; 2]>();
    // Slices of one known length each, so that the loop has no bounds checks.
    let mut w: [&[[B; 2]]; LANES] = [&[]; LANES];
    for r in 0..LANES {
        w[r] = &blocks::<B>(rows[r]).as_chunks::<2>().0[..n];
    }
    let (mut q, mut d): ([&[[i8; 64]]; N], [&[f32]; N]) = ([&[]; N], [&[]; N]);
    for k in 0..N {
        q[k] = &x[k].q.as_chunks::<64>().0[..n];
        d[k] = &x[k].d[..(2 * n).div_ceil(PER)];
    }
    let raised = _mm512_set1_epi8(raised.cast_signed());
    let zero = _mm512_setzero_si512();
    let mut acc = [_mm256_setzero_ps(); N];
    for i in 0..n {
        let mut values = [zero; N];
        let mut start = [zero; N];
        for k in 0..N {
            values[k] = load(&q[k][i]);
            start[k] = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, raised, values[k]));
        }
        let mut s = [[zero; LANES]; N];
        for r in 0..LANES {
            let w = read(&w[r][i]);
            for k in 0..N {
                s[k][r] = _mm512_dpbusd_epi32(start[k], w, values[k]);
            }
        }
        let mut sums = [_mm512_setzero_ps(); N];
        for k in 0..N {
            sums[k] = _mm512_cvtepi32_ps(add_up(&s[k]));
        }
        for half in 0..2 {
            let dw = scales(&w, i, half);
            for k in 0..N {
                let s = _mm512_castps_pd(sums[k]);
                let s = if half == 0 {
                    _mm512_castpd512_pd256(s)
                } else {
                    _mm512_extractf64x4_pd::<1>(s)
                };
                let scale = _mm256_mul_ps(dw, _mm256_set1_ps(d[k][(2 * i + half) / PER]));
                acc[k] = _mm256_fmadd_ps(_mm256_castpd_ps(s), scale, acc[k]);
            }
        }
    }
    let mut y = [[0.0; LANES]; N];
    for k in 0..N {
        y[k] = store_ps(acc[k]);
    }
    y
}

/// The sums of the low and of the high halves of `s[r]` in lanes `r` and `8 + r`.
#[target_feature(enable = "avx512f")]
fn add_up(s: &[__m512i; LANES]) -> __m512i {
    let [a, b, c, d, e, f, g, h] = *s;
    let twos = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let fours = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    // Rows 0 to 3 and 4 to 7; each 128 bits have the sums of their part of the lanes.
    let (low, high) = (fours(twos(a, b), twos(c, d)), fours(twos(e, f), twos(g, h)));
    let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high);
    let odd = _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high);
    let sum = _mm512_add_epi32(even, odd);
    _mm512_shuffle_i64x2::<0b11_01_10_00>(sum, sum)
}
