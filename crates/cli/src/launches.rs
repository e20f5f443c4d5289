//! What the launches of a step on a GPU cost: the bench's `--kernels` there.
//!
//! The device runs and times the launches one by one, without overlap and without a recorded graph:
//! together they take longer than the step does otherwise. A launch can be no faster than the
//! weights that it reads come from memory. That is its floor; arithmetic, rows of sequences and
//! activations are not in it, so that it says much of few tokens and little of many.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use ds4_cpu::trace::{Event, Work};
use ds4_cuda::{CudaRunner, Timed};
use ds4_engine::{Sequence, argmax};
use ds4_model::{Runner, Span, TokenId};

use crate::kernel_files::{Recorded, middle};
use crate::kernels::{Detail, Part, Phase, ratio};

/// Records a prefill of `seq` to the end of `prompt`, then `n` single tokens; `skipped` is never
/// chosen. The runner's sequence grows, which `seq` does not hear of: it is of no further use.
pub(crate) fn record(
    runner: &mut CudaRunner,
    seq: &Sequence,
    prompt: &[TokenId],
    n: usize,
    skipped: Option<TokenId>,
) -> Result<Vec<Recorded>> {
    let (from, end) = (seq.tokens().len(), prompt.len());
    let mut steps = Steps { runner, seq, logits: Vec::new() };
    let mut calls = vec![steps.record(format!("prefill of {} tokens", end - from), |steps| {
        let chunks = chunks(from..end, steps.runner.chunk_max());
        steps.append(chunks.map(|chunk| &prompt[chunk]))
    })?];
    for ix in 0..n {
        let next = steps.next(skipped)?;
        calls.push(steps.record(format!("token {ix}"), |steps| steps.append([&[next][..]]))?);
    }
    Ok(calls)
}

/// What the calls of [`record`] cost, beside the seconds that the prefill and a token take when
/// nothing is timed, and the bytes per second that the device reads at best.
pub(crate) fn phases(
    calls: &[Recorded],
    prefilled: usize,
    plain: [f64; 2],
    bandwidth: Option<f64>,
) -> Vec<Phase> {
    let Some((prefill, tokens)) = calls.split_first() else { return Vec::new() };
    let mut phases = vec![phase("prefill", prefilled, plain[0], prefill, bandwidth)];
    phases.extend(middle(tokens).map(|token| phase("decode", 1, plain[1], token, bandwidth)));
    phases
}

/// Parts of a prefill: they end at multiples of `max`, as those of every prefill do.
fn chunks(all: Range<usize>, max: usize) -> impl Iterator<Item = Range<usize>> {
    let max = max.max(1);
    let mut start = all.start;
    std::iter::from_fn(move || {
        let end = ((start / max + 1) * max).min(all.end);
        let chunk = start..end;
        start = end;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Timed calls of a runner.
struct Steps<'a> {
    runner: &'a mut CudaRunner,
    seq: &'a Sequence,
    /// After the last token.
    logits: Vec<f32>,
}

/// Launches of some calls of a runner, and when the first began.
struct Launches {
    begin: Instant,
    all: Vec<Event>,
}

impl Steps<'_> {
    fn record(
        &mut self,
        name: String,
        f: impl FnOnce(&mut Self) -> Result<Launches>,
    ) -> Result<Recorded> {
        let Launches { begin, all } = f(self)?;
        Ok(Recorded { name, seconds: begin.elapsed().as_secs_f64(), events: all })
    }

    /// Appends pieces, one call each, with the logits of the very last token.
    fn append<'t>(&mut self, pieces: impl IntoIterator<Item = &'t [TokenId]>) -> Result<Launches> {
        let mut launches = Launches { begin: Instant::now(), all: Vec::new() };
        let mut pieces = pieces.into_iter().peekable();
        while let Some(tokens) = pieces.next() {
            let offset = launches.begin.elapsed();
            let n_logits = usize::from(pieces.peek().is_none());
            let span = Span { seq: self.seq.id(), tokens, n_logits };
            let timed = self.runner.forward_timed(&[span], &mut self.logits)?;
            launches.all.extend(events(&timed, offset));
        }
        Ok(launches)
    }

    /// The most probable token that is not skipped.
    fn next(&mut self, skipped: Option<TokenId>) -> Result<TokenId> {
        if let Some(id) = skipped {
            self.logits[id.0 as usize] = f32::NEG_INFINITY;
        }
        Ok(argmax(&self.logits)?)
    }
}

/// Launches of a call that began `offset` after the record did, all in one lane.
fn events(timed: &[Timed], offset: Duration) -> impl Iterator<Item = Event> {
    let ms = |ms: f32| Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3);
    timed.iter().map(move |launch| {
        let begin = offset + ms(launch.start_ms);
        Event {
            name: launch.kernel.to_owned(),
            thread: 0,
            begin,
            end: begin + ms(launch.ms),
            unpack: Duration::ZERO,
            work: Work { bytes: launch.reads, ..Work::default() },
        }
    })
}

/// Launches of one kernel that read equally many bytes: the same matrix of different layers.
struct Kind<'a> {
    kernel: &'a str,
    reads: u64,
    launches: usize,
    seconds: f64,
}

/// The kinds of some launches, the longest first.
fn kinds(events: &[Event]) -> Vec<Kind<'_>> {
    let mut all: Vec<Kind<'_>> = Vec::new();
    for e in events {
        let is_it = |k: &&mut Kind<'_>| k.kernel == e.name && k.reads == e.work.bytes;
        let seconds = e.end.saturating_sub(e.begin).as_secs_f64();
        if let Some(kind) = all.iter_mut().find(is_it) {
            kind.launches += 1;
            kind.seconds += seconds;
        } else {
            all.push(Kind { kernel: &e.name, reads: e.work.bytes, launches: 1, seconds });
        }
    }
    all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    all
}

fn phase(
    name: &'static str,
    tokens: usize,
    seconds: f64,
    recorded: &Recorded,
    bandwidth: Option<f64>,
) -> Phase {
    let kinds = kinds(&recorded.events);
    let sum: f64 = kinds.iter().map(|kind| kind.seconds).sum();
    let components: Vec<Part> = kinds.iter().map(|kind| part(kind, sum, bandwidth)).collect();
    let floor_seconds: f64 = components.iter().map(|c| c.floor_seconds).sum();
    let begin = recorded.events.iter().map(|e| e.begin).min().unwrap_or_default();
    let end = recorded.events.iter().map(|e| e.end).max().unwrap_or_default();
    Phase {
        name,
        tokens,
        seconds,
        recorded_seconds: recorded.seconds,
        floor_seconds,
        ratio: ratio(seconds, floor_seconds),
        between_seconds: (end.saturating_sub(begin).as_secs_f64() - sum).max(0.0),
        components,
    }
}

fn part(kind: &Kind<'_>, sum: f64, bandwidth: Option<f64>) -> Part {
    let bytes = kind.reads * kind.launches as u64;
    let floor_seconds = bandwidth.map_or(0.0, |limit| ratio(bytes as f64, limit));
    Part {
        name: kind.kernel.to_owned(),
        group: group(kind.kernel),
        bytes,
        seconds: kind.seconds,
        share: ratio(kind.seconds, sum),
        floor_seconds,
        gb_per_s: ratio(bytes as f64, kind.seconds) / 1e9,
        bandwidth_share: ratio(floor_seconds, kind.seconds),
        detail: Detail::Launches { launches: kind.launches },
    }
}

/// The part of the model that a kernel belongs to, or the kind of work where it serves many.
fn group(kernel: &str) -> &'static str {
    const GROUPS: [(&str, &[&str]); 8] = [
        ("routed experts", &["exp_", "sort_experts", "sum_experts", "keep_inside"]),
        ("router", &["route"]),
        ("shared expert", &["swiglu_rows"]),
        ("hyper-connections", &["hc_"]),
        ("indexer", &["index_"]),
        ("attention", &["attn", "rows", "keep_rows", "rope_turns"]),
        ("embedding and head", &["embed", "argmax"]),
        ("matrices", &["mv_", "mm_"]),
    ];
    let begins = |names: &[&str]| names.iter().any(|name| kernel.starts_with(name));
    GROUPS.iter().find(|(_, names)| begins(names)).map_or("other", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(kernel: &'static str, start_ms: f32, ms: f32, reads: u64) -> Timed {
        Timed { kernel, start_ms, ms, reads }
    }

    fn call(name: &str, seconds: f64, launches: &[Timed]) -> Recorded {
        let events = events(launches, Duration::from_millis(5)).collect();
        Recorded { name: name.to_owned(), seconds, events }
    }

    fn near(a: f64, b: f64) {
        assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn a_prefill_is_cut_at_the_same_places_as_ever() {
        let cut = |all, max| chunks(all, max).collect::<Vec<_>>();
        assert_eq!(cut(10..70, 32), [10..32, 32..64, 64..70]);
        assert_eq!(cut(32..64, 32), [32..64; 1]);
        assert_eq!(cut(5..5, 32), []);
    }

    #[test]
    fn launches_are_summed_and_compared_with_their_bytes() {
        let one = [
            timed("mv_1", 0.0, 2.0, 1_000_000),
            timed("attn_few", 2.5, 0.5, 0),
            timed("mv_1", 3.0, 2.0, 1_000_000),
            timed("mv_1", 5.0, 1.0, 4_000_000),
        ];
        let fast = [timed("mv_1", 0.0, 0.5, 1_000_000)];
        let calls = [
            call("prefill", 0.1, &fast),
            call("token 0", 0.009, &one),
            call("token 1", 0.001, &fast),
        ];
        let phases = phases(&calls, 7, [0.05, 0.008], Some(4e9));
        let names: Vec<_> = phases.iter().map(|p| (p.name, p.tokens, p.seconds)).collect();
        assert_eq!(names, [("prefill", 7, 0.05), ("decode", 1, 0.008)]);
        let decode = &phases[1];
        let rows: Vec<_> = decode.components.iter().map(|c| (&c.name[..], c.bytes)).collect();
        assert_eq!(rows, [("mv_1", 2_000_000), ("mv_1", 4_000_000), ("attn_few", 0)]);
        let first = &decode.components[0];
        assert!(matches!(first.detail, Detail::Launches { launches: 2 }));
        near(first.seconds, 0.004);
        near(first.gb_per_s, 0.5);
        near(first.bandwidth_share, 0.125);
        near(decode.components.iter().map(|c| c.share).sum(), 1.0);
        near(decode.floor_seconds, 6e6 / 4e9);
        near(decode.ratio, 0.008 / 0.0015);
        near(decode.between_seconds, 0.0005);
        assert!(decode.components[2].floor_seconds.abs() < 1e-12);
    }

    #[test]
    fn a_table_of_launches_shows_the_floor() {
        let call = call("token 0", 0.009, &[timed("mv_1", 0.0, 2.0, 1_000_000); 3]);
        let phase = phase("decode", 1, 0.006, &call, Some(1e9));
        let mut text = Vec::new();
        phase.write("ds4", &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "ds4: decode: 1 tokens in 6.00 ms (9.00 recorded, 0.00 between components); floor \
             3.00 ms, ratio 2.00"
        );
        assert_eq!(lines[1], "ds4: decode: 3 launches one by one: 6.00 ms, 2.00 times the floor");
        let cells: Vec<&str> = lines[3].split_whitespace().collect();
        assert_eq!(
            cells,
            ["mv_1", "3", "1.000", "3.00", "6.000", "100.0%", "0.50", "50%", "3.000"]
        );
        let columns = |line: &str| line.chars().count();
        assert_eq!(columns(lines[2]), columns(lines[3]));
        let json = serde_json::to_value(&phase).unwrap();
        assert_eq!(json["components"][0]["launches"], 3);
        assert!(json["components"][0].get("macs").is_none(), "{json}");
    }

    #[test]
    fn a_device_that_times_nothing_is_said_to() {
        let phases = phases(&[call("prefill", 0.1, &[])], 7, [0.05, 0.0], None);
        let mut text = Vec::new();
        phases[0].write("ds4", &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "ds4: prefill: 7 tokens in 50.00 ms; nothing was timed\n"
        );
    }

    #[test]
    fn kernels_belong_to_parts() {
        let of = |kernel| group(kernel);
        assert_eq!(["exp_mm_down_q2k", "sum_experts"].map(of), ["routed experts"; 2]);
        assert_eq!(["rows", "attn_combine", "rope_turns"].map(of), ["attention"; 3]);
        assert_eq!(["route", "mm_q8_0_few", "quantise"].map(of), ["router", "matrices", "other"]);
    }
}
