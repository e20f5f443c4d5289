//! What a sequence remembers: rings indexed by position, and rows that only grow (§3).
//!
//! Every counter follows from the sequence's length, so going back is setting the length back:
//! rows beyond it are stale and are overwritten before anyone reads them.

use ds4_model::memory::{CompPlan, LayerPlan, MtpPlan, ROLLBACK_MAX, SeqPlan, Table};
use ds4_model::{Error, Place, Result};

use crate::frontier::needed_from;
use crate::save::Grown;

/// [`ROLLBACK_MAX`] as a difference of positions.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const MARGIN: u32 = ROLLBACK_MAX as u32;

/// The last rows of a growing table; the row of position `p` is in slot `p mod slots`.
#[derive(Debug)]
pub(crate) struct Ring {
    width: usize,
    slots: usize,
    data: Vec<f32>,
}

impl Ring {
    fn new(plan: Table) -> Result<Self> {
        let mut data = reserve(plan)?;
        data.resize(plan.rows * plan.width, 0.0);
        Ok(Self { width: plan.width, slots: plan.rows, data })
    }

    /// Rows the ring can hold.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The row of position `pos`.
    pub(crate) fn row(&self, pos: u32) -> &[f32] {
        let slot = pos as usize % self.slots;
        &self.data[slot * self.width..][..self.width]
    }

    /// Stores the row of position `pos`.
    pub(crate) fn set(&mut self, pos: u32, row: &[f32]) {
        let slot = pos as usize % self.slots;
        self.data[slot * self.width..][..self.width].copy_from_slice(row);
    }

    /// Stores the rows of positions `pos0..`; of more rows than slots only the last ones.
    pub(crate) fn extend(&mut self, pos0: u32, rows: &[f32]) {
        let n = rows.len() / self.width;
        let skip = n.saturating_sub(self.slots);
        for (pos, row) in (pos0..).zip(rows.chunks_exact(self.width)).skip(skip) {
            self.set(pos, row);
        }
    }
}

/// Rows of a ring up to a position, and of the chunk being computed from there on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent<'a> {
    /// Rows before `pos0`.
    pub ring: &'a Ring,
    /// Rows of positions `pos0..`.
    pub chunk: &'a [f32],
    /// First position of the chunk.
    pub pos0: u32,
}

impl<'a> Recent<'a> {
    /// The row of position `pos`.
    pub(crate) fn row(&self, pos: u32) -> &'a [f32] {
        if pos < self.pos0 {
            return self.ring.row(pos);
        }
        let width = self.ring.width;
        &self.chunk[(pos - self.pos0) as usize * width..][..width]
    }
}

/// Rows that stay for the whole sequence, addressed by number.
#[derive(Debug)]
pub(crate) struct Rows {
    width: usize,
    data: Vec<f32>,
}

impl Rows {
    fn new(plan: Table) -> Result<Self> {
        Ok(Self { width: plan.width, data: reserve(plan)? })
    }

    /// Rows present.
    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.width
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Row `ix`.
    pub(crate) fn row(&self, ix: usize) -> &[f32] {
        &self.data[ix * self.width..][..self.width]
    }

    /// Rows `from..`, one after the other.
    pub(crate) fn tail(&self, from: usize) -> &[f32] {
        &self.data[from * self.width..]
    }

    /// Makes the table `len` rows long and returns the new ones, zeroed. Never beyond the
    /// capacity reserved at the start, so it does not allocate.
    pub(crate) fn grow(&mut self, len: usize) -> &mut [f32] {
        let from = self.data.len();
        assert!(len * self.width <= self.data.capacity(), "{len} rows do not fit");
        self.data.resize(len * self.width, 0.0);
        &mut self.data[from..]
    }

    fn truncate(&mut self, len: usize) {
        self.data.truncate(len * self.width);
    }
}

/// State of one compressor: the projections of recent tokens and the rows made so far (§2.7).
#[derive(Debug)]
pub(crate) struct CompState {
    /// Tokens of a window.
    pub ratio: usize,
    /// `kv_t`: `[lanes · dim]` per position.
    pub kv: Ring,
    /// `sc_t`, with `ape` added: `[lanes · dim]` per position.
    pub score: Ring,
    /// Completed rows.
    pub rows: Rows,
}

impl CompState {
    fn new(plan: CompPlan) -> Result<Self> {
        Ok(Self {
            ratio: plan.ratio,
            kv: Ring::new(plan.ring)?,
            score: Ring::new(plan.ring)?,
            rows: Rows::new(plan.rows)?,
        })
    }

    /// First position whose projections a later row still needs when the sequence has `len` tokens.
    pub(crate) fn needed_from(&self, len: u32) -> u32 {
        needed_from(self.ratio, len)
    }
}

/// State of one trunk layer.
#[derive(Debug)]
pub(crate) struct LayerState {
    /// Raw rows: `[head_dim]` per position.
    pub raw: Ring,
    /// Compressed attention rows, when the ratio is not 0.
    pub comp: Option<CompState>,
    /// Index rows, when the ratio is 4.
    pub index: Option<CompState>,
}

/// State of the MTP block: the pair at position `p` is (trunk state of `p`, token `p + 1`) (§4).
#[derive(Debug)]
pub(crate) struct MtpState {
    /// Raw rows of the pairs.
    pub raw: Ring,
    /// The trunk's final streams: `[n_hc · n_embd]` per position.
    pub hidden: Ring,
    /// First pair whose row is known; 0 unless loaded from a state without them.
    pub pairs_from: u32,
    /// First position whose final streams are known.
    pub hidden_from: u32,
}

/// One open sequence.
#[derive(Debug)]
pub(crate) struct Seq {
    /// Tokens in the sequence.
    pub len: u32,
    /// Tokens it can hold.
    pub cap: u32,
    /// Shortest length, other than 0, that it can be set back to.
    pub floor: u32,
    /// One per trunk layer.
    pub layers: Vec<LayerState>,
    /// Present when an MTP block is loaded.
    pub mtp: Option<MtpState>,
}

impl Seq {
    /// An empty sequence of the planned size.
    pub(crate) fn new(plan: &SeqPlan) -> Result<Self> {
        let layers = plan.layers.iter().map(LayerState::new);
        Ok(Self {
            len: 0,
            cap: plan.cap,
            floor: 0,
            layers: layers.collect::<Result<_>>()?,
            mtp: plan.mtp.as_ref().map(MtpState::new).transpose()?,
        })
    }

    /// The raw ring of a block.
    pub(crate) fn raw(&self, place: Place) -> &Ring {
        match place {
            Place::Layer(il) => &self.layers[il].raw,
            Place::Mtp | Place::Head => &self.mtp.as_ref().expect("an MTP block is loaded").raw,
        }
    }

    /// The raw ring of a block.
    pub(crate) fn raw_mut(&mut self, place: Place) -> &mut Ring {
        match place {
            Place::Layer(il) => &mut self.layers[il].raw,
            Place::Mtp | Place::Head => &mut self.mtp.as_mut().expect("an MTP block is loaded").raw,
        }
    }

    /// Counts `n` tokens whose rows have been written.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += u32::try_from(n).expect("checked against cap");
        self.floor = self.floor.max(self.len.saturating_sub(MARGIN));
    }

    /// Forgets the tokens from position `len` on.
    pub(crate) fn truncate(&mut self, len: u32) -> Result<()> {
        if len > self.len || (len < self.floor && len != 0) {
            return Err(Error::NeedsReplay { len, now: self.len });
        }
        if len == 0 {
            self.floor = 0;
            if let Some(mtp) = &mut self.mtp {
                (mtp.pairs_from, mtp.hidden_from) = (0, 0);
            }
        }
        self.set_len(len);
        Ok(())
    }

    /// Takes the rows that only grow from the first `len` tokens of `other`, a sequence of the same
    /// model.
    pub(crate) fn copy_rows(&mut self, other: &Self, len: u32) {
        for (to, from) in self.layers.iter_mut().zip(&other.layers) {
            for (to, from) in [(&mut to.comp, &from.comp), (&mut to.index, &from.index)] {
                if let (Some(to), Some(from)) = (to, from) {
                    let n = len as usize / to.ratio;
                    to.rows.grow(n).copy_from_slice(&from.rows.tail(0)[..n * from.rows.width]);
                }
            }
        }
    }

    /// Makes the sequence `len` tokens long; it holds at least their rows that only grow.
    pub(crate) fn set_len(&mut self, len: u32) {
        self.len = len;
        for layer in &mut self.layers {
            for comp in [&mut layer.comp, &mut layer.index].into_iter().flatten() {
                comp.rows.truncate(len as usize / comp.ratio);
            }
        }
    }
}

impl LayerState {
    /// Its rows that only grow.
    pub(crate) fn grown(&self) -> Grown<'_> {
        Grown { comp: grown(self.comp.as_ref()), index: grown(self.index.as_ref()) }
    }

    fn new(plan: &LayerPlan) -> Result<Self> {
        Ok(Self {
            raw: Ring::new(plan.raw)?,
            comp: plan.comp.map(CompState::new).transpose()?,
            index: plan.index.map(CompState::new).transpose()?,
        })
    }
}

impl MtpState {
    fn new(plan: &MtpPlan) -> Result<Self> {
        Ok(Self {
            raw: Ring::new(plan.raw)?,
            hidden: Ring::new(plan.hidden)?,
            pairs_from: 0,
            hidden_from: 0,
        })
    }
}

/// The rows of a compressor; none without one.
fn grown(comp: Option<&CompState>) -> &[f32] {
    comp.map_or(&[], |c| c.rows.tail(0))
}

/// An empty vector with room for a table.
fn reserve(plan: Table) -> Result<Vec<f32>> {
    let mut data = Vec::new();
    data.try_reserve_exact(plan.rows * plan.width)
        .map_err(|_| Error::Memory(format!("{} bytes for a sequence's rows", plan.bytes())))?;
    Ok(data)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "rows are copied")]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_last_rows() {
        let mut ring = Ring::new(Table { rows: 3, width: 1 }).unwrap();
        ring.extend(5, &[5.0, 6.0, 7.0, 8.0]);
        assert_eq!([6, 7, 8].map(|p| ring.row(p)[0]), [6.0, 7.0, 8.0]);
        ring.set(7, &[70.0]);
        let recent = Recent { ring: &ring, chunk: &[80.0, 90.0], pos0: 8 };
        assert_eq!([6, 7, 8, 9].map(|p| recent.row(p)[0]), [6.0, 70.0, 80.0, 90.0]);
    }

    #[test]
    fn the_way_back_ends_at_the_margin_of_the_longest_length() {
        let dims = ds4_model::shapes::flash_with(4);
        let mut seq = Seq::new(&SeqPlan::new(&dims, 1000, false)).unwrap();
        seq.advance(500);
        seq.truncate(450).unwrap();
        seq.advance(10);
        assert!(seq.truncate(435).is_err(), "the rings were written up to 500");
        seq.truncate(436).unwrap();
        assert!(seq.truncate(437).is_err(), "there is nothing ahead");
        seq.truncate(0).unwrap();
        seq.advance(3);
        seq.truncate(1).unwrap();
    }

    #[test]
    fn the_plan_is_what_is_allocated() {
        let plan = SeqPlan::new(&ds4_model::shapes::flash_with(4), 1000, true);
        let seq = Seq::new(&plan).unwrap();
        let ring = |r: &Ring| r.data.len();
        let comp = |c: &CompState| ring(&c.kv) + ring(&c.score) + c.rows.data.capacity();
        let mut values: usize = 0;
        for l in &seq.layers {
            values += ring(&l.raw);
            values += [&l.comp, &l.index].into_iter().flatten().map(comp).sum::<usize>();
        }
        let mtp = seq.mtp.as_ref().unwrap();
        values += ring(&mtp.raw) + ring(&mtp.hidden);
        assert_eq!(plan.bytes().total(), 4 * values as u64);
    }
}
