//! Rows of a matrix rearranged for many tokens: unpacked once, multiplied many times.
//!
//! A panel holds [`ROWS`] rows and up to [`COLS`] columns, few enough to stay in the first-level
//! cache while every token passes. Four consecutive weights of a row lie side by side, so one
//! broadcast of four activation bytes meets four weights of every row.

use std::cell::RefCell;

use super::Tile;
use crate::trace::unpacking;

/// Rows of a panel.
pub(super) const ROWS: usize = 64;
/// Columns of a panel at most: one block of the largest formats.
pub(super) const COLS: usize = 256;

/// One value per row.
pub(super) type Lanes<T> = [T; ROWS];

/// Sums of one token; a register of them never lies in two lines of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub Lanes<f32>);

/// Unpacked rows; which parts are used depends on the format and the instruction set.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// Four weights of each row: `[COLS / 4]`.
    pub quads: [Lanes<[i8; 4]>; COLS / 4],
    /// Two weights of each row: `[COLS / 2]`.
    pub pairs: [Lanes<[i16; 2]>; COLS / 2],
    /// Integer scales of sub-blocks, in both halves of 32 bits.
    pub scales: [Lanes<i32>; 16],
    /// Minima of two sub-blocks of 16: the first in the low 16 bits.
    pub mins: [Lanes<i32>; 8],
    /// What a block's integer sum begins with.
    pub start: [Lanes<i32>; 8],
    /// Scales of blocks.
    pub d: [Lanes<f32>; 8],
    /// Scales of the minima.
    pub dmin: Lanes<f32>,
    /// Some rows on their way into the panel.
    pub space: [[i8; COLS]; 8],
}

impl Panel {
    #[expect(clippy::large_stack_arrays, reason = "boxed once per thread")]
    const ZERO: Self = Self {
        quads: [[[0; 4]; ROWS]; COLS / 4],
        pairs: [[[0; 2]; ROWS]; COLS / 2],
        scales: [[0; ROWS]; 16],
        mins: [[0; ROWS]; 8],
        start: [[0; ROWS]; 8],
        d: [[0.0; ROWS]; 8],
        dmin: [0.0; ROWS],
        space: [[0; COLS]; 8],
    };
}

/// The parts of a product that depend on format and instruction set.
///
/// Unsafe to call: the processor must have what the kernel was compiled for.
pub(super) struct PanelKernel {
    /// Takes over some columns of all rows.
    pub fill: unsafe fn(&mut Panel, &Lanes<&[u8]>),
    /// Adds the panel times columns `at..` of every token of the tile to `y`, one entry per token.
    pub multiply: unsafe fn(&Panel, &Tile<'_>, at: usize, y: &mut [Sums]),
}

/// Tokens whose places in the result are asked for before they are written.
const AHEAD: usize = 4;

/// Space of one thread.
struct Scratch {
    panel: Box<Panel>,
    y: Vec<Sums>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { panel: Box::new(Panel::ZERO), y: Vec::new() });
}

/// Asks for values that are needed soon, where there is a stable way to: at once, or `later`, after
/// more than the nearest cache holds.
#[inline]
pub(super) fn ask_for<T>(values: &[T], later: bool) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(values)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let line = values.as_ptr().cast::<i8>().wrapping_add(at);
        // SAFETY: a hint reads nothing, and every processor of the architecture has it.
        unsafe {
            if later {
                _mm_prefetch::<_MM_HINT_T1>(line);
            } else {
                _mm_prefetch::<_MM_HINT_T0>(line);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, later);
}

/// Computes the tile with `kernel`.
///
/// # Safety
/// The processor has the instructions the kernel was compiled for.
pub(super) unsafe fn panels(t: &Tile<'_>, kernel: &PanelKernel) {
    SCRATCH.with_borrow_mut(|Scratch { panel, y }| {
        for first in (0..t.rows()).step_by(ROWS) {
            let rows = t.lanes::<ROWS>(first);
            y.clear();
            y.resize(t.toks.n, Sums([0.0; ROWS]));
            for at in (0..t.cols).step_by(COLS) {
                let bytes = |col: usize| col / t.ty.block_elems() * t.ty.block_bytes();
                let (begin, end) = (bytes(at), bytes((at + COLS).min(t.cols)));
                let part = rows.map(|row| &row[begin..end]);
                // What is unpacked next comes from memory meanwhile: the processor's own prefetching
                // does not see so many rows being read in small parts.
                for row in &rows {
                    ask_for(&row[end..(2 * end - begin).min(row.len())], true);
                }
                // SAFETY: passed on to the caller.
                unsafe {
                    unpacking(|| (kernel.fill)(panel, &part));
                    (kernel.multiply)(panel, t, at, y);
                }
            }
            let n = (t.rows() - first).min(ROWS);
            for (k, y) in y.iter().enumerate() {
                // Stores that miss all caches wait for each other unless their lines are on the way.
                ask_for(t.out.rows(first, (k + AHEAD).min(t.toks.n - 1), n), false);
                t.out.set_rows(first, k, &y.0[..n]);
            }
        }
    });
}
