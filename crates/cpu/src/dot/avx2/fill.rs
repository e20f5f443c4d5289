//! AVX2: rows of a matrix unpacked into a panel, eight at a time.

use std::arch::x86_64::*;

use ds4_gguf::TensorType;
use ds4_gguf::block::{Block, Iq2Xxs, Mxfp4, Q2K, Q4K, Q8_0, blocks};
use ds4_gguf::tables::{E2M1_DOUBLED, e8m0_half};

use super::super::panel::{COLS, Lanes, Panel};
use super::rows::q4_k_scales;
use super::{f16s, iq2, load, load_ps, load16, store, store_to_ps, store16};

/// Rows of a register.
pub(super) const LANES: usize = 8;

/// Takes over rows of `Q8_0` as 16-bit numbers.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn words(p: &mut Panel, rows: &Lanes<&[u8]>) {
    let n = rows[0].len() / size_of::<Q8_0>();
    for (g, rows) in rows.as_chunks::<LANES>().0.iter().enumerate() {
        let rows = rows.map(|row| &blocks::<Q8_0>(row)[..n]);
        for i in 0..n {
            put_ps(&mut p.d[i], g, f16s(|r| rows[r][i].d));
            let quads = transpose(rows.map(|row| load(&row[i].q)));
            for (k, quad) in quads.into_iter().enumerate() {
                for h in 0..2 {
                    // Every byte twice: the upper one of two is the byte times 256.
                    let v = _mm256_shuffle_epi8(quad, load(&TWICE[h]));
                    put(&mut p.pairs[16 * i + 2 * k + h], g, _mm256_srai_epi16::<8>(v));
                }
            }
        }
    }
}

/// Takes over rows of another format, a block or as many as the panel has columns for.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bytes(ty: TensorType, p: &mut Panel, rows: &Lanes<&[u8]>) {
    for (g, rows) in rows.as_chunks::<LANES>().0.iter().enumerate() {
        match ty {
            TensorType::Mxfp4 => mxfp4(p, g, rows),
            TensorType::Iq2Xxs => iq2_xxs(p, g, &first(rows)),
            TensorType::Q2K => q2_k(p, g, &first(rows)),
            TensorType::Q4K => q4_k(p, g, &first(rows)),
            _ => unreachable!("a format of bytes"),
        }
        for k in 0..COLS / 32 {
            let part = p.space.each_ref().map(|w| load(&w.as_chunks::<32>().0[k]));
            for (quad, v) in p.quads[8 * k..8 * k + 8].iter_mut().zip(transpose(part)) {
                put(quad, g, v);
            }
        }
    }
}

/// The first block of every row.
fn first<'a, B: Block + 'a>(rows: &[&'a [u8]; LANES]) -> [&'a B; LANES] {
    rows.map(|row| &blocks::<B>(row)[0])
}

#[target_feature(enable = "avx2,f16c")]
fn mxfp4(p: &mut Panel, g: usize, rows: &[&[u8]; LANES]) {
    let values = load16(&E2M1_DOUBLED);
    let nibble = _mm_set1_epi8(15);
    let rows = rows.map(blocks::<Mxfp4>);
    let n = rows[0].len();
    for i in 0..n {
        put_ps(&mut p.d[i], g, load_ps(&rows.map(|row| e8m0_half(row[i].e))));
        for (w, row) in p.space.iter_mut().zip(rows) {
            let codes = load16(&row[i].qs);
            let high = _mm_and_si128(_mm_srli_epi16::<4>(codes), nibble);
            let (w, _) = w.as_chunks_mut::<16>();
            store16(&mut w[2 * i], _mm_shuffle_epi8(values, _mm_and_si128(codes, nibble)));
            store16(&mut w[2 * i + 1], _mm_shuffle_epi8(values, high));
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
fn iq2_xxs(p: &mut Panel, g: usize, rows: &[&Iq2Xxs; LANES]) {
    let mut scales = [_mm256_setzero_si256(); LANES];
    for (r, (b, w)) in rows.iter().zip(&mut p.space).enumerate() {
        let signs = iq2::Signs::of(b);
        scales[r] = signs.all_scales();
        let (w, _) = w.as_chunks_mut::<16>();
        for (j, first) in iq2::FIRST.into_iter().enumerate() {
            for h in 0..2 {
                let (size, signs) = iq2::half(b, &signs, j, h);
                let v = _mm256_sign_epi8(size, signs);
                store16(&mut w[2 * first + h], _mm256_castsi256_si128(v));
                store16(&mut w[2 * first + 4 + h], _mm256_extracti128_si256::<1>(v));
            }
        }
    }
    for (k, v) in transpose(scales).into_iter().enumerate() {
        put(&mut p.scales[iq2::GROUP[k]], g, v);
    }
    let d = _mm256_mul_ps(f16s(|r| rows[r].d), _mm256_set1_ps(0.125));
    put_ps(&mut p.d[0], g, d);
}

#[target_feature(enable = "avx2,f16c")]
fn q2_k(p: &mut Panel, g: usize, rows: &[&Q2K; LANES]) {
    let two_bits = _mm256_set1_epi8(3);
    for (b, w) in rows.iter().zip(&mut p.space) {
        let (w, _) = w.as_chunks_mut::<32>();
        for (h, v) in b.qs.as_chunks::<32>().0.iter().enumerate() {
            let v = load(v);
            store(&mut w[4 * h], _mm256_and_si256(v, two_bits));
            store(&mut w[4 * h + 1], _mm256_and_si256(_mm256_srli_epi16::<2>(v), two_bits));
            store(&mut w[4 * h + 2], _mm256_and_si256(_mm256_srli_epi16::<4>(v), two_bits));
            store(&mut w[4 * h + 3], _mm256_and_si256(_mm256_srli_epi16::<6>(v), two_bits));
        }
    }
    let nibble = _mm_set1_epi8(15);
    let packed = rows.map(|b| load16(&b.scales));
    let scales = columns(packed.map(|v| _mm_and_si128(v, nibble)));
    let mins = columns(packed.map(|v| _mm_and_si128(_mm_srli_epi16::<4>(v), nibble)));
    for k in 0..16 {
        put(&mut p.scales[k], g, _mm256_shuffle_epi8(scales[k / 4], load(&BYTE[k % 4])));
    }
    for k in 0..8 {
        put(&mut p.mins[k], g, _mm256_shuffle_epi8(mins[k / 2], load(&TWO[k % 2])));
    }
    put_ps(&mut p.d[0], g, f16s(|r| rows[r].d));
    put_ps(&mut p.dmin, g, f16s(|r| rows[r].dmin));
}

#[target_feature(enable = "avx2,f16c")]
fn q4_k(p: &mut Panel, g: usize, rows: &[&Q4K; LANES]) {
    let nibble = _mm256_set1_epi8(15);
    let mut packed = [_mm_setzero_si128(); LANES];
    for (r, (b, w)) in rows.iter().zip(&mut p.space).enumerate() {
        let (w, _) = w.as_chunks_mut::<32>();
        for (h, v) in b.qs.as_chunks::<32>().0.iter().enumerate() {
            let v = load(v);
            store(&mut w[2 * h], _mm256_and_si256(v, nibble));
            store(&mut w[2 * h + 1], _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble));
        }
        packed[r] = q4_k_scales(b);
    }
    let columns = columns(packed);
    for k in 0..8 {
        put(&mut p.scales[k], g, _mm256_shuffle_epi8(columns[k / 4], load(&BYTE[k % 4])));
        put(&mut p.mins[k], g, _mm256_shuffle_epi8(columns[2 + k / 4], load(&BYTE[k % 4])));
    }
    put_ps(&mut p.d[0], g, f16s(|r| rows[r].d));
    put_ps(&mut p.dmin, g, f16s(|r| rows[r].dmin));
}

/// Stores rows `8g..8g + 8`.
#[target_feature(enable = "avx2")]
fn put<T: Copy>(to: &mut Lanes<T>, g: usize, v: __m256i) {
    store(&mut to.as_chunks_mut::<LANES>().0[g], v);
}

/// Stores rows `8g..8g + 8`.
#[target_feature(enable = "avx2")]
fn put_ps(to: &mut Lanes<f32>, g: usize, v: __m256) {
    store_to_ps(&mut to.as_chunks_mut::<LANES>().0[g], v);
}

/// 8 rows of 8 × 32 bits as 8 columns.
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; LANES]) -> [__m256i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    // Columns k in the low half and k + 4 in the high half.
    let (low, high) = (fours(a, b, c, d), fours(e, f, g, h));
    let mut out = [a; 8];
    for k in 0..4 {
        out[k] = _mm256_permute2x128_si256::<0x20>(low[k], high[k]);
        out[k + 4] = _mm256_permute2x128_si256::<0x31>(low[k], high[k]);
    }
    out
}

/// 8 rows of 4 × 32 bits as 4 columns.
#[target_feature(enable = "avx2")]
fn columns(rows: [__m128i; LANES]) -> [__m256i; 4] {
    let [a, b, c, d, e, f, g, h] = rows;
    let both = |low, high| _mm256_set_m128i(high, low);
    fours(both(a, e), both(b, f), both(c, g), both(d, h))
}

/// In each half: 4 rows of 4 × 32 bits as 4 columns.
#[target_feature(enable = "avx2")]
fn fours(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256i; 4] {
    let (ab0, ab1) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd0, cd1) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab0, cd0),
        _mm256_unpackhi_epi64(ab0, cd0),
        _mm256_unpacklo_epi64(ab1, cd1),
        _mm256_unpackhi_epi64(ab1, cd1),
    ]
}

/// For `shuffle_epi8`: from every 32 bits bytes `2h`, `2h + 1`, each twice.
static TWICE: [[i8; 32]; 2] = shuffles([[0, 0, 1, 1], [2, 2, 3, 3]]);
/// For `shuffle_epi8`: from every 32 bits byte `k`, as 16 bits twice.
static BYTE: [[i8; 32]; 4] =
    shuffles([[0, -1, 0, -1], [1, -1, 1, -1], [2, -1, 2, -1], [3, -1, 3, -1]]);
/// For `shuffle_epi8`: from every 32 bits bytes `2h` and `2h + 1` as 16 bits.
static TWO: [[i8; 32]; 2] = shuffles([[0, -1, 1, -1], [2, -1, 3, -1]]);

/// The same choice of bytes in every 32 bits; −1 gives 0.
const fn shuffles<const N: usize>(bytes: [[i8; 4]; N]) -> [[i8; 32]; N] {
    let mut p = [[0; 32]; N];
    let mut i = 0;
    while i < 32 * N {
        let byte = bytes[i / 32][i % 4];
        p[i / 32][i % 32] = if byte < 0 { -1 } else { (i % 16 / 4 * 4) as i8 + byte };
        i += 1;
    }
    p
}
