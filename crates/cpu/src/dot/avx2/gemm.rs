//! AVX2 panels of 8 rows times up to [`TOKENS`] tokens: prefill and batches.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::cell::RefCell;

use ds4_gguf::TensorType;

use super::super::panel::{Layout, Panel, Quad};
use super::super::rows::quant;
use super::super::{LANES, Tile};
use super::{load, load_ps, store, store_ps};
use crate::acts::{ActForm, Quant};

/// Tokens multiplied at a time: their sums stay in registers.
const TOKENS: usize = 4;

thread_local! {
    /// Scratch of this thread.
    static PANEL: RefCell<Panel<LANES>> = RefCell::default();
}

/// Panels of 8 rows.
struct Avx2;

impl Layout<LANES> for Avx2 {
    const TIMES: i32 = 0x10001;
    const SUMS: bool = false;

    fn transpose(rows: &[&[i8; 32]; LANES], quads: &mut [Quad<LANES>; 8]) {
        // SAFETY: only `panels` fills panels of this layout, and it needs AVX2.
        unsafe { transpose(rows, quads) }
    }
}

/// 8 × 8 values of 32 bits.
#[target_feature(enable = "avx2")]
fn transpose(rows: &[&[i8; 32]; LANES], quads: &mut [Quad<LANES>; 8]) {
    let [a, b, c, d, e, f, g, h] = rows.map(|r| load(r));
    let pairs = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let ((ab0, ab1), (cd0, cd1)) = (pairs(a, b), pairs(c, d));
    let ((ef0, ef1), (gh0, gh1)) = (pairs(e, f), pairs(g, h));
    // Column k of rows a to d in the low half, column k + 4 in the high half; then e to h.
    let fours = |a0, a1, b0, b1| {
        [
            _mm256_unpacklo_epi64(a0, b0),
            _mm256_unpackhi_epi64(a0, b0),
            _mm256_unpacklo_epi64(a1, b1),
            _mm256_unpackhi_epi64(a1, b1),
        ]
    };
    let (low, high) = (fours(ab0, ab1, cd0, cd1), fours(ef0, ef1, gh0, gh1));
    for k in 0..4 {
        let first = _mm256_inserti128_si256::<1>(low[k], _mm256_castsi256_si128(high[k]));
        let upper = _mm256_zextsi128_si256(_mm256_extracti128_si256::<1>(low[k]));
        let second = _mm256_blend_epi32::<0xf0>(upper, high[k]);
        store(&mut quads[k], first);
        store(&mut quads[k + 4], second);
    }
}

/// What the sums of a format look like.
trait Format {
    /// Weights may be negative.
    const SIGNED: bool;
    /// Products of four that fit 16 bits when added per lane pair.
    const STEPS: usize;
    /// Columns per integer scale; 0: none.
    const SUB: usize;
    /// Columns per f32 scale of the weights.
    const BLOCK: usize;
    /// Columns per scale of the activations.
    const X_BLOCK: usize;
    /// Sub-blocks have minima.
    const MINS: bool;
}

/// `Q8_0` weights, activations with a scale per `X` columns: |q| ≤ 128, 2 · 128 · 127 < 2¹⁵.
struct Q8<const X: usize>;
impl<const X: usize> Format for Q8<X> {
    const SIGNED: bool = true;
    const STEPS: usize = 1;
    const SUB: usize = 0;
    const BLOCK: usize = 32;
    const X_BLOCK: usize = X;
    const MINS: bool = false;
}

/// `MXFP4`: 8 · 2 · 12 · 127 < 2¹⁵.
struct Fp4;
impl Format for Fp4 {
    const SIGNED: bool = true;
    const STEPS: usize = 8;
    const SUB: usize = 0;
    const BLOCK: usize = 32;
    const X_BLOCK: usize = 256;
    const MINS: bool = false;
}

/// `IQ2_XXS`: 3 · 2 · 43 · 127 = 32766 < 2¹⁵.
struct Iq2;
impl Format for Iq2 {
    const SIGNED: bool = true;
    const STEPS: usize = 3;
    const SUB: usize = 32;
    const BLOCK: usize = 256;
    const X_BLOCK: usize = 256;
    const MINS: bool = false;
}

/// `Q2_K`: 4 · 2 · 3 · 127 < 2¹⁵.
struct Q2;
impl Format for Q2 {
    const SIGNED: bool = false;
    const STEPS: usize = 4;
    const SUB: usize = 16;
    const BLOCK: usize = 256;
    const X_BLOCK: usize = 256;
    const MINS: bool = true;
}

/// `Q4_K`: 8 · 2 · 15 · 127 < 2¹⁵.
struct Q4;
impl Format for Q4 {
    const SIGNED: bool = false;
    const STEPS: usize = 8;
    const SUB: usize = 32;
    const BLOCK: usize = 256;
    const X_BLOCK: usize = 256;
    const MINS: bool = true;
}

/// Computes the tile if its types have panels; see [`super::super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(t: &Tile<'_>) -> bool {
    use TensorType as T;
    // SAFETY: the caller's promise.
    unsafe {
        match (t.ty, t.form) {
            (T::Q8_0, ActForm::Q8_0) => panels::<Q8<32>>(t),
            (T::Q8_0, ActForm::Q8K) => panels::<Q8<256>>(t),
            (T::Mxfp4, ActForm::Q8K) => panels::<Fp4>(t),
            (T::Iq2Xxs, ActForm::Q8K) => panels::<Iq2>(t),
            (T::Q2K, ActForm::Q8K) => panels::<Q2>(t),
            (T::Q4K, ActForm::Q8K) => panels::<Q4>(t),
            _ => return false,
        }
    }
    true
}

/// All rows of the tile, a panel at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn panels<F: Format>(t: &Tile<'_>) {
    PANEL.with_borrow_mut(|p| {
        for first in (0..t.rows()).step_by(LANES) {
            p.fill::<Avx2>(t.ty, &t.lanes(first), t.cols);
            for at in (0..t.toks.n).step_by(TOKENS) {
                match t.toks.n - at {
                    1 => tokens::<F, 1>(t, p, first, at),
                    2 => tokens::<F, 2>(t, p, first, at),
                    3 => tokens::<F, 3>(t, p, first, at),
                    _ => tokens::<F, TOKENS>(t, p, first, at),
                }
            }
        }
    });
}

/// One panel times tokens `at..at + T`.
#[target_feature(enable = "avx2,fma,f16c")]
fn tokens<F: Format, const T: usize>(t: &Tile<'_>, p: &Panel<LANES>, first: usize, at: usize) {
    let x: [Quant<'_>; T] = from_fn(|k| quant(t.x, t.form, t.toks.row(at + k)));
    let y = product::<F, T>(p, &x);
    let rows = (t.rows() - first).min(LANES);
    for (k, y) in y.iter().enumerate() {
        for (r, y) in y[..rows].iter().enumerate() {
            t.out.set(first + r, at + k, *y);
        }
    }
}

/// Lane `r` of token `k`: row `r` of the panel times `x[k]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn product<F: Format, const T: usize>(p: &Panel<LANES>, x: &[Quant<'_>; T]) -> [[f32; LANES]; T] {
    let n = p.q.len() * 4 / F::BLOCK;
    let q: [&[[i8; 4]]; T] = from_fn(|k| &x[k].q.as_chunks::<4>().0[..p.q.len()]);
    let dx: [&[f32]; T] = from_fn(|k| &x[k].d[..p.q.len() * 4 / F::X_BLOCK]);
    let mut acc = [_mm256_setzero_ps(); T];
    for i in 0..n {
        let s = block::<F, T>(p, &q, i);
        let d = load_ps(&p.d[i]);
        for k in 0..T {
            let dx = _mm256_set1_ps(dx[k][i * F::BLOCK / F::X_BLOCK]);
            let s = _mm256_cvtepi32_ps(s[k]);
            acc[k] = if F::MINS {
                let m = _mm256_cvtepi32_ps(minima(p, x[k].sums, i));
                let y = _mm256_fnmadd_ps(load_ps(&p.dmin[i]), m, _mm256_mul_ps(d, s));
                _mm256_fmadd_ps(y, dx, acc[k])
            } else {
                _mm256_fmadd_ps(s, _mm256_mul_ps(d, dx), acc[k])
            };
        }
    }
    acc.map(|a| store_ps(a))
}

/// `Σ min · sum` of block `i`.
#[target_feature(enable = "avx2")]
fn minima(p: &Panel<LANES>, sums: &[i16], i: usize) -> __m256i {
    let mut m = _mm256_setzero_si256();
    for (mins, sums) in p.mins[8 * i..8 * i + 8].iter().zip(sums[16 * i..].as_chunks::<2>().0) {
        let pair = i32::from(sums[0].cast_unsigned()) | i32::from(sums[1]) << 16;
        m = _mm256_add_epi32(m, _mm256_madd_epi16(load(mins), _mm256_set1_epi32(pair)));
    }
    m
}

/// Integer sums of block `i`.
#[target_feature(enable = "avx2")]
fn block<F: Format, const T: usize>(
    p: &Panel<LANES>,
    x: &[&[[i8; 4]]; T],
    i: usize,
) -> [__m256i; T] {
    let (sub, quads) = (if F::SUB == 0 { F::BLOCK } else { F::SUB } / 4, F::BLOCK / 4);
    // Slices of constant length: no bounds checks below.
    let w = &p.q[i * quads..(i + 1) * quads];
    let x: [&[[i8; 4]]; T] = from_fn(|k| &x[k][i * quads..(i + 1) * quads]);
    let scales = if F::SUB == 0 { &[][..] } else { &p.scale[i * (quads / sub)..][..quads / sub] };
    let mut s = [_mm256_setzero_si256(); T];
    #[expect(clippy::needless_range_loop, reason = "`scales` is empty where there are none")]
    for j in 0..quads / sub {
        let scale = if F::SUB == 0 { _mm256_set1_epi16(1) } else { load(&scales[j]) };
        let (mut at, end) = (j * sub, (j + 1) * sub);
        while at < end {
            let mut part = [_mm256_setzero_si256(); T];
            for step in 0..F::STEPS.min(end - at) {
                let w = load(&w[at + step]);
                let size = if F::SIGNED { _mm256_abs_epi8(w) } else { w };
                for k in 0..T {
                    let v = _mm256_set1_epi32(i32::from_le_bytes(
                        x[k][at + step].map(i8::cast_unsigned),
                    ));
                    let v = if F::SIGNED { _mm256_sign_epi8(v, w) } else { v };
                    let v = _mm256_maddubs_epi16(size, v);
                    part[k] = if step == 0 { v } else { _mm256_add_epi16(part[k], v) };
                }
            }
            for k in 0..T {
                s[k] = _mm256_add_epi32(s[k], _mm256_madd_epi16(part[k], scale));
            }
            at += F::STEPS;
        }
    }
    s
}
