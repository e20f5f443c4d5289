//! Activations of a step: the f32 rows and the int8 forms that quantised products read.
//!
//! Formats: §6.2 (`Q8_0` form) and §6.4 (`Q8_K`). Buffers are kept between calls, so a step that
//! is no larger than an earlier one allocates nothing.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::pool::Pool;
use crate::trace::Work;
use crate::vectorise::vectorised;

/// Which form of the activations a product reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActForm {
    /// The f32 rows; weights are dequantised.
    F32,
    /// Blocks of 32, scale `amax / 127` (§6.2): in front of `Q8_0` matrices.
    Q8_0,
    /// Blocks of 256, scale `−m / 127` (§6.4): in front of routed experts.
    Q8K,
}

/// `n` rows of `cols` activations.
///
/// Fill either with [`Acts::set`], or write into [`Acts::rows_mut`] and then call
/// [`Acts::quantise`]. The rows usually are the tokens of the step.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    n: usize,
    cols: usize,
    x: Vec<f32>,
    q8_0: Form,
    q8_k: Form,
}

/// One quantised form of all rows.
#[derive(Debug, Default)]
struct Form {
    valid: bool,
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
}

/// One row in a quantised form: `x[i] ≈ q[i] · d[i / block]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quant<'a> {
    /// Values in −127..=127.
    pub q: &'a [i8],
    /// One scale per block.
    pub d: &'a [f32],
    /// Sums of 16 consecutive `q`.
    pub sums: &'a [i16],
}

impl Acts {
    /// No rows.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Rows.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Values per row.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Copies `n × cols` values and prepares the forms named.
    pub(crate) fn set(&mut self, pool: &Pool, x: &[f32], n: usize, cols: usize, forms: &[ActForm]) {
        self.rows_mut(n, cols).copy_from_slice(x);
        self.quantise(pool, forms);
    }

    /// Makes room for `n × cols` values, to be overwritten by the caller; no quantised form is
    /// valid until [`Acts::quantise`].
    pub(crate) fn rows_mut(&mut self, n: usize, cols: usize) -> &mut [f32] {
        (self.n, self.cols) = (n, cols);
        self.q8_0.valid = false;
        self.q8_k.valid = false;
        if self.x.len() < n * cols {
            self.x.resize(n * cols, 0.0);
        }
        &mut self.x[..n * cols]
    }

    /// The f32 rows, `n × cols`.
    pub(crate) fn rows(&self) -> &[f32] {
        &self.x[..self.n * self.cols]
    }

    /// Row `i` as f32.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.rows()[i * self.cols..(i + 1) * self.cols]
    }

    /// Prepares the forms named from the f32 rows. `Q8_0` needs whole blocks of 32, `Q8K` of 256.
    pub(crate) fn quantise(&mut self, pool: &Pool, forms: &[ActForm]) {
        let (n, cols) = (self.n, self.cols);
        let x = &self.x[..n * cols];
        for form in forms {
            let (f, block) = match form {
                ActForm::F32 => continue,
                ActForm::Q8_0 => (&mut self.q8_0, 32),
                ActForm::Q8K => (&mut self.q8_k, 256),
            };
            assert!(cols.is_multiple_of(block), "{cols} columns in blocks of {block}");
            f.valid = true;
            f.grow(n * cols, block);
            f.quantise(pool, x, cols, block);
        }
    }

    /// Row `i` in `Q8_0` form.
    #[inline]
    pub(crate) fn q8_0(&self, i: usize) -> Quant<'_> {
        self.q8_0.row(i, self.cols, 32)
    }

    /// Row `i` in `Q8_K` form.
    #[inline]
    pub(crate) fn q8_k(&self, i: usize) -> Quant<'_> {
        self.q8_k.row(i, self.cols, 256)
    }

    /// Columns `at` of row `i`, whole blocks, in a quantised form.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for panels"))]
    #[expect(clippy::inline_always, reason = "a returned value would be copied")]
    #[inline(always)]
    pub(crate) fn part(&self, form: ActForm, i: usize, at: Range<usize>) -> Quant<'_> {
        match form {
            ActForm::Q8_0 => self.q8_0.part(i * self.cols, at, 32),
            ActForm::Q8K => self.q8_k.part(i * self.cols, at, 256),
            ActForm::F32 => unreachable!("not a quantised form"),
        }
    }

    /// Whether the form has been prepared since the rows were written.
    pub(crate) fn has(&self, form: ActForm) -> bool {
        match form {
            ActForm::F32 => true,
            ActForm::Q8_0 => self.q8_0.valid,
            ActForm::Q8K => self.q8_k.valid,
        }
    }

    /// The values of row `i` from column `at` on as the form represents them: `d · q`.
    pub(crate) fn values(&self, form: ActForm, i: usize, at: usize, out: &mut [f32]) {
        let (x, block) = match form {
            ActForm::F32 => {
                out.copy_from_slice(&self.row(i)[at..at + out.len()]);
                return;
            }
            ActForm::Q8_0 => (self.q8_0(i), 32),
            ActForm::Q8K => (self.q8_k(i), 256),
        };
        for (k, o) in out.iter_mut().enumerate() {
            *o = x.d[(at + k) / block] * f32::from(x.q[at + k]);
        }
    }
}

impl Form {
    /// Room for `len` values.
    fn grow(&mut self, len: usize, block: usize) {
        if self.q.len() < len {
            self.q.resize(len, 0);
            self.d.resize(len / block, 0.0);
            self.sums.resize(len / 16, 0);
        }
    }

    fn quantise(&mut self, pool: &Pool, x: &[f32], cols: usize, block: usize) {
        let scales = self.d.chunks_mut(cols / block).zip(self.sums.chunks_mut(cols / 16));
        let mut rows = x.chunks(cols).zip(self.q.chunks_mut(cols).zip(scales));
        if x.len() < ALONE {
            let all = || rows.for_each(|(x, (q, (d, sums)))| row(x, q, d, sums, block));
            return pool.recorder.piece(0, "quantise", Work::default, all);
        }
        let rows = Mutex::new(&mut rows);
        let next = || rows.lock().unwrap_or_else(PoisonError::into_inner).next();
        pool.run(|thread, _| {
            let all = || {
                while let Some((x, (q, (d, sums)))) = next() {
                    row(x, q, d, sums, block);
                }
            };
            pool.recorder.piece(thread, "quantise", Work::default, all);
        });
    }

    #[inline]
    fn row(&self, i: usize, cols: usize, block: usize) -> Quant<'_> {
        self.part(i * cols, 0..cols, block)
    }

    /// Values `at` of the row that begins with value `first`.
    #[expect(clippy::inline_always, reason = "a returned value would be copied")]
    #[inline(always)]
    fn part(&self, first: usize, at: Range<usize>, block: usize) -> Quant<'_> {
        assert!(self.valid, "activations were not prepared in this form");
        let (begin, end) = (first + at.start, first + at.end);
        Quant {
            q: &self.q[begin..end],
            d: &self.d[begin / block..end / block],
            sums: &self.sums[begin / 16..end / 16],
        }
    }
}

/// Fewer values than this are quantised sooner than other threads are told to help.
const ALONE: usize = 64 << 10;

vectorised! {
    /// Quantises one row in blocks of 32 or 256.
    fn row(x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16], block: usize) {
        if block == 32 { row_q8_0(x, q, d) } else { row_q8_k(x, q, d) }
        for (s, q) in sums.iter_mut().zip(q.as_chunks::<16>().0) {
            *s = q.iter().map(|q| i16::from(*q)).sum();
        }
    }
}

/// `d = amax / 127`, `q = rint(x · (1/d))`, ties to even.
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
fn row_q8_0(x: &[f32], q: &mut [i8], d: &mut [f32]) {
    for ((x, q), d) in x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0).zip(d) {
        *d = f32::from_bits(largest(x)) / 127.0;
        let inv = if *d == 0.0 { 0.0 } else { 1.0 / *d };
        for (q, x) in q.iter_mut().zip(x) {
            *q = rint(x * inv);
        }
    }
}

/// `m` = the element of largest magnitude (the first on ties), `q = rint(x · (−127/m))`, at most
/// 127, `d = 1 / (−127/m)`.
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
fn row_q8_k(x: &[f32], q: &mut [i8], d: &mut [f32]) {
    let blocks = x.as_chunks::<256>().0.iter().zip(q.as_chunks_mut::<256>().0);
    for ((x, q), d) in blocks.zip(d) {
        let size = largest(x);
        let m = x.iter().find(|x| x.abs().to_bits() == size).copied().unwrap_or(0.0);
        let inv = if m == 0.0 { 0.0 } else { -127.0 / m };
        *d = if inv == 0.0 { 0.0 } else { 1.0 / inv };
        for (q, x) in q.iter_mut().zip(x) {
            *q = rint(x * inv);
        }
    }
}

/// Bits of the largest magnitude. Compared as integers, NaN is larger than any number: it ends up
/// in the scale and so in every product, not in silence.
#[expect(clippy::inline_always, reason = "to be compiled for the caller's instruction set")]
#[inline(always)]
fn largest(x: &[f32]) -> u32 {
    x.iter().fold(0, |m: i32, x| m.max(x.abs().to_bits().cast_signed())).cast_unsigned()
}

/// To the nearest integer, ties to even, at most ±127. Adding 1.5·2²³ leaves the integer in the low
/// bits; unlike a call to round, this is done for many values at once.
#[inline(always)]
fn rint(v: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    let bits = (v.clamp(-127.0, 127.0) + SHIFT).to_bits();
    bits.wrapping_sub(SHIFT.to_bits()) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Little-endian floats of a fixture.
    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// The values a form stands for, row by row.
    #[expect(clippy::float_cmp, reason = "roundings are exact")]
    fn check(form: ActForm, expected: &[u8]) {
        let x = floats(include_bytes!("../../../testdata/activations/act.in.f32"));
        let cols = 512;
        let mut acts = Acts::new();
        acts.set(&Pool::new(2), &x, x.len() / cols, cols, &[form]);
        let mut y = vec![0.0; x.len()];
        for (i, y) in y.chunks_exact_mut(cols).enumerate() {
            acts.values(form, i, 0, y);
        }
        for (i, (y, e)) in y.iter().zip(floats(expected)).enumerate() {
            assert!(*y == e, "{form:?}, value {i}: {y:e} for {e:e}");
        }
    }

    #[test]
    fn forms_equal_the_reference() {
        check(ActForm::Q8_0, include_bytes!("../../../testdata/activations/act_q8_0.out.f32"));
        check(ActForm::Q8K, include_bytes!("../../../testdata/activations/act_q8_k.out.f32"));
    }

    #[test]
    fn rounding_is_to_even_and_bounded() {
        for (x, y) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.5, 126)] {
            assert_eq!(rint(x), y, "{x}");
        }
        assert_eq!((rint(1e9), rint(f32::NEG_INFINITY)), (127, -127));
        for i in -1270..=1270_i16 {
            let x = f32::from(i) / 10.0;
            assert_eq!(
                f32::from(rint(x)).to_bits() << 1,
                x.round_ties_even().to_bits() << 1,
                "{x}"
            );
        }
    }

    /// Many rows on many threads: each has its own scales and sums.
    #[test]
    fn rows_are_their_own() {
        let mut rng = crate::synthetic::Rng(5);
        let (n, cols) = (300, 256);
        let x = crate::synthetic::values(&mut rng, n * cols);
        let mut acts = Acts::new();
        acts.set(&Pool::new(3), &x, n, cols, &[ActForm::Q8_0, ActForm::Q8K]);
        for (i, x) in x.chunks(cols).enumerate() {
            for (f, block) in [(acts.q8_0(i), 32), (acts.q8_k(i), 256)] {
                let (mut q, mut d) = (vec![0; cols], vec![0.0; cols / block]);
                let mut sums = vec![0; cols / 16];
                row(x, &mut q, &mut d, &mut sums, block);
                assert_eq!((f.q, f.d), (&q[..], &d[..]), "row {i}");
                for (k, s) in f.sums.iter().enumerate() {
                    let sum: i16 = f.q[16 * k..16 * k + 16].iter().map(|q| i16::from(*q)).sum();
                    assert_eq!(*s, sum, "row {i}, sum {k}");
                }
            }
        }
    }
}
