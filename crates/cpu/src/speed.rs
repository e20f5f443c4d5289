//! What this machine can do, and what the kernels make of it.
//!
//! Machines are shared and noisy: every figure is a median, with the best beside it.
//!
//! Contains `unsafe`: loops of single instructions.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ds4_gguf::TensorType;

use crate::acts::{ActForm, Acts};
use crate::dot::{Isa, instructions};
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
    /// Bytes of weights in the product.
    pub bytes: f64,
    /// Multiply-adds in the product: weights × tokens.
    pub macs: f64,
    /// How long it takes.
    pub time: Timing,
}

/// Seconds per call.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Median: what to expect.
    pub median: f64,
    /// Smallest: what is possible when nothing else runs.
    pub best: f64,
}

/// Times `f` often; each timing lasts about a millisecond, less than a scheduler's time slice, or
/// one call.
fn timing(mut f: impl FnMut()) -> Timing {
    let mut time = |calls: u32| {
        let begin = Instant::now();
        (0..calls).for_each(|_| f());
        begin.elapsed().as_secs_f64() / f64::from(calls)
    };
    time(1);
    let once = time(1).min(time(1)).max(1e-7);
    let calls = (1e-3 / once).clamp(1.0, 1e4) as u32;
    let runs = (0.2 / (once * f64::from(calls))).clamp(7.0, 101.0) as usize;
    let mut times: Vec<f64> = (0..runs).map(|_| time(calls)).collect();
    times.sort_by(f64::total_cmp);
    Timing { median: times[runs / 2], best: times[0] }
}

/// Bytes per second that all threads of the pool together read from memory at best.
pub fn read_bandwidth(pool: &Pool) -> f64 {
    let data = vec![1u64; (256 << 20) / 8];
    let sum = AtomicU64::new(0);
    let chunk = 1 << 14;
    let seconds = timing(|| {
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
    (data.len() * 8) as f64 / seconds.best
}

/// Seconds of an empty parallel section.
pub fn fork_join(pool: &Pool) -> Timing {
    timing(|| {
        pool.run(|t, _| {
            black_box(t);
        });
    })
}

/// What an instruction that kernels spend their time in does at most.
#[derive(Clone, Debug)]
pub struct Peak {
    /// The instruction and the registers' size.
    pub name: &'static str,
    /// It makes products of integers, else of f32.
    pub integer: bool,
    /// Multiply-adds per second of all threads together.
    pub macs_per_s: f64,
}

/// The peaks of the instruction set in use: registers only, nothing else in the loop.
pub fn peaks(pool: &Pool) -> Vec<Peak> {
    let turns = 20_000;
    let peak = |i: &crate::dot::Instruction| {
        let time = timing(|| {
            // SAFETY: the instruction set in use is one that this processor has.
            pool.run(|_, _| unsafe { (i.turns)(turns) });
        });
        let macs = i.macs * turns * pool.threads();
        Peak { name: i.name, integer: i.integer, macs_per_s: macs as f64 / time.median }
    };
    instructions(Isa::current()).iter().map(peak).collect()
}

/// Bytes of weights in one timed product.
const PART: usize = 4 << 20;

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
    // A part per call, so that a call is short and the next one finds other addresses.
    let rows = rows.min((PART / row_bytes).max(1));
    let mut parts = w.chunks_exact(rows * row_bytes).cycle();
    let mut y = vec![0.0; rows * tokens];
    let time = timing(|| {
        let data = parts.next().expect("a cycle of at least one");
        let mat = Mat { name: "", ty, rows, cols, data };
        matmul(pool, &mut [Job::new(mat, &acts, form, &mut y)]);
    });
    black_box(&y);
    KernelSpeed {
        ty,
        isa: Isa::current(),
        tokens,
        bytes: (rows * row_bytes) as f64,
        macs: (rows * cols * tokens) as f64,
        time,
    }
}
