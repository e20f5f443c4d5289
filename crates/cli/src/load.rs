//! From options to a model that can run: open, check, prepare, and say so on stderr.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ds4_cpu::{CpuOptions, CpuRunner, Placement};
use ds4_gguf::Gguf;
use ds4_model::{ModelFile, Numerics, Residency, Runner, Steering};
use ds4_text::Tokenizer;

use crate::backend::{self, Engine, Found, Needs, Room};
use crate::machine::{available_bytes, check_address_space, gib};
use crate::options::{Model, Source, SteeringFile};
use crate::{demo, terminal};

/// A model ready to run.
pub(crate) struct Loaded {
    /// Computes.
    pub runner: Box<dyn Runner>,
    /// Its file.
    pub file: Arc<ModelFile>,
    /// Memory for its sequences.
    pub room: Room,
    /// Name of the backend.
    pub backend: &'static str,
}

impl Loaded {
    /// Refuses a sequence of `cap` tokens that does not fit into memory; says what it takes.
    pub(crate) fn plan(&self, cap: u32, advice: &str) -> Result<()> {
        self.room.plan(&*self.runner, cap, advice)
    }
}

/// Opens the container alone.
pub(crate) fn open_gguf(source: &Source) -> Result<Gguf> {
    Ok(match source {
        Source::File(path) => Gguf::open(path)?,
        Source::Demo => demo::open()?,
    })
}

/// Reads the vocabulary of a model file, and nothing else of it.
pub(crate) fn open_vocabulary(source: &Source) -> Result<Tokenizer> {
    tokenizer(&open_gguf(source)?)
}

/// The tokenizer of an open file.
pub(crate) fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    Tokenizer::from_gguf(gguf).map_err(|error| match error {
        // It names the file itself.
        ds4_text::Error::File(_) => error.into(),
        other => anyhow::Error::from(other).context(gguf.name().to_owned()),
    })
}

/// Opens a model and prepares the backend.
pub(crate) fn open(model: &Model, needs: Needs) -> Result<Loaded> {
    let (engine, file) = open_engine(model, needs)?;
    let (room, backend) = (engine.room()?, engine.name());
    Ok(Loaded { runner: engine.into_runner(), file, room, backend })
}

/// As [`open`], for what is particular to a backend.
pub(crate) fn open_engine(model: &Model, needs: Needs) -> Result<(Engine, Arc<ModelFile>)> {
    let file = Arc::new(open_file(model)?);
    Ok((start(&file, model, needs)?, file))
}

/// Opens and checks the files of a model.
pub(crate) fn open_file(model: &Model) -> Result<ModelFile> {
    if model.source == Source::Demo {
        terminal::note(demo::NOTICE);
    }
    let gguf = open_gguf(&model.source)?;
    let mtp = model.mtp.as_deref().map(Gguf::open).transpose()?;
    let mut file = ModelFile::new(gguf, mtp)?;
    if let Some(SteeringFile { path, attn, ffn }) = &model.steering {
        let name = path.display();
        let bytes = read_file(path)?;
        let steering = Steering::from_bytes(&bytes, &file.dims, *attn, *ffn);
        file.steer(steering.with_context(|| name.to_string())?);
        terminal::note(&format!("steering: {name}, attention {attn}, FFN {ffn}"));
    }
    Ok(file)
}

/// Says what a model is and prepares its backend.
pub(crate) fn start(file: &Arc<ModelFile>, model: &Model, needs: Needs) -> Result<Engine> {
    describe(file, needs);
    Ok(match backend::cuda(file, model, needs)? {
        Found::Cuda(runner) => Engine::Cuda(runner),
        Found::Cpu(why) => {
            Engine::Cpu(Box::new(start_cpu(file, model, needs.numerics, why.as_deref())?))
        }
    })
}

/// Says what a model is.
pub(crate) fn describe(file: &ModelFile, needs: Needs) {
    let mtp = if file.has_mtp() { ", MTP block" } else { "" };
    let bytes = gib(file.tensor_bytes());
    terminal::note(&format!("model: {}, {bytes}{mtp}", file.description));
    if needs.numerics.is_none() && file.dims.profile_g() != Numerics::PROFILE_G {
        terminal::note("note: computing without the roundings whose blocks do not fit this shape");
    }
}

/// Address space that a model takes at most before its first step: threads with their stacks and
/// the allocator's reserve for each, scratch, the tables of the vocabulary.
fn fixed_bytes(file: &ModelFile, options: &CpuOptions) -> u64 {
    const THREAD: u64 = (2 + 64) << 20;
    const TOKEN: u64 = 512;
    const OTHER: u64 = 16 << 20;
    let n_threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let step = ds4_cpu::step_bytes(&file.dims, options.chunk_max);
    OTHER + THREAD * n_threads as u64 + TOKEN * file.dims.n_vocab as u64 + step
}

/// Prepares the CPU; `why` it and not a GPU, if there is one.
pub(crate) fn start_cpu(
    file: &Arc<ModelFile>,
    model: &Model,
    numerics: Option<Numerics>,
    why: Option<&str>,
) -> Result<CpuRunner> {
    let numerics = numerics.unwrap_or_else(|| file.dims.profile_g());
    let threads = model.threads.unwrap_or(0);
    let weights_bytes_max = weights_bytes_max(file, model.ram_bytes);
    let options = CpuOptions { threads, numerics, weights_bytes_max, ..CpuOptions::default() };
    check_address_space(fixed_bytes(file, &options), "running the model")?;
    let runner = CpuRunner::new(file, &options).map_err(|error| match model.ram_bytes {
        Some(_) => anyhow::Error::from(error).context("--ram-gb"),
        None => error.into(),
    })?;
    match runner.residency() {
        Some(tiers) => note_tiers(&tiers, runner.chunk_max()),
        None if model.is_warm => warm(file)?,
        None => {}
    }
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    terminal::note(&format!("backend: CPU, {} threads{why}", runner.threads()));
    Ok(runner)
}

/// Bytes of weights that may be in memory: as asked for, else three quarters of what is free where
/// that and the space to compute do not hold all of them; `None` for all.
pub(crate) fn weights_bytes_max(file: &ModelFile, wanted: Option<u64>) -> Option<u64> {
    if wanted.is_some() || !file.gguf.is_mapped_file() {
        return wanted;
    }
    let step = ds4_cpu::step_bytes(&file.dims, CpuOptions::default().chunk_max);
    let free = available_bytes();
    if file.tensor_bytes().saturating_add(step) <= free {
        return None;
    }
    // A machine that is smaller still is not refused: the system reads what it has to drop.
    Some((free / 4 * 3).max(Placement::of(file).least_bytes))
}

fn note_tiers(tiers: &Residency, chunk: usize) {
    let (limit, kept) = (gib(tiers.limit_bytes), gib(tiers.kept_bytes));
    let rest = gib(tiers.limit_bytes - tiers.kept_bytes);
    terminal::note(&format!(
        "memory: weights may take {limit}: {kept} stay, {rest} hold the experts used last; others \
         are read from the file, steps take {chunk} tokens"
    ));
}

/// How experts were found, for people.
pub(crate) fn residency_line(part: &Residency) -> String {
    format!(
        "experts: {:.1}% of {} in memory, {} read",
        part.hit_rate() * 100.0,
        part.hits + part.misses,
        gib(part.read_bytes)
    )
}

/// Reads every page of the weights once, so that the first tokens need not wait for the disk.
pub(crate) fn warm(file: &ModelFile) -> ds4_model::Result<()> {
    const PAGE: usize = 4096;
    const STEP: usize = 64 << 20;
    for gguf in std::iter::once(&file.gguf).chain(&file.mtp) {
        let data = gguf.data();
        gguf.advise_willneed(0..data.len())?;
        let mib = data.len().div_ceil(1 << 20);
        let bar = terminal::progress_bar("reading weights", mib, "MiB");
        for (ix, part) in data.chunks(STEP).enumerate() {
            let sum = part.iter().step_by(PAGE).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            std::hint::black_box(sum);
            bar.set_position((((ix + 1) * STEP) >> 20).min(mib) as u64);
        }
        bar.finish_and_clear();
    }
    Ok(())
}

/// Largest file that is read as a whole, in bytes: prompts are far smaller, devices endless.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The bytes of a file that is not a model.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let name = path.display();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let n = read.with_context(|| format!("cannot read {name}"))?;
    if n as u64 > FILE_BYTES_MAX {
        bail!("{name}: larger than {}", gib(FILE_BYTES_MAX));
    }
    Ok(bytes)
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let name = path.display();
    String::from_utf8(read_file(path)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{name}: not UTF-8 at byte {at}; convert the file to UTF-8")
    })
}
