//! What this machine can do, and what the kernels make of it.
//!
//! Every figure is the median of several runs; machines are shared and noisy.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ds4_gguf::TensorType;

use crate::acts::{ActForm, Acts};
use crate::dot::Isa;
use crate::matmul::{Job, Mat, matmul};
use crate::pool::Pool;
use crate::synthetic::{Rng, Scales, values, weights};

/// Speed of one product.
#[derive(Clone, Debug)]
pub struct KernelSpeed {
    /// Storage format of the weights.
    pub ty: TensorType,
    /// Instruction set.
    pub isa: Isa,
    /// Tokens that share the weights.
    pub tokens: usize,
    /// Bytes of weights read per second.
    pub bytes_per_s: f64,
    /// Multiply-adds per second: weights × tokens.
    pub macs_per_s: f64,
}

/// Median of `runs` timings of `f`, in seconds.
fn median(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let begin = Instant::now();
            f();
            begin.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

/// Bytes per second that all threads of the pool together read from memory.
pub fn read_bandwidth(pool: &Pool) -> f64 {
    let data = vec![1u64; (256 << 20) / 8];
    let sum = AtomicU64::new(0);
    let chunk = 1 << 14;
    let seconds = median(7, || {
        let next = std::sync::atomic::AtomicUsize::new(0);
        pool.run(|_, _| {
            let mut own = [0u64; 16];
            loop {
                let at = next.fetch_add(chunk, Ordering::Relaxed);
                if at >= data.len() {
                    break;
                }
                for v in data[at..at + chunk].as_chunks::<16>().0 {
                    own.iter_mut().zip(v).for_each(|(o, v)| *o = o.wrapping_add(*v));
                }
            }
            sum.fetch_add(own.iter().sum(), Ordering::Relaxed);
        });
    });
    black_box(sum.into_inner());
    (data.len() * 8) as f64 / seconds
}

/// Seconds of an empty parallel section.
pub fn fork_join(pool: &Pool) -> f64 {
    median(21, || {
        for _ in 0..100 {
            pool.run(|t, _| {
                black_box(t);
            });
        }
    }) / 100.0
}

/// One product with `tokens` tokens and about `bytes` of weights, rows of 4096; with the
/// instruction set in use. More bytes than the caches hold measure memory, fewer the arithmetic.
pub fn kernel(pool: &Pool, ty: TensorType, tokens: usize, bytes: usize) -> KernelSpeed {
    let cols = 4096;
    let row_bytes = ty.row_bytes(cols).expect("whole blocks");
    let rows = (bytes / row_bytes).max(1);
    let form = match ty {
        TensorType::F32 | TensorType::F16 | TensorType::Bf16 | TensorType::I32 => ActForm::F32,
        TensorType::Q8_0 => ActForm::Q8_0,
        _ => ActForm::Q8K,
    };
    let mut rng = Rng(7);
    // A few random rows repeated: speed depends on the bytes' addresses, not on their novelty.
    let some = weights(&mut rng, ty, cols * rows.min(64), Scales::Usual);
    let w: Vec<u8> = some.iter().copied().cycle().take(rows * row_bytes).collect();
    let mut acts = Acts::new();
    acts.set(pool, &values(&mut rng, tokens * cols), tokens, cols, &[form]);
    let mut y = vec![0.0; rows * tokens];
    let repeat = (bytes_goal(tokens) / w.len()).max(1);
    let seconds = median(7, || {
        for _ in 0..repeat {
            let mat = Mat { ty, rows, cols, data: &w };
            matmul(pool, &mut [Job::new(mat, &acts, form, &mut y)]);
        }
    }) / repeat as f64;
    black_box(&y);
    KernelSpeed {
        ty,
        isa: Isa::current(),
        tokens,
        bytes_per_s: w.len() as f64 / seconds,
        macs_per_s: (rows * cols * tokens) as f64 / seconds,
    }
}

/// Bytes to stream in one timing, so that it lasts some milliseconds.
fn bytes_goal(tokens: usize) -> usize {
    (64 << 20) / tokens
}
