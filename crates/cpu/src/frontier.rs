//! The end of a sequence in canonical form: the rows that later tokens still need from the rings,
//! in order of position and independent of any ring's size.
//!
//! Together with the rows that only grow this is all of a sequence. It is what a mark holds, what
//! a fork starts from and what is written to disk.

use ds4_model::{Dims, Error, INDEXED_RATIO, Mark, Result};

use crate::seq::{CompState, LayerState, MtpState, Ring, Seq};

/// Ring contents at a sequence's end.
#[derive(Clone, Debug, Default)]
pub struct Frontier {
    /// Tokens in the sequence.
    pub len: u32,
    /// One per trunk layer.
    pub layers: Vec<LayerEnd>,
    /// Present when the sequence had an MTP ring.
    pub mtp: Option<MtpEnd>,
}

/// The end of one layer's rings.
#[derive(Clone, Debug, Default)]
pub struct LayerEnd {
    /// Raw rows of the last `window − 1` positions.
    pub raw: Vec<f32>,
    /// Projections of the open window, and of the one before where windows overlap.
    pub comp: Option<CompEnd>,
    /// The same of the index compressor.
    pub index: Option<CompEnd>,
}

/// The end of a compressor's rings.
#[derive(Clone, Debug, Default)]
pub struct CompEnd {
    /// `kv_t` per position.
    pub kv: Vec<f32>,
    /// `sc_t` per position.
    pub score: Vec<f32>,
}

/// The end of the MTP rings.
#[derive(Clone, Debug, Default)]
pub struct MtpEnd {
    /// Raw rows of the last `window − 1` pairs.
    pub raw: Vec<f32>,
    /// The trunk's final streams at the last position; empty where unknown.
    pub hidden: Vec<f32>,
}

/// The end that a mark holds.
///
/// # Errors
/// [`Error::State`] for a mark of another kind of backend.
pub fn of_mark(mark: &Mark) -> Result<&Frontier> {
    let other = || Error::State("the mark belongs to another backend".to_owned());
    mark.state.downcast_ref().ok_or_else(other)
}

impl Frontier {
    /// Copies the end of `seq`.
    pub(crate) fn of(seq: &Seq, dims: &Dims) -> Self {
        let layer = |l: &LayerState| LayerEnd {
            raw: copy(&l.raw, first_raw(dims, seq.len), seq.len),
            comp: l.comp.as_ref().map(|c| CompEnd::of(c, seq.len)),
            index: l.index.as_ref().map(|c| CompEnd::of(c, seq.len)),
        };
        Self {
            len: seq.len,
            layers: seq.layers.iter().map(layer).collect(),
            mtp: seq.mtp.as_ref().map(|m| MtpEnd::of(m, dims, seq.len)),
        }
    }

    /// Makes `seq` end here; it already holds the rows that only grow. It cannot be set back
    /// further without a replay.
    pub(crate) fn restore(&self, dims: &Dims, seq: &mut Seq) {
        seq.set_len(self.len);
        seq.floor = self.len;
        for (layer, end) in seq.layers.iter_mut().zip(&self.layers) {
            layer.raw.extend(first_raw(dims, self.len), &end.raw);
            for (state, end) in [(&mut layer.comp, &end.comp), (&mut layer.index, &end.index)] {
                if let (Some(state), Some(end)) = (state, end) {
                    let first = state.needed_from(self.len);
                    state.kv.extend(first, &end.kv);
                    state.score.extend(first, &end.score);
                }
            }
        }
        if let Some(mtp) = &mut seq.mtp {
            mtp.restore(self.mtp.as_ref(), self.len);
        }
    }
}

impl CompEnd {
    fn of(state: &CompState, len: u32) -> Self {
        let first = state.needed_from(len);
        Self { kv: copy(&state.kv, first, len), score: copy(&state.score, first, len) }
    }
}

impl MtpEnd {
    fn of(state: &MtpState, dims: &Dims, len: u32) -> Self {
        let Some(last) = len.checked_sub(1) else { return Self::default() };
        let first = first_raw(dims, last).max(state.pairs_from.min(last));
        let known = last >= state.hidden_from;
        Self {
            raw: copy(&state.raw, first, last),
            hidden: if known { state.hidden.row(last).to_vec() } else { Vec::new() },
        }
    }
}

impl MtpState {
    /// Takes the rows of an end at length `len`; without one, pairs begin anew from there.
    fn restore(&mut self, end: Option<&MtpEnd>, len: u32) {
        (self.pairs_from, self.hidden_from) = (len, len);
        let (Some(end), Some(last)) = (end, len.checked_sub(1)) else { return };
        let rows = u32::try_from(end.raw.len() / self.raw.width()).expect("fewer than positions");
        if !end.hidden.is_empty() {
            self.pairs_from = last - rows;
            self.raw.extend(self.pairs_from, &end.raw);
            self.hidden_from = last;
            self.hidden.set(last, &end.hidden);
        }
    }
}

/// First position whose projections a later row still needs when the sequence has `len` tokens.
pub fn needed_from(ratio: usize, len: u32) -> u32 {
    let n = u32::try_from(ratio).expect("checked by Dims");
    let open = len - len % n;
    if ratio == INDEXED_RATIO { open.saturating_sub(n) } else { open }
}

/// First position whose raw row a token at position `len` sees.
pub fn first_raw(dims: &Dims, len: u32) -> u32 {
    let before = u32::try_from(dims.window - 1).expect("checked by Dims");
    len.saturating_sub(before)
}

fn copy(ring: &Ring, from: u32, to: u32) -> Vec<f32> {
    (from..to).flat_map(|pos| ring.row(pos).iter().copied()).collect()
}
