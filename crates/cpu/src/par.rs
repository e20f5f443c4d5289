//! Parallel loops over the pieces of a buffer: which thread may write what is the borrow checker's
//! business, not an index computation's.

use std::sync::{Mutex, PoisonError};

use crate::pool::Pool;
use crate::trace::Work;

impl Pool {
    /// Calls `f(i, chunk)` for every chunk of `len` values of `out` (the last may be shorter).
    /// `name` is for records.
    pub(crate) fn for_chunks<T: Send>(
        &self,
        name: &'static str,
        out: &mut [T],
        len: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        if self.threads() == 1 || out.len() <= len {
            let all = || out.chunks_mut(len).enumerate().for_each(|(i, chunk)| f(i, chunk));
            return self.recorder.piece(0, name, Work::default, all);
        }
        // Handed out one by one, in order: the lock is held for nanoseconds, chunks take
        // microseconds, and a slow core leaves the others nothing to wait for.
        let chunks = Mutex::new(out.chunks_mut(len).enumerate());
        self.run(|thread, _| {
            let all = || {
                while let Some((i, chunk)) = next(&chunks) {
                    f(i, chunk);
                }
            };
            self.recorder.piece(thread, name, Work::default, all);
        });
    }

    /// As [`Pool::for_chunks`]; every thread has one element of `locals` for itself. There must be
    /// at least as many as threads.
    pub(crate) fn for_chunks_with<L: Send, T: Send>(
        &self,
        name: &'static str,
        locals: &mut [L],
        out: &mut [T],
        len: usize,
        f: impl Fn(&mut L, usize, &mut [T]) + Sync,
    ) {
        assert!(locals.len() >= self.threads(), "{} of {}", locals.len(), self.threads());
        if self.threads() == 1 || out.len() <= len {
            let local = &mut locals[0];
            let all = || out.chunks_mut(len).enumerate().for_each(|(i, chunk)| f(local, i, chunk));
            return self.recorder.piece(0, name, Work::default, all);
        }
        let chunks = Mutex::new(out.chunks_mut(len).enumerate());
        let locals = Mutex::new(locals.iter_mut());
        self.run(|thread, _| {
            let local = next(&locals).expect("one per thread");
            let all = || {
                while let Some((i, chunk)) = next(&chunks) {
                    f(local, i, chunk);
                }
            };
            self.recorder.piece(thread, name, Work::default, all);
        });
    }
}

/// The next item; a panic in another thread is reported by the pool, not by the lock.
fn next<I: Iterator>(items: &Mutex<I>) -> Option<I::Item> {
    items.lock().unwrap_or_else(PoisonError::into_inner).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            let mut x = vec![0usize; 1000];
            pool.for_chunks("test", &mut x, 7, |i, chunk| {
                for v in chunk {
                    *v += i + 1;
                }
            });
            assert!(x.iter().enumerate().all(|(i, &v)| v == i / 7 + 1));
        }
    }

    #[test]
    fn locals_are_private_to_a_thread() {
        let pool = Pool::new(3);
        let (mut locals, mut x) = ([0usize; 3], [0; 1000]);
        pool.for_chunks_with("test", &mut locals, &mut x, 1, |sum, i, _| *sum += i);
        assert_eq!(locals.iter().sum::<usize>(), 499_500);
    }
}
