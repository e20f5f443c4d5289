//! The multi-token-prediction block (§4): pairs of a trunk state and the token that follows it.
//!
//! As on the CPU: the pair at position `p` is `(h_p, t_{p+1})`, its logits predict `t_{p+2}`, it is
//! rotated as position `p`. A draft continues true pairs with its own states beyond the sequence's
//! end; those rows are overwritten by true ones before anyone reads them.

use ds4_model::{Place, Result, Stage};
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::device::Geometry;
use crate::launch::{Job, products};
use crate::layer::{self, Before};
use crate::step::{Step, head};
use crate::weights::Mtp;

/// Remembers the final streams of the trunk's tokens, and gives every pair they complete its row.
/// `pairs` is a step over the pairs; their states are found through `from`.
pub(crate) fn catch_up(trunk: &Step<'_>, pairs: &mut Step<'_>, w: &Mtp) -> Result<()> {
    let (m, s) = (trunk.m, &trunk.m.scratch);
    let place = m.places - 1;
    let streams = s.streams[trunk.side].at();
    if pairs.t > 0 {
        let mut args = Args::new().ptr(streams).ptr(s.from.at()).ptr(pairs.toks.at());
        args = args.ptr(m.table.at()).int(m.places).int(place).ptr(s.pair_hidden.at());
        pairs.launch("gather_hidden", Geometry::new(pairs.t, 1, 256), &mut args)?;
    }
    let mut args = Args::new().ptr(streams).ptr(trunk.toks.at()).ptr(m.table.at());
    args = args.int(m.places).int(place);
    trunk.launch("keep_hidden", Geometry::new(trunk.t, 1, 256), &mut args)?;
    if pairs.t == 0 {
        return Ok(());
    }
    pairs.place = place;
    pairs.rotations()?;
    input(pairs, w, s.pair_hidden.at())?;
    layer::hc_pre(pairs, &w.block.hc_attn, &w.block.attn_norm, Before::Streams, 1, None)?;
    products(&m.device, &m.constants, &s.x, pairs.t, &[Job::new(&w.block.kv, s.kv.at())])?;
    let rows = crate::launch::RowsArg { qr: 0, ..layer::rows_arg(pairs, &w.block) };
    layer::rows_kernel(pairs, &rows, &w.block)?;
    if !pairs.store {
        let mut args = Args::new().raw(rows.as_bytes(), 8);
        pairs.launch("keep_rows", Geometry::new(pairs.t, 1, 128), &mut args)?;
    }
    Ok(())
}

/// Runs the block over the step's pairs, whose states are at `hidden`; logits of the rows listed at
/// `rows` are left in the scratch's buffer, the new states in `streams[step.side]`.
pub(crate) fn run(step: &mut Step<'_>, w: &Mtp, hidden: u64, rows: u64, n: usize) -> Result<()> {
    step.place = step.m.places - 1;
    step.rotations()?;
    input(step, w, hidden)?;
    layer::block(step, &w.block, Place::Mtp, Before::Streams)?;
    layer::hc_post(step)?;
    let shape = [step.m.dims.n_hc, step.m.dims.n_embd];
    step.show(Place::Mtp, Stage::Hidden, &shape, &step.m.scratch.streams[step.side])?;
    head(step, &w.hc_head, &w.norm, rows, n)
}

/// `X[i] = e_proj·(rms(E[tok])·enorm) + h_proj·(rms(h[i])·hnorm)` in `streams[step.side]`.
fn input(step: &mut Step<'_>, w: &Mtp, hidden: u64) -> Result<()> {
    let (m, s, t) = (step.m, &step.m.scratch, step.t);
    let n_hc = m.dims.n_hc;
    let mut args = Args::new().raw(m.weights.embd.arg().as_bytes(), 8).ptr(step.toks.at());
    args = args.ptr(w.enorm.at()).ptr(hidden).ptr(0).ptr(w.hnorm.at()).ptr(s.x.f.at());
    args = args.ptr(s.x.q.at()).ptr(s.x.d.at()).ptr(s.hidden.f.at()).ptr(s.hidden.q.at());
    args = args.ptr(s.hidden.d.at());
    step.launch("mtp_input", Geometry::new(t, 1 + n_hc, 256), &mut args)?;
    products(&m.device, &m.constants, &s.x, t, &[Job::new(&w.e_proj, s.y.at())])?;
    step.side = 1 - step.side;
    let streams = s.streams[step.side].at();
    products(&m.device, &m.constants, &s.hidden, t * n_hc, &[Job::new(&w.h_proj, streams)])?;
    let mut args = Args::new().ptr(s.y.at()).ptr(streams);
    step.launch("add_to_streams", Geometry::new(t * n_hc, 1, 256), &mut args)
}
