//! The bench's results: CSV as ds4-bench writes it, and JSON with everything a reader needs.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ds4_cuda::DeviceInfo;
use ds4_model::{ModelFile, Residency};
use serde::Serialize;
use serde_json::{Value, json};

use crate::backend::{Engine, short_gib};
use crate::kernels::Phase;
use crate::load;
use crate::machine::{Machine, gib};
use crate::options::{Bench, Subject};

/// One context length.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Context length.
    pub ctx_tokens: usize,
    /// Tokens prefilled since the last one.
    pub prefill_tokens: usize,
    /// Their speed.
    pub prefill_tps: f64,
    /// Tokens generated.
    pub gen_tokens: usize,
    /// Their speed.
    pub gen_tps: f64,
    /// Bytes of the sequence's saved state.
    pub kvcache_bytes: u64,
    /// Further columns.
    #[serde(flatten)]
    pub wide: Option<Wide>,
}

/// Columns behind `--wide`.
#[derive(Debug, Serialize)]
pub(crate) struct Wide {
    /// Time to prefill this row's new tokens, after which the first token is known.
    pub ttft_ms: f64,
    /// Median time of a generated token.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Bytes of weights and rows that one generated token must read.
    pub bytes_per_token: u64,
    /// Those bytes divided by the mean time of a token.
    pub gb_per_s: f64,
    /// The same as a share of the measured read bandwidth, where it was measured and holds for all
    /// weights.
    pub bandwidth_share: Option<f64>,
}

const HEADER: &str = "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes";
const WIDE_HEADER: &str = ",ttft_ms,p50_ms,p99_ms,bytes_per_token,gb_per_s,bandwidth_share";

/// Everything about a run, as `--json` writes it.
#[derive(Serialize)]
struct Summary {
    tool: &'static str,
    version: &'static str,
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<Gpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    backend: &'static str,
    read_bandwidth_gb_per_s: Option<f64>,
    model: Model,
    ctx_alloc: u32,
    rows: Vec<Row>,
    /// What the parts cost at the last context length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernels: Vec<Phase>,
    /// Which experts had to be read, where memory is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    residency: Option<Value>,
}

/// The device that computes, where it is not the processor.
#[derive(Serialize)]
struct Gpu {
    name: String,
    /// Compute capability, as one number.
    arch: u32,
    multiprocessors: u32,
    memory_bytes: u64,
}

impl Gpu {
    fn of(info: &DeviceInfo) -> Self {
        let DeviceInfo { name, arch, sms, memory_bytes } = info.clone();
        Self { name, arch, multiprocessors: sms, memory_bytes }
    }
}

#[derive(Serialize)]
struct Model {
    name: String,
    description: String,
    n_layer: usize,
    tensor_bytes: u64,
    fingerprint: String,
    is_synthetic: bool,
}

/// Writes rows as they come, flushed one by one.
pub(crate) struct Report {
    csv: Box<dyn Write>,
    csv_name: String,
    json: Option<PathBuf>,
    summary: Summary,
}

impl Report {
    /// Prints the machine and the model to stderr and the header to the CSV.
    pub(crate) fn new(
        tool: &str,
        options: &Bench,
        engine: &Engine,
        file: &ModelFile,
        bandwidth: Option<f64>,
    ) -> Result<Self> {
        let is_synthetic = matches!(options.subject, Subject::Synthetic { .. });
        let machine = Machine::look();
        let gpu = engine.device().map(Gpu::of);
        let device = gpu.as_ref().map_or_else(String::new, |gpu| {
            format!(", {}, {}", gpu.name, short_gib(gpu.memory_bytes))
        });
        eprintln!(
            "{tool}: machine: {}, {} CPUs, {} memory, {}, {}{device}",
            machine.cpu,
            machine.n_cpu,
            gib(machine.memory_bytes),
            machine.os,
            machine.arch
        );
        let threads = match engine {
            Engine::Cpu(runner) => Some(runner.threads()),
            Engine::Cuda(_) => None,
        };
        if let Some(rate) = bandwidth {
            let of = match threads {
                Some(threads) => format!("with {threads} threads"),
                None => "of the GPU's memory".to_owned(),
            };
            eprintln!("{tool}: read bandwidth: {:.1} GB/s {of}", rate / 1e9);
        }
        let (csv, csv_name): (Box<dyn Write>, _) = match &options.csv {
            Some(path) => {
                let name = path.display().to_string();
                let file = File::create(path).with_context(|| format!("cannot write {name}"))?;
                (Box::new(file), name)
            }
            None => (Box::new(io::stdout()), "stdout".to_owned()),
        };
        let summary = Summary {
            tool: "ds4 bench",
            version: env!("CARGO_PKG_VERSION"),
            machine,
            gpu,
            threads,
            backend: engine.name(),
            read_bandwidth_gb_per_s: bandwidth.map(|rate| rate / 1e9),
            model: Model {
                name: file.name.clone(),
                description: file.description.clone(),
                n_layer: file.dims.n_layer,
                tensor_bytes: file.tensor_bytes(),
                fingerprint: file.fingerprint.to_string(),
                is_synthetic,
            },
            ctx_alloc: options.ctx_alloc,
            rows: Vec::new(),
            kernels: Vec::new(),
            residency: None,
        };
        let mut report = Self { csv, csv_name, json: options.json.clone(), summary };
        let wide = if options.is_wide { WIDE_HEADER } else { "" };
        report.line(&format!("{HEADER}{wide}"))?;
        Ok(report)
    }

    /// Writes one row.
    pub(crate) fn row(&mut self, row: Row) -> Result<()> {
        self.line(&csv_row(&row))?;
        self.summary.rows.push(row);
        Ok(())
    }

    /// Shows what the parts of the model cost.
    pub(crate) fn kernels(&mut self, tool: &str, phases: Vec<Phase>) -> Result<()> {
        let out = &mut io::stderr().lock();
        for phase in &phases {
            phase.write(tool, out).context("cannot write to stderr")?;
        }
        self.summary.kernels = phases;
        Ok(())
    }

    /// Says which experts had to be read, and writes the JSON file, if one was asked for.
    pub(crate) fn finish(mut self, tool: &str, residency: Option<Residency>) -> Result<()> {
        if let Some(all) = residency {
            eprintln!("{tool}: {}", load::residency_line(&all));
            self.summary.residency = Some(json!({
                "limit_bytes": all.limit_bytes, "kept_bytes": all.kept_bytes,
                "expert_bytes": all.expert_bytes, "hits": all.hits, "misses": all.misses,
                "hit_rate": all.hit_rate(), "read_bytes": all.read_bytes,
                "evictions": all.evictions,
            }));
        }
        let Some(path) = self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(&self.summary)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn line(&mut self, text: &str) -> Result<()> {
        let name = &self.csv_name;
        writeln!(self.csv, "{text}")
            .and_then(|()| self.csv.flush())
            .with_context(|| format!("cannot write to {name}"))
    }
}

fn csv_row(row: &Row) -> String {
    let base = format!(
        "{},{},{:.2},{},{:.2},{}",
        row.ctx_tokens,
        row.prefill_tokens,
        row.prefill_tps,
        row.gen_tokens,
        row.gen_tps,
        row.kvcache_bytes
    );
    let Some(wide) = &row.wide else { return base };
    let share = wide.bandwidth_share.map_or_else(String::new, |share| format!("{share:.4}"));
    format!(
        "{base},{:.2},{:.2},{:.2},{},{:.3},{share}",
        wide.ttft_ms, wide.p50_ms, wide.p99_ms, wide.bytes_per_token, wide.gb_per_s,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_formats_of_ds4_bench() {
        let row = Row {
            ctx_tokens: 2048,
            prefill_tokens: 2048,
            prefill_tps: 123.456,
            gen_tokens: 128,
            gen_tps: 9.999,
            kvcache_bytes: 12_345,
            wide: None,
        };
        assert_eq!(csv_row(&row), "2048,2048,123.46,128,10.00,12345");
        assert_eq!(HEADER.split(',').count(), csv_row(&row).split(',').count());
        let wide = Wide {
            ttft_ms: 1.0,
            p50_ms: 2.0,
            p99_ms: 3.0,
            bytes_per_token: 4,
            gb_per_s: 5.0,
            bandwidth_share: Some(0.6),
        };
        let wide = csv_row(&Row { wide: Some(wide), ..row });
        assert_eq!(wide, "2048,2048,123.46,128,10.00,12345,1.00,2.00,3.00,4,5.000,0.6000");
        assert_eq!(format!("{HEADER}{WIDE_HEADER}").split(',').count(), wide.split(',').count());
    }
}
