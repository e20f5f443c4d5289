//! Activations of a step: the f32 rows and the int8 forms that quantised products read.
//!
//! Formats: §6.2 (`Q8_0` form) and §6.4 (`Q8_K`). Buffers are kept between calls, so a step that
//! is no larger than an earlier one allocates nothing.

use crate::pool::Pool;

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
    /// `Q8K` only: sums of 16 consecutive `q`.
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
    pub(crate) fn q8_0(&self, i: usize) -> Quant<'_> {
        self.q8_0.row(i, self.cols, 32)
    }

    /// Row `i` in `Q8_K` form.
    pub(crate) fn q8_k(&self, i: usize) -> Quant<'_> {
        self.q8_k.row(i, self.cols, 256)
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
        let rows = x.chunks(cols).zip(self.q.chunks_mut(cols));
        let scales = self.d.chunks_mut(cols / block).zip(self.sums.chunks_mut(cols / 16));
        let _ = pool;
        for ((x, q), (d, sums)) in rows.zip(scales) {
            if block == 32 { row_q8_0(x, q, d) } else { row_q8_k(x, q, d, sums) }
        }
    }

    fn row(&self, i: usize, cols: usize, block: usize) -> Quant<'_> {
        assert!(self.valid, "activations were not prepared in this form");
        let (nd, ns) = (cols / block, cols / 16);
        Quant {
            q: &self.q[i * cols..(i + 1) * cols],
            d: &self.d[i * nd..(i + 1) * nd],
            sums: &self.sums[i * ns..(i + 1) * ns],
        }
    }
}

/// `d = amax / 127`, `q = rint(x · (1/d))`, ties to even.
fn row_q8_0(x: &[f32], q: &mut [i8], d: &mut [f32]) {
    for ((x, q), d) in x.chunks_exact(32).zip(q.chunks_exact_mut(32)).zip(d) {
        // Compared as integers, NaN is the largest magnitude: it ends up in `d`, not in silence.
        let amax = x.iter().fold(0, |m, x| x.abs().to_bits().max(m));
        *d = f32::from_bits(amax) / 127.0;
        let inv = if *d == 0.0 { 0.0 } else { 1.0 / *d };
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inv).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
}

/// `m` = the element of largest magnitude (the first on ties), `q = rint(x · (−127/m))`, at most
/// 127, `d = 1 / (−127/m)`.
fn row_q8_k(x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    let blocks = x.chunks_exact(256).zip(q.chunks_exact_mut(256));
    for ((x, q), (d, sums)) in blocks.zip(d.iter_mut().zip(sums.chunks_exact_mut(16))) {
        let bigger = |m: f32, x: &f32| if x.abs().to_bits() > m.abs().to_bits() { *x } else { m };
        let m = x.iter().fold(0.0, bigger);
        let inv = if m == 0.0 { 0.0 } else { -127.0 / m };
        *d = if inv == 0.0 { 0.0 } else { 1.0 / inv };
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inv).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
        for (s, q) in sums.iter_mut().zip(q.chunks_exact(16)) {
            *s = q.iter().map(|q| i16::from(*q)).sum();
        }
    }
}
