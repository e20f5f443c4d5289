//! One block of the model in the order of the paper: the launches of its two sublayers.

use ds4_model::{INDEXED_RATIO, Place, Result, Stage};
use zerocopy::{Immutable, IntoBytes};

use crate::args::Args;
use crate::device::{Buf, Geometry};
use crate::experts;
use crate::launch::{self, CompArg, Job, Kind, RowsArg, has_query, products, quantise, quantises};
use crate::matrix::Form;
use crate::scratch::{FEW, SPLITS_MAX};
use crate::seq::Tok;
use crate::step::Step;
use crate::weights::{Block, Hyper};

/// `Q8_0` form, `Q8_K` form (`FORM_*` of `hc.cuh`).
const Q8_0: usize = 1;
const Q8_K: usize = 2;

/// Channels that a block of the hyper-connection kernels takes (`HC_SLICE`).
const HC_BLOCK: u32 = 128;
/// Blocks of `hc_mix` that one multiprocessor holds.
const HC_MIX_HELD: usize = 4;
/// Blocks that share a token in `hc_fused` (`HC_CLUSTER`).
const HC_CLUSTER: usize = 8;

/// Heads that a block of `index_query` takes (`IDX_QUERY_HEADS`).
const QUERY_HEADS: usize = 8;
/// Threads of a block of `index_few` (`IDX_FEW_THREADS`).
const INDEX_FEW_THREADS: u32 = 256;
/// Most blocks that choose rows for one token (`TOPK_PARTS`).
pub(crate) const TOPK_PARTS: usize = 16;

/// Tokens up to which `attn_one` is the faster way, by measurements.
const ONE_MAX: usize = 2;

/// What enters the next hyper-connection besides the streams.
#[derive(Clone, Copy)]
pub(crate) enum Before {
    /// Nothing: the streams are complete.
    Streams,
    /// The last sublayer's output in `y`, still to be spread over the streams.
    Sublayer,
}

/// `X ← hc_post(Attn(hc_pre(X)))`, then the same with the FFN; the FFN's output stays in `y`.
pub(crate) fn block(step: &mut Step<'_>, b: &Block, place: Place, before: Before) -> Result<()> {
    let embd = step.m.dims.n_embd;
    hc_pre(step, &b.hc_attn, &b.attn_norm, before, Q8_0, Some(place))?;
    attention(step, b, place)?;
    steer(step, place, true)?;
    step.show(place, Stage::AttnOut, &[embd], &step.m.scratch.y)?;
    hc_pre(step, &b.hc_ffn, &b.ffn_norm, Before::Sublayer, Q8_0 | Q8_K, None)?;
    step.show(place, Stage::FfnNorm, &[embd], &step.m.scratch.x.f)?;
    experts::ffn(step, b, place)?;
    steer(step, place, false)?;
    step.show(place, Stage::FfnOut, &[embd], &step.m.scratch.y)
}

/// Completes the streams, and leaves the sublayer's normed input in `x` and its gates in `gates`
/// (§2.2, §2.3).
pub(crate) fn hc_pre(
    step: &mut Step<'_>,
    hc: &Hyper,
    weight: &Buf,
    before: Before,
    forms: usize,
    observe: Option<Place>,
) -> Result<()> {
    if step.fuses_hc() {
        hc_fused(step, hc, weight, before, forms, observe.is_some())?;
    } else {
        hc_mix(step, hc, before, None, step.t)?;
        hc_gates(step, hc, weight, forms, None, step.t, observe.is_some())?;
    }
    let Some(place) = observe else { return Ok(()) };
    let (s, n) = (&step.m.scratch, step.m.dims.n_hc);
    step.show(place, Stage::AttnHcIn, &[step.m.dims.n_embd], &s.bare)?;
    step.show_gates(place, n)
}

/// Pointers of `hc_fused` (`HcFusedArgs`).
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
pub(crate) struct HcArg {
    streams: u64,
    y: u64,
    next: u64,
    base: u64,
    scale: u64,
    weight: u64,
    forms: u64,
    gates: u64,
    x: u64,
    bare: u64,
    q8: u64,
    d8: u64,
    qk: u64,
    dk: u64,
    sums: u64,
}

/// [`hc_mix`] and [`hc_gates`] of every token in one launch.
fn hc_fused(
    step: &mut Step<'_>,
    hc: &Hyper,
    weight: &Buf,
    before: Before,
    forms: usize,
    observe: bool,
) -> Result<()> {
    let (s, c) = (&step.m.scratch, step.m.constants);
    let spread = matches!(before, Before::Sublayer);
    let arg = HcArg {
        streams: s.streams[step.side].at(),
        y: if spread { s.y.at() } else { 0 },
        next: s.streams[1 - step.side].at(),
        base: hc.base.at(),
        scale: hc.scale.at(),
        weight: weight.at(),
        forms: forms as u64,
        gates: s.gates.at(),
        x: s.x.f.at(),
        bare: if observe && step.observed() { s.bare.at() } else { 0 },
        q8: s.x.q.at(),
        d8: s.x.d.at(),
        qk: s.xk.q.at(),
        dk: s.xk.d.at(),
        sums: s.xk.sums.at(),
    };
    let kernel = if hc.mix.form == Form::F16 { "hc_fused" } else { "hc_fused_f32" };
    let mut args = Args::new().raw(hc.mix.arg().as_bytes(), 8).raw(arg.as_bytes(), 8);
    let geometry = Geometry::new(HC_CLUSTER * step.t, 1, c.hc_fused_threads);
    step.launch(kernel, geometry.reads(hc.mix.one_bytes()), &mut args)?;
    if spread {
        step.side = 1 - step.side;
    }
    if step.observed() {
        step.launch("hc_comb", Geometry::new(step.t, 1, 32), &mut Args::new().ptr(s.gates.at()))?;
    }
    Ok(())
}

/// Spreads the last sublayer's output and computes the parts of the mix; with `rows`, of `n` chosen
/// tokens only.
pub(crate) fn hc_mix(
    step: &mut Step<'_>,
    hc: &Hyper,
    before: Before,
    rows: Option<u64>,
    n: usize,
) -> Result<()> {
    let (s, c) = (&step.m.scratch, step.m.constants);
    let (now, next) = (&s.streams[step.side], &s.streams[1 - step.side]);
    let (y, to) = match before {
        Before::Streams => (0, 0),
        Before::Sublayer => (s.y.at(), next.at()),
    };
    let mut args = Args::new().raw(hc.mix.arg().as_bytes(), 8).ptr(now.at()).ptr(y);
    args = args.ptr(s.gates.at()).ptr(to).ptr(s.part.at()).ptr(rows.unwrap_or(0)).int(n);
    let held = HC_MIX_HELD * step.m.device.info.sms as usize / c.hc_slices;
    let groups = if n <= FEW { n } else { held.clamp(1, n) };
    let geometry = Geometry::new(c.hc_slices, groups, HC_BLOCK).reads(hc.mix.one_bytes());
    step.launch("hc_mix", geometry, &mut args)?;
    if y != 0 {
        step.side = 1 - step.side;
    }
    Ok(())
}

/// Gates and normed input from the parts of the mix. With `rows` it is a head: chosen tokens, `pre`
/// gates only.
pub(crate) fn hc_gates(
    step: &Step<'_>,
    hc: &Hyper,
    weight: &Buf,
    forms: usize,
    rows: Option<u64>,
    n: usize,
    observe: bool,
) -> Result<()> {
    let (s, c) = (&step.m.scratch, step.m.constants);
    let bare = if observe && step.observed() { s.bare.at() } else { 0 };
    let mut args = Args::new().ptr(s.part.at()).ptr(hc.base.at()).ptr(hc.scale.at());
    args = args.ptr(s.streams[step.side].at()).ptr(rows.unwrap_or(0));
    // A head has no gates that outlive the kernel.
    let gate_blocks = if rows.is_some() { 0 } else { n.div_ceil(c.hc_threads as usize / 32) };
    args = args.int(n).int(gate_blocks).ptr(weight.at()).int(forms).ptr(s.gates.at());
    args = args.ptr(s.x.f.at()).ptr(bare).ptr(s.x.q.at()).ptr(s.x.d.at());
    args = args.ptr(s.xk.q.at()).ptr(s.xk.d.at()).ptr(s.xk.sums.at());
    step.launch("hc_pre", Geometry::new(gate_blocks + n, 1, c.hc_threads), &mut args)
}

/// Spreads the last FFN's output over the streams: they are complete afterwards.
pub(crate) fn hc_post(step: &mut Step<'_>) -> Result<()> {
    let (s, c) = (&step.m.scratch, step.m.constants);
    let (now, next) = (&s.streams[step.side], &s.streams[1 - step.side]);
    let mut args = Args::new().ptr(now.at()).ptr(s.y.at()).ptr(s.gates.at()).ptr(next.at());
    step.launch("hc_post", Geometry::new(c.hc_slices, step.t, HC_BLOCK), &mut args)?;
    step.side = 1 - step.side;
    Ok(())
}

/// `y −= scale·v·(v·y)` where the model is steered.
fn steer(step: &Step<'_>, place: Place, attn: bool) -> Result<()> {
    let (Some((directions, a, f)), Place::Layer(il)) = (&step.m.steering, place) else {
        return Ok(());
    };
    let scale = if attn { *a } else { *f };
    if scale == 0.0 {
        return Ok(());
    }
    let mut args = Args::new().ptr(directions[il].at()).float(scale).ptr(step.m.scratch.y.at());
    step.launch("steer", Geometry::new(step.t, 1, 256), &mut args)
}

/// The attention sublayer: `x` in, `y` out (§2.5 to §2.8).
fn attention(step: &mut Step<'_>, b: &Block, place: Place) -> Result<()> {
    let indexed = b.ratio == INDEXED_RATIO && (step.indexed || step.observed());
    project(step, b, indexed)?;
    let rows = rows_arg(step, b);
    query(step, b, &rows, indexed)?;
    step.show_rows(b, place)?;
    if indexed {
        choose(step, b, place)?;
    }
    attend(step, b, indexed)?;
    if !step.store {
        let roles = 1 + usize::from(b.comp.is_some()) + usize::from(b.indexer.is_some());
        let mut args = Args::new().raw(rows.as_bytes(), 8);
        step.launch("keep_rows", Geometry::new(step.t, roles, 128), &mut args)?;
    }
    output(step, b)
}

/// Every product with the sublayer's input.
fn project(step: &Step<'_>, b: &Block, indexed: bool) -> Result<()> {
    let s = &step.m.scratch;
    let mut jobs = vec![Job::new(&b.q_a, s.qr.f.at()), Job::new(&b.kv, s.kv.at())];
    if let Some(comp) = &b.comp {
        jobs.push(Job::new(&comp.kv, s.comp[0].at()));
        jobs.push(Job::new(&comp.gate, s.comp[1].at()));
    }
    if let Some(i) = &b.indexer {
        jobs.push(Job::new(&i.comp.kv, s.index[0].at()));
        jobs.push(Job::new(&i.comp.gate, s.index[1].at()));
        if indexed {
            jobs.push(Job::new(&i.proj, s.index_w.at()));
        }
    }
    products(&step.m.device, &step.m.constants, &s.x, step.t, &jobs)
}

/// Arguments of the kernels that make and keep rows.
pub(crate) fn rows_arg(step: &Step<'_>, b: &Block) -> RowsArg {
    let (m, s) = (step.m, &step.m.scratch);
    let (turns, turns_start) = m.turns_of(step.turns, b.ratio, step.t);
    let comp = |c: &crate::weights::Compressor, p: &[Buf; 2]| CompArg {
        kv: p[0].at(),
        score: p[1].at(),
        ape: c.ape.at(),
        norm: c.norm.at(),
    };
    let small = |n: usize| i32::try_from(n).expect("small");
    RowsArg {
        toks: step.toks.at(),
        table: m.table.at(),
        places: small(m.places),
        place: small(step.place),
        ratio: small(b.ratio),
        indexed: i32::from(b.indexer.is_some()),
        store: i32::from(step.store),
        forms: small(Q8_0),
        turns,
        turns_start,
        qr: s.qr.f.at(),
        q_norm: b.q_a_norm.at(),
        qr_q: s.qr.q.at(),
        qr_d: s.qr.d.at(),
        kv: s.kv.at(),
        kv_norm: b.kv_norm.at(),
        raw: s.raw.at(),
        comp: b.comp.as_ref().map_or_else(CompArg::default, |c| comp(c, &s.comp)),
        idx: b.indexer.as_ref().map_or_else(CompArg::default, |i| comp(&i.comp, &s.index)),
        gates: step.open_gates(),
    }
}

/// Norm, rotation and storage of everything that was projected.
pub(crate) fn rows_kernel(step: &Step<'_>, rows: &RowsArg, b: &Block) -> Result<()> {
    let roles = 2 + usize::from(b.comp.is_some()) + usize::from(b.indexer.is_some());
    let mut args = Args::new().raw(rows.as_bytes(), 8);
    step.launch("rows", Geometry::new(step.t, roles, 256), &mut args)
}

/// Norm and storage of everything that was projected, and products with the query's low-rank form.
fn query(step: &Step<'_>, b: &Block, rows: &RowsArg, indexed: bool) -> Result<()> {
    let s = &step.m.scratch;
    let mut jobs = vec![Job::new(&b.q_b, s.q.at())];
    if let (Some(i), true) = (&b.indexer, indexed) {
        jobs.push(Job::new(&i.q_b, s.index_q.at()));
    }
    if has_query(&step.m.dims, step.t) {
        let roles = 1 + usize::from(b.comp.is_some()) + usize::from(b.indexer.is_some());
        return launch::query(&step.m.device, rows, roles, step.t, &jobs);
    }
    rows_kernel(step, rows, b)?;
    products(&step.m.device, &step.m.constants, &s.qr, step.t, &jobs)
}

/// The rows that tokens of an indexed layer see.
fn choose(step: &mut Step<'_>, b: &Block, place: Place) -> Result<()> {
    let (m, s, d) = (step.m, &step.m.scratch, &step.m.dims);
    let (turns, _) = m.turns_of(step.turns, b.ratio, step.t);
    let mut args = Args::new().ptr(s.index_q.at()).ptr(turns).ptr(s.index_q16.at());
    let groups = d.n_index_head.div_ceil(QUERY_HEADS);
    step.launch("index_query", Geometry::new(step.t, groups, 256), &mut args)?;
    // Blocks that share a token, where tokens are few.
    let parts = m.device.info.sms as usize / step.t;
    let parts = if step.t <= FEW { parts.clamp(1, TOPK_PARTS) } else { 1 };
    for t0 in (0..step.t).step_by(step.score_rows) {
        let n = step.score_rows.min(step.t - t0);
        let toks = step.toks.at() + (size_of::<Tok>() * t0) as u64;
        scores(step, toks, t0, n)?;
        let chosen = s.chosen.at() + (4 * t0 * d.index_top_k) as u64;
        let mut args = Args::new().ptr(step.scores.at()).long(step.score_stride).ptr(toks);
        args = args.ptr(chosen).ptr(s.top_parts.at()).ptr(s.topped.at());
        step.launch("index_topk", Geometry::new(n, parts, m.constants.topk_threads), &mut args)?;
        step.show_scores(place, t0, n)?;
    }
    Ok(())
}

/// Scores of `n` tokens from `t0` on; `toks` are these.
fn scores(step: &Step<'_>, toks: u64, t0: usize, n: usize) -> Result<()> {
    let (m, s, d) = (step.m, &step.m.scratch, &step.m.dims);
    let q = s.index_q16.at() + (2 * t0 * d.n_index_head * d.index_dim) as u64;
    let w = s.index_w.at() + (4 * t0 * d.n_index_head) as u64;
    let args = Args::new().ptr(q).ptr(w).ptr(toks).ptr(m.table.at());
    let args = args.int(m.places).int(step.place);
    let observed = usize::from(step.observed());
    // Replayed for any length: the blocks stride over whatever rows there are.
    let replayed = (2 * m.device.info.sms as usize / step.t).max(1);
    if step.t <= FEW && matches!(d.index_dim, 32 | 64 | 128) {
        let mut args = args.int(observed).ptr(step.scores.at()).long(step.score_stride);
        return step.launch("index_few", Geometry::new(replayed, n, INDEX_FEW_THREADS), &mut args);
    }
    let mut args = args.int(n).int(observed).ptr(step.scores.at()).long(step.score_stride);
    let all = step.rows_max.div_ceil(m.constants.index_rows).max(1);
    let blocks = if step.t <= FEW { replayed } else { all };
    let groups = if n <= FEW { n } else { n.div_ceil(8) };
    step.launch("index_scores", Geometry::new(blocks, groups, 128), &mut args)
}

/// Operands of attention (`AttnOneArgs`).
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
pub(crate) struct AttnArg {
    pub q: u64,
    pub turns: u64,
    pub sinks: u64,
    pub toks: u64,
    pub table: u64,
    pub places: i32,
    pub place: i32,
    pub raw: u64,
    pub chosen: u64,
    pub ratio: i32,
    pub pad: i32,
    pub out: u64,
    pub q8: u64,
    pub d8: u64,
}

impl AttnArg {
    /// As `attn` and `attn_few` take them, with the parts' buffers.
    pub(crate) fn spread(self, splits: usize, part_o: u64, part_ml: u64) -> Args {
        let int = |args: Args, v: i32| args.raw(&v.to_le_bytes(), 4);
        let args = Args::new().ptr(self.q).ptr(self.turns).ptr(self.sinks).ptr(self.toks);
        let args = int(int(args.ptr(self.table), self.places), self.place);
        let args = int(args.ptr(self.raw).ptr(self.chosen), self.ratio).int(splits);
        args.ptr(part_o).ptr(part_ml).ptr(self.out).ptr(self.q8).ptr(self.d8)
    }
}

/// Attention of every head of every token, in the forms that `output` reads.
fn attend(step: &Step<'_>, b: &Block, indexed: bool) -> Result<()> {
    let (m, s, d) = (step.m, &step.m.scratch, &step.m.dims);
    let (turns, _) = m.turns_of(step.turns, b.ratio, step.t);
    // Blocks of the int8 form must not cross heads.
    let fused = d.head_dim.is_multiple_of(32);
    let f = if fused && b.out_a.form == Form::Q8_0 { 0 } else { s.heads.f.at() };
    let (q8, d8) = if fused { (s.heads.q.at(), s.heads.d.at()) } else { (0, 0) };
    let small = |n: usize| i32::try_from(n).expect("small");
    let arg = AttnArg {
        q: s.q.at(),
        turns,
        sinks: b.sinks.at(),
        toks: step.toks.at(),
        table: m.table.at(),
        places: small(m.places),
        place: small(step.place),
        raw: s.raw.at(),
        chosen: if indexed { s.chosen.at() } else { 0 },
        ratio: small(b.ratio),
        pad: 0,
        out: f,
        q8,
        d8,
    };
    let one = m.constants.attn_one;
    if step.t <= ONE_MAX && one.threads != 0 {
        let blocks = one.blocks * d.n_head.div_ceil(one.heads);
        let geometry = Geometry::new(blocks, step.t, one.threads).shared(one.shared);
        return step.launch("attn_one", geometry, &mut Args::new().raw(arg.as_bytes(), 8));
    }
    attend_many(step, b, arg)?;
    if fused { Ok(()) } else { quantise(&m.device, &s.heads, step.t) }
}

/// The same by the kernels of any number of tokens, without the int8 forms of odd shapes.
fn attend_many(step: &Step<'_>, b: &Block, a: AttnArg) -> Result<()> {
    let (m, s, d) = (step.m, &step.m.scratch, &step.m.dims);
    let few = step.t <= FEW;
    let splits = if few { splits(step.t, b.ratio, step.indexed) } else { 1 };
    let mut args = a.spread(splits, s.split_o.at(), s.split_ml.at());
    let (kernel, c) =
        if few { ("attn_few", m.constants.attn_few) } else { ("attn", m.constants.attn) };
    let geometry = Geometry::new(step.t, splits, c.threads);
    let geometry = geometry.deep(d.n_head.div_ceil(c.heads)).shared(c.shared);
    step.launch(kernel, geometry, &mut args)?;
    if few {
        let mut args = Args::new().ptr(s.split_o.at()).ptr(s.split_ml.at()).ptr(a.sinks);
        args = args.ptr(a.turns).int(splits).ptr(a.out).ptr(a.q8).ptr(a.d8);
        let geometry = Geometry::new(step.t, d.n_head, m.constants.combine_threads);
        step.launch("attn_combine", geometry, &mut args)?;
    }
    Ok(())
}

/// Parts of the rows of each of `t` tokens, few: as many as are fastest for the rows that a layer
/// shows, by measurements; more blocks than a GPU holds at once never pay.
fn splits(t: usize, ratio: usize, is_long: bool) -> usize {
    let is_wide = ratio == INDEXED_RATIO || (ratio != 0 && is_long);
    (64 / t).clamp(2, if is_wide { 20 } else { 8 }).min(SPLITS_MAX)
}

/// `y = Wo_b · concat(A_g · o_g)` (§2.6 step 9).
fn output(step: &Step<'_>, b: &Block) -> Result<()> {
    let (m, s) = (step.m, &step.m.scratch);
    let groups = m.dims.n_out_group;
    let job = Job::new(&b.out_a, s.low.f.at()).groups(groups);
    if b.out_b.form == Form::Q8_0 && quantises(&b.out_a, step.t, groups) {
        let job = job.kind(Kind::Quantised(&s.low));
        products(&m.device, &m.constants, &s.heads, step.t, &[job])?;
    } else {
        products(&m.device, &m.constants, &s.heads, step.t, &[job])?;
        quantise(&m.device, &s.low, step.t)?;
    }
    let job = Job::new(&b.out_b, s.y.at()).ahead(&b.hc_ffn.mix);
    products(&m.device, &m.constants, &s.low, step.t, &[job])
}
