//! AVX2 panels: prefill and batches.
//!
//! Bytes: `maddubs` multiplies unsigned by signed bytes, so activations are raised by 128 where
//! weights have signs, and the sum starts with what that makes it too large by. `Q8_0` has bytes
//! whose products with those would not fit 16 bits; it is multiplied as 16-bit numbers.

use std::arch::x86_64::*;

use ds4_gguf::TensorType;

use super::super::Tile;
use super::super::panel::{COLS, Lanes, Panel, PanelKernel, ROWS, Sums, panels};
use super::super::rows::quant;
use super::fill::{self, LANES};
use super::{load, load_ps, load16, store, store_to_ps};
use crate::acts::{ActForm, Quant};

/// Registers of rows that bytes are multiplied with at a time.
const VECTORS: usize = 2;
/// Tokens that meet them: all sums stay in registers.
const TOKENS: usize = 3;

/// What the sums of a format of bytes look like.
trait Format {
    /// Storage format.
    const TYPE: TensorType;
    /// Weights may be negative.
    const SIGNED: bool;
    /// Products of four that fit 16 bits when added per pair of lanes.
    const STEPS: usize;
    /// Columns per integer scale.
    const SUB: usize;
    /// Columns per f32 scale.
    const BLOCK: usize;
    /// Sub-blocks have minima.
    const MINS: bool;
}

/// `MXFP4`: 4 · 2 · 12 · 255 < 2¹⁵.
struct Fp4;
impl Format for Fp4 {
    const TYPE: TensorType = TensorType::Mxfp4;
    const SIGNED: bool = true;
    const STEPS: usize = 4;
    const SUB: usize = 32;
    const BLOCK: usize = 32;
    const MINS: bool = false;
}

/// `IQ2_XXS`: 2 · 43 · 255 < 2¹⁵.
struct Iq2;
impl Format for Iq2 {
    const TYPE: TensorType = TensorType::Iq2Xxs;
    const SIGNED: bool = true;
    const STEPS: usize = 1;
    const SUB: usize = 32;
    const BLOCK: usize = 256;
    const MINS: bool = false;
}

/// `Q2_K`: 4 · 2 · 3 · 127 < 2¹⁵.
struct Q2;
impl Format for Q2 {
    const TYPE: TensorType = TensorType::Q2K;
    const SIGNED: bool = false;
    const STEPS: usize = 4;
    const SUB: usize = 16;
    const BLOCK: usize = 256;
    const MINS: bool = true;
}

/// `Q4_K`: 8 · 2 · 15 · 127 < 2¹⁵.
struct Q4;
impl Format for Q4 {
    const TYPE: TensorType = TensorType::Q4K;
    const SIGNED: bool = false;
    const STEPS: usize = 8;
    const SUB: usize = 32;
    const BLOCK: usize = 256;
    const MINS: bool = true;
}

/// Computes the tile if its types have panels; see [`super::super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(t: &Tile<'_>) -> bool {
    use TensorType as T;
    let kernel = match (t.ty, t.form) {
        (T::Q8_0, ActForm::Q8_0) => PanelKernel { fill: fill::words, multiply: words::<32> },
        (T::Q8_0, ActForm::Q8K) => PanelKernel { fill: fill::words, multiply: words::<256> },
        (T::Mxfp4, ActForm::Q8K) => bytes_kernel::<Fp4>(),
        (T::Iq2Xxs, ActForm::Q8K) => bytes_kernel::<Iq2>(),
        (T::Q2K, ActForm::Q8K) => bytes_kernel::<Q2>(),
        (T::Q4K, ActForm::Q8K) => bytes_kernel::<Q4>(),
        _ => return false,
    };
    // SAFETY: the caller's promise.
    unsafe { panels(t, &kernel) };
    true
}

fn bytes_kernel<F: Format>() -> PanelKernel {
    PanelKernel { fill: fill_bytes::<F>, multiply: bytes::<F> }
}

/// Takes over rows of a format of bytes.
#[target_feature(enable = "avx2,fma,f16c")]
fn fill_bytes<F: Format>(p: &mut Panel, rows: &Lanes<&[u8]>) {
    fill::bytes(F::TYPE, p, rows);
    if F::SIGNED {
        start::<F>(p);
    }
}

/// Sums start with −128 times the sum of the weights, which is what a token of ones gives.
#[target_feature(enable = "avx2")]
fn start<F: Format>(p: &mut Panel) {
    let ones = [1; COLS];
    for block in 0..COLS / F::BLOCK {
        p.start[block] = [0; ROWS];
        for v in 0..ROWS / LANES {
            let [[s]] = sums::<F, 1, 1>(p, &[&ones], block, v);
            let s = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<7>(s));
            store(&mut p.start[block].as_chunks_mut::<LANES>().0[v], s);
        }
    }
}

/// Every token of the tile times a panel of bytes.
#[target_feature(enable = "avx2,fma,f16c")]
fn bytes<F: Format>(p: &Panel, t: &Tile<'_>, at: usize, y: &mut [Sums]) {
    let mut first = 0;
    while first < y.len() {
        match y.len() - first {
            1 => byte_tokens::<F, 1>(p, t, at, first, y),
            2 => byte_tokens::<F, 2>(p, t, at, first, y),
            _ => byte_tokens::<F, TOKENS>(p, t, at, first, y),
        }
        first += TOKENS;
    }
}

/// Tokens `first..first + T` of the tile times a panel of bytes.
#[target_feature(enable = "avx2,fma,f16c")]
fn byte_tokens<F: Format, const T: usize>(
    p: &Panel,
    t: &Tile<'_>,
    at: usize,
    first: usize,
    y: &mut [Sums],
) {
    let mut raised = [[0; COLS]; T];
    let q: [Quant<'_>; T] = std::array::from_fn(|k| quant(t.x, t.form, t.toks.row(first + k)));
    let mut x: [&[i8; COLS]; T] = std::array::from_fn(|k| &q[k].q.as_chunks::<COLS>().0[at / COLS]);
    if F::SIGNED {
        for k in 0..T {
            for (to, x) in raised[k].as_chunks_mut::<32>().0.iter_mut().zip(x[k].as_chunks().0) {
                store(to, _mm256_xor_si256(load::<i8, 32>(x), _mm256_set1_epi8(-128)));
            }
        }
        x = raised.each_ref();
    }
    let dx: [f32; T] = std::array::from_fn(|k| q[k].d[at / COLS]);
    for block in 0..COLS / F::BLOCK {
        for v in (0..ROWS / LANES).step_by(VECTORS) {
            let s = sums::<F, T, VECTORS>(p, &x, block, v);
            let m = if F::MINS { minima::<T>(p, &q, at, v) } else { s };
            for k in 0..T {
                let dx = _mm256_set1_ps(dx[k]);
                for i in 0..VECTORS {
                    let y = &mut y[first + k].0.as_chunks_mut::<LANES>().0[v + i];
                    let d = load_ps(&p.d[block].as_chunks::<LANES>().0[v + i]);
                    let s = _mm256_cvtepi32_ps(s[k][i]);
                    let sum = if F::MINS {
                        let dmin = load_ps(&p.dmin.as_chunks::<LANES>().0[v + i]);
                        let m = _mm256_cvtepi32_ps(m[k][i]);
                        let s = _mm256_fnmadd_ps(dmin, m, _mm256_mul_ps(d, s));
                        _mm256_fmadd_ps(s, dx, load_ps(y))
                    } else {
                        _mm256_fmadd_ps(s, _mm256_mul_ps(d, dx), load_ps(y))
                    };
                    store_to_ps(y, sum);
                }
            }
        }
    }
}

/// Integer sums of a block of `T` tokens with `V` registers of rows from `v` on. The weights are
/// the unsigned factor unless the format is signed; then `x` is.
#[target_feature(enable = "avx2")]
fn sums<F: Format, const T: usize, const V: usize>(
    p: &Panel,
    x: &[&[i8; COLS]; T],
    block: usize,
    v: usize,
) -> [[__m256i; V]; T] {
    let quads = &p.quads[block * F::BLOCK / 4..][..F::BLOCK / 4];
    let mut s = [[_mm256_setzero_si256(); V]; T];
    if F::SIGNED {
        for k in 0..T {
            for i in 0..V {
                s[k][i] = load(&p.start[block].as_chunks::<LANES>().0[v + i]);
            }
        }
    }
    for (n, steps) in quads.chunks_exact(F::STEPS).enumerate() {
        let mut part = [[_mm256_setzero_si256(); V]; T];
        for (step, w) in steps.iter().enumerate() {
            let at = block * F::BLOCK / 4 + n * F::STEPS + step;
            for i in 0..V {
                let w = load(&w.as_chunks::<LANES>().0[v + i]);
                for k in 0..T {
                    let x = x[k].as_chunks::<4>().0[at].map(i8::cast_unsigned);
                    let x = _mm256_set1_epi32(i32::from_le_bytes(x));
                    let u = if F::SIGNED {
                        _mm256_maddubs_epi16(x, w)
                    } else {
                        _mm256_maddubs_epi16(w, x)
                    };
                    part[k][i] = if step == 0 { u } else { _mm256_add_epi16(part[k][i], u) };
                }
            }
        }
        for i in 0..V {
            let scale = if F::SUB < F::BLOCK {
                load(&p.scales[n * F::STEPS * 4 / F::SUB].as_chunks::<LANES>().0[v + i])
            } else {
                _mm256_set1_epi16(1)
            };
            for k in 0..T {
                s[k][i] = _mm256_add_epi32(s[k][i], _mm256_madd_epi16(part[k][i], scale));
            }
        }
    }
    s
}

/// `Σ min · sum` of the block.
#[target_feature(enable = "avx2")]
fn minima<const T: usize>(
    p: &Panel,
    x: &[Quant<'_>; T],
    at: usize,
    v: usize,
) -> [[__m256i; VECTORS]; T] {
    let mut m = [[_mm256_setzero_si256(); VECTORS]; T];
    for k in 0..T {
        let sums = &x[k].sums.as_chunks::<16>().0[at / COLS];
        for (mins, sums) in p.mins.iter().zip(sums.as_chunks::<2>().0) {
            let pair = i32::from(sums[0].cast_unsigned()) | i32::from(sums[1]) << 16;
            let pair = _mm256_set1_epi32(pair);
            for i in 0..VECTORS {
                let mins = load(&mins.as_chunks::<LANES>().0[v + i]);
                m[k][i] = _mm256_add_epi32(m[k][i], _mm256_madd_epi16(mins, pair));
            }
        }
    }
    m
}

/// Every token of the tile times a panel of `Q8_0`; the activations have a scale per `X` columns.
#[target_feature(enable = "avx2,fma,f16c")]
fn words<const X: usize>(p: &Panel, t: &Tile<'_>, at: usize, y: &mut [Sums]) {
    let cols = COLS.min(t.cols - at);
    // Some rows at a time: what all tokens meet stays in the nearest cache.
    for first in (0..ROWS / LANES).step_by(WORD_VECTORS) {
        for (k, y) in y.iter_mut().enumerate() {
            let q = quant(t.x, t.form, t.toks.row(k));
            let mut x = [[0i16; 16]; COLS / 16];
            for (x, q) in x.iter_mut().zip(q.q[at..at + cols].as_chunks::<16>().0) {
                store(x, _mm256_cvtepi8_epi16(load16(q)));
            }
            let x = &x.as_flattened().as_chunks::<32>().0[..cols / 32];
            word_rows::<X>(p, x, &q.d[at / X..], first, y);
        }
    }
}

/// Registers of rows that 16-bit numbers are multiplied with at a time.
const WORD_VECTORS: usize = 4;

/// One token times [`WORD_VECTORS`] registers of rows from `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
fn word_rows<const X: usize>(p: &Panel, x: &[[i16; 32]], dx: &[f32], first: usize, y: &mut Sums) {
    let mut acc = [_mm256_setzero_ps(); WORD_VECTORS];
    for v in 0..WORD_VECTORS {
        acc[v] = load_ps(&y.0.as_chunks::<LANES>().0[first + v]);
    }
    for (i, x) in x.iter().enumerate() {
        let mut s = [_mm256_setzero_si256(); WORD_VECTORS];
        for (w, x) in p.pairs[16 * i..16 * i + 16].iter().zip(x.as_chunks::<2>().0) {
            let pair = i32::from(x[0].cast_unsigned()) | i32::from(x[1]) << 16;
            let x = _mm256_set1_epi32(pair);
            for v in 0..WORD_VECTORS {
                let w = load(&w.as_chunks::<LANES>().0[first + v]);
                s[v] = _mm256_add_epi32(s[v], _mm256_madd_epi16(x, w));
            }
        }
        let dx = _mm256_set1_ps(dx[32 * i / X]);
        for v in 0..WORD_VECTORS {
            let d = load_ps(&p.d[i].as_chunks::<LANES>().0[first + v]);
            acc[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[v]), _mm256_mul_ps(d, dx), acc[v]);
        }
    }
    for v in 0..WORD_VECTORS {
        store_to_ps(&mut y.0.as_chunks_mut::<LANES>().0[first + v], acc[v]);
    }
}
