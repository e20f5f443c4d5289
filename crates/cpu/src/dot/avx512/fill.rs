//! AVX-512: rows of a matrix unpacked into a panel, sixteen at a time.
//!
//! A format first makes registers of 64 weights of each row; register `v` of 16 rows is then
//! turned into 16 columns of four weights. All weights are unsigned: those with signs are raised by
//! the magnitude of the smallest.

use std::arch::x86_64::*;

use ds4_gguf::TensorType;
use ds4_gguf::block::{Block, F16, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::{E2M1_DOUBLED, IQ2_XXS_LEVELS, e8m0_half};

use super::super::avx2::rows::q4_k_scales;
use super::super::avx2::{f16s, load as load256, load16};
use super::super::panel::{Lanes, Panel};
use super::gemm::LANES;
use super::iq2::{self, Masks};
use super::{both, load, store, store_ps};

/// Registers of 64 weights, by register and row.
type Weights = [[__m512i; LANES]; 4];

/// Takes over rows of a format, a block or as many as the panel has columns for.
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni,gfni")]
pub(super) fn rows(ty: TensorType, p: &mut Panel, rows: &Lanes<&[u8]>) {
    for (g, rows) in rows.as_chunks::<LANES>().0.iter().enumerate() {
        let mut w = [[_mm512_setzero_si512(); LANES]; 4];
        // The first four columns of every register, and how many further the upper half begins.
        let (first, step) = match ty {
            TensorType::Q8_0 => {
                q8_0(p, g, rows, &mut w);
                ([0, 16, 32, 48], 8)
            }
            TensorType::Mxfp4 => {
                mxfp4(p, g, rows, &mut w);
                ([0, 16, 32, 48], 8)
            }
            TensorType::Q2K => {
                q2_k(p, g, &firsts(rows), &mut w);
                ([0, 8, 16, 24], 32)
            }
            TensorType::Q4K => {
                q4_k(p, g, &firsts(rows), &mut w);
                ([0, 8, 32, 40], 16)
            }
            TensorType::Iq2Xxs => {
                iq2_xxs(p, g, &firsts(rows), &mut w);
                for (v, w) in w.iter().enumerate() {
                    for (c, column) in transpose(w).into_iter().enumerate() {
                        put(&mut p.quads[8 * (c / 2) + 2 * v + c % 2], g, column);
                    }
                }
                continue;
            }
            _ => unreachable!("a format with panels"),
        };
        for (first, w) in first.into_iter().zip(&w) {
            for (c, column) in transpose(w).into_iter().enumerate() {
                put(&mut p.quads[first + c / 8 * step + c % 8], g, column);
            }
        }
    }
}

/// The first block of every row.
fn firsts<'a, B: Block + 'a>(rows: &[&'a [u8]; LANES]) -> [&'a B; LANES] {
    rows.map(|row| &blocks::<B>(row)[0])
}

#[target_feature(enable = "avx512vl,avx512bw")]
fn q8_0(p: &mut Panel, g: usize, rows: &[&[u8]; LANES], w: &mut Weights) {
    let raise = _mm512_set1_epi8(-128);
    let rows = rows.map(blocks::<Q8_0>);
    let n = rows[0].len();
    for i in 0..n {
        put_halves(&mut p.d[i], g, |r| rows[r][i].d);
    }
    for (v, w) in w.iter_mut().enumerate().take(n.div_ceil(2)) {
        let (i, j) = (2 * v, (2 * v + 1).min(n - 1));
        for (w, row) in w.iter_mut().zip(rows) {
            *w = _mm512_xor_si512(both(load256(&row[i].q), load256(&row[j].q)), raise);
        }
    }
}

#[target_feature(enable = "avx512vl,avx512bw")]
fn mxfp4(p: &mut Panel, g: usize, rows: &[&[u8]; LANES], w: &mut Weights) {
    let values = _mm512_broadcast_i32x4(load16(&E2M1_DOUBLED));
    let values = _mm512_add_epi8(values, _mm512_set1_epi8(12));
    let nibble = _mm512_set1_epi8(15);
    let rows = rows.map(blocks::<Mxfp4>);
    let n = rows[0].len();
    for i in 0..n {
        let d = rows.map(|row| e8m0_half(row[i].e));
        p.d[i].as_chunks_mut::<LANES>().0[g] = d;
    }
    for (v, w) in w.iter_mut().enumerate().take(n.div_ceil(2)) {
        let (i, j) = (2 * v, (2 * v + 1).min(n - 1));
        for (w, row) in w.iter_mut().zip(rows) {
            let halves = |i: usize| {
                let codes = load16(&row[i].qs);
                _mm256_set_m128i(_mm_srli_epi16::<4>(codes), codes)
            };
            let codes = _mm512_and_si512(both(halves(i), halves(j)), nibble);
            *w = _mm512_shuffle_epi8(values, codes);
        }
    }
}

#[target_feature(enable = "avx512vl,avx512vbmi,gfni")]
fn iq2_xxs(p: &mut Panel, g: usize, rows: &[&Iq2Xxs; LANES], w: &mut Weights) {
    let mut masks: [Masks; LANES / 2] = Default::default();
    for (masks, [a, b]) in masks.iter_mut().zip(rows.as_chunks::<2>().0) {
        masks.of(a, b);
    }
    let largest = _mm512_set1_epi8(IQ2_XXS_LEVELS[2].cast_signed());
    let mut scales = [_mm512_setzero_si512(); LANES];
    for (i, masks) in masks.iter().enumerate() {
        let masks = masks.through_memory();
        for r in 0..2 {
            for v in 0..4 {
                let w64 = masks.sign(4 * r + v, masks.magnitudes(4 * r + v));
                w[v][2 * i + r] = _mm512_add_epi8(w64, largest);
            }
            scales[2 * i + r] = iq2::scales(rows[2 * i + r]);
        }
    }
    let mut by_group = [_mm512_setzero_si512(); 8];
    for (k, v) in transpose(&scales).into_iter().step_by(2).enumerate() {
        put(&mut p.scales[k], g, v);
        by_group[k] = _mm512_mullo_epi16(v, _mm512_set1_epi32(i32::from(IQ2_XXS_LEVELS[2])));
    }
    // What raised weights make a sum too large by: 43 times its scale, as a minimum.
    for k in 0..4 {
        let high = _mm512_slli_epi32::<16>(by_group[2 * k + 1]);
        put(&mut p.mins[k], g, _mm512_or_si512(by_group[2 * k], high));
    }
    put_halves(&mut p.d[0], g, |r| rows[r].d);
    let d = &mut p.d[0].as_chunks_mut::<LANES>().0[g];
    store_ps(d, _mm512_mul_ps(super::load_ps(d), _mm512_set1_ps(0.125)));
}

#[target_feature(enable = "avx512vl,avx512vbmi")]
fn q2_k(p: &mut Panel, g: usize, rows: &[&Q2K; LANES], w: &mut Weights) {
    let mut mins = [_mm512_setzero_si512(); LANES];
    for (r, b) in rows.iter().enumerate() {
        for (w, v) in w.iter_mut().zip(q2_k_products(b)) {
            w[r] = v;
        }
        mins[r] = _mm512_castsi256_si512(q2_k_mins(b));
    }
    for (m, v) in p.mins.iter_mut().zip(transpose(&mins)) {
        put(m, g, v);
    }
    put_halves(&mut p.d[0], g, |r| rows[r].d);
    put_halves(&mut p.dmin, g, |r| rows[r].dmin);
}

/// Weights times the scales of their sub-blocks, 45 at most. Register `j` has those weights that
/// are `2j` bits up in their bytes: chunk `j` of 32 in the low half, `4 + j` in the high half.
#[target_feature(enable = "avx512vl,avx512vbmi")]
pub(super) fn q2_k_products(b: &Q2K) -> [__m512i; 4] {
    let (products, upper) = (load(&PRODUCTS), _mm512_set1_epi8(0x30));
    let scales = _mm512_castsi128_si512(_mm_and_si128(load16(&b.scales), _mm_set1_epi8(15)));
    let v = load(&b.qs);
    // The two bits of register `j` in bits 4 and 5 of each byte.
    let mut w =
        [_mm512_slli_epi16::<4>(v), _mm512_slli_epi16::<2>(v), v, _mm512_srli_epi16::<2>(v)];
    for (w, of) in w.iter_mut().zip(&Q2_SCALES) {
        let scales = _mm512_permutexvar_epi8(load(of), scales);
        let both = _mm512_or_si512(_mm512_and_si512(*w, upper), scales);
        *w = _mm512_permutexvar_epi8(both, products);
    }
    w
}

/// The minima of the sub-blocks as 16-bit numbers.
#[target_feature(enable = "avx512vl,avx512bw")]
pub(super) fn q2_k_mins(b: &Q2K) -> __m256i {
    let packed = _mm_srli_epi16::<4>(load16(&b.scales));
    _mm256_cvtepu8_epi16(_mm_and_si128(packed, _mm_set1_epi8(15)))
}

/// Weight times scale by `weight · 16 + scale`.
static PRODUCTS: [u8; 64] = {
    let mut t = [0; 64];
    let mut i = 0;
    while i < 64 {
        t[i] = (i / 16 * (i % 16)) as u8;
        i += 1;
    }
    t
};

/// For `permutexvar_epi8`, per register: the sub-block of 16 that each byte belongs to.
static Q2_SCALES: [[u8; 64]; 4] = {
    let mut p = [[0; 64]; 4];
    let mut i = 0;
    while i < 256 {
        p[i / 64][i % 64] = (i / 64 * 2 + i % 32 / 16 + i % 64 / 32 * 8) as u8;
        i += 1;
    }
    p
};

#[target_feature(enable = "avx512vl,avx512bw")]
fn q4_k(p: &mut Panel, g: usize, rows: &[&Q4K; LANES], w: &mut Weights) {
    let nibble = _mm512_set1_epi8(15);
    let mut scales = [_mm512_setzero_si512(); LANES];
    for (r, b) in rows.iter().enumerate() {
        for (c, v) in b.qs.as_chunks::<64>().0.iter().enumerate() {
            let v = load(v);
            w[2 * c][r] = _mm512_and_si512(v, nibble);
            w[2 * c + 1][r] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble);
        }
        // The scales as 32-bit numbers, and behind them the minima as pairs of 16-bit numbers.
        let packed = q4_k_scales(b);
        let mins = _mm_cvtepu8_epi16(_mm_srli_si128::<8>(packed));
        let sc = _mm256_cvtepu8_epi32(packed);
        scales[r] = both(sc, _mm256_castsi128_si256(mins));
    }
    for (k, v) in transpose(&scales).into_iter().take(12).enumerate() {
        put(if k < 8 { &mut p.scales[k] } else { &mut p.mins[k - 8] }, g, v);
    }
    put_halves(&mut p.d[0], g, |r| rows[r].d);
    put_halves(&mut p.dmin, g, |r| rows[r].dmin);
}

/// Stores rows `16g..16g + 16`.
#[target_feature(enable = "avx512f")]
fn put<T: Copy>(to: &mut Lanes<T>, g: usize, v: __m512i) {
    store(&mut to.as_chunks_mut::<LANES>().0[g], v);
}

/// Stores rows `16g..16g + 16`, given as f16.
#[target_feature(enable = "avx512f")]
fn put_halves(to: &mut Lanes<f32>, g: usize, v: impl Fn(usize) -> F16) {
    let (low, high) = (f16s(&v), f16s(|r| v(8 + r)));
    let low = _mm512_castps_pd(_mm512_castps256_ps512(low));
    let both = _mm512_insertf64x4::<1>(low, _mm256_castps_pd(high));
    store_ps(&mut to.as_chunks_mut::<LANES>().0[g], _mm512_castpd_ps(both));
}

/// 16 rows of 16 × 32 bits as 16 columns.
#[target_feature(enable = "avx512f")]
fn transpose(rows: &[__m512i; LANES]) -> [__m512i; 16] {
    // In each 128 bits of part `i`: column `i mod 4` of four rows from `4 (i / 4)` on.
    let mut fours = [rows[0]; 16];
    for i in 0..4 {
        let [a, b, c, d] = std::array::from_fn(|k| rows[4 * i + k]);
        let (ab0, ab1) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd0, cd1) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        fours[4 * i] = _mm512_unpacklo_epi64(ab0, cd0);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(ab0, cd0);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(ab1, cd1);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(ab1, cd1);
    }
    let mut out = fours;
    for k in 0..4 {
        let [a, b, c, d] = std::array::from_fn(|i| fours[4 * i + k]);
        // 128-bit parts 0 and 1, then 2 and 3, of rows 0 to 7 and 8 to 15.
        let (ab0, ab1) = (low_parts(a, b), high_parts(a, b));
        let (cd0, cd1) = (low_parts(c, d), high_parts(c, d));
        out[k] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab0, cd0);
        out[4 + k] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab0, cd0);
        out[8 + k] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab1, cd1);
        out[12 + k] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab1, cd1);
    }
    out
}

/// Parts 0 and 1 of `a`, then of `b`.
#[target_feature(enable = "avx512f")]
fn low_parts(a: __m512i, b: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b)
}

/// Parts 2 and 3 of `a`, then of `b`.
#[target_feature(enable = "avx512f")]
fn high_parts(a: __m512i, b: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b)
}
