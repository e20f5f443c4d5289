//! AVX-512 panels: prefill and batches.
//!
//! Weights with signs are raised in the panel. What that makes a sum too large by is subtracted:
//! from blocks of 32 before they meet their scale, from larger ones like minima of sub-blocks.

use std::arch::x86_64::*;

use ds4_gguf::TensorType;

use super::super::Tile;
use super::super::panel::{COLS, Lanes, Panel, PanelKernel, ROWS, ask_for, panels};
use super::super::rows::quant;
use super::{fill, load, load_ps, store_ps};
use crate::acts::{ActForm, Quant};

/// Rows of a register.
pub(super) const LANES: usize = 16;
/// Registers of a panel.
const VECTORS: usize = ROWS / LANES;
/// Tokens that meet them together: all sums stay in registers.
const TOKENS: usize = 3;

/// What the sums of a format look like.
pub(super) trait Format {
    /// Storage format.
    const TYPE: TensorType;
    /// What the weights of blocks of 32 are raised by.
    const RAISED: i32;
    /// Columns per f32 scale of the weights.
    const BLOCK: usize;
    /// Columns whose sum meets an integer scale; [`Format::BLOCK`] where there is none.
    const PART: usize;
    /// Columns per integer scale.
    const SUB: usize;
    /// The sum of a part fits 16 bits.
    const NARROW: bool;
    /// Columns per minimum, 16 or 32; 0 without minima.
    const MIN: usize;
    /// Minima have a scale of their own.
    const DMIN: bool;
}

/// `Q8_0`.
struct Q8;
impl Format for Q8 {
    const TYPE: TensorType = TensorType::Q8_0;
    const RAISED: i32 = 128;
    const BLOCK: usize = 32;
    const PART: usize = 32;
    const SUB: usize = 32;
    const NARROW: bool = false;
    const MIN: usize = 0;
    const DMIN: bool = false;
}

/// `MXFP4`.
struct Fp4;
impl Format for Fp4 {
    const TYPE: TensorType = TensorType::Mxfp4;
    const RAISED: i32 = 12;
    const BLOCK: usize = 32;
    const PART: usize = 32;
    const SUB: usize = 32;
    const NARROW: bool = false;
    const MIN: usize = 0;
    const DMIN: bool = false;
}

/// `IQ2_XXS`.
struct Iq2;
impl Format for Iq2 {
    const TYPE: TensorType = TensorType::Iq2Xxs;
    const RAISED: i32 = 0;
    const BLOCK: usize = 256;
    const PART: usize = 32;
    const SUB: usize = 32;
    const NARROW: bool = false;
    const MIN: usize = 32;
    const DMIN: bool = false;
}

/// `Q2_K`: the panel has the weights times their scales, 45 at most.
struct Q2;
impl Format for Q2 {
    const TYPE: TensorType = TensorType::Q2K;
    const RAISED: i32 = 0;
    const BLOCK: usize = 256;
    const PART: usize = 256;
    const SUB: usize = 256;
    const NARROW: bool = false;
    const MIN: usize = 16;
    const DMIN: bool = true;
}

/// `Q4_K`: 16 · 15 · 127 < 2¹⁵.
struct Q4;
impl Format for Q4 {
    const TYPE: TensorType = TensorType::Q4K;
    const RAISED: i32 = 0;
    const BLOCK: usize = 256;
    const PART: usize = 16;
    const SUB: usize = 32;
    const NARROW: bool = true;
    const MIN: usize = 32;
    const DMIN: bool = true;
}

/// Computes the tile if its types have panels; see [`super::super::tile`].
///
/// # Safety
/// The processor has what [`super::tile`] demands.
pub(super) unsafe fn tile(t: &Tile<'_>) -> bool {
    use TensorType as T;
    let kernel = match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0 | ActForm::Q8K) => kernel::<Q8>(),
        (T::Mxfp4, ActForm::Q8K) => kernel::<Fp4>(),
        (T::Iq2Xxs, ActForm::Q8K) => kernel::<Iq2>(),
        (T::Q2K, ActForm::Q8K) => kernel::<Q2>(),
        (T::Q4K, ActForm::Q8K) => kernel::<Q4>(),
        _ => return false,
    };
    // SAFETY: the caller's promise.
    unsafe { panels(t, &kernel) };
    true
}

fn kernel<F: Format>() -> PanelKernel {
    PanelKernel { fill: fill::<F>, multiply: multiply::<F> }
}

/// Takes over some columns of all rows.
#[target_feature(enable = "avx512vl,avx512vbmi,avx512vnni,gfni")]
fn fill<F: Format>(p: &mut Panel, rows: &Lanes<&[u8]>) {
    fill::rows(F::TYPE, p, rows);
}

/// Adds every token of the tile times the panel.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn multiply<F: Format>(p: &Panel, t: &Tile<'_>, at: usize, y: &mut [Lanes<f32>]) {
    let mut first = 0;
    while first < y.len() {
        let after = first + TOKENS;
        for k in after..y.len().min(after + TOKENS) {
            ask_for_token(t, k, at);
        }
        match y.len() - first {
            1 => tokens::<F, 1>(p, t, at, first, y),
            2 => tokens::<F, 2>(p, t, at, first, y),
            _ => tokens::<F, TOKENS>(p, t, at, first, y),
        }
        first = after;
    }
}

/// Asks for what token `k` has in the panel's columns. Rows of activations are a power of two
/// apart: many of them fall on the same places of a cache, and none is near when its turn comes.
fn ask_for_token(t: &Tile<'_>, k: usize, at: usize) {
    let q = quant(t.x, t.form, t.toks.row(k));
    let end = t.cols.min(at + COLS);
    ask_for(&q.q[at..end], false);
    ask_for(&q.sums[at / 16..end / 16], false);
}

/// Tokens `first..first + T`.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn tokens<F: Format, const T: usize>(
    p: &Panel,
    t: &Tile<'_>,
    at: usize,
    first: usize,
    y: &mut [Lanes<f32>],
) {
    let cols = COLS.min(t.cols - at);
    // Columns per scale of the activations.
    let per = if t.form == ActForm::Q8_0 { 32 } else { 256 };
    let mut q = [Quant { q: &[], d: &[], sums: &[] }; T];
    for k in 0..T {
        q[k] = quant(t.x, t.form, t.toks.row(first + k));
    }
    let mut x: [&[i8]; T] = [&[]; T];
    for k in 0..T {
        x[k] = &q[k].q[at..at + cols];
    }
    let y = &mut y[first..first + T];
    let mut acc = [[_mm512_setzero_ps(); VECTORS]; T];
    for k in 0..T {
        for v in 0..VECTORS {
            acc[k][v] = load_ps(&y[k].as_chunks::<LANES>().0[v]);
        }
    }
    for block in 0..cols / F::BLOCK {
        let mut s = [[_mm512_setzero_si512(); VECTORS]; T];
        if F::RAISED > 0 {
            for k in 0..T {
                let sums = &q[k].sums[(at + block * F::BLOCK) / 16..];
                let sum = i32::from(sums[0]) + i32::from(sums[1]);
                s[k] = [_mm512_set1_epi32(-F::RAISED * sum); VECTORS];
            }
        }
        let s = sums::<F, T>(p, &x, block, s);
        let m = if F::MIN > 0 { minima::<F, T>(p, &q, at) } else { s };
        for v in 0..VECTORS {
            let d = load_ps(&p.d[block].as_chunks::<LANES>().0[v]);
            let dmin = load_ps(&p.dmin.as_chunks::<LANES>().0[v]);
            for k in 0..T {
                let dx = _mm512_set1_ps(q[k].d[(at + block * F::BLOCK) / per]);
                acc[k][v] = if F::DMIN {
                    let (s, m) = (_mm512_cvtepi32_ps(s[k][v]), _mm512_cvtepi32_ps(m[k][v]));
                    let s = _mm512_fnmadd_ps(dmin, m, _mm512_mul_ps(d, s));
                    _mm512_fmadd_ps(s, dx, acc[k][v])
                } else {
                    let s = if F::MIN > 0 { _mm512_sub_epi32(s[k][v], m[k][v]) } else { s[k][v] };
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(d, dx), acc[k][v])
                };
            }
        }
    }
    for k in 0..T {
        for v in 0..VECTORS {
            store_ps(&mut y[k].as_chunks_mut::<LANES>().0[v], acc[k][v]);
        }
    }
}

/// Adds the integer sums of a block of `T` tokens to `s`.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn sums<F: Format, const T: usize>(
    p: &Panel,
    x: &[&[i8]; T],
    block: usize,
    mut s: [[__m512i; VECTORS]; T],
) -> [[__m512i; VECTORS]; T] {
    let first = block * F::BLOCK / 4;
    if F::PART == F::BLOCK {
        return part::<F, T>(p, x, first, s);
    }
    for n in 0..F::BLOCK / F::PART {
        let zero = [[_mm512_setzero_si512(); VECTORS]; T];
        let part = part::<F, T>(p, x, first + n * F::PART / 4, zero);
        for v in 0..VECTORS {
            let scale = load(&p.scales[n * F::PART / F::SUB].as_chunks::<LANES>().0[v]);
            for k in 0..T {
                s[k][v] = if F::NARROW {
                    _mm512_dpwssd_epi32(s[k][v], part[k][v], scale)
                } else {
                    _mm512_add_epi32(s[k][v], _mm512_mullo_epi32(part[k][v], scale))
                };
            }
        }
    }
    s
}

/// Adds the products of a part to `s`; its columns begin with four number `first`.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn part<F: Format, const T: usize>(
    p: &Panel,
    x: &[&[i8]; T],
    first: usize,
    mut s: [[__m512i; VECTORS]; T],
) -> [[__m512i; VECTORS]; T] {
    let n = F::PART / 4;
    let quads = &p.quads[first..first + n];
    let mut x4: [&[[i8; 4]]; T] = [&[]; T];
    for k in 0..T {
        x4[k] = &x[k].as_chunks::<4>().0[first..first + n];
    }
    for i in 0..n {
        let mut w = [_mm512_setzero_si512(); VECTORS];
        for v in 0..VECTORS {
            w[v] = load(&quads[i].as_chunks::<LANES>().0[v]);
        }
        for k in 0..T {
            let x = i32::from_le_bytes(x4[k][i].map(i8::cast_unsigned));
            let x = _mm512_set1_epi32(x);
            for v in 0..VECTORS {
                s[k][v] = _mm512_dpbusd_epi32(s[k][v], w[v], x);
            }
        }
    }
    s
}

/// `Σ min · sum` of the block.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn minima<F: Format, const T: usize>(
    p: &Panel,
    x: &[Quant<'_>; T],
    at: usize,
) -> [[__m512i; VECTORS]; T] {
    let mut m = [[_mm512_setzero_si512(); VECTORS]; T];
    let mut sums = [[0; 16]; T];
    for k in 0..T {
        sums[k] = x[k].sums.as_chunks::<16>().0[at / COLS];
        if F::MIN == 32 {
            for i in 0..8 {
                sums[k][i] = sums[k][2 * i] + sums[k][2 * i + 1];
            }
        }
    }
    for (i, mins) in p.mins[..if F::MIN == 16 { 8 } else { 4 }].iter().enumerate() {
        for k in 0..T {
            let pair = [sums[k][2 * i], sums[k][2 * i + 1]].map(i16::cast_unsigned);
            let pair = u32::from(pair[0]) | u32::from(pair[1]) << 16;
            let pair = _mm512_set1_epi32(pair.cast_signed());
            for v in 0..VECTORS {
                let mins = load(&mins.as_chunks::<LANES>().0[v]);
                m[k][v] = _mm512_dpwssd_epi32(m[k][v], mins, pair);
            }
        }
    }
    m
}
