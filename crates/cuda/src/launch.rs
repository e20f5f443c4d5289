//! Argument structs of kernels, and the products of activations with matrices: which kernel runs
//! them for how many tokens.

use ds4_model::{Dims, Result};
use zerocopy::{Immutable, IntoBytes};

use crate::args::Args;
use crate::constants::Constants;
use crate::device::{Device, Geometry};
use crate::matrix::{DeviceMatrix, Form, MatArg};
use crate::scratch::{Acts, FEW};

/// `MvJob` of `mv_jobs.cuh`.
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
    units: i32,
    unit_items: i32,
    item_rows: i32,
    item_shift: i32,
    row_bytes: i32,
    pad: i32,
    q: u64,
    d: u64,
}

/// Most jobs of a launch.
const JOBS_MAX: usize = 8;

/// `MvJobs` of `mv_jobs.cuh`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct MvJobsArg {
    job: [MvJobArg; JOBS_MAX],
    n: i32,
    blocks: i32,
    lead: i32,
    deal: i32,
    per: i32,
    rest: i32,
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

/// Most tokens of the kernels whose warps take single rows (`mv_walk.cuh`): of products, where more
/// are faster on tensor cores, and of [`query`].
const WALK: usize = 2;
const WALK_QUERY: usize = 4;

/// Warps of a block of these kernels, and bytes of a block's rings
/// (`MV_WARPS`, `MV_STAGES` and `MV_STAGE` of `mv.cuh` and `mv_ring.cuh`).
const WALK_WARPS: u32 = 8;
const WALK_SHARED: u32 = WALK_WARPS * 2 * (STAGE + STAGE / 16);
/// Weights of a stage of a ring, in bytes.
const STAGE: u32 = 4096;
/// Most units of 32 rows that one of their blocks quantises (`MV_Q8_ROWS`), less one.
const QUANTISED_UNITS: usize = 3;

/// Blocks of these kernels that a multiprocessor is given: two, where their rings fit.
fn walk_held(device: &Device) -> usize {
    if device.info.shared_bytes() < 2 * WALK_SHARED as usize { 1 } else { 2 }
}

/// How a job is cut for them.
#[derive(Clone, Copy)]
struct Cut {
    units: usize,
    unit_items: usize,
    item_rows: usize,
    /// Logarithms of a unit's and an item's work, in stages.
    unit_shift: u32,
    item_shift: u32,
    row_bytes: usize,
}

impl Cut {
    fn of(job: &Job<'_>) -> Self {
        let w = job.w;
        let (row, is_aligned) = match w.form {
            Form::Q8_0 => (w.cols, w.cols.is_multiple_of(256)),
            Form::F16 => (2 * w.cols, w.cols.is_multiple_of(8)),
            _ => (4 * w.cols, w.cols.is_multiple_of(4)),
        };
        let is_pair = matches!(job.kind, Kind::Pair(..));
        let four = w.form == Form::Q8_0 && w.cols == 1024 && !is_pair;
        let item_rows = if four && (w.rows / job.groups).is_multiple_of(4) { 4 } else { 1 };
        let unit_items = if matches!(job.kind, Kind::Quantised(_)) { 32 / item_rows } else { 1 };
        let stages = (item_rows * row).div_ceil(STAGE as usize) << u32::from(is_pair);
        let item_shift = stages.next_power_of_two().trailing_zeros();
        Self {
            units: w.rows / (item_rows * unit_items),
            unit_items,
            item_rows,
            unit_shift: item_shift + unit_items.trailing_zeros(),
            item_shift,
            row_bytes: if is_aligned { row } else { 0 },
        }
    }

    fn work(self) -> usize {
        self.units << self.unit_shift
    }
}

/// Jobs as they take them, and the number of blocks that share
/// their work, besides `lead` others before them.
fn walk(device: &Device, jobs: &[Job<'_>], lead: usize) -> (MvJobsArg, usize) {
    let mut blocks = walk_held(device) * device.info.sms as usize;
    if matches!(jobs[0].kind, Kind::Quantised(_)) {
        debug_assert_eq!(jobs.len(), 1);
        blocks = blocks.max(Cut::of(&jobs[0]).units.div_ceil(QUANTISED_UNITS));
    }
    let all: usize = jobs.iter().map(|job| Cut::of(job).work()).sum();
    let mut arg = plain(jobs);
    (arg.lead, arg.per, arg.rest) = (int(lead), int(all / blocks), int(all % blocks));
    // Every block begins with some of the router's rows: then the choice of experts, which waits for
    // all of them, is made beside the rest.
    let router = Cut::of(&jobs[0]);
    let deal = router.units.div_ceil(blocks);
    if matches!(jobs[0].kind, Kind::Router(..)) && deal << router.unit_shift <= all / blocks {
        arg.deal = int(deal);
    }
    let mut next = 0;
    for (i, (slot, job)) in arg.job.iter_mut().zip(jobs).enumerate() {
        let cut = Cut::of(job);
        (slot.units, slot.unit_items) = (int(cut.units), int(cut.unit_items));
        (slot.item_rows, slot.row_bytes) = (int(cut.item_rows), int(cut.row_bytes));
        (slot.shift, slot.item_shift) =
            (cut.unit_shift.cast_signed(), cut.item_shift.cast_signed());
        slot.first = int(next);
        if i > 0 || arg.deal == 0 {
            next += cut.work();
        }
    }
    // Those that get some of the router: dealt in turns, or one unit after another like all work.
    let first = |block: usize| {
        let at = block * (all / blocks) + block.min(all % blocks);
        at.div_ceil(1 << router.unit_shift).min(router.units)
    };
    arg.blocks = match arg.deal {
        0 => int((0..blocks).filter(|block| first(*block) < first(block + 1)).count()),
        _ => int(router.units.div_ceil(deal)),
    };
    (arg, blocks)
}

/// Bytes of shared memory and threads of the kernels of more tokens that stream weights
/// (`mv_staged.cuh`), and columns of one of their stages.
const STAGED_SHARED: u32 = 16 * (2 * (STAGE + STAGE / 16) + 2 * 16 * 17 * 4 + 512);
const STAGED_THREADS: u32 = 512;
const STAGED_COLS: usize = 256;

/// Tiles of 16 rows that a warp of these kernels takes at a time, and rows of a unit of work; none for
/// jobs that they do not do.
fn staged_cut(job: &Job<'_>) -> Option<(usize, usize)> {
    let slices = job.w.cols / STAGED_COLS;
    let is_split = if slices <= 16 { slices.is_power_of_two() } else { slices.is_multiple_of(16) };
    let is_whole = job.w.cols.is_multiple_of(STAGED_COLS) && is_split;
    let does = matches!(job.kind, Kind::Product | Kind::Quantised(_));
    let tiles = if slices >= 16 { 2 } else { 1 };
    let rows = 16 / slices.clamp(1, 16) * 16 * tiles;
    let in_groups = job.groups == 1 || (job.w.rows / job.groups).is_multiple_of(rows);
    (job.w.form == Form::Q8_0 && is_whole && does && in_groups).then_some((tiles, rows))
}

/// Jobs as these kernels take them, and their blocks; none where they cannot do them or the device
/// lacks the memory.
fn staged(device: &Device, jobs: &[Job<'_>]) -> Option<(MvJobsArg, usize)> {
    // The emulator's is 0.
    if !matches!(device.info.arch, 0 | 90..120) {
        return None;
    }
    let mut arg = plain(jobs);
    let blocks = device.info.sms as usize;
    let mut next = 0;
    for (slot, job) in arg.job.iter_mut().zip(jobs) {
        let (tiles, rows) = staged_cut(job)?;
        let stages = tiles * (job.w.cols / STAGED_COLS).div_ceil(16);
        let (units, shift) = (job.w.rows.div_ceil(rows), stages.next_power_of_two().ilog2());
        (slot.units, slot.item_rows) = (int(units), int(tiles));
        (slot.first, slot.shift) = (int(next), shift.cast_signed());
        next += units << shift;
    }
    (arg.per, arg.rest) = (int(next / blocks), int(next % blocks));
    Some((arg, blocks))
}

/// Power of two of the warps that share a row in the kernels of more tokens: enough that each has
/// columns to do.
fn large_shift(job: &Job<'_>) -> u32 {
    if matches!(job.kind, Kind::Quantised(_)) {
        return 2;
    }
    (job.w.cols / 512).checked_ilog2().map_or(0, |shares| shares.min(3))
}

/// Blocks of a job in those kernels.
fn large_blocks(job: &Job<'_>) -> usize {
    let rows = 16 * (8 >> large_shift(job));
    job.w.rows.div_ceil(if matches!(job.kind, Kind::Pair(..)) { rows / 2 } else { rows })
}

/// Jobs as the other kernels of more tokens take them, and their blocks.
fn large(jobs: &[Job<'_>]) -> (MvJobsArg, usize) {
    let mut arg = plain(jobs);
    let mut next = 0;
    for (slot, job) in arg.job.iter_mut().zip(jobs) {
        (slot.first, slot.shift) = (int(next), large_shift(job).cast_signed());
        if matches!(job.kind, Kind::Router(..)) {
            arg.blocks = int(large_blocks(job));
        }
        next += large_blocks(job);
    }
    (arg, next)
}

/// Whether a product's `Q8_0` form can be made with it.
pub(crate) fn quantises(w: &DeviceMatrix, t: usize, groups: usize) -> bool {
    t <= FEW && w.form == Form::Q8_0 && (w.rows / groups).is_multiple_of(32)
}

/// What jobs are, however they are cut.
fn plain(jobs: &[Job<'_>]) -> MvJobsArg {
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
        units: 0,
        unit_items: 0,
        item_rows: 0,
        item_shift: 0,
        row_bytes: 0,
        pad: 0,
        q: 0,
        d: 0,
    };
    let mut arg = MvJobsArg {
        job: [none; JOBS_MAX],
        n: int(jobs.len()),
        blocks: 0,
        lead: 0,
        deal: 0,
        per: 0,
        rest: 0,
        done: 0,
        route: RouteArg::default(),
        ahead: AheadArg::default(),
    };
    for (slot, job) in arg.job.iter_mut().zip(jobs) {
        let plain = MvJobArg {
            w: job.w.arg(),
            out: job.out,
            out_stride: int(job.stride),
            groups: int(job.groups),
            ..none
        };
        arg.ahead = job.ahead.map_or(arg.ahead, AheadArg::of);
        *slot = match job.kind {
            Kind::Product => plain,
            Kind::Pair(up, clamp) => MvJobArg { w2: up.arg(), kind: 1, clamp, ..plain },
            Kind::Quantised(to) => {
                MvJobArg { out: 0, kind: 2, q: to.q.at(), d: to.d.at(), ..plain }
            }
            Kind::Router(route, done) => {
                (arg.route, arg.done) = (route, done);
                MvJobArg { kind: 3, ..plain }
            }
        };
    }
    arg
}

/// Products of few tokens, all of one launch reading `x`.
fn few(device: &Device, x: &Acts, t: usize, jobs: &[Job<'_>]) -> Result<()> {
    debug_assert!(t <= FEW);
    let (kernel, arg, geometry) = if t <= WALK {
        let kernel = if t == 1 { "mv_1" } else { "mv_2" };
        let (arg, n) = walk(device, jobs, 0);
        (kernel, arg, Geometry::new(n, 1, 32 * WALK_WARPS).shared(WALK_SHARED))
    } else if let Some((arg, n)) = staged(device, jobs) {
        let kernel = if t <= 8 { "mv_staged_8" } else { "mv_staged_16" };
        (kernel, arg, Geometry::new(n, 1, STAGED_THREADS).shared(STAGED_SHARED))
    } else {
        let (arg, n) = large(jobs);
        (if t <= 8 { "mv_8" } else { "mv_16" }, arg, Geometry::new(n, 1, 256))
    };
    let mut args = Args::new().raw(arg.as_bytes(), 8).ptr(x.f.at()).ptr(x.q.at()).ptr(x.d.at());
    args = args.int(x.cols).int(t);
    device.launch(kernel, geometry.reads(reads(jobs)), &mut args)
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
    t <= WALK_QUERY && small && dims.q_rank.is_multiple_of(32)
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
    let lead = roles * t;
    let (arg, n) = walk(device, jobs, lead);
    let mut args = Args::new().raw(arg.as_bytes(), 8).raw(rows.as_bytes(), 8).int(t);
    let geometry = Geometry::new(lead + n, 1, 32 * WALK_WARPS).shared(WALK_SHARED);
    device.launch(kernel, geometry.reads(reads(jobs)), &mut args)
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
