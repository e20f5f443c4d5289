//! Results that several threads write into one slice, without locks.

use std::sync::atomic::{AtomicU32, Ordering};

/// A view of a result `y[t · stride + row]`, shared by the threads of a section.
///
/// Stores are relaxed atomics, plain moves on every machine: two threads that wrote the same
/// element would be a wrong result, but never undefined behaviour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out<'a> {
    y: &'a [AtomicU32],
    row: usize,
    stride: usize,
}

impl<'a> Out<'a> {
    /// All of `y`.
    pub(crate) fn new(y: &'a mut [f32]) -> Self {
        // SAFETY: AtomicU32 has the size and alignment of f32, every bit pattern is valid for
        // both, and the exclusive borrow is given up for as long as the view lives.
        let y = unsafe { &*(std::ptr::from_mut(y) as *const [AtomicU32]) };
        Self { y, row: 0, stride: 0 }
    }

    /// The view whose row 0 is row `row` of tokens `stride` values apart.
    pub(crate) fn at(self, row: usize, stride: usize) -> Self {
        Self { row, stride, ..self }
    }

    /// Values in the whole result.
    pub(crate) fn len(&self) -> usize {
        self.y.len()
    }

    /// Writes row `r` of token `t`.
    #[inline]
    pub(crate) fn set(&self, r: usize, t: usize, value: f32) {
        self.y[t * self.stride + self.row + r].store(value.to_bits(), Ordering::Relaxed);
    }

    /// The places of `n` rows from `r` on of token `t`.
    #[inline]
    pub(crate) fn rows(&self, r: usize, t: usize, n: usize) -> &'a [AtomicU32] {
        &self.y[t * self.stride + self.row + r..][..n]
    }

    /// Writes rows from `r` on of token `t`.
    #[inline]
    pub(crate) fn set_rows(&self, r: usize, t: usize, values: &[f32]) {
        for (to, value) in self.rows(r, t, values.len()).iter().zip(values) {
            to.store(value.to_bits(), Ordering::Relaxed);
        }
    }
}
