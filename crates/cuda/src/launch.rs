//! Argument structs of kernels, and the products of activations with matrices: which kernel runs
//! them for how many tokens.

use ds4_model::{Dims, Result};
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
    shift: i32,
    q: u64,
    d: u64,
}

/// Most jobs of a launch.
const JOBS_MAX: usize = 8;

/// `MvJobs` of `mv.cuh`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct MvJobsArg {
    job: [MvJobArg; JOBS_MAX],
    n: i32,
    blocks: i32,
    pad: [i32; 2],
    done: u64,
    route: RouteArg,
    ahead: AheadArg,
}

/// `Ahead` of `common.cuh`: weights of the next kernel, to be brought closer; nothing by default.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct AheadArg {
    at: u64,
    bytes: u64,
}

impl AheadArg {
    pub(crate) fn of(w: &DeviceMatrix) -> Self {
        let (at, bytes) = w.values();
        Self { at, bytes }
    }
}

/// `RouteArgs` of `router.cuh`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct RouteArg {
    pub toks: u64,
    pub hash: u64,
    pub bias: u64,
    pub ids: u64,
    pub weights: u64,
    pub scale: f32,
    pub pad: i32,
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
    pub gates: u64,
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

/// What becomes of a product of few tokens.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// It is the output.
    Product,
    /// The output is the SwiGLU of it and of the product with this matrix, of the same type and
    /// shape, under a clamp.
    Pair(&'a DeviceMatrix, f32),
    /// The output is its `Q8_0` form alone ([`quantises`]).
    Quantised(&'a Acts),
    /// It is the output, the router's scores, and tokens choose their experts by it; with the
    /// address of a counter that is zero. The first of its launch.
    Router(RouteArg, u64),
}

/// One product: `out[t][row] = w · x[t]`, or what `kind` makes of it.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub w: &'a DeviceMatrix,
    pub out: u64,
    /// Values of an output row; 0 for the matrix's own.
    pub stride: usize,
    /// Parts of the rows that read parts of the input.
    pub groups: usize,
    pub kind: Kind<'a>,
    /// Weights that the next launch reads first.
    pub ahead: Option<&'a DeviceMatrix>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(w: &'a DeviceMatrix, out: u64) -> Self {
        Self { w, out, stride: w.rows, groups: 1, kind: Kind::Product, ahead: None }
    }

    pub(crate) fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    pub(crate) fn ahead(self, w: &'a DeviceMatrix) -> Self {
        Self { ahead: Some(w), ..self }
    }

    pub(crate) fn kind(self, kind: Kind<'a>) -> Self {
        Self { kind, ..self }
    }
}

fn int(n: usize) -> i32 {
    i32::try_from(n).expect("sizes of a step fit")
}

/// Most tokens of the kernels whose warps take single rows.
const SMALL: usize = 4;

/// Rows and warps of the blocks of a launch of `mv_*` (head of `mv.cuh`).
#[derive(Clone, Copy)]
struct Blocks {
    t: usize,
    /// 8 rows of `Q8_0` a warp, not 4: for up to [`SMALL`] tokens.
    wide: bool,
    /// Half as many warps share a row of `Q8_0` as would else.
    long: bool,
}

impl Blocks {
    /// Power of two of the warps that share a row: enough that each has columns to do.
    fn shift(self, job: &Job<'_>) -> u32 {
        let small = self.t <= SMALL;
        if matches!(job.kind, Kind::Quantised(_)) {
            return if small { 0 } else { 2 };
        }
        // At least 1024 columns for each of few warps, 512 for each of many.
        let least = if small { 1024 } else { 512 };
        let most: u32 = if small { 2 } else { 3 };
        let shift = (job.w.cols / least).checked_ilog2().map_or(0, |shares| shares.min(most));
        if self.long && job.w.form == Form::Q8_0 { shift.saturating_sub(1) } else { shift }
    }

    fn rows(self, job: &Job<'_>) -> usize {
        let (per_warp, warps) = match self.t {
            0..=SMALL if self.wide && job.w.form == Form::Q8_0 => (8, 4),
            0..=SMALL => (4, 4),
            _ => (16, 8),
        };
        let rows = per_warp * (warps >> self.shift(job));
        if matches!(job.kind, Kind::Pair(..)) { rows / 2 } else { rows }
    }

    fn of(self, job: &Job<'_>) -> usize {
        job.w.rows.div_ceil(self.rows(job))
    }

    fn sum(self, jobs: &[Job<'_>]) -> usize {
        jobs.iter().map(|job| self.of(job)).sum()
    }

    /// The fastest for a launch: wide blocks of one token where they are enough to fill the device
    /// and few enough that all run at once, which for narrow ones alone holds to a larger size.
    fn choose(device: &Device, t: usize, jobs: &[Job<'_>]) -> Self {
        let sms = device.info.sms as usize;
        let narrow = Self { t, wide: false, long: false };
        let wide = Self { wide: true, ..narrow };
        if jobs.iter().any(|job| matches!(job.kind, Kind::Quantised(_))) {
            return wide;
        }
        let is_q8 =
            |job: &Job<'_>| job.w.form == Form::Q8_0 || matches!(job.kind, Kind::Router(..));
        let fills = wide.sum(jobs) >= 2 * sms && narrow.sum(jobs) <= 16 * sms;
        if t > 1 || !fills || !jobs.iter().all(is_q8) {
            return narrow;
        }
        Self { long: wide.sum(jobs) > 4 * sms, ..wide }
    }
}

/// Whether a product's `Q8_0` form can be made with it.
pub(crate) fn quantises(w: &DeviceMatrix, t: usize, groups: usize) -> bool {
    t <= FEW && w.form == Form::Q8_0 && (w.rows / groups).is_multiple_of(32)
}

/// Jobs as the kernels take them, from block `first` on, and the number of blocks up to their end.
fn arg(jobs: &[Job<'_>], blocks: Blocks, first: usize) -> (MvJobsArg, usize) {
    let none = MvJobArg {
        w: MatArg::NONE,
        out: 0,
        out_stride: 0,
        groups: 1,
        w2: MatArg::NONE,
        kind: 0,
        clamp: 0.0,
        first: 0,
        shift: 0,
        q: 0,
        d: 0,
    };
    let mut arg = MvJobsArg {
        job: [none; JOBS_MAX],
        n: int(jobs.len()),
        blocks: 0,
        pad: [0; 2],
        done: 0,
        route: RouteArg::default(),
        ahead: AheadArg::default(),
    };
    let mut next = first;
    for (slot, job) in arg.job.iter_mut().zip(jobs) {
        let plain = MvJobArg {
            w: job.w.arg(),
            out: job.out,
            out_stride: int(job.stride),
            groups: int(job.groups),
            first: int(next),
            shift: blocks.shift(job).cast_signed(),
            ..none
        };
        *slot = match job.kind {
            Kind::Product => plain,
            Kind::Pair(up, clamp) => MvJobArg { w2: up.arg(), kind: 1, clamp, ..plain },
            Kind::Quantised(to) => {
                MvJobArg { out: 0, kind: 2, q: to.q.at(), d: to.d.at(), ..plain }
            }
            Kind::Router(route, done) => {
                (arg.route, arg.done, arg.blocks) = (route, done, int(blocks.of(job)));
                MvJobArg { kind: 3, ..plain }
            }
        };
        arg.ahead = job.ahead.map_or(arg.ahead, AheadArg::of);
        next += blocks.of(job);
    }
    (arg, next)
}

/// Products of few tokens, all of one launch reading `x`.
fn few(device: &Device, x: &Acts, t: usize, jobs: &[Job<'_>]) -> Result<()> {
    debug_assert!(t <= FEW);
    let blocks = Blocks::choose(device, t, jobs);
    let (kernel, threads) = match (t, blocks.wide) {
        (1, false) => ("mv_1", 128),
        (2, false) => ("mv_2", 128),
        (3..=4, false) => ("mv_4", 128),
        (1, true) => ("mv_wide_1", 128),
        (2, true) => ("mv_wide_2", 128),
        (3..=4, true) => ("mv_wide_4", 128),
        (5..=8, _) => ("mv_8", 256),
        _ => ("mv_16", 256),
    };
    let (arg, n) = arg(jobs, blocks, 0);
    let mut args = Args::new().raw(arg.as_bytes(), 8).ptr(x.f.at()).ptr(x.q.at()).ptr(x.d.at());
    args = args.int(x.cols).int(t);
    device.launch(kernel, Geometry::new(n, 1, threads).reads(reads(jobs)), &mut args)
}

/// Bytes of weights that products read.
fn reads(jobs: &[Job<'_>]) -> u64 {
    let second = |job: &Job<'_>| match job.kind {
        Kind::Pair(up, _) => up.one_bytes(),
        _ => 0,
    };
    jobs.iter().map(|job| job.w.one_bytes() + second(job)).sum()
}

/// Whether [`query`] has kernels for a rank and a number of tokens.
pub(crate) fn has_query(dims: &Dims, t: usize) -> bool {
    let small = dims.q_rank <= 1536 && dims.head_dim <= 1536;
    t <= SMALL && small && dims.q_rank.is_multiple_of(32)
}

/// Products with the query's low-rank form, which is still without its norm, and `roles` roles of
/// `rows` beside them: the token's own row and the compressors'.
pub(crate) fn query(
    device: &Device,
    rows: &RowsArg,
    roles: usize,
    t: usize,
    jobs: &[Job<'_>],
) -> Result<()> {
    let kernel = match t {
        1 => "mv_query_1",
        2 => "mv_query_2",
        _ => "mv_query_4",
    };
    let (arg, n) = arg(jobs, Blocks { t, wide: true, long: false }, roles * t);
    let mut args = Args::new().raw(arg.as_bytes(), 8).raw(rows.as_bytes(), 8).int(t);
    device.launch(kernel, Geometry::new(n, 1, 128).reads(reads(jobs)), &mut args)
}

/// Products of any number of tokens; kinds but the first are for few.
pub(crate) fn products(
    device: &Device,
    c: &Constants,
    x: &Acts,
    t: usize,
    jobs: &[Job<'_>],
) -> Result<()> {
    if t <= FEW {
        return jobs.chunks(JOBS_MAX).try_for_each(|jobs| few(device, x, t, jobs));
    }
    jobs.iter().try_for_each(|job| many(device, c, x, t, job))
}

fn many(device: &Device, c: &Constants, x: &Acts, t: usize, job: &Job<'_>) -> Result<()> {
    debug_assert!(matches!(job.kind, Kind::Product));
    let (w, read) = (job.w, job.w.one_bytes());
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
                let (gx, gy) = grid(128, 128);
                let kernel = if gx * gy <= sms { "mm_q8_0_one" } else { "mm_q8_0" };
                (kernel, (gx, gy), 256, c.mm_q8_shared)
            } else if fills(grid(64, 64)) {
                ("mm_q8_0_small", grid(64, 64), 128, c.mm_q8_small_shared)
            } else {
                ("mm_q8_0_few", grid(32, 64), 128, c.mm_q8_few_shared)
            };
            device.launch(
                kernel,
                Geometry::new(gx, gy, threads).shared(shared).reads(read),
                &mut args,
            )
        }
        Form::F16 => {
            let (f, cols) = group_input(x, job);
            let mut args = args.ptr(f).int(cols).ptr(job.out).int(job.stride).int(t);
            let (gx, gy) = (t.div_ceil(128), w.rows.div_ceil(128));
            if gx * gy * 2 > device.info.sms as usize {
                let geometry = Geometry::new(gx, gy, 256).shared(c.mm_f16_shared);
                device.launch("mm_f16", geometry.reads(read), &mut args)
            } else {
                let geometry = Geometry::new(t.div_ceil(64), w.rows.div_ceil(64), 128)
                    .shared(c.mm_f16_small_shared);
                device.launch("mm_f16_small", geometry.reads(read), &mut args)
            }
        }
        _ => {
            let (f, cols) = group_input(x, job);
            let mut args = args.ptr(f).int(cols).ptr(job.out).int(job.stride).int(t);
            let geometry = Geometry::new(t.div_ceil(64), w.rows.div_ceil(64), 256);
            device.launch("mm_f32", geometry.reads(read), &mut args)
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
