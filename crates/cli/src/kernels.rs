//! What the parts of the model cost and what this machine would allow: the bench's `--kernels`.
//!
//! A product with weights can be no faster than its bytes come from memory, nor than its kernel
//! multiplies weights that are in the cache already; the larger of the two times is its floor, and
//! the sum of all floors is what a step would take if nothing else cost anything.

use std::collections::HashMap;
use std::io::{self, Write};

use ds4_cpu::trace::{self, Component};
use ds4_cpu::{Pool, speed};
use ds4_gguf::TensorType;
use serde::Serialize;

use crate::kernel_files::Recorded;

/// Bytes of weights with which a kernel's arithmetic is measured: they stay in the caches.
const CACHED_BYTES: usize = 1 << 20;

/// What this machine can do, measured on the threads that run the model.
pub(crate) struct Limits<'a> {
    pool: &'a Pool,
    /// Bytes per second from memory.
    pub bandwidth: f64,
    /// Multiply-adds per second of a kernel at a number of tokens.
    rates: HashMap<(TensorType, usize), f64>,
}

impl<'a> Limits<'a> {
    /// With a read bandwidth that has been measured; kernels are measured when first asked for.
    pub(crate) fn new(pool: &'a Pool, bandwidth: f64) -> Self {
        Self { pool, bandwidth, rates: HashMap::new() }
    }

    fn rate(&mut self, ty: TensorType, tokens: usize) -> f64 {
        *self.rates.entry((ty, tokens)).or_insert_with(|| {
            let speed = speed::kernel(self.pool, ty, tokens, CACHED_BYTES);
            speed.macs / speed.time.best
        })
    }
}

/// Prefill or decode.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    /// Its name.
    #[serde(rename = "phase")]
    pub name: &'static str,
    /// Tokens of the step or steps.
    pub tokens: usize,
    /// How long it takes when nothing is recorded.
    pub seconds: f64,
    /// How long it took while it was recorded.
    pub recorded_seconds: f64,
    /// Sum of the components' floors.
    pub floor_seconds: f64,
    /// `seconds` as a multiple of that.
    pub ratio: f64,
    /// Recorded time in which no thread had a component in hand.
    pub between_seconds: f64,
    /// The parts, the longest first.
    pub components: Vec<Part>,
}

/// One kind of matrix, or of other work.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    /// Name of the matrices without their layers, or of the work.
    pub name: String,
    /// What it belongs to.
    pub group: &'static str,
    /// Format of the weights.
    pub format: Option<&'static str>,
    /// Bytes read.
    pub bytes: u64,
    /// Multiply-adds.
    pub macs: u64,
    /// Tokens that share a weight, on average.
    pub tokens: usize,
    /// Its share of the recorded time.
    pub seconds: f64,
    /// The same as a fraction of all components.
    pub share: f64,
    /// Of `seconds`, the part in which weights are unpacked for many tokens.
    pub unpack_seconds: f64,
    /// The least time this machine allows; 0 where nothing is known about the work.
    pub floor_seconds: f64,
    /// Bytes per second, in 10⁹.
    pub gb_per_s: f64,
    /// That as a share of the read bandwidth.
    pub bandwidth_share: f64,
    /// Multiply-adds per second in 10⁹; two floating-point operations each.
    pub gmac_per_s: f64,
    /// The same without the time to unpack.
    pub gmac_per_s_unpacked: f64,
    /// `gmac_per_s` as a share of the kernel's own rate with weights in the cache.
    pub arithmetic_share: f64,
}

/// What attention does with a sequence's rows, which the recorder does not know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// Bytes of the rows, attention's and the indexer's, where each is read once.
    pub row_bytes: u64,
    /// Multiply-adds of all heads with attention's rows.
    pub row_macs: u64,
}

impl Phase {
    /// Reads a record.
    pub(crate) fn new(
        name: &'static str,
        tokens: usize,
        seconds: f64,
        recorded: &Recorded,
        known: Known,
        limits: &mut Limits<'_>,
    ) -> Self {
        let (all, between_seconds) = trace::summary(&recorded.events);
        let sum: f64 = all.iter().map(|c| c.seconds).sum();
        let mut components: Vec<Part> =
            all.into_iter().map(|c| Part::new(c, sum, known, limits)).collect();
        components.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let floor_seconds: f64 = components.iter().map(|c| c.floor_seconds).sum();
        Self {
            name,
            tokens,
            seconds,
            recorded_seconds: recorded.seconds,
            floor_seconds,
            ratio: ratio(seconds, floor_seconds),
            between_seconds,
            components,
        }
    }

    /// For people.
    pub(crate) fn write(&self, tool: &str, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{tool}: {}: {} tokens in {:.2} ms ({:.2} recorded, {:.2} between components); floor \
             {:.2} ms, ratio {:.2}",
            self.name,
            self.tokens,
            self.seconds * 1e3,
            self.recorded_seconds * 1e3,
            self.between_seconds * 1e3,
            self.floor_seconds * 1e3,
            self.ratio
        )?;
        writeln!(
            out,
            "{:28} {:8} {:>6} {:>9} {:>9} {:>6} {:>9} {:>8} {:>6} {:>8} {:>6} {:>9}",
            "component",
            "format",
            "tokens",
            "MB",
            "ms",
            "share",
            "unpack ms",
            "GB/s",
            "limit",
            "GFLOP/s",
            "limit",
            "floor ms"
        )?;
        self.components.iter().try_for_each(|part| part.write(out))
    }
}

impl Part {
    fn new(c: Component, sum: f64, known: Known, limits: &mut Limits<'_>) -> Self {
        let is_attention = c.work.ty.is_none() && c.name == "attention";
        let bytes = c.work.bytes + if is_attention { known.row_bytes } else { 0 };
        let macs = c.work.macs + if is_attention { known.row_macs } else { 0 };
        let seconds = c.seconds;
        let tokens = c.work.ty.map_or(0, |ty| tokens_per_weight(ty, c.work.bytes, macs));
        let rate = c.work.ty.map(|ty| limits.rate(ty, tokens.max(1)));
        let by_memory = bytes as f64 / limits.bandwidth;
        let by_arithmetic = rate.map_or(0.0, |rate| macs as f64 / rate);
        let unpack_seconds = seconds * ratio(c.unpack, c.busy);
        let per_second = |amount: u64, seconds: f64| ratio(amount as f64, seconds);
        Self {
            group: group(&c.name),
            name: c.name,
            format: c.work.ty.map(TensorType::name),
            bytes,
            macs,
            tokens,
            seconds,
            share: ratio(seconds, sum),
            unpack_seconds,
            floor_seconds: by_memory.max(by_arithmetic),
            gb_per_s: per_second(bytes, seconds) / 1e9,
            bandwidth_share: ratio(by_memory, seconds),
            gmac_per_s: per_second(macs, seconds) / 1e9,
            gmac_per_s_unpacked: per_second(macs, seconds - unpack_seconds) / 1e9,
            arithmetic_share: ratio(by_arithmetic, seconds),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "{:28} {:8} {:6} {:9.2} {:9.3} {:5.1}% ",
            self.name,
            self.format.unwrap_or(""),
            self.tokens,
            self.bytes as f64 / 1e6,
            self.seconds * 1e3,
            self.share * 100.0
        )?;
        if self.bytes == 0 && self.macs == 0 {
            return writeln!(out);
        }
        // Of attention's own arithmetic there is no limit to compare with.
        let of_limit = match self.format {
            Some(_) => format!("{:5.0}%", self.arithmetic_share * 100.0),
            None => "-".to_owned(),
        };
        writeln!(
            out,
            "{:9.3} {:8.2} {:5.0}% {:8.1} {of_limit:>6} {:9.3}",
            self.unpack_seconds * 1e3,
            self.gb_per_s,
            self.bandwidth_share * 100.0,
            2.0 * self.gmac_per_s,
            self.floor_seconds * 1e3
        )
    }
}

/// Tokens that share a weight, rounded: multiply-adds by weights.
fn tokens_per_weight(ty: TensorType, bytes: u64, macs: u64) -> usize {
    let weights = bytes / ty.block_bytes() as u64 * ty.block_elems() as u64;
    usize::try_from((macs + weights / 2) / weights.max(1)).unwrap_or(usize::MAX)
}

/// 0 for an empty whole.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The part of the model that a component belongs to.
fn group(name: &str) -> &'static str {
    const GROUPS: [(&str, &[&str]); 9] = [
        ("indexer", &["indexer"]),
        ("compressor", &["compress"]),
        ("routed experts", &["_exps", "expert sum"]),
        ("shared expert", &["_shexp"]),
        ("router", &["ffn_gate_inp", "router"]),
        ("hyper-connections", &["hc_", "hyper-connection"]),
        ("attention", &["attn", "attention", "raw rows"]),
        ("embedding and head", &["output", "embd", "embedding"]),
        ("reading", &["read-ahead"]),
    ];
    let is_in = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    GROUPS.iter().find(|(_, parts)| is_in(parts)).map_or("other", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ds4_cpu::trace::{Event, Work};

    use super::*;

    fn event(name: &str, begin: u64, end: u64, work: Work) -> Event {
        let ms = Duration::from_millis;
        let (begin, end, unpack) = (ms(begin), ms(end), ms((end - begin) / 4));
        Event { name: name.to_owned(), thread: 0, begin, end, unpack, work }
    }

    fn recorded(seconds: f64, events: &[Event]) -> Recorded {
        Recorded { name: String::new(), seconds, events: events.to_vec() }
    }

    #[test]
    fn floors_are_the_larger_of_memory_and_arithmetic() {
        let pool = Pool::new(1);
        let mut limits = Limits::new(&pool, 1e9);
        // 34 bytes are 32 weights of Q8_0.
        let q8 = |tokens: u64| Work {
            ty: Some(TensorType::Q8_0),
            bytes: 34 << 20,
            macs: tokens * (32 << 20),
            tokens: 1,
        };
        limits.rates.extend([((TensorType::Q8_0, 1), 1e9), ((TensorType::Q8_0, 64), 1e9)]);
        let one = [
            event("blk.0.attn_q_b.weight", 0, 80, q8(1)),
            event("swiglu", 80, 90, Work::default()),
        ];
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
        let phase =
            Phase::new("decode", 1, 0.1, &recorded(0.2, &one), Known::default(), &mut limits);
        let part = &phase.components[0];
        assert_eq!((&part.name[..], part.group, part.tokens), ("attn_q_b", "attention", 1));
        near(part.floor_seconds, f64::from(34 << 20) / 1e9);
        near(phase.ratio, 0.1 / part.floor_seconds);
        near(part.share, 8.0 / 9.0);
        near(part.unpack_seconds, 0.02);
        near(phase.components.iter().map(|c| c.seconds).sum::<f64>(), 0.09);
        let many = [event("x_exps", 0, 4000, q8(64))];
        let phase =
            Phase::new("prefill", 64, 4.0, &recorded(4.0, &many), Known::default(), &mut limits);
        let part = &phase.components[0];
        assert_eq!((part.group, part.tokens), ("routed experts", 64));
        near(part.floor_seconds, f64::from(64u32 << 25) / 1e9);
        near(part.gmac_per_s_unpacked, part.gmac_per_s / 0.75);
    }

    #[test]
    fn rows_count_for_attention() {
        let pool = Pool::new(1);
        let mut limits = Limits::new(&pool, 1e9);
        let events = [event("attention", 0, 10, Work::default())];
        let known = Known { row_bytes: 1_000_000, row_macs: 20_000_000 };
        let phase = Phase::new("decode", 1, 0.01, &recorded(0.01, &events), known, &mut limits);
        assert_eq!(phase.components[0].bytes, 1_000_000);
        assert!((phase.components[0].gmac_per_s - 2.0).abs() < 1e-9);
        assert!((phase.floor_seconds - 0.001).abs() < 1e-9);
        let mut text = Vec::new();
        phase.write("ds4", &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("floor 1.00 ms, ratio 10.00"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
