//! Speed of every product kernel beside the machine's own limits.
//!
//! `cargo bench -p ds4-cpu --bench kernels -- [THREADS] [TYPE…]`

use ds4_cpu::{Isa, Pool, speed};
use ds4_gguf::TensorType;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(0);
    let wanted = |ty: TensorType| args.len() < 2 || args[1..].iter().any(|a| a == ty.name());
    let pool = Pool::new(threads);
    println!(
        "{} threads, read {:.1} GB/s, fork and join {:.2} µs",
        pool.threads(),
        speed::read_bandwidth(&pool) / 1e9,
        speed::fork_join(&pool) * 1e6
    );
    println!(
        "{:8} {:8} {:>6} {:>12} {:>10} {:>10}",
        "isa", "type", "tokens", "from", "GB/s", "GMAC/s"
    );
    for isa in Isa::available() {
        Isa::select(isa);
        for ty in TensorType::ALL.into_iter().filter(|ty| wanted(*ty)) {
            for (tokens, bytes, from) in [
                (1, 256 << 20, "memory"),
                (1, 1 << 20, "cache"),
                (2, 1 << 20, "cache"),
                (4, 1 << 20, "cache"),
                (16, 1 << 20, "cache"),
                (64, 1 << 20, "cache"),
                (256, 1 << 20, "cache"),
            ] {
                if isa == Isa::Scalar && (tokens > 1 || bytes > 1 << 20) {
                    continue;
                }
                let s = speed::kernel(&pool, ty, tokens, bytes);
                println!(
                    "{:8} {:8} {tokens:>6} {from:>12} {:>10.2} {:>10.2}",
                    format!("{:?}", s.isa),
                    ty.name(),
                    s.bytes_per_s / 1e9,
                    s.macs_per_s / 1e9
                );
            }
        }
    }
}
