//! The `Runner` of this crate: a table of sequences, checked calls, and steps through the model.

use std::io::{Read, Write};
use std::sync::Arc;

use ds4_gguf::Gguf;
use ds4_model::memory::{DRAFT_MAX, SeqPlan};
use ds4_model::{
    Dims, Error, Fingerprint, Mark, ModelFile, Numerics, Place, Probe, Residency, Result, Runner,
    SeqId, Span, TokenId,
};

use crate::batch::Batch;
use crate::frontier::{self, Frontier};
use crate::model::Model;
use crate::pool::Pool;
use crate::residency::Tiers;
use crate::save::Identity;
use crate::scratch::Scratch;
use crate::seq::{LayerState, Seq};
use crate::step::Step;
use crate::trace::Event;
use crate::{head, layer, mtp, save};

/// Tokens of a step unless the options say otherwise: enough that every expert's weights are read
/// for many tokens, few enough that scratch space stays below half a gigabyte.
pub const CHUNK_MAX: usize = 512;

/// How to run a model on the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads; 0 takes the machine's physical cores.
    pub threads: usize,
    /// Which roundings are simulated.
    pub numerics: Numerics,
    /// Tokens of a step; at least 1.
    pub chunk_max: usize,
    /// Bytes of weights that may be in memory; `None` for all of them. Below a file's size, routed
    /// experts are read from it as they are chosen.
    pub weights_bytes_max: Option<u64>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            numerics: Numerics::PROFILE_G,
            chunk_max: CHUNK_MAX,
            weights_bytes_max: None,
        }
    }
}

/// A model on the CPU.
pub struct CpuRunner {
    model: Model,
    pool: Pool,
    chunk_max: usize,
    /// Ids of the open sequences, in the order of `seqs`.
    ids: Vec<SeqId>,
    seqs: Vec<Seq>,
    next_id: u32,
    identity: Identity,
    probe: Option<Box<dyn Probe>>,
    scratch: Scratch,
    /// Tokens of the step.
    batch: Batch,
    /// Pairs that the step completes, or one pair of a draft.
    pairs: Batch,
    /// Logits of a draft.
    draft_logits: Vec<f32>,
}

impl std::fmt::Debug for CpuRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, seqs) = (&self.model.file.name, self.seqs.len());
        f.debug_struct("CpuRunner")
            .field("model", file)
            .field("seqs", &seqs)
            .finish_non_exhaustive()
    }
}

/// Opens a model on the CPU.
///
/// # Errors
/// [`Error::Unsupported`] when the shape has no whole blocks for the simulated roundings, or when
/// the limit of the weights' memory is too small for the model.
pub fn open(model: &Arc<ModelFile>, options: &CpuOptions) -> Result<Box<dyn Runner>> {
    Ok(Box::new(CpuRunner::new(model, options)?))
}

impl CpuRunner {
    /// As [`open`], with the concrete type.
    pub fn new(file: &Arc<ModelFile>, options: &CpuOptions) -> Result<Self> {
        let model = Model::new(Arc::clone(file), options.numerics, options.weights_bytes_max)?;
        let pool = Pool::new(options.threads);
        let chunk_max = options.chunk_max.max(1);
        // A step must not need more experts at once than may be in memory.
        let chunk_max =
            model.tiers.as_ref().map_or(chunk_max, |t| t.chunk_max(&model.dims, chunk_max));
        let print = |gguf: &Arc<Gguf>| Fingerprint::of(gguf).0;
        let in_main = || if file.has_mtp() { file.fingerprint.0 } else { [0; 32] };
        Ok(Self {
            scratch: Scratch::new(&model.dims, chunk_max, pool.threads()),
            identity: Identity {
                model: file.fingerprint.0,
                mtp: file.mtp.as_ref().map_or_else(in_main, print),
                numerics: options.numerics,
                any_model: false,
            },
            model,
            pool,
            chunk_max,
            ids: Vec::new(),
            seqs: Vec::new(),
            next_id: 0,
            probe: None,
            batch: Batch::default(),
            pairs: Batch::default(),
            draft_logits: Vec::new(),
        })
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Records what the threads do from now on.
    pub fn start_trace(&self) {
        self.pool.recorder.start();
    }

    /// Ends the record that [`CpuRunner::start_trace`] began.
    pub fn stop_trace(&self) -> Vec<Event> {
        self.pool.recorder.stop()
    }

    /// Its threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Runs the MTP block over the pairs `(hidden[i], next[i])` at positions `0..`, on a window of
    /// its own; the probe sees its stages. For comparison with references.
    ///
    /// `hidden` is `[next.len(), n_hc, n_embd]`, the trunk's final streams; returns the logits,
    /// `[next.len(), n_vocab]`.
    pub fn mtp_forward(&mut self, hidden: &[f32], next: &[TokenId]) -> Result<Vec<f32>> {
        let dims = &self.model.dims;
        let width = dims.n_hc * dims.n_embd;
        if hidden.len() != next.len() * width {
            let (found, n) = (hidden.len(), next.len());
            return Err(Error::Span(format!("{found} values for {n} states of {width}")));
        }
        next.iter().try_for_each(|id| self.check_token(*id))?;
        let Some(w) = &self.model.weights.mtp else {
            return Err(Error::Unsupported("no MTP block is loaded; give --mtp FILE".to_owned()));
        };
        self.scratch.fit(dims, 1);
        let plan = SeqPlan { layers: Vec::new(), ..SeqPlan::new(dims, 1, true) };
        let mut seq = Seq::new(&plan)?;
        let mut logits = Vec::new();
        let chunks = hidden.chunks(self.chunk_max * width).zip(next.chunks(self.chunk_max));
        for (pos0, (hidden, next)) in (0u32..).step_by(self.chunk_max).zip(chunks) {
            self.pairs.clear();
            self.pairs.push(0, pos0, next, next.len());
            self.pairs.finish(&self.model);
            let rows = self.scratch.hidden.rows_mut(next.len() * dims.n_hc, dims.n_embd);
            rows.copy_from_slice(hidden);
            let mut step = Step {
                model: &self.model,
                pool: &self.pool,
                batch: &self.pairs,
                probe: self.probe.as_deref_mut(),
            };
            let seqs = std::slice::from_mut(&mut seq);
            mtp::run(&mut step, w, seqs, &mut self.scratch, &mut logits);
        }
        Ok(logits)
    }

    /// One step of at most `chunk_max` tokens; nothing can fail any more.
    fn step(&mut self, logits: &mut Vec<f32>) {
        let (model, s) = (&self.model, &mut self.scratch);
        self.batch.finish(model);
        let mut step =
            Step { model, pool: &self.pool, batch: &self.batch, probe: self.probe.as_deref_mut() };
        layer::trunk(&mut step, &mut self.seqs, s);
        let (hc, norm) = (&model.weights.hc_head, &model.weights.output_norm);
        head::head(&mut step, Place::Head, hc, norm, s, logits);
        if let Some(w) = &model.weights.mtp {
            mtp::collect_pairs(&step, &self.seqs, &mut self.pairs);
            let mut step = Step { batch: &self.pairs, probe: None, ..step };
            mtp::catch_up(&self.batch, &mut step, w, &mut self.seqs, s);
        }
        for part in &self.batch.parts {
            self.seqs[part.seq].advance(part.n);
        }
        if let Some(tiers) = &model.tiers {
            tiers.embedded(self.batch.len());
        }
    }

    /// Where a sequence is in the table.
    fn index(&self, id: SeqId) -> Result<usize> {
        self.ids.iter().position(|i| *i == id).ok_or(Error::NoSequence(id.0))
    }

    fn check_token(&self, id: TokenId) -> Result<()> {
        let n_vocab = self.model.dims.n_vocab;
        if (id.0 as usize) < n_vocab {
            return Ok(());
        }
        Err(Error::TokenRange { id: id.0, n_vocab })
    }

    /// Checks a whole call before anything changes.
    fn check(&self, spans: &[Span<'_>]) -> Result<()> {
        for (i, span) in spans.iter().enumerate() {
            let seq = &self.seqs[self.index(span.seq)?];
            let n = span.tokens.len();
            let fail = |what: String| Err(Error::Span(what));
            if n == 0 {
                return fail("it has no tokens".to_owned());
            }
            if n > self.chunk_max {
                return fail(format!("{n} tokens, but a call takes at most {}", self.chunk_max));
            }
            if span.n_logits > n {
                return fail(format!("logits of {} of {n} tokens wanted", span.n_logits));
            }
            if spans[..i].iter().any(|s| s.seq == span.seq) {
                return fail(format!("sequence {} appears twice", span.seq.0));
            }
            if n > (seq.cap - seq.len) as usize {
                return Err(Error::ContextFull { len: seq.len, more: n, cap: seq.cap });
            }
            span.tokens.iter().try_for_each(|id| self.check_token(*id))?;
        }
        Ok(())
    }

    /// A new sequence, not yet in the table.
    fn new_seq(&mut self, cap: u32) -> Result<Seq> {
        let dims = &self.model.dims;
        if cap == 0 || cap > dims.ctx_max {
            return Err(Error::Unsupported(format!(
                "a context of {cap} tokens; use 1 to {}",
                dims.ctx_max
            )));
        }
        self.scratch.fit(dims, cap);
        Seq::new(&SeqPlan::new(dims, cap, self.model.weights.mtp.is_some()))
    }

    fn register(&mut self, seq: Seq) -> SeqId {
        // Ids are not reused until all others have been: a stale one is noticed.
        while self.ids.contains(&SeqId(self.next_id)) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = SeqId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.ids.push(id);
        self.seqs.push(seq);
        id
    }
}

impl Runner for CpuRunner {
    fn dims(&self) -> &Dims {
        &self.model.dims
    }

    fn open_seq(&mut self, cap: u32) -> Result<SeqId> {
        let seq = self.new_seq(cap)?;
        Ok(self.register(seq))
    }

    fn close_seq(&mut self, seq: SeqId) {
        if let Ok(ix) = self.index(seq) {
            self.ids.swap_remove(ix);
            self.seqs.swap_remove(ix);
        }
    }

    fn seq_len(&self, seq: SeqId) -> Result<u32> {
        Ok(self.seqs[self.index(seq)?].len)
    }

    fn forward(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<()> {
        self.check(spans)?;
        logits.clear();
        let mut rest = spans;
        while !rest.is_empty() {
            self.batch.clear();
            let fits = |n: usize, span: &Span<'_>| n + span.tokens.len() <= self.chunk_max;
            while let Some((span, after)) = rest.split_first()
                && fits(self.batch.len(), span)
            {
                let ix = self.index(span.seq)?;
                self.batch.push(ix, self.seqs[ix].len, span.tokens, span.n_logits);
                rest = after;
            }
            self.step(logits);
        }
        Ok(())
    }

    fn chunk_max(&self) -> usize {
        self.chunk_max
    }

    fn draft(&mut self, seq: SeqId, last: TokenId, out: &mut [TokenId]) -> Result<usize> {
        let ix = self.index(seq)?;
        self.check_token(last)?;
        let (model, s, seqs) = (&self.model, &mut self.scratch, &mut self.seqs[ix..=ix]);
        let (Some(w), Some(state)) = (&model.weights.mtp, &seqs[0].mtp) else { return Ok(0) };
        let Some(pos0) = seqs[0].len.checked_sub(1).filter(|p| *p >= state.hidden_from) else {
            return Ok(0);
        };
        let rows = s.hidden.rows_mut(model.dims.n_hc, model.dims.n_embd);
        rows.copy_from_slice(state.hidden.row(pos0));
        let mut token = last;
        let n = out.len().min(DRAFT_MAX);
        for (pos, out) in (pos0..).zip(&mut out[..n]) {
            self.pairs.clear();
            self.pairs.push(0, pos, &[token], 1);
            self.pairs.finish(model);
            let mut step = Step { model, pool: &self.pool, batch: &self.pairs, probe: None };
            self.draft_logits.clear();
            mtp::run(&mut step, w, seqs, s, &mut self.draft_logits);
            token = mtp::argmax(&self.draft_logits);
            *out = token;
            s.hidden.rows_mut(model.dims.n_hc, model.dims.n_embd).copy_from_slice(s.streams.rows());
        }
        Ok(n)
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<()> {
        let ix = self.index(seq)?;
        self.seqs[ix].truncate(len)
    }

    fn save_seq(&mut self, seq: SeqId, w: &mut dyn Write) -> Result<u64> {
        let seq = &self.seqs[self.index(seq)?];
        let end = Frontier::of(seq, &self.model.dims);
        let rows: Vec<_> = seq.layers.iter().map(LayerState::grown).collect();
        save::save(&end, &rows, &self.model.dims, self.identity, w)
    }

    fn load_seq(&mut self, r: &mut dyn Read, cap: u32) -> Result<SeqId> {
        let mut seq = self.new_seq(cap)?;
        let (layers, dims) = (&mut seq.layers, &self.model.dims);
        let mut place = |il: usize, is_index: bool, n: usize, fill: save::Fill<'_>| {
            let layer = &mut layers[il];
            let comp = if is_index { &mut layer.index } else { &mut layer.comp };
            fill(comp.as_mut().expect("the layer has this compressor").rows.grow(n))
        };
        let end = save::load(dims, cap, self.identity, r, &mut place)?;
        end.restore(dims, &mut seq);
        Ok(self.register(seq))
    }

    fn accept_other_weights(&mut self, accepts: bool) {
        self.identity.any_model = accepts;
    }

    fn mark(&mut self, seq: SeqId) -> Result<Option<Mark>> {
        let seq = &self.seqs[self.index(seq)?];
        let state = Box::new(Frontier::of(seq, &self.model.dims));
        Ok(Some(Mark { len: seq.len, state }))
    }

    fn rewind(&mut self, seq: SeqId, mark: &Mark) -> Result<()> {
        let ix = self.index(seq)?;
        let (end, seq) = (frontier::of_mark(mark)?, &mut self.seqs[ix]);
        if end.len > seq.len {
            return Err(Error::NeedsReplay { len: end.len, now: seq.len });
        }
        // Where the rings reach, going back keeps the margin.
        if seq.truncate(end.len).is_err() {
            end.restore(&self.model.dims, seq);
        }
        Ok(())
    }

    fn fork(&mut self, seq: SeqId, mark: &Mark, cap: u32) -> Result<SeqId> {
        let ix = self.index(seq)?;
        let end = frontier::of_mark(mark)?;
        let now = self.seqs[ix].len;
        if end.len > now {
            return Err(Error::NeedsReplay { len: end.len, now });
        }
        if end.len > cap {
            return Err(Error::ContextFull { len: end.len, more: 0, cap });
        }
        let mut copy = self.new_seq(cap)?;
        copy.copy_rows(&self.seqs[ix], end.len);
        end.restore(&self.model.dims, &mut copy);
        Ok(self.register(copy))
    }

    fn set_probe(&mut self, probe: Option<Box<dyn Probe>>) {
        self.probe = probe;
    }

    fn residency(&self) -> Option<Residency> {
        self.model.tiers.as_ref().map(Tiers::stats)
    }

    fn seq_bytes(&self, cap: u32) -> u64 {
        let with_mtp = self.model.weights.mtp.is_some();
        SeqPlan::new(&self.model.dims, cap, with_mtp).bytes().total()
    }
}
