//! Argument structs of kernels, and the products of activations with matrices: which kernel runs
//! them for how many tokens.

use ds4_model::Result;
use zerocopy::{Immutable, IntoBytes};

use crate::args::Args;
use crate::constants::Constants;
use crate::device::{Device, Geometry};
use crate::matrix::{DeviceMatrix, Form, MatArg};
use crate::scratch::{Acts, FEW};

/// `MvJob` of `mv.cuh`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct MvJobArg {
    w: MatArg,
    out: u64,
    out_stride: i32,
    groups: i32,
    w2: MatArg,
    kind: i32,
    clamp: f32,
    first: i32,
    pad: i32,
}

/// Most jobs of a launch.
const JOBS_MAX: usize = 8;

/// `MvJobs` of `mv.cuh`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct MvJobsArg {
    job: [MvJobArg; JOBS_MAX],
    n: i32,
    pad: [i32; 3],
}

/// `Comp` of `rows.cuh`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct CompArg {
    pub kv: u64,
    pub score: u64,
    pub ape: u64,
    pub norm: u64,
}

/// `RowsArgs` of `rows.cuh`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct RowsArg {
    pub toks: u64,
    pub table: u64,
    pub places: i32,
    pub place: i32,
    pub ratio: i32,
    pub indexed: i32,
    pub store: i32,
    pub forms: i32,
    pub turns: u64,
    pub turns_start: u64,
    pub qr: u64,
    pub q_norm: u64,
    pub qr_q: u64,
    pub qr_d: u64,
    pub kv: u64,
    pub kv_norm: u64,
    pub raw: u64,
    pub comp: CompArg,
    pub idx: CompArg,
}

/// `Ropes` of `rows.cuh`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct RopesArg {
    pub single: [u64; 2],
    pub exact: [u64; 2],
    pub ratios: [i32; 4],
    pub f32_angle: i32,
    pub pad: i32,
}

/// One product: `out[t][row] = w · x[t]`, or with `up` the SwiGLU of both products.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub w: &'a DeviceMatrix,
    pub out: u64,
    /// Values of an output row; 0 for the matrix's own.
    pub stride: usize,
    /// Parts of the rows that read parts of the input.
    pub groups: usize,
}

impl<'a> Job<'a> {
    pub(crate) fn new(w: &'a DeviceMatrix, out: u64) -> Self {
        Self { w, out, stride: w.rows, groups: 1 }
    }

    pub(crate) fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }
}

fn int(n: usize) -> i32 {
    i32::try_from(n).expect("sizes of a step fit")
}

/// Gate and up of the shared expert as one product.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub gate: &'a DeviceMatrix,
    pub up: &'a DeviceMatrix,
    pub out: u64,
    pub clamp: f32,
}

/// Rows of a job that one block of `mv_*` takes (head of `mv.cuh`).
fn rows_of_block(w: &DeviceMatrix, t: usize, is_pair: bool) -> usize {
    let cols = w.cols;
    let rows = if t <= 4 {
        let split = if cols >= 4096 { 4 } else if cols >= 2048 { 2 } else { 1 };
        let r = if w.form == Form::Q8_0 { 4 } else { 2 };
        r * (4 / split)
    } else {
        let split = match cols {
            4096.. => 8,
            2048.. => 4,
            1024.. => 2,
            _ => 1,
        };
        16 * (8 / split)
    };
    if is_pair { rows / 2 } else { rows }
}

/// Products of few tokens, all of one launch reading `x`.
pub(crate) fn few(device: &Device, x: &Acts, t: usize, jobs: &[Job<'_>], pair: Option<Pair<'_>>) -> Result<()> {
    debug_assert!(t <= FEW);
    let (kernel, threads) = match t {
        1 => ("mv_1", 128),
        2 => ("mv_2", 128),
        3..=4 => ("mv_4", 128),
        5..=8 => ("mv_8", 256),
        _ => ("mv_16", 256),
    };
    let none = MvJobArg {
        w: MatArg::NONE,
        out: 0,
        out_stride: 0,
        groups: 1,
        w2: MatArg::NONE,
        kind: 0,
        clamp: 0.0,
        first: 0,
        pad: 0,
    };
    let mut arg = MvJobsArg { job: [none; JOBS_MAX], n: 0, pad: [0; 3] };
    let mut blocks = 0;
    let mut add = |w: &DeviceMatrix, is_pair: bool, job: MvJobArg| {
        let slot = &mut arg.job[usize::try_from(arg.n).expect("a few")];
        *slot = MvJobArg { w: w.arg(), first: int(blocks), ..job };
        blocks += w.rows.div_ceil(rows_of_block(w, t, is_pair));
        arg.n += 1;
    };
    if let Some(p) = pair {
        let (w2, out_stride) = (p.up.arg(), int(p.gate.rows));
        add(p.gate, true, MvJobArg { out: p.out, out_stride, w2, kind: 1, clamp: p.clamp, ..none });
    }
    for job in jobs {
        let (out_stride, groups) = (int(job.stride), int(job.groups));
        add(job.w, false, MvJobArg { out: job.out, out_stride, groups, ..none });
    }
    let mut args = Args::new()
        .raw(arg.as_bytes(), 8)
        .ptr(x.f.at())
        .ptr(x.q.at())
        .ptr(x.d.at())
        .int(x.cols)
        .int(t);
    device.launch(kernel, Geometry::new(blocks, 1, threads), &mut args)
}

/// Products of any number of tokens.
pub(crate) fn products(device: &Device, c: &Constants, x: &Acts, t: usize, jobs: &[Job<'_>]) -> Result<()> {
    if t <= FEW {
        return jobs.chunks(JOBS_MAX).try_for_each(|jobs| few(device, x, t, jobs, None));
    }
    jobs.iter().try_for_each(|job| many(device, c, x, t, job))
}

fn many(device: &Device, c: &Constants, x: &Acts, t: usize, job: &Job<'_>) -> Result<()> {
    let w = job.w;
    let per_group = w.rows / job.groups;
    let args = Args::new().raw(w.arg().as_bytes(), 8);
    match w.form {
        Form::Q8_0 => {
            let grid = |bm: usize, bn: usize| (t.div_ceil(bn), job.groups * per_group.div_ceil(bm));
            let mut args = args
                .ptr(x.q.at())
                .ptr(x.d.at())
                .int(x.cols)
                .ptr(job.out)
                .int(job.stride)
                .int(t)
                .int(job.groups);
            // The largest tile that still gives every multiprocessor some blocks.
            let sms = device.info.sms as usize;
            let fills = |(gx, gy): (usize, usize)| gx * gy * 2 > sms;
            let (kernel, (gx, gy), threads, shared) = if t > 64 && fills(grid(128, 128)) {
                ("mm_q8_0", grid(128, 128), 256, c.mm_q8_shared)
            } else if fills(grid(64, 64)) {
                ("mm_q8_0_small", grid(64, 64), 128, c.mm_q8_small_shared)
            } else {
                ("mm_q8_0_few", grid(32, 64), 128, c.mm_q8_few_shared)
            };
            device.launch(kernel, Geometry::new(gx, gy, threads).shared(shared), &mut args)
        }
        Form::F16 => {
            let (f, cols) = group_input(x, job);
            let mut args = args.ptr(f).int(cols).ptr(job.out).int(job.stride).int(t);
            let (gx, gy) = (t.div_ceil(128), w.rows.div_ceil(128));
            if gx * gy * 2 > device.info.sms as usize {
                let geometry = Geometry::new(gx, gy, 256).shared(c.mm_f16_shared);
                device.launch("mm_f16", geometry, &mut args)
            } else {
                let geometry = Geometry::new(t.div_ceil(64), w.rows.div_ceil(64), 128)
                    .shared(c.mm_f16_small_shared);
                device.launch("mm_f16_small", geometry, &mut args)
            }
        }
        _ => {
            let (f, cols) = group_input(x, job);
            let mut args = args.ptr(f).int(cols).ptr(job.out).int(job.stride).int(t);
            let geometry = Geometry::new(t.div_ceil(64), w.rows.div_ceil(64), 256);
            device.launch("mm_f32", geometry, &mut args)
        }
    }
}

/// Input of kernels that know no groups.
fn group_input(x: &Acts, job: &Job<'_>) -> (u64, usize) {
    assert_eq!(job.groups, 1, "grouped matrices are Q8_0 in every published file");
    (x.f.at(), x.cols)
}

/// f32 rows to their int8 forms: 1 for `Q8_0`, 2 for `Q8_K`.
pub(crate) fn quantise(device: &Device, x: &Acts, t: usize) -> Result<()> {
    let mut args = Args::new().ptr(x.f.at()).int(x.cols).int(1).ptr(x.q.at()).ptr(x.d.at());
    args = args.ptr(0).ptr(0).ptr(0);
    device.launch("quantise", Geometry::new(t, x.cols.div_ceil(1024), 128), &mut args)
}
