//! Where a model runs: on a GPU where there is one that holds it, else on the CPU.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use ds4_cpu::CpuRunner;
use ds4_cuda::{CudaOptions, CudaRunner, DeviceInfo, Plan};
use ds4_model::memory::SeqPlan;
use ds4_model::{Error, ModelFile, Numerics, Runner, TokenId};

use crate::machine::{check_memory, gib};
use crate::options::{Backend, Model, Source};
use crate::{load, lock, terminal};

/// Bytes of a GPU that sequences leave free: index scores, recorded steps, the driver's own.
const SPARE_BYTES: u64 = 512 << 20;

/// A runner and what is particular to its kind.
pub(crate) enum Engine {
    /// On the CPU.
    Cpu(Box<CpuRunner>),
    /// On a GPU.
    Cuda(Box<CudaRunner>),
}

/// The memory that sequences take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    /// This machine's, of which steps take so many bytes.
    Host { step_bytes: u64 },
    /// A GPU's: so many bytes were free when the model had been loaded.
    Device { free_bytes: u64 },
}

/// What a command is going to ask of its backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Tokens of its sequence.
    pub cap: u32,
    /// Roundings, if not those the model was made with.
    pub numerics: Option<Numerics>,
    /// What it does that only the CPU can.
    pub only_cpu: Option<&'static str>,
}

impl Needs {
    /// A sequence of `cap` tokens.
    pub(crate) fn seq(cap: u32) -> Self {
        Self { cap, numerics: None, only_cpu: None }
    }
}

/// What became of the wish for a GPU.
pub(crate) enum Found {
    /// The model is on it.
    Cuda(Box<CudaRunner>),
    /// The CPU has to do; says why, if there is a GPU.
    Cpu(Option<String>),
}

impl Engine {
    /// What all runners can.
    pub(crate) fn runner(&mut self) -> &mut dyn Runner {
        match self {
            Self::Cpu(runner) => &mut **runner,
            Self::Cuda(runner) => &mut **runner,
        }
    }

    /// The runner alone.
    pub(crate) fn into_runner(self) -> Box<dyn Runner> {
        match self {
            Self::Cpu(runner) => runner,
            Self::Cuda(runner) => runner,
        }
    }

    /// The memory for sequences.
    pub(crate) fn room(&self) -> Result<Room> {
        Ok(match self {
            Self::Cpu(runner) => {
                let step_bytes = ds4_cpu::step_bytes(runner.dims(), runner.chunk_max());
                Room::Host { step_bytes }
            }
            Self::Cuda(runner) => Room::Device { free_bytes: runner.free_bytes()? },
        })
    }

    /// Name of the backend, as `--backend` takes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Cuda(_) => "cuda",
        }
    }

    /// The GPU.
    pub(crate) fn device(&self) -> Option<&DeviceInfo> {
        match self {
            Self::Cpu(_) => None,
            Self::Cuda(runner) => Some(runner.device()),
        }
    }

    /// The MTP block alone, on states and the tokens behind them.
    pub(crate) fn mtp_forward(&mut self, hidden: &[f32], next: &[TokenId]) -> Result<Vec<f32>> {
        Ok(match self {
            Self::Cpu(runner) => runner.mtp_forward(hidden, next)?,
            Self::Cuda(runner) => runner.mtp_forward(hidden, next)?,
        })
    }
}

impl Room {
    /// Refuses a sequence of `cap` tokens that does not fit; says what it takes.
    pub(crate) fn plan(self, runner: &dyn Runner, cap: u32, advice: &str) -> Result<()> {
        let bytes = runner.seq_bytes(cap);
        match self {
            Self::Host { step_bytes } => {
                let what = format!("a context of {cap} tokens");
                check_memory(bytes.saturating_add(step_bytes), &what, advice)?;
                let (bytes, step) = (gib(bytes), gib(step_bytes));
                terminal::note(&format!(
                    "context: {cap} tokens, {bytes}, and at most {step} to compute"
                ));
            }
            Self::Device { free_bytes } => {
                if bytes > Self::for_seqs(free_bytes) {
                    let (bytes, free) = (gib(bytes), gib(Self::for_seqs(free_bytes)));
                    bail!(
                        "out of memory: a context of {cap} tokens takes {bytes}, the GPU has \
                         {free} for it; {advice}"
                    );
                }
                let bytes = gib(bytes);
                terminal::note(&format!("context: {cap} tokens, {bytes} of the GPU's memory"));
            }
        }
        Ok(())
    }

    /// Bytes for sequences where so many are free on a GPU.
    pub(crate) fn for_seqs(free_bytes: u64) -> u64 {
        free_bytes.saturating_sub(SPARE_BYTES)
    }
}

/// Loads a model onto a GPU, if it is wanted there and can be.
pub(crate) fn cuda(file: &Arc<ModelFile>, model: &Model, needs: Needs) -> Result<Found> {
    match model.backend {
        Backend::Cpu => Ok(Found::Cpu(None)),
        Backend::Cuda => {
            if let Some(what) = needs.only_cpu {
                bail!("{what} works on the CPU only for now; use --backend cpu");
            }
            // A device that cannot be used is not one that was lost: an ordinary failure.
            let plain = |error: Error| anyhow!("{error}");
            if ds4_cuda::find().map_err(plain)?.is_some() {
                take_lock(model)?;
            }
            open(file, model, needs).map(Found::Cuda).map_err(plain)
        }
        Backend::Auto => match ds4_cuda::find() {
            Ok(None) => Ok(Found::Cpu(None)),
            Ok(Some(device)) => on(&device, file, model, needs),
            Err(error) => Ok(Found::Cpu(Some(format!("GPU: {error}")))),
        },
    }
}

/// Loads a model onto a GPU that nobody asked for.
fn on(device: &DeviceInfo, file: &Arc<ModelFile>, model: &Model, needs: Needs) -> Result<Found> {
    let cpu = |why: &str| Ok(Found::Cpu(Some(format!("GPU {}: {why}", device.name))));
    if let Some(why) = against(device.memory_bytes, file, model, needs) {
        return cpu(&why);
    }
    take_lock(model)?;
    let why = match open(file, model, needs) {
        Ok(runner) => {
            let (seq, free) = (runner.seq_bytes(needs.cap), runner.free_bytes()?);
            if seq <= Room::for_seqs(free) {
                return Ok(Found::Cuda(runner));
            }
            let (cap, seq, free) = (needs.cap, gib(seq), gib(Room::for_seqs(free)));
            format!("a context of {cap} tokens takes {seq}, {free} are free beside the model")
        }
        Err(Error::Memory(why) | Error::Unsupported(why) | Error::Device(why)) => first(&why),
        Err(error) => return Err(error.into()),
    };
    lock::release();
    cpu(&why)
}

/// What speaks against a GPU of so much memory before it is tried.
fn against(memory: u64, file: &ModelFile, model: &Model, needs: Needs) -> Option<String> {
    if let Some(what) = needs.only_cpu {
        return Some(format!("{what} works on the CPU only for now"));
    }
    if model.ram_bytes.is_some() {
        return Some("--ram-gb is for the CPU".to_owned());
    }
    let plan = Plan::new(file, &options(file, model, needs), memory);
    plan.err().map(|error| match error {
        Error::Memory(why) => first(&why),
        other => other.to_string(),
    })
}

/// The first part of an error's text: what is the matter, without the advice.
fn first(text: &str) -> String {
    text.split(';').next().unwrap_or_default().to_owned()
}

fn options(file: &ModelFile, model: &Model, needs: Needs) -> CudaOptions {
    let seq = SeqPlan::new(&file.dims, needs.cap, file.has_mtp()).bytes().total();
    CudaOptions {
        numerics: needs.numerics.unwrap_or_else(|| file.dims.profile_g()),
        vram_bytes: model.vram_bytes,
        seq_bytes: seq.saturating_add(SPARE_BYTES),
        threads: model.threads.unwrap_or(0),
        ..CudaOptions::default()
    }
}

fn open(file: &Arc<ModelFile>, model: &Model, needs: Needs) -> ds4_model::Result<Box<CudaRunner>> {
    if model.is_warm {
        load::warm(file)?;
    }
    let bar = terminal::progress_bar("loading onto the GPU", file.dims.n_layer, "layers");
    let mut progress = |done: usize| bar.set_position(done as u64);
    let runner = ds4_cuda::open(file, &options(file, model, needs), &mut progress);
    bar.finish_and_clear();
    let runner = runner?;
    let DeviceInfo { name, memory_bytes, .. } = runner.device();
    terminal::note(&format!("backend: CUDA, {name}, {}", short_gib(*memory_bytes)));
    let (inside, all) = (runner.device_experts(), file.dims.n_expert);
    if inside < all {
        terminal::note(&format!(
            "experts: {inside} of {all} of each layer are on the GPU, the CPU computes the others"
        ));
    }
    Ok(Box::new(runner))
}

/// Bytes of a GPU's memory, as its maker would say it.
pub(crate) fn short_gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// One process on a GPU at a time; the demo model is too small to be in the way.
fn take_lock(model: &Model) -> Result<()> {
    match (model.is_locked, &model.source) {
        (true, Source::File(_)) => lock::take(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::test_model;

    fn file() -> ModelFile {
        ModelFile::new(crate::demo::open().unwrap(), None).unwrap()
    }

    #[test]
    fn what_a_gpu_cannot_do_is_said() {
        const GIB: u64 = 1 << 30;
        let (file, needs) = (file(), Needs::seq(1000));
        let against = |memory, model: &Model, needs| against(memory, &file, model, needs);
        let model = test_model(Backend::Auto);
        assert_eq!(against(80 * GIB, &model, needs), None);
        let why = against(GIB / 2, &model, needs).unwrap();
        assert!(why.starts_with("the GPU has 0.5 GiB to use, but"), "{why}");
        let limited = Model { vram_bytes: Some(GIB / 4), ..test_model(Backend::Auto) };
        assert!(against(80 * GIB, &limited, needs).unwrap().starts_with("the GPU has 0.2 GiB"));
        let only_cpu = Needs { only_cpu: Some("--kernels"), ..needs };
        assert!(against(80 * GIB, &model, only_cpu).unwrap().starts_with("--kernels works"));
        let small = Model { ram_bytes: Some(GIB), ..model };
        assert_eq!(against(80 * GIB, &small, needs).unwrap(), "--ram-gb is for the CPU");
    }

    #[test]
    fn what_only_the_cpu_can_is_refused_where_a_gpu_was_asked_for() {
        let needs = Needs { only_cpu: Some("--kernels"), ..Needs::seq(10) };
        let found = cuda(&Arc::new(file()), &test_model(Backend::Cuda), needs);
        let error = found.err().unwrap().to_string();
        assert_eq!(error, "--kernels works on the CPU only for now; use --backend cpu");
    }

    #[test]
    fn advice_is_left_out_of_reasons() {
        assert_eq!(
            first("it takes 9 GiB, but 8 are free; buy more"),
            "it takes 9 GiB, but 8 are free"
        );
    }
}
