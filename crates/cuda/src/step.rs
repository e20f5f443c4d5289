//! One step: the tokens of all its sequences through every layer, as launches in order.

use ds4_model::{Dims, INDEXED_RATIO, Place, Probe, Result, Stage};
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::device::{Buf, Geometry};
use crate::layer::{self, Before};
use crate::model::Model;
use crate::scratch::{FEW, LOGIT_ROWS};
use crate::seq::Seq;
use crate::weights::Block;

/// The tokens of one sequence within a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Index of the sequence in the runner's table.
    pub seq: usize,
    /// Position of the first token.
    pub pos0: u32,
    /// Its row in the step.
    pub start: usize,
    /// Tokens.
    pub n: usize,
    /// How many of the last rows go through the head.
    pub n_logits: usize,
}

impl Part {
    /// Position after the last token.
    pub(crate) fn end(&self) -> u32 {
        self.pos0 + u32::try_from(self.n).expect("a part is no longer than chunk_max")
    }
}

/// Index scores of a group of tokens.
pub(crate) struct Scores {
    pub buf: Buf,
    /// Tokens whose scores fit.
    pub rows: usize,
    /// Values per token.
    pub stride: usize,
}

/// A step under way.
pub(crate) struct Step<'a> {
    pub m: &'a Model,
    /// Tokens.
    pub t: usize,
    /// Row of the addresses: the layer, or the MTP block's place.
    pub place: usize,
    /// Which of the two stream buffers is current.
    pub side: usize,
    /// Rings are written at once: no part is longer than their margin.
    pub store: bool,
    /// Some token has more rows than an indexed layer shows it.
    pub indexed: bool,
    pub toks: &'a Buf,
    pub turns: &'a Buf,
    /// The host has written `turns`.
    pub has_turns: bool,
    /// Compressed rows of ratio 4 that any token sees, at most.
    pub rows_max: usize,
    pub scores: &'a Buf,
    pub score_rows: usize,
    pub score_stride: usize,
    pub parts: &'a [Part],
    pub seqs: &'a [Seq],
    /// The layer after the present one.
    pub next: Option<&'a Block>,
    pub probe: Option<&'a mut (dyn Probe + 'static)>,
}

impl Step<'_> {
    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        geometry: Geometry,
        args: &mut Args,
    ) -> Result<()> {
        self.m.device.launch(kernel, geometry, args)
    }

    /// Computes the rotations of the tokens, unless the host has.
    pub(crate) fn rotations(&self) -> Result<()> {
        if self.has_turns { Ok(()) } else { self.m.rotations(self.toks, self.t, self.turns) }
    }

    /// Whether stages are observed.
    pub(crate) fn observed(&self) -> bool {
        self.probe.is_some()
    }

    /// Whether a hyper-connection is one kernel, `hc_fused`.
    pub(crate) fn fuses_hc(&self) -> bool {
        self.t <= FEW && self.m.constants.hc_fused_threads != 0
    }

    /// The gates that `hc_fused` has left open for a later kernel to complete, or 0: an observer
    /// sees them at once.
    pub(crate) fn open_gates(&self) -> u64 {
        if self.fuses_hc() && !self.observed() { self.m.scratch.gates.at() } else { 0 }
    }

    /// Shows the observer one row of `shape` f32 values per token, part by part.
    pub(crate) fn show(
        &mut self,
        place: Place,
        stage: Stage,
        shape: &[usize],
        buf: &Buf,
    ) -> Result<()> {
        if !self.observed() {
            return Ok(());
        }
        let values = floats(self.m, buf, self.t * shape.iter().product::<usize>())?;
        self.record(place, stage, shape, &values);
        Ok(())
    }

    /// The same of integers.
    pub(crate) fn show_ints(
        &mut self,
        place: Place,
        stage: Stage,
        shape: &[usize],
        buf: &Buf,
    ) -> Result<()> {
        let values = floats(self.m, buf, self.t * shape.iter().product::<usize>())?;
        #[expect(clippy::cast_possible_wrap, reason = "the bits are those of an integer")]
        let values: Vec<f32> = values.iter().map(|v| v.to_bits() as i32 as f32).collect();
        self.record(place, stage, shape, &values);
        Ok(())
    }

    fn record(&mut self, place: Place, stage: Stage, shape: &[usize], data: &[f32]) {
        let Some(probe) = self.probe.as_deref_mut() else { return };
        let width: usize = shape.iter().product();
        for part in self.parts {
            let mut full = vec![part.n];
            full.extend_from_slice(shape);
            let own = &data[part.start * width..][..part.n * width];
            probe.record(place, stage, part.pos0, &full, own);
        }
    }

    /// Shows the gates of the attention hyper-connection.
    pub(crate) fn show_gates(&mut self, place: Place, n: usize) -> Result<()> {
        if !self.observed() {
            return Ok(());
        }
        let mix = self.m.dims.hc_mix();
        let values = floats(self.m, &self.m.scratch.gates, self.t * mix)?;
        let cut = |from: usize, to: usize| -> Vec<f32> {
            values.chunks_exact(mix).flat_map(|m| m[from..to].iter().copied()).collect()
        };
        self.record(place, Stage::AttnHcPost, &[n], &cut(n, 2 * n));
        self.record(place, Stage::AttnHcComb, &[n, n], &cut(2 * n, mix));
        Ok(())
    }

    /// Shows the step's raw rows and the rows it completed.
    pub(crate) fn show_rows(&mut self, b: &Block, place: Place) -> Result<()> {
        if !self.observed() {
            return Ok(());
        }
        let dim = self.m.dims.head_dim;
        let form = self.m.constants.rows.kv;
        let (mut bytes, mut raw) = (vec![0; self.t * form.bytes(dim)], Vec::new());
        self.m.device.read(self.m.scratch.raw.at(), &mut bytes)?;
        form.unpack(&bytes, dim, &mut raw);
        self.record(place, Stage::KvRaw, &[dim], &raw);
        if b.ratio == 0 {
            return Ok(());
        }
        for (stage, is_index) in [(Stage::CompRows, false), (Stage::IndexRows, true)] {
            for part in self.parts {
                let seq = &self.seqs[part.seq];
                let layer = &seq.layout.layers[self.place];
                let Some(comp) = (if is_index { layer.index } else { layer.comp }) else {
                    continue;
                };
                let ratio = u32::try_from(b.ratio).expect("small");
                let (from, to) = (part.pos0 / ratio, part.end() / ratio);
                let rows = seq.rows(&self.m.device, comp.rows, from, to)?;
                if let Some(probe) = self.probe.as_deref_mut() {
                    let shape = [(to - from) as usize, comp.rows.width];
                    probe.record(place, stage, part.pos0, &shape, &rows);
                }
            }
        }
        Ok(())
    }

    /// Shows the scores and choices of tokens `t0..t0 + n`.
    pub(crate) fn show_scores(&mut self, place: Place, t0: usize, n: usize) -> Result<()> {
        if !self.observed() {
            return Ok(());
        }
        let (m, top_k) = (self.m, self.m.dims.index_top_k);
        let scores = floats(m, self.scores, n * self.score_stride)?;
        let mut bytes = vec![0; 4 * n * top_k];
        m.device.read(m.scratch.chosen.at() + (4 * t0 * top_k) as u64, &mut bytes)?;
        let chosen: Vec<i32> =
            bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        for part in self.parts {
            let (from, to) = (part.start.max(t0), (part.start + part.n).min(t0 + n));
            if from >= to {
                continue;
            }
            let pos = |t: usize| part.pos0 + u32::try_from(t - part.start).expect("few");
            let seen = Dims::n_comp(INDEXED_RATIO, pos(to - 1));
            let mut all = vec![f32::NEG_INFINITY; (to - from) * seen];
            let mut picks = vec![-1.0; (to - from) * top_k];
            for (i, t) in (from..to).enumerate() {
                let rows = Dims::n_comp(INDEXED_RATIO, pos(t));
                let own = &scores[(t - t0) * self.score_stride..][..rows];
                all[i * seen..][..rows].copy_from_slice(own);
                for (k, pick) in picks[i * top_k..][..top_k].iter_mut().enumerate().take(rows) {
                    *pick =
                        if rows <= top_k { k as f32 } else { chosen[(t - t0) * top_k + k] as f32 };
                }
            }
            let Some(probe) = self.probe.as_deref_mut() else { return Ok(()) };
            let pos0 = pos(from);
            probe.record(place, Stage::IndexScores, pos0, &[to - from, seen], &all);
            probe.record(place, Stage::IndexTopk, pos0, &[to - from, top_k], &picks);
        }
        Ok(())
    }

    /// Lets the observer replace the input of layer `il`.
    fn force(&mut self, il: usize) -> Result<()> {
        let Some(probe) = self.probe.as_deref_mut() else { return Ok(()) };
        let width = self.m.dims.n_hc * self.m.dims.n_embd;
        let at = self.m.scratch.streams[self.side].at();
        for part in self.parts {
            if let Some(forced) = probe.force_hidden(il, part.pos0, part.n) {
                self.m.device.write(at + (4 * part.start * width) as u64, forced.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// `n` f32 values of a buffer.
pub(crate) fn floats(m: &Model, buf: &Buf, n: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0_f32; n];
    m.device.read(buf.at(), values.as_mut_bytes())?;
    Ok(values)
}

/// Embeds the step's tokens and runs them through every trunk layer; the final streams are complete
/// in `streams[step.side]`.
pub(crate) fn trunk(step: &mut Step<'_>) -> Result<()> {
    let m = step.m;
    step.rotations()?;
    let mut args = Args::new().raw(m.weights.embd.arg().as_bytes(), 8).ptr(step.toks.at());
    args = args.ptr(m.scratch.streams[step.side].at());
    step.launch("embed", Geometry::new(step.t, 1, 256), &mut args)?;
    let mut before = Before::Streams;
    for (il, b) in m.weights.layers.iter().enumerate() {
        step.place = il;
        step.next = m.weights.layers.get(il + 1);
        step.force(il)?;
        layer::block(step, b, Place::Layer(il), before)?;
        before = Before::Sublayer;
        if step.observed() {
            layer::hc_post(step)?;
            before = Before::Streams;
            let shape = [m.dims.n_hc, m.dims.n_embd];
            step.show(Place::Layer(il), Stage::Hidden, &shape, &m.scratch.streams[step.side])?;
        }
    }
    match before {
        Before::Sublayer => layer::hc_post(step),
        Before::Streams => Ok(()),
    }
}

/// The output head of `n` tokens, the rows listed at `rows`: logits in the scratch's buffer. At most
/// [`LOGIT_ROWS`] at a time.
pub(crate) fn head(
    step: &mut Step<'_>,
    hc: &crate::weights::Hyper,
    norm: &Buf,
    rows: u64,
    n: usize,
) -> Result<()> {
    debug_assert!(n <= LOGIT_ROWS);
    let m = step.m;
    layer::hc_mix(step, hc, Before::Streams, Some(rows), n)?;
    layer::hc_gates(step, hc, norm, 1, Some(rows), n, false)?;
    let job = crate::launch::Job::new(&m.weights.output, m.scratch.logits.at());
    crate::launch::products(&m.device, &m.constants, &m.scratch.x, n, &[job])
}
