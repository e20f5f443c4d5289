//! Speed of every product kernel beside the machine's own limits.
//!
//! `cargo bench -p ds4-cpu --bench kernels -- [THREADS] [TYPE…]`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use ds4_cpu::speed::{self, KernelSpeed};
use ds4_cpu::{Isa, Pool};
use ds4_gguf::TensorType;

/// Tokens, bytes of weights, and where those lie.
const CASES: [(usize, usize, &str); 7] = [
    (1, 256 << 20, "memory"),
    (1, 256 << 10, "cache"),
    (2, 256 << 10, "cache"),
    (4, 256 << 10, "cache"),
    (16, 256 << 10, "cache"),
    (64, 256 << 10, "cache"),
    (256, 256 << 10, "cache"),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(0);
    let wanted = |ty: TensorType| args.len() < 2 || args[1..].iter().any(|a| a == ty.name());
    let pool = Pool::new(threads);
    println!(
        "{} threads, read {:.1} GB/s, fork and join {:.2} µs",
        pool.threads(),
        speed::read_bandwidth(&pool) / 1e9,
        speed::fork_join(&pool).median * 1e6
    );
    println!("isa      type     tokens   from    GB/s  (best)   GMAC/s  (best)");
    for isa in Isa::available() {
        Isa::select(isa);
        for peak in speed::peaks(&pool) {
            println!(
                "{:8} {:>42.2} GMAC/s  {}",
                format!("{isa:?}"),
                peak.macs_per_s / 1e9,
                peak.name
            );
        }
        for ty in TensorType::ALL.into_iter().filter(|ty| wanted(*ty)) {
            for (tokens, bytes, from) in CASES {
                if isa != Isa::Scalar || tokens == 1 && from == "cache" {
                    row(&speed::kernel(&pool, ty, tokens, bytes), from);
                }
            }
        }
    }
}

fn row(s: &KernelSpeed, from: &str) {
    let per_s = |amount: f64, seconds: f64| amount / seconds / 1e9;
    println!(
        "{:8} {:8} {:6} {from:>6} {:7.2} {:7.2} {:8.2} {:7.2}",
        format!("{:?}", s.isa),
        s.ty.name(),
        s.tokens,
        per_s(s.bytes, s.time.median),
        per_s(s.bytes, s.time.best),
        per_s(s.macs, s.time.median),
        per_s(s.macs, s.time.best),
    );
}
