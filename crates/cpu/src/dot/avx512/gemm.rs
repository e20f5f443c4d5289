//! AVX-512 panels: prefill and batches.
//!
//! Weights with signs are raised in the panel. What that makes a sum too large by is subtracted:
//! from blocks of 32 before they meet their scale, from larger ones like minima of sub-blocks.

use std::arch::asm;
use std::arch::x86_64::*;

use ds4_gguf::TensorType;

use super::super::Tile;
use super::super::panel::{COLS, Lanes, Panel, PanelKernel, ROWS, Sums, ask_for, panels};
use super::{fill, load, load_ps, store_ps};
use crate::acts::ActForm;

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

/// What a token has in the columns of a panel.
#[derive(Clone, Copy)]
struct Columns<'a> {
    /// Values.
    x: &'a [[i8; 4]],
    /// Sums of 16 of them.
    sums: &'a [[i16; 2]],
    /// Scales.
    d: &'a [f32],
    /// Scales per block of 32, or 0 where one is for all.
    per_block: usize,
}

/// Columns `at..` of token `k` of the tile.
#[expect(clippy::inline_always, reason = "a returned value would be copied")]
#[inline(always)]
fn columns<'a>(t: &Tile<'a>, at: usize, k: usize) -> Columns<'a> {
    let q = t.x.part(t.form, t.toks.row(k), at..t.cols.min(at + COLS));
    Columns {
        x: q.q.as_chunks().0,
        sums: q.sums.as_chunks().0,
        d: q.d,
        per_block: usize::from(t.form == ActForm::Q8_0),
    }
}

/// Adds every token of the tile times the panel.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn multiply<F: Format>(p: &Panel, t: &Tile<'_>, at: usize, y: &mut [Sums]) {
    let none = [Columns { x: &[], sums: &[], d: &[], per_block: 0 }; TOKENS];
    // Two places in turn: what was just written must not be copied.
    let (mut now, mut next) = (&mut none.clone(), &mut none.clone());
    for after in (0..y.len() + TOKENS).step_by(TOKENS) {
        for k in 0..TOKENS {
            // Rows of activations are a power of two apart: many of them fall on the same places of
            // a cache, and none is near when its turn comes.
            next[k] = columns(t, at, (after + k).min(y.len() - 1));
            ask_for(next[k].x, false);
            ask_for(next[k].sums, false);
        }
        let end = y.len().min(after);
        let y = &mut y[after.saturating_sub(TOKENS)..end];
        match y.len() {
            0 => {}
            1 => tokens::<F, 1>(p, now, y),
            2 => tokens::<F, 2>(p, now, y),
            _ => tokens::<F, TOKENS>(p, now, y),
        }
        std::mem::swap(&mut now, &mut next);
    }
}

/// Adds the first `T` tokens times the panel. Inlined, it would keep what it reads of the panel in
/// registers over all tokens: more than there are, so they would be read from the stack.
#[inline(never)]
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn tokens<F: Format, const T: usize>(p: &Panel, x: &[Columns<'_>; TOKENS], y: &mut [Sums]) {
    let y = y.first_chunk_mut::<T>().expect("as many sums as tokens");
    let mut acc = [[_mm512_setzero_ps(); VECTORS]; T];
    if F::BLOCK < COLS {
        for k in 0..T {
            for v in 0..VECTORS {
                acc[k][v] = load_ps(&y[k].0.as_chunks::<LANES>().0[v]);
            }
        }
    }
    let blocks = if F::BLOCK < COLS { x[0].x.len() * 4 / F::BLOCK } else { 1 };
    for block in 0..blocks {
        let s = sums::<F, T>(p, x, block);
        let m = if F::MIN > 0 { minima::<F, T>(p, x) } else { s };
        let mut dx = [_mm512_setzero_ps(); T];
        for k in 0..T {
            dx[k] = _mm512_set1_ps(x[k].d[block * x[k].per_block]);
        }
        for v in 0..VECTORS {
            let d = load_ps(&p.d[block].as_chunks::<LANES>().0[v]);
            let dmin = load_ps(&p.dmin.as_chunks::<LANES>().0[v]);
            for k in 0..T {
                if F::BLOCK < COLS {
                    acc[k][v] = add::<F>(acc[k][v], [s[k][v], m[k][v]], [d, dmin], dx[k]);
                } else {
                    let y = &mut y[k].0.as_chunks_mut::<LANES>().0[v];
                    store_ps(y, add::<F>(load_ps(y), [s[k][v], m[k][v]], [d, dmin], dx[k]));
                }
            }
        }
    }
    if F::BLOCK < COLS {
        for k in 0..T {
            for v in 0..VECTORS {
                store_ps(&mut y[k].0.as_chunks_mut::<LANES>().0[v], acc[k][v]);
            }
        }
    }
}

/// `y` and a block's sums, that of the minima behind the other, times the scales of the weights and
/// of the activations.
#[target_feature(enable = "avx512f")]
fn add<F: Format>(y: __m512, [s, m]: [__m512i; 2], [d, dmin]: [__m512; 2], dx: __m512) -> __m512 {
    if F::DMIN {
        let (s, m) = (_mm512_cvtepi32_ps(s), _mm512_cvtepi32_ps(m));
        _mm512_fmadd_ps(_mm512_fnmadd_ps(dmin, m, _mm512_mul_ps(d, s)), dx, y)
    } else {
        let s = if F::MIN > 0 { _mm512_sub_epi32(s, m) } else { s };
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(d, dx), y)
    }
}

/// The integer sums of a block of `T` tokens.
#[target_feature(enable = "avx512vl,avx512bw,avx512vnni")]
fn sums<F: Format, const T: usize>(
    p: &Panel,
    x: &[Columns<'_>; TOKENS],
    block: usize,
) -> [[__m512i; VECTORS]; T] {
    let mut s = [[_mm512_setzero_si512(); VECTORS]; T];
    if F::RAISED > 0 {
        for k in 0..T {
            let sum = x[k].sums[block];
            let sum = i32::from(sum[0]) + i32::from(sum[1]);
            s[k] = [_mm512_set1_epi32(-F::RAISED * sum); VECTORS];
        }
    }
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
                    dpwssd(s[k][v], part[k][v], scale)
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
    x: &[Columns<'_>; TOKENS],
    first: usize,
    mut s: [[__m512i; VECTORS]; T],
) -> [[__m512i; VECTORS]; T] {
    let n = F::PART / 4;
    let quads = &p.quads[first..first + n];
    let mut x4: [&[[i8; 4]]; T] = [&[]; T];
    for k in 0..T {
        x4[k] = &x[k].x[first..first + n];
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
    x: &[Columns<'_>; TOKENS],
) -> [[__m512i; VECTORS]; T] {
    let mut m = [[_mm512_setzero_si512(); VECTORS]; T];
    let mut sums: [&[[i16; 2]; 8]; T] = [&[[0; 2]; 8]; T];
    for k in 0..T {
        sums[k] = x[k].sums.first_chunk().expect("a block");
    }
    for (i, mins) in p.mins[..if F::MIN == 16 { 8 } else { 4 }].iter().enumerate() {
        let mut pairs = [_mm512_setzero_si512(); T];
        for k in 0..T {
            let [a, b] = if F::MIN == 16 {
                sums[k][i]
            } else {
                let [a, b] = [sums[k][2 * i], sums[k][2 * i + 1]];
                [a[0] + a[1], b[0] + b[1]]
            };
            let pair = u32::from(a.cast_unsigned()) | u32::from(b.cast_unsigned()) << 16;
            pairs[k] = _mm512_set1_epi32(pair.cast_signed());
        }
        for v in 0..VECTORS {
            let mins = load(&mins.as_chunks::<LANES>().0[v]);
            for k in 0..T {
                m[k][v] = dpwssd(m[k][v], mins, pairs[k]);
            }
        }
    }
    m
}

/// `_mm512_dpwssd_epi32`, which the compiler would take apart into two instructions.
#[target_feature(enable = "avx512vnni")]
fn dpwssd(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: registers alone, and the caller has the instruction.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
