//! Several independent matrix products as one parallel section.
//!
//! Rows are cut into units of similar work; threads take units from one counter, so a slow core
//! or a small matrix beside a large one does not leave others waiting.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ds4_gguf::TensorType;

use crate::acts::{ActForm, Acts};
use crate::dot::{self, Isa, Out, Tile, Toks};
use crate::pool::Pool;
use crate::trace::Work;

/// A borrowed matrix in its file format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mat<'a> {
    /// For records.
    pub name: &'a str,
    /// Storage format.
    pub ty: TensorType,
    /// Output rows.
    pub rows: usize,
    /// Input columns.
    pub cols: usize,
    /// `rows` rows of `ty.row_bytes(cols)` bytes.
    pub data: &'a [u8],
}

/// One product `y[t · rows + r] = Σ_c w[r,c] · x[t,c]`.
///
/// Pairs of weight type and form: `Q8_0 × {Q8_0, Q8K}` and `{IQ2_XXS, Q2_K, Q4_K, MXFP4} × Q8K`
/// are integer dot products; every other pair multiplies the dequantised weight with the value the
/// form stands for (`F32`: `x` itself, the plain mode and all F16, BF16 and F32 matrices).
#[derive(Debug)]
pub(crate) struct Job<'a> {
    w: Mat<'a>,
    x: &'a Acts,
    form: ActForm,
    tokens: Option<&'a [u32]>,
    groups: usize,
    out: Out<'a>,
    row_bytes: usize,
    /// Rows and tokens of a unit.
    unit: [usize; 2],
    units: Range<usize>,
}

impl<'a> Job<'a> {
    /// All rows of `w` times all rows of `x`, which must hold `form`. `out` has `x.n() · w.rows`
    /// values, all overwritten by [`matmul`].
    pub(crate) fn new(w: Mat<'a>, x: &'a Acts, form: ActForm, out: &'a mut [f32]) -> Self {
        let row_bytes = w.ty.row_bytes(w.cols).expect("rows are whole blocks");
        assert_eq!(Some(w.data.len()), row_bytes.checked_mul(w.rows), "bytes of {w:?}");
        let out = Out::new(out);
        Self { w, x, form, tokens: None, groups: 1, out, row_bytes, unit: [1; 2], units: 0..0 }
    }

    /// Only these rows of `x`, in this order: token `t` of the result is `x[tokens[t]]`.
    pub(crate) fn tokens(mut self, tokens: &'a [u32]) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// `w` is `groups` matrices stacked by rows; the rows of part `g` multiply row
    /// `t · groups + g` of `x` (§2.6 step 9). `out` still is `tokens × w.rows`.
    pub(crate) fn groups(mut self, groups: usize) -> Self {
        assert!(self.w.rows.is_multiple_of(groups), "{} rows in {groups} groups", self.w.rows);
        self.groups = groups;
        self
    }

    /// Tokens of the result.
    fn n(&self) -> usize {
        self.tokens.map_or(self.x.n() / self.groups, <[u32]>::len)
    }

    /// Rows of one group.
    fn part(&self) -> usize {
        self.w.rows / self.groups
    }

    /// Cuts the rows into units, the first of them number `first`.
    fn plan(&mut self, first: usize, threads: usize) {
        assert_eq!(self.out.len(), self.n() * self.w.rows, "{} tokens × {:?}", self.n(), self.w);
        assert_eq!(self.x.cols(), self.w.cols, "columns of activations and weights");
        assert!(self.x.has(self.form), "activations were not prepared as {:?}", self.form);
        let want = (threads * UNITS_PER_THREAD).div_ceil(self.groups);
        let step = dot::rows_together(self.w.ty, self.form, self.n());
        let bytes = if self.n() <= FEW { FEW_UNIT_BYTES } else { UNIT_BYTES };
        let rows = unit_rows(self.part(), bytes / self.row_bytes.max(1), want, step);
        // A few long rows are shared out by tokens; unpacking rows twice would not pay.
        let parts = self.part().div_ceil(rows);
        let share = parts < threads && step < dot::PANEL_ROWS;
        let tokens = if share { self.n().div_ceil(want).next_multiple_of(4) } else { self.n() };
        self.unit = [rows, tokens.max(1)];
        self.units = first..first + parts * self.groups * self.n().div_ceil(tokens.max(1));
    }

    /// The group, the rows and the tokens of one unit.
    fn part_of(&self, ix: usize) -> (usize, Range<usize>, Range<usize>) {
        let [rows, tokens] = self.unit;
        let per_group = self.part().div_ceil(rows);
        let (row, token) =
            (ix % (per_group * self.groups), ix / (per_group * self.groups) * tokens);
        let (group, at) = (row / per_group, row % per_group * rows);
        let begin = group * self.part() + at;
        let rows = begin..begin + rows.min(self.part() - at);
        (group, rows, token..(token + tokens).min(self.n()))
    }

    /// What one unit takes.
    fn work(&self, ix: usize) -> Work {
        let (_, rows, tokens) = self.part_of(ix);
        let (rows, tokens) = (rows.len(), tokens.len());
        Work {
            ty: Some(self.w.ty),
            bytes: (rows * self.row_bytes) as u64,
            macs: (rows * self.w.cols * tokens) as u64,
            tokens,
        }
    }

    /// Computes one unit of this job.
    fn unit(&self, isa: Isa, ix: usize) {
        let (group, Range { start: begin, end }, tokens) = self.part_of(ix);
        let first = tokens.start;
        let tile = Tile {
            ty: self.w.ty,
            w: &self.w.data[begin * self.row_bytes..end * self.row_bytes],
            row_bytes: self.row_bytes,
            cols: self.w.cols,
            x: self.x,
            form: self.form,
            toks: Toks { list: self.tokens, first, groups: self.groups, group, n: tokens.len() },
            out: self.out.at(begin + first * self.w.rows, self.w.rows),
        };
        dot::tile(isa, &tile);
    }
}

/// Units a job is cut into per thread, if it is large enough: a thread that is late by a unit
/// wastes at most this share of the others' time.
const UNITS_PER_THREAD: usize = 8;

/// Bytes of weights a unit should not exceed: half of a small core's L2 cache.
const UNIT_BYTES: usize = 128 << 10;

/// So few tokens pass over the weights once.
const FEW: usize = 4;

/// Bytes of weights of a unit for few tokens: kernels ask for rows beyond a unit's end, which
/// another thread may take.
const FEW_UNIT_BYTES: usize = 1 << 20;

/// Rows per unit: a multiple of `step`, as many as `want` units and `most` allow.
fn unit_rows(rows: usize, most: usize, want: usize, step: usize) -> usize {
    (rows / want.max(1)).min(most).max(1).next_multiple_of(step)
}

/// A number without common divisor with `n`, near the golden section of it: steps of this size
/// visit all of `0..n` and spread every stretch of it over the whole way.
fn stride(n: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (n * 5 / 8..=n + 1).find(|s| gcd(*s, n) == 1).unwrap_or(1)
}

/// Runs all products in one parallel section. Allocates nothing but, once per thread, the
/// kernels' scratch.
pub(crate) fn matmul(pool: &Pool, jobs: &mut [Job<'_>]) {
    matmul_with(Isa::current(), pool, jobs);
}

/// [`matmul`] with the kernels of `isa`, which this processor must have.
pub(crate) fn matmul_with(isa: Isa, pool: &Pool, jobs: &mut [Job<'_>]) {
    let mut units = 0;
    for job in jobs.iter_mut() {
        job.plan(units, pool.threads());
        units = job.units.end;
    }
    let jobs = &*jobs;
    // Formats that wait for memory and those that compute take turns, so that each has what the
    // other leaves.
    let mixed = jobs.iter().any(|job| job.w.ty != jobs[0].w.ty);
    let stride = if mixed { stride(units) } else { 1 };
    let next = AtomicUsize::new(0);
    let work = |thread, _| {
        loop {
            let ix = next.fetch_add(1, Ordering::Relaxed);
            if ix >= units {
                return;
            }
            let ix = ix * stride % units;
            let job = &jobs[jobs.partition_point(|j| j.units.end <= ix)];
            let ix = ix - job.units.start;
            pool.recorder.piece(thread, job.w.name, || job.work(ix), || job.unit(isa, ix));
        }
    };
    if units <= 1 { work(0, 1) } else { pool.run(work) }
}
