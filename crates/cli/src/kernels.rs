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

/// One kind of matrix, of launch or of other work.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    /// Name of the matrices without their layers, of the kernel or of the work.
    pub name: String,
    /// What it belongs to.
    pub group: &'static str,
    /// Bytes read.
    pub bytes: u64,
    /// Its share of the recorded time.
    pub seconds: f64,
    /// The same as a fraction of all components.
    pub share: f64,
    /// The least time this machine allows; 0 where nothing is known about the work.
    pub floor_seconds: f64,
    /// Bytes per second, in 10⁹.
    pub gb_per_s: f64,
    /// That as a share of the read bandwidth.
    pub bandwidth_share: f64,
    /// What else is known.
    #[serde(flatten)]
    pub detail: Detail,
}

/// What is known about a part besides its bytes and its time.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Detail {
    /// On the CPU: its products.
    Pieces(Products),
    /// On a GPU: how often its kernel was launched.
    Launches { launches: usize },
}

/// Products with weights on the CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Products {
    /// Format of the weights.
    pub format: Option<&'static str>,
    /// Multiply-adds.
    pub macs: u64,
    /// Tokens that share a weight, on average.
    pub tokens: usize,
    /// Of the part's seconds, those in which weights are unpacked for many tokens.
    pub unpack_seconds: f64,
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
        let (name, tokens, ms) = (self.name, self.tokens, self.seconds * 1e3);
        write!(out, "{tool}: {name}: {tokens} tokens in {ms:.2} ms")?;
        let Some(first) = self.components.first() else {
            return writeln!(out, "; nothing was timed");
        };
        writeln!(
            out,
            " ({:.2} recorded, {:.2} between components); floor {:.2} ms, ratio {:.2}",
            self.recorded_seconds * 1e3,
            self.between_seconds * 1e3,
            self.floor_seconds * 1e3,
            self.ratio
        )?;
        match first.detail {
            Detail::Pieces(_) => write_pieces_header(out)?,
            Detail::Launches { .. } => self.write_launches_header(tool, out)?,
        }
        self.components.iter().try_for_each(|part| part.write(out))
    }

    fn write_launches_header(&self, tool: &str, out: &mut dyn Write) -> io::Result<()> {
        let of = |part: &Part| match part.detail {
            Detail::Launches { launches } => launches,
            Detail::Pieces(_) => 0,
        };
        let launches: usize = self.components.iter().map(of).sum();
        let seconds: f64 = self.components.iter().map(|part| part.seconds).sum();
        writeln!(
            out,
            "{tool}: {}: {launches} launches one by one: {:.2} ms, {:.2} times the floor",
            self.name,
            seconds * 1e3,
            ratio(seconds, self.floor_seconds)
        )?;
        writeln!(
            out,
            "{:28} {:>8} {:>9} {:>9} {:>9} {:>6} {:>8} {:>6} {:>9}",
            "kernel", "launches", "MB each", "MB", "ms", "share", "GB/s", "limit", "floor ms"
        )
    }
}

fn write_pieces_header(out: &mut dyn Write) -> io::Result<()> {
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
    )
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
            bytes,
            seconds,
            share: ratio(seconds, sum),
            floor_seconds: by_memory.max(by_arithmetic),
            gb_per_s: per_second(bytes, seconds) / 1e9,
            bandwidth_share: ratio(by_memory, seconds),
            detail: Detail::Pieces(Products {
                format: c.work.ty.map(TensorType::name),
                macs,
                tokens,
                unpack_seconds,
                gmac_per_s: per_second(macs, seconds) / 1e9,
                gmac_per_s_unpacked: per_second(macs, seconds - unpack_seconds) / 1e9,
                arithmetic_share: ratio(by_arithmetic, seconds),
            }),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.detail {
            Detail::Pieces(products) => self.write_pieces(products, out),
            Detail::Launches { launches } => self.write_launches(*launches, out),
        }
    }

    fn write_launches(&self, launches: usize, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{:28} {launches:8} ", self.name)?;
        let (ms, share) = (self.seconds * 1e3, self.share * 100.0);
        if self.bytes == 0 {
            return writeln!(out, "{:>9} {:>9} {ms:9.3} {share:5.1}%", "", "");
        }
        let mb = self.bytes as f64 / 1e6;
        writeln!(
            out,
            "{:9.3} {mb:9.2} {ms:9.3} {share:5.1}% {:8.2} {:5.0}% {:9.3}",
            mb / launches as f64,
            self.gb_per_s,
            self.bandwidth_share * 100.0,
            self.floor_seconds * 1e3
        )
    }

    fn write_pieces(&self, of: &Products, out: &mut dyn Write) -> io::Result<()> {
        write!(
            out,
            "{:28} {:8} {:6} {:9.2} {:9.3} {:5.1}% ",
            self.name,
            of.format.unwrap_or(""),
            of.tokens,
            self.bytes as f64 / 1e6,
            self.seconds * 1e3,
            self.share * 100.0
        )?;
        if self.bytes == 0 && of.macs == 0 {
            return writeln!(out);
        }
        // Of attention's own arithmetic there is no limit to compare with.
        let of_limit = match of.format {
            Some(_) => format!("{:5.0}%", of.arithmetic_share * 100.0),
            None => "-".to_owned(),
        };
        writeln!(
            out,
            "{:9.3} {:8.2} {:5.0}% {:8.1} {of_limit:>6} {:9.3}",
            of.unpack_seconds * 1e3,
            self.gb_per_s,
            self.bandwidth_share * 100.0,
            2.0 * of.gmac_per_s,
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
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
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

    fn products(part: &Part) -> &Products {
        match &part.detail {
            Detail::Pieces(products) => products,
            Detail::Launches { .. } => panic!("{part:?} is of the CPU"),
        }
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
        assert_eq!(
            (&part.name[..], part.group, products(part).tokens),
            ("attn_q_b", "attention", 1)
        );
        near(part.floor_seconds, f64::from(34 << 20) / 1e9);
        near(phase.ratio, 0.1 / part.floor_seconds);
        near(part.share, 8.0 / 9.0);
        near(products(part).unpack_seconds, 0.02);
        near(phase.components.iter().map(|c| c.seconds).sum::<f64>(), 0.09);
        let many = [event("x_exps", 0, 4000, q8(64))];
        let phase =
            Phase::new("prefill", 64, 4.0, &recorded(4.0, &many), Known::default(), &mut limits);
        let part = &phase.components[0];
        assert_eq!((part.group, products(part).tokens), ("routed experts", 64));
        near(part.floor_seconds, f64::from(64u32 << 25) / 1e9);
        near(products(part).gmac_per_s_unpacked, products(part).gmac_per_s / 0.75);
    }

    #[test]
    fn rows_count_for_attention() {
        let pool = Pool::new(1);
        let mut limits = Limits::new(&pool, 1e9);
        let events = [event("attention", 0, 10, Work::default())];
        let known = Known { row_bytes: 1_000_000, row_macs: 20_000_000 };
        let phase = Phase::new("decode", 1, 0.01, &recorded(0.01, &events), known, &mut limits);
        assert_eq!(phase.components[0].bytes, 1_000_000);
        assert!((products(&phase.components[0]).gmac_per_s - 2.0).abs() < 1e-9);
        assert!((phase.floor_seconds - 0.001).abs() < 1e-9);
        let mut text = Vec::new();
        phase.write("ds4", &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("floor 1.00 ms, ratio 10.00"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
