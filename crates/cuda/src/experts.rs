//! The FFN sublayer: router, routed experts, shared expert (§2.9).

use ds4_model::{Place, Result, Stage};
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::device::Geometry;
use crate::launch::{Job, Pair, few, products, quantise};
use crate::matrix::Form;
use crate::scratch::FEW;
use crate::step::Step;
use crate::weights::{Block, Choice};

/// Kernels of one expert format.
struct Kernels {
    few_up: &'static str,
    few_down: &'static str,
    many_up: &'static str,
    many_down: &'static str,
    /// Its row of `Constants::experts`; none for the float formats.
    sizes: Option<usize>,
}

fn kernels(form: Form) -> Kernels {
    macro_rules! named {
        ($suffix:literal, $sizes:expr) => {
            Kernels {
                few_up: concat!("exp_gate_up_", $suffix),
                few_down: concat!("exp_down_", $suffix),
                many_up: concat!("exp_mm_gate_up_", $suffix),
                many_down: concat!("exp_mm_down_", $suffix),
                sizes: $sizes,
            }
        };
    }
    match form {
        Form::Iq2Xxs => named!("iq2", Some(0)),
        Form::Q2K => named!("q2k", Some(1)),
        Form::Q4K => named!("q4k", Some(2)),
        Form::Mxfp4 => named!("mxfp4", Some(3)),
        Form::Q8_0 => named!("q80", Some(4)),
        Form::F16 => named!("f16", None),
        Form::F32 => named!("f32", None),
    }
}

/// The FFN sublayer: `x` in, `y` out.
pub(crate) fn ffn(step: &mut Step<'_>, b: &Block, place: Place) -> Result<()> {
    scores(step, b)?;
    choose(step, b)?;
    step.show_choice(place)?;
    if step.t <= FEW { few_experts(step, b) } else { many_experts(step, b) }
}

/// Router scores, with the shared expert's first half where tokens are few.
fn scores(step: &Step<'_>, b: &Block) -> Result<()> {
    let (m, s) = (step.m, &step.m.scratch);
    let router = Job::new(&b.router_in, s.probs.at());
    if step.t <= FEW {
        let (gate, up) = (&b.shared.gate, &b.shared.up);
        let same = gate.form == up.form;
        let pair = Pair { gate, up, out: s.shared_mid.f.at(), clamp: b.clamps.1 };
        if same {
            return few(&m.device, &s.x, step.t, &[router], Some(pair));
        }
    }
    let jobs = [router, Job::new(&b.shared.gate, s.shared[0].at()), Job::new(&b.shared.up, s.shared[1].at())];
    products(&m.device, &m.constants, &s.x, step.t, &jobs)?;
    let n = step.t * m.dims.n_ff;
    let mut args = Args::new().ptr(s.shared[0].at()).ptr(s.shared[1].at()).float(b.clamps.1);
    args = args.ptr(s.shared_mid.f.at()).long(n);
    step.launch("swiglu_rows", Geometry::new(n.div_ceil(256).min(4096), 1, 256), &mut args)
}

/// Experts and weights of every token.
fn choose(step: &Step<'_>, b: &Block) -> Result<()> {
    let (s, d) = (&step.m.scratch, &step.m.dims);
    let (hash, bias) = match &b.choice {
        Choice::Hash(table) => (table.at(), 0),
        Choice::Score(bias) => (0, bias.at()),
    };
    let mut args = Args::new().ptr(s.probs.at()).ptr(step.toks.at()).ptr(hash).ptr(bias);
    args = args.float(d.expert_scale).ptr(s.ids.at()).ptr(s.weights.at());
    step.launch("route", Geometry::new(step.t, 1, 32), &mut args)
}

/// Each choice of few tokens is a product of its own.
fn few_experts(step: &Step<'_>, b: &Block) -> Result<()> {
    let (m, s, d) = (step.m, &step.m.scratch, &step.m.dims);
    let sms = m.device.info.sms as usize;
    let e = &b.experts;
    let (up, down) = (kernels(e.gate.form), kernels(e.down.form));
    let pairs = step.t * d.n_expert_used;
    let mut args = Args::new().raw(e.gate.arg().as_bytes(), 8).raw(e.up.arg().as_bytes(), 8);
    args = args.ptr(s.ids.at()).ptr(s.weights.at()).ptr(s.xk.q.at()).ptr(s.xk.d.at());
    args = args.ptr(s.xk.sums.at()).ptr(s.x.f.at()).float(b.clamps.0).ptr(s.mid.at()).int(step.t);
    let geometry = if e.gate.form == Form::Iq2Xxs {
        let threads = 64 * u32::try_from(d.n_embd.div_ceil(1024)).expect("small");
        Geometry::new(4 * sms, 1, threads)
    } else {
        Geometry::new((pairs * d.n_ff / 4).min(4 * sms), 1, 256)
    };
    step.launch(up.few_up, geometry, &mut args)?;
    let mut args = Args::new().raw(e.down.arg().as_bytes(), 8).ptr(s.ids.at()).ptr(s.mid.at());
    args = args.raw(b.shared.down.arg().as_bytes(), 8).ptr(s.shared_mid.f.at()).ptr(s.y.at());
    args = args.int(step.t).int(1);
    // Two blocks of Q2_K fit on a multiprocessor, one of the others.
    let (per, blocks) = if e.down.form == Form::Q2K { (1, 2 * sms) } else { (2, sms) };
    let threads = u32::try_from(32 * (4 + d.n_expert_used * per)).expect("small");
    step.launch(down.few_down, Geometry::new((blocks / step.t).max(1), step.t, threads), &mut args)
}

/// Choices of many tokens are sorted by expert, so that each expert's weights are read once per tile.
fn many_experts(step: &Step<'_>, b: &Block) -> Result<()> {
    let (m, s, d, c) = (step.m, &step.m.scratch, &step.m.dims, &step.m.constants);
    let slots = step.t * d.n_expert_used;
    let mut args = Args::new().ptr(s.ids.at()).ptr(s.weights.at()).int(slots).int(c.expert_tile);
    args = args.ptr(s.first.at()).ptr(s.token_of.at()).ptr(s.weight_of.at()).ptr(s.slot_of.at());
    args = args.ptr(s.tiles.at()).ptr(s.n_tiles.at());
    step.launch("sort_experts", Geometry::new(1, 1, 1024), &mut args)?;

    let tiles = slots / c.expert_tile + d.n_expert.min(slots);
    let e = &b.experts;
    let (up, down) = (kernels(e.gate.form), kernels(e.down.form));
    let geometry = |k: &Kernels, rows: usize, per_warp: usize| match k.sizes {
        Some(i) => {
            let (shared, warps) = c.experts[i];
            Geometry::new(rows / (per_warp * warps as usize), tiles, 32 * warps).shared(shared)
        }
        None => Geometry::new(rows / 64, tiles, 256),
    };
    let mut args = Args::new().raw(e.gate.arg().as_bytes(), 8).raw(e.up.arg().as_bytes(), 8);
    args = args.ptr(s.first.at()).ptr(s.token_of.at()).ptr(s.weight_of.at()).ptr(s.tiles.at());
    args = args.ptr(s.n_tiles.at()).ptr(s.xk.q.at()).ptr(s.xk.d.at()).ptr(s.xk.sums.at());
    args = args.ptr(s.x.f.at()).float(b.clamps.0).ptr(s.mid.at());
    step.launch(up.many_up, geometry(&up, d.n_ff, 16), &mut args)?;

    let mut args = Args::new().ptr(s.mid.at()).int(d.n_ff).int(2).ptr(0).ptr(0);
    args = args.ptr(s.midk.q.at()).ptr(s.midk.d.at()).ptr(s.midk.sums.at());
    step.launch("quantise", Geometry::new(slots, d.n_ff.div_ceil(1024), 128), &mut args)?;

    let mut args = Args::new().raw(e.down.arg().as_bytes(), 8).ptr(s.first.at()).ptr(s.tiles.at());
    args = args.ptr(s.n_tiles.at()).ptr(s.midk.q.at()).ptr(s.midk.d.at()).ptr(s.midk.sums.at());
    args = args.ptr(s.mid.at()).ptr(s.down.at());
    step.launch(down.many_down, geometry(&down, d.n_embd, 32), &mut args)?;

    quantise(&m.device, &s.shared_mid, step.t)?;
    products(&m.device, c, &s.shared_mid, step.t, &[Job::new(&b.shared.down, s.y.at())])?;
    let mut args = Args::new().ptr(s.down.at()).ptr(s.slot_of.at()).ptr(s.y.at());
    step.launch("sum_experts", Geometry::new(step.t, d.n_embd.div_ceil(1024), 256), &mut args)
}

impl Step<'_> {
    /// Shows the observer the router's view.
    fn show_choice(&mut self, place: Place) -> Result<()> {
        if !self.observed() {
            return Ok(());
        }
        let (n, used) = (self.m.dims.n_expert, self.m.dims.n_expert_used);
        let s = &self.m.scratch;
        self.show(place, Stage::RouterProbs, &[n], &s.probs)?;
        self.show_ints(place, Stage::RouterIds, &[used], &s.ids)?;
        self.show(place, Stage::RouterWeights, &[used], &s.weights)
    }
}
