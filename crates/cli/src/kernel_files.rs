//! Files about a record: the timeline as Chrome's trace events, which Chrome itself and Perfetto
//! open, and the shares of the time as a flame graph in SVG.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ds4_cpu::trace::Event;
use serde_json::json;

use crate::kernels::{Detail, Part, Phase, Products};

/// Events of one step that are written at most: viewers become slow with more.
const EVENTS_MAX: usize = 300_000;

/// One recorded call and the name it has in the timeline.
pub(crate) struct Recorded {
    /// Such as `decode 3`.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// What the threads did.
    pub events: Vec<Event>,
}

/// The call with the upper median of the times.
pub(crate) fn middle(calls: &[Recorded]) -> Option<&Recorded> {
    let mut sorted: Vec<&Recorded> = calls.iter().collect();
    sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    sorted.get(sorted.len() / 2).copied()
}

/// Writes both files; their names begin with `prefix`.
pub(crate) fn write(prefix: &Path, calls: &[Recorded], phases: &[Phase]) -> Result<()> {
    let named = |end: &str| {
        let mut name = prefix.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let failed = |path: &Path| format!("cannot write {}", path.display());
    let (timeline, picture) = (named(".trace.json"), named(".svg"));
    write_trace(&timeline, calls).with_context(|| failed(&timeline))?;
    std::fs::write(&picture, flames(phases)).with_context(|| failed(&picture))
}

/// Writes the timeline: a process for each recorded call, in which each thread has a lane.
fn write_trace(path: &Path, all: &[Recorded]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let mut separator = "";
    for (pid, call) in all.iter().enumerate() {
        let name =
            json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": call.name}});
        write!(out, "{separator}{name}")?;
        separator = ",\n";
        for event in &call.events[call.events.len().saturating_sub(EVENTS_MAX)..] {
            let us = |time: std::time::Duration| time.as_nanos() as f64 / 1e3;
            let mut line = json!({
                "ph": "X", "pid": pid, "tid": event.thread, "name": event.name,
                "ts": us(event.begin), "dur": us(event.end.saturating_sub(event.begin)),
            });
            if let Some(ty) = event.work.ty {
                line["args"] = json!({
                    "format": ty.name(), "bytes": event.work.bytes, "macs": event.work.macs,
                    "tokens": event.work.tokens, "unpack_us": us(event.unpack),
                });
            } else if event.work.bytes > 0 {
                line["args"] = json!({ "bytes": event.work.bytes });
            }
            write!(out, "{separator}{line}")?;
        }
    }
    out.write_all(b"\n]}\n")?;
    out.flush()
}

/// Width of the picture in pixels.
const WIDTH: f64 = 1200.0;
/// Height of a box.
const ROW: f64 = 18.0;
/// Rows of a phase: itself, groups, components, what unpacks; and a gap.
const ROWS: f64 = 5.0;

/// The flame graph: for each phase a stack of boxes as wide as their share of its time, with all
/// figures in their titles.
fn flames(phases: &[Phase]) -> String {
    let height = ROW * ROWS * phases.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n"
    );
    for (ix, phase) in phases.iter().enumerate() {
        Flames { out: &mut out, top: ROW * ROWS * ix as f64 }.phase(phase);
    }
    out.push_str("</svg>\n");
    out
}

/// One phase's part of the picture.
struct Flames<'a> {
    out: &'a mut String,
    top: f64,
}

impl Flames<'_> {
    fn phase(&mut self, phase: &Phase) {
        let parts: f64 = phase.components.iter().map(|c| c.seconds).sum();
        let total = parts + phase.between_seconds;
        let scale = if total > 0.0 { WIDTH / total } else { 0.0 };
        let title = format!(
            "{}: {} tokens, {:.2} ms, {:.2} times the floor",
            phase.name,
            phase.tokens,
            phase.seconds * 1e3,
            phase.ratio
        );
        self.block(0, [0.0, WIDTH], &title, &title);
        let mut groups: Vec<(&str, Vec<&Part>)> = Vec::new();
        for part in &phase.components {
            match groups.iter_mut().find(|(name, _)| *name == part.group) {
                Some((_, parts)) => parts.push(part),
                None => groups.push((part.group, vec![part])),
            }
        }
        let mut x = 0.0;
        for (name, parts) in groups {
            let seconds: f64 = parts.iter().map(|p| p.seconds).sum();
            let title = format!("{name}: {:.3} ms, {:.1}%", seconds * 1e3, seconds / total * 100.0);
            self.block(1, [x, seconds * scale], name, &title);
            for part in parts {
                self.part(part, x, scale);
                x += part.seconds * scale;
            }
        }
        let title = format!("between components: {:.3} ms", phase.between_seconds * 1e3);
        self.block(1, [x, phase.between_seconds * scale], "between", &title);
    }

    fn part(&mut self, part: &Part, x: f64, scale: f64) {
        let figures = format!(
            "{:.3} ms, {:.1}%; {:.2} GB/s ({:.0}% of the limit)",
            part.seconds * 1e3,
            part.share * 100.0,
            part.gb_per_s,
            part.bandwidth_share * 100.0
        );
        let at = [x, part.seconds * scale];
        match &part.detail {
            Detail::Pieces(of) => self.pieces(part, of, at, &figures),
            Detail::Launches { launches } => {
                let title = format!("{}, launched {launches} times: {figures}", part.name);
                self.block(2, at, &part.name, &title);
            }
        }
    }

    fn pieces(&mut self, part: &Part, of: &Products, [x, width]: [f64; 2], figures: &str) {
        let (name, format) = (&part.name, of.format.unwrap_or(""));
        let (flops, share) = (2.0 * of.gmac_per_s, of.arithmetic_share * 100.0);
        let title = format!("{name} {format}: {figures}, {flops:.1} GFLOP/s ({share:.0}%)");
        self.block(2, [x, width], name, &title);
        if of.unpack_seconds > 0.0 {
            let title = format!("unpacking {name}: {:.3} ms", of.unpack_seconds * 1e3);
            // A part of no width has no time, none to unpack either.
            let width = width * of.unpack_seconds / part.seconds;
            self.block(3, [x, width], "unpack", &title);
        }
    }

    /// A box in row `row` from `x`, `width` wide.
    fn block(&mut self, row: u8, [x, width]: [f64; 2], label: &str, title: &str) {
        if width < 0.1 {
            return;
        }
        let (y, height) = (self.top + ROW * f64::from(row), ROW - 1.0);
        let hue =
            label.bytes().fold(0u32, |hash, b| hash.wrapping_mul(31) + u32::from(b)) % 40 + 15;
        // About seven pixels a letter: a label that does not fit is cut.
        let letters = label.chars().scan(0.0, |end, c| {
            *end += 7.0;
            (*end < width).then_some(c)
        });
        let label: String = letters.collect();
        let (label, title) = (escape(&label), escape(title));
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.out,
            "<g><title>{title}</title><rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" \
             height=\"{height:.1}\" fill=\"hsl({hue},80%,65%)\"/><text x=\"{:.2}\" y=\"{:.1}\">\
             {label}</text></g>",
            x + 2.0,
            y + 12.0
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ds4_cpu::trace::Work;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_timeline_is_json_with_every_event() {
        let (begin, end) = (Duration::from_nanos(1500), Duration::from_micros(4));
        let event = |name: &str, thread| Event {
            name: name.to_owned(),
            thread,
            begin,
            end,
            unpack: Duration::ZERO,
            work: Work { ty: Some(ds4_gguf::TensorType::Q8_0), ..Work::default() },
        };
        let call = Recorded {
            name: "decode".into(),
            seconds: 1.0,
            events: vec![event("a\"<b", 0), event("c", 1)],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_trace(&path, &[call]).unwrap();
        let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(events[0]["args"]["name"], "decode");
        assert_eq!(events[1]["name"], "a\"<b");
        assert_eq!((events[1]["ts"].as_f64(), events[1]["dur"].as_f64()), (Some(1.5), Some(2.5)));
        assert_eq!(events[2]["tid"], 1);
    }

    #[test]
    fn launches_are_drawn_with_their_bytes() {
        let launch = |ms: u64, bytes| Event {
            name: "mv_1".into(),
            thread: 0,
            begin: Duration::from_millis(ms),
            end: Duration::from_millis(ms + 1),
            unpack: Duration::ZERO,
            work: Work { bytes, ..Work::default() },
        };
        let prefill = vec![launch(0, 4096), launch(1, 0)];
        let calls = [Recorded { name: "prefill".into(), seconds: 0.002, events: prefill }];
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("x");
        let phases = crate::launches::phases(&calls, 2, [0.002, 0.0], Some(1e9));
        write(&prefix, &calls, &phases).unwrap();
        let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let json: Value = serde_json::from_str(&read("x.trace.json")).unwrap();
        assert_eq!(json["traceEvents"][1]["args"], json!({ "bytes": 4096 }));
        assert_eq!(json["traceEvents"][2].get("args"), None);
        let svg = read("x.svg");
        let title = "<title>mv_1, launched 1 times: 1.000 ms, 50.0%; 0.00 GB/s (0% of the limit)";
        assert!(svg.contains(title) && svg.contains("<title>matrices: 2.000 ms"), "{svg}");
    }
}
