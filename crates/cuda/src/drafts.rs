//! The MTP block's own calls: drafts, and the comparison with references.

use ds4_model::memory::DRAFT_MAX;
use ds4_model::{Error, Place, Probe, Result, Runner, SeqId, Stage, TokenId};
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::device::Geometry;
use crate::mtp;
use crate::runner::CudaRunner;
use crate::tokens::Tokens;

impl CudaRunner {
    /// Proposes tokens by the MTP block, one after the other.
    pub(crate) fn draft_checked(
        &mut self,
        ix: usize,
        last: TokenId,
        out: &mut [TokenId],
    ) -> Result<usize> {
        let (m, s) = (&self.model, &self.model.scratch);
        let (Some(w), seq) = (&m.weights.mtp, &self.seqs[ix]) else { return Ok(0) };
        let Some(pos0) = seq.len.checked_sub(1).filter(|p| *p >= seq.hidden_from) else {
            return Ok(0);
        };
        let wide = 4 * m.dims.n_hc * m.dims.n_embd;
        let ring = seq.layout.layers[m.places - 1].hidden.expect("an MTP block is loaded");
        let slot = pos0 as usize % ring.rows;
        m.device.copy(s.pair_hidden.at(), seq.at(ring) + (slot * wide) as u64, wide)?;
        m.device.write(s.wanted.at(), &0_i32.to_le_bytes())?;
        let mut token = last;
        let n = out.len().min(DRAFT_MAX);
        for (pos, out) in (pos0..).zip(&mut out[..n]) {
            let mut tokens = Tokens::default();
            tokens.push(ix, seq, pos, &[token], 1, seq.pairs_from);
            m.device.write(s.pairs.at(), tokens.toks.as_bytes())?;
            let mut step = self.new_step(&tokens, false, None);
            (step.toks, step.turns) = (&s.pairs, &s.pair_turns);
            mtp::run(&mut step, w, s.pair_hidden.at(), s.wanted.at(), 1)?;
            m.device.copy(s.pair_hidden.at(), s.streams[step.side].at(), wide)?;
            token = self.pick()?;
            *out = token;
        }
        Ok(n)
    }

    /// The id with the largest logit of the first row, the lower one on ties.
    fn pick(&self) -> Result<TokenId> {
        let (m, s) = (&self.model, &self.model.scratch);
        let mut args = Args::new().ptr(s.logits.at()).int(m.dims.n_vocab).ptr(s.picks.at());
        m.device.launch("argmax", Geometry::new(1, 1, 1024), &mut args)?;
        let mut id = [0; 4];
        m.device.read(s.picks.at(), &mut id)?;
        Ok(TokenId(u32::from_le_bytes(id)))
    }

    /// Runs the MTP block over the pairs `(hidden[i], next[i])` at positions `0..`, on a window of
    /// its own; for comparison with references. As the CPU runner's.
    pub fn mtp_forward(&mut self, hidden: &[f32], next: &[TokenId]) -> Result<Vec<f32>> {
        let dims = self.model.dims.clone();
        let width = dims.n_hc * dims.n_embd;
        if hidden.len() != next.len() * width {
            let (found, n) = (hidden.len(), next.len());
            return Err(Error::Span(format!("{found} values for {n} states of {width}")));
        }
        next.iter().try_for_each(|id| self.check_token(*id))?;
        if self.model.weights.mtp.is_none() {
            return Err(Error::Unsupported("no MTP block is loaded; give --mtp FILE".to_owned()));
        }
        let cap = u32::try_from(next.len()).expect("a reference is short");
        let id = self.open_seq(cap.max(1))?;
        self.wanted.clear();
        let mut probe = self.probe.take();
        let result = self.mtp_rows(hidden, next, width, id, &mut probe);
        self.probe = probe;
        self.close_seq(id);
        self.watch(result)
    }

    fn mtp_rows(
        &self,
        hidden: &[f32],
        next: &[TokenId],
        width: usize,
        id: SeqId,
        probe: &mut Option<Box<dyn Probe>>,
    ) -> Result<Vec<f32>> {
        let ix = self.index(id)?;
        let (m, s) = (&self.model, &self.model.scratch);
        let w = m.weights.mtp.as_ref().expect("checked by the caller");
        let mut logits = Vec::new();
        m.device.write(s.wanted.at(), &0_i32.to_le_bytes())?;
        for (pos, (h, id)) in (0u32..).zip(hidden.chunks(width).zip(next)) {
            let mut tokens = Tokens::default();
            tokens.push(ix, &self.seqs[ix], pos, &[*id], 1, 0);
            m.device.write(s.pairs.at(), tokens.toks.as_bytes())?;
            m.device.write(s.pair_hidden.at(), h.as_bytes())?;
            let mut step = self.new_step(&tokens, false, probe.as_deref_mut());
            (step.toks, step.turns) = (&s.pairs, &s.pair_turns);
            mtp::run(&mut step, w, s.pair_hidden.at(), s.wanted.at(), 1)?;
            self.take_logits(1, &mut logits)?;
            if let Some(probe) = probe.as_deref_mut() {
                let n = m.dims.n_vocab;
                probe.record(Place::Mtp, Stage::Logits, pos, &[1, n], &logits[logits.len() - n..]);
            }
        }
        Ok(logits)
    }
}
