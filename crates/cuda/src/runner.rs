//! The `Runner` of this crate: a table of sequences, checked calls, steps, and recorded launches.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ds4_cpu::state;
use ds4_gguf::Gguf;
use ds4_model::{
    Dims, Error, Fingerprint, Mark, ModelFile, Numerics, Place, Probe, Result, Runner, SeqId, Span,
    Stage, TokenId,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::device::{Device, DeviceInfo, Graph, Pinned, Timed};
use crate::model::{Model, SEQS_MAX};
use crate::scratch::{FEW, LOGIT_ROWS, pairs_max};
use crate::seq::{Layout, Seq, raw_slots};
use crate::step::{Part, Scores, Step, head, trunk};
use crate::tokens::Tokens;
use crate::weights::index_rows;
use crate::{frontier, mtp};

/// Tokens of a step unless the options say otherwise.
pub const CHUNK_MAX: usize = 2048;
/// Longest part whose rows may be written into the rings at once: their margin.
const STORE_MAX: usize = ds4_model::memory::ROLLBACK_MAX;
/// Most tokens whose rotations the host computes.
const HOST_TURNS_MAX: usize = 4;
/// Rows of logits that land on the host together.
const LANDING_ROWS: usize = FEW;
/// Bytes of index scores that a step keeps at a time.
const SCORE_BYTES: usize = 256 << 20;

/// How to run a model on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// Which roundings are simulated.
    pub numerics: Numerics,
    /// Tokens of a step; at least 1.
    pub chunk_max: usize,
    /// Bytes of device memory that may be used; `None` for all that are free.
    pub vram_bytes: Option<u64>,
    /// Bytes that sequences are going to take: experts leave them free.
    pub seq_bytes: u64,
    /// Threads for experts that do not fit on the device; 0 takes the machine's physical cores.
    pub threads: usize,
}

impl Default for CudaOptions {
    fn default() -> Self {
        let numerics = Numerics::PROFILE_G;
        Self { numerics, chunk_max: CHUNK_MAX, vram_bytes: None, seq_bytes: 0, threads: 0 }
    }
}

/// What distinguishes one recorded step from another; all else lies in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    tokens: usize,
    wanted: usize,
    pairs: usize,
    indexed: bool,
}

/// A model on a GPU.
pub struct CudaRunner {
    pub(crate) model: Model,
    file: Arc<ModelFile>,
    pub(crate) chunk_max: usize,
    /// Ids of the open sequences, in the order of `seqs`.
    ids: Vec<SeqId>,
    pub(crate) seqs: Vec<Seq>,
    next_id: u32,
    identity: state::Identity,
    pub(crate) probe: Option<Box<dyn Probe>>,
    scores: Scores,
    /// Logits on their way from the device.
    landing: Mutex<Pinned>,
    /// What the device's list of wanted rows holds.
    pub(crate) wanted: Vec<i32>,
    graphs: HashMap<Shape, Graph>,
    /// Launches are timed one by one: nothing is replayed.
    is_timed: bool,
    /// Set by the first error of the device: nothing works after one.
    broken: Option<String>,
}

impl std::fmt::Debug for CudaRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, seqs) = (&self.file.name, self.seqs.len());
        f.debug_struct("CudaRunner")
            .field("model", file)
            .field("seqs", &seqs)
            .finish_non_exhaustive()
    }
}

impl CudaRunner {
    /// Uploads a model to a device whose kernels are loaded.
    pub(crate) fn on(
        device: &Arc<Device>,
        file: &Arc<ModelFile>,
        options: &CudaOptions,
        n_expert: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let chunk_max = options.chunk_max.max(1);
        let model = Model::new(device, file, options, n_expert, progress)?;
        let print = |gguf: &Arc<Gguf>| Fingerprint::of(gguf).0;
        let in_main = || if file.has_mtp() { file.fingerprint.0 } else { [0; 32] };
        let identity = state::Identity {
            model: file.fingerprint.0,
            mtp: file.mtp.as_ref().map_or_else(in_main, print),
            numerics: options.numerics,
            any_model: false,
        };
        let scores = Scores { buf: device.alloc(16)?, rows: 0, stride: 0 };
        let landing = Mutex::new(device.pinned(4 * LANDING_ROWS * file.dims.n_vocab)?);
        Ok(Self {
            model,
            file: Arc::clone(file),
            chunk_max,
            ids: Vec::new(),
            seqs: Vec::new(),
            next_id: 0,
            identity,
            probe: None,
            scores,
            landing,
            wanted: Vec::new(),
            graphs: HashMap::new(),
            is_timed: false,
            broken: None,
        })
    }

    /// The device it runs on.
    pub fn device(&self) -> &DeviceInfo {
        &self.model.device.info
    }

    /// Experts of every layer that lie on the device.
    pub fn device_experts(&self) -> usize {
        self.model.hybrid.as_ref().map_or(self.model.dims.n_expert, |h| h.n_device)
    }

    /// Bytes of device memory not in use.
    pub fn free_bytes(&self) -> Result<u64> {
        self.model.device.free_bytes()
    }

    /// Bytes per second that the device reads when it does nothing else: the ceiling of decoding.
    pub fn read_bandwidth(&mut self) -> Result<f64> {
        const TURNS: usize = 5;
        match self.model.read_bandwidth(TURNS) {
            // No room for what is to be read says nothing about the model.
            result @ Err(Error::Device(_)) => self.watch(result),
            result => result,
        }
    }

    /// As [`Runner::forward`], with the time of every launch in order. Kernels run one after
    /// the other, so their sum is more than the call takes otherwise.
    pub fn forward_timed(
        &mut self,
        spans: &[Span<'_>],
        logits: &mut Vec<f32>,
    ) -> Result<Vec<Timed>> {
        self.check(spans)?;
        logits.clear();
        let device = Arc::clone(&self.model.device);
        self.is_timed = true;
        let result = device.timed(|| self.forward_checked(spans, logits));
        self.is_timed = false;
        self.watch(result)
    }

    pub(crate) fn index(&self, id: SeqId) -> Result<usize> {
        self.ids.iter().position(|i| *i == id).ok_or(Error::NoSequence(id.0))
    }

    pub(crate) fn check_token(&self, id: TokenId) -> Result<()> {
        let n_vocab = self.model.dims.n_vocab;
        if (id.0 as usize) < n_vocab {
            return Ok(());
        }
        Err(Error::TokenRange { id: id.0, n_vocab })
    }

    /// Checks a whole call before anything changes.
    fn check(&self, spans: &[Span<'_>]) -> Result<()> {
        self.check_device()?;
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

    /// After an error of the device its context is lost; later calls say so at once.
    fn check_device(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(what) => Err(Error::Device(format!("{what} (earlier); restart ds4"))),
        }
    }

    /// The result of work on the device, called after its arguments were checked. An error of any kind
    /// may have come in the middle of a step, which leaves rings half overwritten.
    pub(crate) fn watch<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.broken = Some(match error {
                Error::Device(what) => what.clone(),
                other => other.to_string(),
            });
        }
        result
    }

    fn new_seq(&mut self, cap: u32) -> Result<Seq> {
        self.check_device()?;
        let dims = &self.model.dims;
        if cap == 0 || cap > dims.ctx_max {
            let what = format!("a context of {cap} tokens; use 1 to {}", dims.ctx_max);
            return Err(Error::Unsupported(what));
        }
        let taken: Vec<usize> = self.seqs.iter().map(|s| s.row).collect();
        let row = (0..SEQS_MAX)
            .find(|row| !taken.contains(row))
            .ok_or_else(|| Error::Unsupported(format!("more than {SEQS_MAX} sequences at once")))?;
        let with_mtp = self.model.weights.mtp.is_some();
        self.fit_scores(cap)?;
        let layout = Layout::new(&self.model.dims, self.model.constants.rows, cap, with_mtp);
        let seq = Seq::new(&self.model.device, layout, cap, row)?;
        self.model.publish(&seq)?;
        Ok(seq)
    }

    /// Makes room for the index scores of a sequence of `cap` tokens.
    fn fit_scores(&mut self, cap: u32) -> Result<()> {
        let stride = index_rows(&self.model.dims, cap).next_multiple_of(64).max(64);
        if stride <= self.scores.stride {
            return Ok(());
        }
        let rows = (SCORE_BYTES / (4 * stride)).clamp(FEW, self.chunk_max.max(FEW));
        // Recorded steps have the old address in them.
        self.graphs.clear();
        self.scores = Scores { buf: self.model.device.alloc(4 * rows * stride)?, rows, stride };
        Ok(())
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

    /// The pairs that the step's tokens complete, and the rows of the step their states are in (−1:
    /// the sequence's ring).
    fn pairs(&self, tokens: &Tokens) -> (Tokens, Vec<i32>) {
        let (mut pairs, mut from) = (Tokens::default(), Vec::new());
        if self.model.weights.mtp.is_none() {
            return (pairs, from);
        }
        let slots = u32::try_from(raw_slots(&self.model.dims)).expect("small");
        for part in &tokens.parts {
            let seq = &self.seqs[part.seq];
            let end = part.end() - 1;
            let first =
                part.pos0.saturating_sub(1).max(end.saturating_sub(slots)).max(seq.hidden_from);
            if first >= end {
                continue;
            }
            let own = &tokens.toks[part.start..part.start + part.n];
            let ids: Vec<TokenId> = own[(first + 1 - part.pos0) as usize..]
                .iter()
                .map(|t| TokenId(u32::try_from(t.id).expect("checked")))
                .collect();
            pairs.push(part.seq, seq, first, &ids, 0, seq.pairs_from);
            from.extend((first..end).map(|pos| match pos.checked_sub(part.pos0) {
                Some(i) => i32::try_from(part.start + i as usize).expect("small"),
                None => -1,
            }));
        }
        (pairs, from)
    }

    /// Most pairs that a span's tokens complete.
    fn pairs_of(&self, span: &Span<'_>) -> usize {
        let has_pairs = self.model.weights.mtp.is_some();
        if has_pairs { span.tokens.len().min(raw_slots(&self.model.dims)) } else { 0 }
    }

    /// One step of at most `chunk_max` tokens.
    fn step(&mut self, tokens: &Tokens, logits: &mut Vec<f32>) -> Result<()> {
        let (pairs, from) = self.pairs(tokens);
        let (m, s) = (&self.model, &self.model.scratch);
        m.device.write(s.toks.at(), tokens.toks.as_bytes())?;
        // Steps of single tokens want the same rows again and again.
        if !tokens.wanted.is_empty() && self.wanted != tokens.wanted {
            m.device.write(s.wanted.at(), tokens.wanted.as_bytes())?;
            self.wanted.clone_from(&tokens.wanted);
        }
        if !from.is_empty() {
            m.device.write(s.pairs.at(), pairs.toks.as_bytes())?;
            m.device.write(s.from.at(), from.as_bytes())?;
        }
        let t = tokens.toks.len();
        for (toks, turns) in [(tokens, &s.turns), (&pairs, &s.pair_turns)] {
            if (1..=HOST_TURNS_MAX).contains(&toks.toks.len()) {
                m.device.write(turns.at(), m.host_rotations(&toks.toks).as_bytes())?;
            }
        }
        let indexed = tokens
            .parts
            .iter()
            .any(|p| Dims::n_comp(ds4_model::INDEXED_RATIO, p.end() - 1) > m.dims.index_top_k);
        let is_whole = self.model.hybrid.is_none() && self.probe.is_none() && !self.is_timed;
        if t <= FEW && from.len() <= FEW && is_whole {
            let shape =
                Shape { tokens: t, wanted: tokens.wanted.len(), pairs: from.len(), indexed };
            self.replay(shape, tokens, &pairs, logits)
        } else {
            self.launch(tokens, &pairs, indexed, logits)
        }
    }

    /// A step of few tokens: recorded once per shape, then replayed.
    fn replay(
        &mut self,
        shape: Shape,
        tokens: &Tokens,
        pairs: &Tokens,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let n = shape.wanted;
        if !self.graphs.contains_key(&shape) {
            let device = Arc::clone(&self.model.device);
            let graph = device.record(|| self.enqueue(tokens, pairs, shape.indexed).map(drop))?;
            match graph {
                Some(graph) => {
                    self.graphs.insert(shape, graph);
                }
                // Not recorded but done.
                None => return self.take_logits(n, logits),
            }
        }
        self.model.device.replay(&self.graphs[&shape])?;
        self.take_logits(n, logits)
    }

    /// The launches of a step with at most `LOGIT_ROWS` wanted rows: trunk, head, pairs.
    fn enqueue(&self, tokens: &Tokens, pairs: &Tokens, indexed: bool) -> Result<()> {
        let mut step = self.new_step(tokens, indexed, None);
        step.has_turns = step.t <= HOST_TURNS_MAX;
        trunk(&mut step)?;
        let (w, s) = (&self.model.weights, &self.model.scratch);
        if !tokens.wanted.is_empty() {
            head(&mut step, &w.hc_head, &w.output_norm, s.wanted.at(), tokens.wanted.len())?;
        }
        self.finish_pairs(&step, pairs)
    }

    /// A step of many tokens, or an observed one.
    fn launch(
        &mut self,
        tokens: &Tokens,
        pairs: &Tokens,
        indexed: bool,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let mut probe = self.probe.take();
        let result = self.launch_observed(tokens, pairs, indexed, probe.as_deref_mut(), logits);
        self.probe = probe;
        result
    }

    fn launch_observed(
        &self,
        tokens: &Tokens,
        pairs: &Tokens,
        indexed: bool,
        probe: Option<&mut (dyn Probe + 'static)>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let (w, s) = (&self.model.weights, &self.model.scratch);
        let mut step = self.new_step(tokens, indexed, probe);
        step.has_turns = step.t <= HOST_TURNS_MAX;
        trunk(&mut step)?;
        let mut norms = Vec::new();
        let before = logits.len();
        for (i, rows) in tokens.wanted.chunks(LOGIT_ROWS).enumerate() {
            let at = s.wanted.at() + (4 * i * LOGIT_ROWS) as u64;
            head(&mut step, &w.hc_head, &w.output_norm, at, rows.len())?;
            if step.observed() {
                let n = rows.len() * self.model.dims.n_embd;
                norms.extend(crate::step::floats(&self.model, &s.x.f, n)?);
            }
            self.take_logits(rows.len(), logits)?;
        }
        self.finish_pairs(&step, pairs)?;
        let dims = &self.model.dims;
        let mut at = (0, before);
        for part in tokens.parts.iter().filter(|p| p.n_logits > 0) {
            let Some(probe) = step.probe.as_deref_mut() else { break };
            let pos0 = part.end() - u32::try_from(part.n_logits).expect("few");
            let (n, v) = (part.n_logits * dims.n_embd, part.n_logits * dims.n_vocab);
            let shape = |width: usize| [part.n_logits, width];
            probe.record(
                Place::Head,
                Stage::FinalNorm,
                pos0,
                &shape(dims.n_embd),
                &norms[at.0..at.0 + n],
            );
            probe.record(
                Place::Head,
                Stage::Logits,
                pos0,
                &shape(dims.n_vocab),
                &logits[at.1..at.1 + v],
            );
            at = (at.0 + n, at.1 + v);
        }
        Ok(())
    }

    fn finish_pairs(&self, trunk: &Step<'_>, pairs: &Tokens) -> Result<()> {
        let Some(w) = &self.model.weights.mtp else { return Ok(()) };
        let s = &self.model.scratch;
        let mut step = self.new_step(pairs, false, None);
        (step.toks, step.turns) = (&s.pairs, &s.pair_turns);
        step.has_turns = step.t <= HOST_TURNS_MAX;
        mtp::catch_up(trunk, &mut step, w)
    }

    pub(crate) fn new_step<'a>(
        &'a self,
        tokens: &'a Tokens,
        indexed: bool,
        probe: Option<&'a mut (dyn Probe + 'static)>,
    ) -> Step<'a> {
        let s = &self.model.scratch;
        let rows = |p: &Part| Dims::n_comp(ds4_model::INDEXED_RATIO, p.end() - 1);
        Step {
            m: &self.model,
            t: tokens.toks.len(),
            place: 0,
            side: 0,
            store: tokens.parts.iter().all(|p| p.n <= STORE_MAX),
            indexed,
            toks: &s.toks,
            turns: &s.turns,
            has_turns: false,
            rows_max: tokens.parts.iter().map(rows).max().unwrap_or(0),
            scores: &self.scores.buf,
            score_rows: self.scores.rows,
            score_stride: self.scores.stride,
            parts: &tokens.parts,
            seqs: &self.seqs,
            next: None,
            probe,
        }
    }

    /// Appends `n` rows of computed logits.
    pub(crate) fn take_logits(&self, n: usize, logits: &mut Vec<f32>) -> Result<()> {
        let (m, width) = (&self.model, self.model.dims.n_vocab);
        if n == 0 {
            return m.device.sync();
        }
        let mut landing = self.landing.lock().unwrap_or_else(PoisonError::into_inner);
        for first in (0..n).step_by(LANDING_ROWS) {
            let bytes = 4 * LANDING_ROWS.min(n - first) * width;
            let at = m.scratch.logits.at() + (4 * first * width) as u64;
            m.device.read_pieces(at, &mut landing, bytes, |piece| {
                let values = <[f32]>::ref_from_bytes(piece);
                logits.extend_from_slice(values.expect("locked memory is aligned to pages"));
            })?;
        }
        Ok(())
    }

    fn forward_checked(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<()> {
        let mut rest = spans;
        let mut done = Vec::new();
        while !rest.is_empty() {
            let (mut tokens, mut pairs) = (Tokens::default(), 0);
            while let Some((span, after)) = rest.split_first()
                && tokens.toks.len() + span.tokens.len() <= self.chunk_max
                && pairs + self.pairs_of(span) <= pairs_max(&self.model.dims, self.chunk_max)
            {
                pairs += self.pairs_of(span);
                let ix = self.index(span.seq)?;
                let seq = &self.seqs[ix];
                tokens.push(ix, seq, seq.len, span.tokens, span.n_logits, 0);
                rest = after;
            }
            self.step(&tokens, logits)?;
            done.extend(tokens.parts.iter().map(|p| (p.seq, p.n)));
        }
        // Lengths change only when every step has succeeded.
        for (seq, n) in done {
            self.seqs[seq].advance(n);
        }
        Ok(())
    }
}

impl Runner for CudaRunner {
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
        let result = self.forward_checked(spans, logits);
        self.watch(result)
    }

    fn chunk_max(&self) -> usize {
        self.chunk_max
    }

    fn draft(&mut self, seq: SeqId, last: TokenId, out: &mut [TokenId]) -> Result<usize> {
        self.check_device()?;
        let ix = self.index(seq)?;
        self.check_token(last)?;
        self.wanted.clear();
        let result = self.draft_checked(ix, last, out);
        self.watch(result)
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<()> {
        let ix = self.index(seq)?;
        self.seqs[ix].truncate(len)
    }

    fn save_seq(&mut self, seq: SeqId, w: &mut dyn Write) -> Result<u64> {
        self.check_device()?;
        let seq = &self.seqs[self.index(seq)?];
        let (device, dims) = (&self.model.device, &self.model.dims);
        let end = frontier::of(device, dims, seq)?;
        let rows = frontier::grown(device, seq, seq.len)?;
        state::save(&end, &frontier::borrowed(&rows), dims, self.identity, w)
    }

    fn load_seq(&mut self, r: &mut dyn Read, cap: u32) -> Result<SeqId> {
        let mut seq = self.new_seq(cap)?;
        let dims = &self.model.dims;
        let mut rows: frontier::HostRows = vec![[Vec::new(), Vec::new()]; dims.n_layer];
        let mut place = |il: usize, is_index: bool, n: usize, fill: state::Fill<'_>| {
            let width = if is_index { dims.index_dim } else { dims.head_dim };
            let own = &mut rows[il][usize::from(is_index)];
            own.resize(n * width, 0.0);
            fill(own)
        };
        let end = state::load(dims, cap, self.identity, r, &mut place)?;
        frontier::restore(&self.model.device, dims, &mut seq, &end)?;
        frontier::set_grown(&self.model.device, &seq, &rows)?;
        self.model.device.sync()?;
        Ok(self.register(seq))
    }

    fn accept_other_weights(&mut self, accepts: bool) {
        self.identity.any_model = accepts;
    }

    fn mark(&mut self, seq: SeqId) -> Result<Option<Mark>> {
        self.check_device()?;
        let seq = &self.seqs[self.index(seq)?];
        let end = frontier::of(&self.model.device, &self.model.dims, seq)?;
        Ok(Some(Mark { len: seq.len, state: Box::new(end) }))
    }

    fn rewind(&mut self, seq: SeqId, mark: &Mark) -> Result<()> {
        let ix = self.index(seq)?;
        let (end, seq) = (state::of_mark(mark)?, &mut self.seqs[ix]);
        if end.len > seq.len {
            return Err(Error::NeedsReplay { len: end.len, now: seq.len });
        }
        // Where the rings reach, going back keeps the margin.
        if seq.truncate(end.len).is_err() {
            frontier::restore(&self.model.device, &self.model.dims, seq, end)?;
            self.model.device.sync()?;
        }
        Ok(())
    }

    fn fork(&mut self, seq: SeqId, mark: &Mark, cap: u32) -> Result<SeqId> {
        let ix = self.index(seq)?;
        let end = state::of_mark(mark)?;
        let now = self.seqs[ix].len;
        if end.len > now {
            return Err(Error::NeedsReplay { len: end.len, now });
        }
        if end.len > cap {
            return Err(Error::ContextFull { len: end.len, more: 0, cap });
        }
        let mut copy = self.new_seq(cap)?;
        let device = &self.model.device;
        frontier::copy_grown(device, &self.seqs[ix], &copy, end.len)?;
        frontier::restore(device, &self.model.dims, &mut copy, end)?;
        device.sync()?;
        Ok(self.register(copy))
    }

    fn set_probe(&mut self, probe: Option<Box<dyn Probe>>) {
        self.probe = probe;
    }

    fn seq_bytes(&self, cap: u32) -> u64 {
        let (m, with_mtp) = (&self.model, self.model.weights.mtp.is_some());
        Layout::new(&m.dims, m.constants.rows, cap, with_mtp).bytes as u64
    }
}
