//! The FFN sublayer: router, routed experts, shared expert (§2.9).

use ds4_model::{Place, Result, Stage};
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::device::Geometry;
use crate::launch::{AheadArg, Job, Kind, RouteArg, products, quantise};
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
    step.show_choice(place)?;
    let outside = match (&step.m.hybrid, place) {
        (Some(hybrid), Place::Layer(_)) => Some(hybrid.take(step)?),
        _ => None,
    };
    if step.t <= FEW {
        few_experts(step, b)?;
    } else {
        many_experts(step, b)?;
    }
    match (&step.m.hybrid, outside, place) {
        (Some(hybrid), Some(outside), Place::Layer(il)) => hybrid.add(step, il, &outside),
        _ => Ok(()),
    }
}

/// Router scores, experts and weights of every token, and the shared expert's first half.
fn scores(step: &Step<'_>, b: &Block) -> Result<()> {
    let (m, s) = (step.m, &step.m.scratch);
    let mut router = Job::new(&b.router_in, s.probs.at());
    let route = route_arg(step, b);
    if step.t <= FEW {
        router = router.kind(Kind::Router(route, s.routed.at()));
        let (gate, up) = (&b.shared.gate, &b.shared.up);
        if gate.form == up.form {
            let pair = Job::new(gate, s.shared_mid.f.at()).kind(Kind::Pair(up, b.clamps.1));
            return products(&m.device, &m.constants, &s.x, step.t, &[router, pair]);
        }
    }
    let jobs = [
        router,
        Job::new(&b.shared.gate, s.shared[0].at()),
        Job::new(&b.shared.up, s.shared[1].at()),
    ];
    products(&m.device, &m.constants, &s.x, step.t, &jobs)?;
    if step.t > FEW {
        let mut args = Args::new().raw(route.as_bytes(), 8).ptr(s.probs.at());
        step.launch("route", Geometry::new(step.t, 1, 32), &mut args)?;
    }
    let n = step.t * m.dims.n_ff;
    let mut args = Args::new().ptr(s.shared[0].at()).ptr(s.shared[1].at()).float(b.clamps.1);
    args = args.ptr(s.shared_mid.f.at()).long(n);
    step.launch("swiglu_rows", Geometry::new(n.div_ceil(256).min(4096), 1, 256), &mut args)
}

/// How the tokens of a step choose.
fn route_arg(step: &Step<'_>, b: &Block) -> RouteArg {
    let s = &step.m.scratch;
    let (hash, bias) = match &b.choice {
        Choice::Hash(table) => (table.at(), 0),
        Choice::Score(bias) => (0, bias.at()),
    };
    let (toks, ids, weights) = (step.toks.at(), s.ids.at(), s.weights.at());
    RouteArg { toks, hash, bias, ids, weights, scale: step.m.dims.expert_scale, pad: 0 }
}

/// Experts that so many choices read, at most: which they are, the host does not know.
fn chosen(step: &Step<'_>, choices: usize) -> u64 {
    let m = step.m;
    choices.min(m.hybrid.as_ref().map_or(m.dims.n_expert, |h| h.n_device)) as u64
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
    args = args.ptr(step.open_gates());
    let geometry = if e.gate.form == Form::Iq2Xxs {
        let threads = 64 * u32::try_from(d.n_embd.div_ceil(1024)).expect("small");
        // As many blocks as fit, of 34 KiB each and registers for three, or two of many warps.
        let most = if d.n_embd <= 4096 { 3 } else { 2 };
        let at_once = (m.device.info.shared_bytes() / (35 << 10)).min(most);
        Geometry::new(at_once * sms, 1, threads)
    } else {
        Geometry::new((pairs * d.n_ff / 4).min(4 * sms), 1, 256)
    };
    let n_read = chosen(step, pairs);
    let read = n_read * (e.gate.one_bytes() + e.up.one_bytes());
    step.launch(up.few_up, geometry.reads(read), &mut args)?;
    let mut args = Args::new().raw(e.down.arg().as_bytes(), 8).ptr(s.ids.at()).ptr(s.mid.at());
    args = args.raw(b.shared.down.arg().as_bytes(), 8).ptr(s.shared_mid.f.at()).ptr(s.y.at());
    let ahead = step.next.map_or_else(AheadArg::default, |next| AheadArg::of(&next.hc_attn.mix));
    args = args.int(step.t).int(1).raw(ahead.as_bytes(), 8);
    let read = n_read * e.down.one_bytes() + b.shared.down.one_bytes();
    let (used, in_groups) = (d.n_expert_used, d.n_ff <= 2048 && d.n_expert_used <= 6);
    if e.down.form == Form::Q2K && in_groups {
        let ring = Ring { n_ff: d.n_ff, used, tokens: Ring::tokens(step.t) };
        if let Some(stages) = ring.stages(step.t, m.device.info.shared_bytes()) {
            let geometry = ring.geometry(step.t, sms, stages).reads(read);
            return step.launch("exp_down_ring_q2k", geometry, &mut args.int(stages));
        }
    }
    // Of Q2_K a warp takes an expert, and two groups of rows share what a block quantises.
    let (per, groups) = match e.down.form {
        Form::Q2K if in_groups => (1, 2),
        Form::Q2K => (1, 1),
        _ => (2, 1),
    };
    let blocks = if (per, groups) == (1, 1) { 2 * sms } else { sms };
    let threads = u32::try_from(32 * groups * (4 + used * per)).expect("small");
    let geometry = Geometry::new((blocks / step.t).max(1), step.t, threads);
    step.launch(down.few_down, geometry.reads(read), &mut args)
}

/// How a block of `exp_down_ring_q2k` fills its shared memory; sizes are those of `experts_ring.cuh`.
struct Ring {
    n_ff: usize,
    used: usize,
    /// Tokens of a block.
    tokens: usize,
}

impl Ring {
    /// Groups of warps in a block.
    const GROUPS: usize = 2;
    /// With fewer turns on their way the kernel without a ring is used.
    const FEWEST: usize = 3;

    /// Two tokens share what they read of the shared expert, which pays for many only; an odd one
    /// would leave half a block idle.
    fn tokens(t: usize) -> usize {
        if t > 8 && t.is_multiple_of(2) { 2 } else { 1 }
    }

    /// Bytes without the ring: quantised activations (`EvRing::Acts`) and sums.
    fn fixed_bytes(&self) -> usize {
        let Self { n_ff, used, tokens } = *self;
        let routed = used * (n_ff + n_ff / 8) + (used * n_ff / 64).next_multiple_of(16);
        let acts = routed + n_ff + n_ff / 8 + 64 * (4 + used);
        tokens * acts + Self::GROUPS * 128 * (4 + used)
    }

    /// Bytes of a turn of the ring: 4 rows of each routed expert, and 4 of the shared one a token.
    fn turn_bytes(&self) -> usize {
        let shared = 4 * (4 / self.tokens) * self.n_ff.div_ceil(2048) * 544;
        Self::GROUPS * (self.used * self.n_ff / 256 * 336 + shared)
    }

    /// Turns on their way, where a multiprocessor's shared memory has room for enough of them. One
    /// token's activations would wait for the weights of four.
    fn stages(&self, t: usize, shared: usize) -> Option<usize> {
        let fit = shared.checked_sub(self.fixed_bytes())? / self.turn_bytes();
        (fit >= Self::FEWEST).then_some(fit.min(if t == 1 { 3 } else { 4 }))
    }

    fn geometry(&self, t: usize, sms: usize, stages: usize) -> Geometry {
        let y = t.div_ceil(self.tokens);
        let threads = u32::try_from(32 * Self::GROUPS * (4 + self.used)).expect("small");
        let bytes = u32::try_from(self.fixed_bytes() + stages * self.turn_bytes()).expect("small");
        Geometry::new((sms / y).max(1), y, threads).shared(bytes)
    }
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
    let n_read = chosen(step, slots);
    let read = n_read * (e.gate.one_bytes() + e.up.one_bytes());
    step.launch(up.many_up, geometry(&up, d.n_ff, 16).reads(read), &mut args)?;

    let mut args = Args::new().ptr(s.mid.at()).int(d.n_ff).int(2).ptr(0).ptr(0);
    args = args.ptr(s.midk.q.at()).ptr(s.midk.d.at()).ptr(s.midk.sums.at());
    step.launch("quantise", Geometry::new(slots, d.n_ff.div_ceil(1024), 128), &mut args)?;

    let mut args = Args::new().raw(e.down.arg().as_bytes(), 8).ptr(s.first.at()).ptr(s.tiles.at());
    args = args.ptr(s.n_tiles.at()).ptr(s.midk.q.at()).ptr(s.midk.d.at()).ptr(s.midk.sums.at());
    args = args.ptr(s.mid.at()).ptr(s.down.at());
    let geometry = geometry(&down, d.n_embd, 32).reads(n_read * e.down.one_bytes());
    step.launch(down.many_down, geometry, &mut args)?;

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
