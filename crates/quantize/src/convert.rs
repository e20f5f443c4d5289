//! The streaming conversion of one GGUF into another.

use std::num::NonZero;
use std::path::Path;
use std::thread;

use ds4_gguf::write::{Draft, replace_file};
use ds4_gguf::{Gguf, TensorInfo, TensorType, dequantize_row, quantize_row};

use crate::{Class, Error, Imatrix, Override, Recipe, Result};

/// Elements decoded at once by each thread.
const SLAB_ELEMS: usize = 1 << 20;

/// What a conversion is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Types by class.
    pub recipe: Recipe,
    /// Types by name; the last that matches wins.
    pub overrides: Vec<Override>,
    /// Column weights.
    pub imatrix: Option<Imatrix>,
    /// Threads; `None` takes all cores.
    pub threads: Option<NonZero<usize>>,
}

/// What became of one tensor.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Type before.
    pub from: TensorType,
    /// Type after.
    pub to: TensorType,
    /// Bytes after.
    pub bytes: u64,
    /// Squared error and squared norm, over all elements; both 0 when the bytes were copied.
    pub error: (f64, f64),
}

impl TensorReport {
    /// Root of the relative squared error.
    pub fn rel_rmse(&self) -> f64 {
        if self.error.1 == 0.0 { 0.0 } else { (self.error.0 / self.error.1).sqrt() }
    }
}

/// What became of all.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In file order.
    pub tensors: Vec<TensorReport>,
    /// Size of the written file.
    pub file_bytes: u64,
}

/// Converts `source` into a new file at `out`, which appears only when it is whole. `done` hears of
/// each tensor.
pub fn convert(
    source: &Gguf,
    out: &Path,
    options: &Options,
    done: &mut dyn FnMut(&TensorReport),
) -> Result<Report> {
    let plan = plan(source, options)?;
    let mut draft = Draft::new(&out.display().to_string());
    draft.set_all(source.metadata())?;
    for (info, _, to) in &plan {
        draft.tensor(&info.name, &info.dims, *to)?;
    }
    let layout = draft.layout()?;
    let mut report = Report { tensors: Vec::new(), file_bytes: layout.file_bytes() as u64 };
    replace_file::<Error>(out, |file| {
        let mut writer = layout.write(file)?;
        for (info, class, to) in &plan {
            let (bytes, error) = encode(source, info, *to, options)?;
            writer.write(&info.name, &bytes)?;
            let tensor = TensorReport {
                name: info.name.clone(),
                class: *class,
                from: info.ty,
                to: *to,
                bytes: bytes.len() as u64,
                error,
            };
            done(&tensor);
            report.tensors.push(tensor);
        }
        writer.finish()?;
        Ok(())
    })?;
    Ok(report)
}

/// The type of every tensor, checked against its shape before anything is written.
fn plan<'a>(
    source: &'a Gguf,
    options: &Options,
) -> Result<Vec<(&'a TensorInfo, Class, TensorType)>> {
    source
        .tensors()
        .iter()
        .map(|info| {
            let class = Class::of(&info.name).ok_or_else(|| {
                Error::Option(format!("{}: no tensor of this model has this name", info.name))
            })?;
            let fixed = matches!(class, Class::Small | Class::Table | Class::Position);
            let wish = options.overrides.iter().rev().find_map(|o| o.type_for(&info.name));
            let is_mtp = info.name.starts_with("mtp.");
            let to = match wish.filter(|_| !fixed) {
                Some(ty) => ty,
                None => options.recipe.type_of(class, is_mtp),
            };
            check_shape(info, to)?;
            check_weights(info, options.imatrix.as_ref())?;
            Ok((info, class, to))
        })
        .collect()
}

fn check_shape(info: &TensorInfo, ty: TensorType) -> Result<()> {
    let (cols, block) = (info.cols(), ty.block_elems());
    if cols.is_multiple_of(block) {
        return Ok(());
    }
    Err(Error::Shape { tensor: info.name.clone(), cols, ty, block })
}

/// Matrices of a stack, 1 for a plain matrix.
fn stack(info: &TensorInfo) -> usize {
    info.dims.get(2).map_or(1, |&n| usize::try_from(n).expect("checked by the reader"))
}

fn check_weights(info: &TensorInfo, imatrix: Option<&Imatrix>) -> Result<()> {
    let Some(weights) = imatrix.and_then(|m| m.weights(&info.name)) else { return Ok(()) };
    let (cols, stack) = (info.cols(), stack(info));
    if weights.len() == cols || weights.len() == cols * stack {
        return Ok(());
    }
    let (name, n) = (&info.name, weights.len());
    let what = format!("{name} has {n} weights, expected {cols} or {}", cols * stack);
    Err(Error::Imatrix { file: "importance matrix".into(), what })
}

/// The bytes of a tensor in its new type, and its squared error and norm.
fn encode(
    source: &Gguf,
    info: &TensorInfo,
    to: TensorType,
    options: &Options,
) -> Result<(Vec<u8>, (f64, f64))> {
    let bytes = source.tensor_bytes(info);
    if info.ty == to {
        return Ok((bytes.to_vec(), (0.0, 0.0)));
    }
    let (cols, rows) = (info.cols(), info.rows());
    let from_row = bytes.len() / rows;
    let to_row = to.row_bytes(cols).expect("checked by the plan");
    let weights = weights_of(source, info, to, options);
    let per_matrix = rows / stack(info);
    let slab = (SLAB_ELEMS / cols).max(1);
    let mut out = vec![0u8; rows * to_row];
    let jobs: Vec<(usize, &mut [u8])> = out.chunks_mut(slab * to_row).enumerate().collect();
    let threads = options.threads.or_else(|| thread::available_parallelism().ok());
    let n = threads.map_or(1, NonZero::get);
    let encode_job = |(ix, out): (usize, &mut [u8])| -> Result<(f64, f64)> {
        let mut error = (0.0, 0.0);
        let (mut x, mut y) = (vec![0f32; cols], vec![0f32; cols]);
        for (r, out) in out.chunks_exact_mut(to_row).enumerate() {
            let row = ix * slab + r;
            dequantize_row(info.ty, &bytes[row * from_row..][..from_row], &mut x);
            let weights = weights.row(row / per_matrix, cols);
            quantize_row(to, &x, weights, out)
                .map_err(|source| Error::Encode { tensor: info.name.clone(), source })?;
            dequantize_row(to, out, &mut y);
            for (x, y) in x.iter().zip(&y) {
                error.0 += f64::from(x - y).powi(2);
                error.1 += f64::from(*x).powi(2);
            }
        }
        Ok(error)
    };
    let error = run_jobs(jobs, n, &encode_job)?;
    Ok((out, error))
}

/// Results by number of their job.
type Parts = Vec<(usize, (f64, f64))>;

/// Deals jobs out to threads; the sum of what they return, in the order of the jobs.
fn run_jobs<J: Send>(
    jobs: Vec<J>,
    n: usize,
    run: &(dyn Fn(J) -> Result<(f64, f64)> + Sync),
) -> Result<(f64, f64)> {
    let count = jobs.len();
    let queue = std::sync::Mutex::new(jobs.into_iter().enumerate());
    let next = || queue.lock().expect("no thread panics while it holds the queue").next();
    let work = || {
        let mut done = Vec::new();
        while let Some((ix, job)) = next() {
            done.push((ix, run(job)?));
        }
        Ok(done)
    };
    let all: Vec<Result<Parts>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..n.min(count).max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().expect("an encoder does not panic")).collect()
    });
    let mut parts = Parts::with_capacity(count);
    for part in all {
        parts.extend(part?);
    }
    parts.sort_unstable_by_key(|p| p.0);
    Ok(parts.iter().fold((0.0, 0.0), |a, p| (a.0 + p.1.0, a.1 + p.1.1)))
}

/// Column weights of a tensor.
enum Weights<'a> {
    None,
    Given(&'a [f32]),
    Computed(Vec<f32>),
}

impl Weights<'_> {
    /// The weights of matrix `ix` of the stack.
    fn row(&self, ix: usize, cols: usize) -> Option<&[f32]> {
        let all = match self {
            Self::None => return None,
            Self::Given(all) => all,
            Self::Computed(all) => all.as_slice(),
        };
        Some(if all.len() == cols { all } else { &all[ix * cols..][..cols] })
    }
}

/// The importance matrix's weights; for the codebook format, which needs some, the mean square of
/// each column where none are given (§6.13).
fn weights_of<'a>(
    source: &Gguf,
    info: &TensorInfo,
    to: TensorType,
    options: &'a Options,
) -> Weights<'a> {
    if let Some(given) = options.imatrix.as_ref().and_then(|m| m.weights(&info.name)) {
        return Weights::Given(given);
    }
    if to != TensorType::Iq2Xxs {
        return Weights::None;
    }
    let (cols, rows, stack) = (info.cols(), info.rows(), stack(info));
    let bytes = source.tensor_bytes(info);
    let row_bytes = bytes.len() / rows;
    let mut sums = vec![0f32; cols * stack];
    let mut x = vec![0f32; cols];
    for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        dequantize_row(info.ty, bytes, &mut x);
        let sums = &mut sums[row / (rows / stack) * cols..][..cols];
        sums.iter_mut().zip(&x).for_each(|(s, x)| *s += x * x);
    }
    Weights::Computed(sums)
}
