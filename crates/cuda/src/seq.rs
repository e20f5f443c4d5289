//! What a sequence remembers on the device: rings by position and rows that only grow (§3), in one
//! piece of memory, with the addresses the kernels need in a table.
//!
//! As on the CPU every counter follows from the sequence's length.

use std::sync::Arc;

use ds4_model::memory::{DRAFT_MAX, ROLLBACK_MAX};
use ds4_model::{Dims, Error, INDEXED_RATIO, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::{Buf, Device};
use crate::packed::{RowForm, RowForms};

/// [`ROLLBACK_MAX`] as a difference of positions.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const MARGIN: u32 = ROLLBACK_MAX as u32;
/// Final streams kept (`HIDDEN_SLOTS` of `seq.cuh`).
pub(crate) const HIDDEN_SLOTS: usize = ROLLBACK_MAX + 1;

/// `SeqLayer` of `seq.cuh`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct LayerAddresses {
    raw: u64,
    comp: u64,
    idx: u64,
    comp_kv: u64,
    comp_sc: u64,
    idx_kv: u64,
    idx_sc: u64,
    hidden: u64,
}

#[cfg(test)]
impl LayerAddresses {
    /// With attention rows only.
    pub(crate) fn of_rows(raw: u64, comp: u64) -> Self {
        Self { raw, comp, ..Self::default() }
    }
}

/// A part of the sequence's memory: `rows` rows of `width` values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part {
    pub offset: usize,
    pub rows: usize,
    pub width: usize,
    pub form: RowForm,
}

impl Part {
    const fn bytes(self) -> usize {
        self.rows * self.row_bytes()
    }

    /// Bytes of a row.
    pub(crate) const fn row_bytes(self) -> usize {
        self.form.bytes(self.width)
    }
}

/// Ring and rows of a compressor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompParts {
    pub ratio: usize,
    pub kv: Part,
    pub score: Part,
    pub rows: Part,
}

/// One layer's parts; the last place is the MTP block's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerParts {
    pub raw: Part,
    pub comp: Option<CompParts>,
    pub index: Option<CompParts>,
    pub hidden: Option<Part>,
}

/// Where everything of a sequence of some capacity lies.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub layers: Vec<LayerParts>,
    pub bytes: usize,
}

/// Slots of a raw ring (`RAW_SLOTS` of `seq.cuh`).
pub(crate) fn raw_slots(dims: &Dims) -> usize {
    dims.window - 1 + ROLLBACK_MAX + DRAFT_MAX
}

impl Layout {
    /// Of a sequence of `cap` tokens.
    pub(crate) fn new(dims: &Dims, forms: RowForms, cap: u32, with_mtp: bool) -> Self {
        let mut bytes = 0;
        let mut part = |rows: usize, width: usize, form: RowForm| {
            let part = Part { offset: bytes, rows, width, form };
            bytes += part.bytes().next_multiple_of(256);
            part
        };
        let mut comp = |ratio: usize, dim: usize, form: RowForm| {
            let lanes = Dims::comp_lanes(ratio);
            let slots = lanes * ratio + ROLLBACK_MAX;
            CompParts {
                ratio,
                kv: part(slots, lanes * dim, RowForm::F32),
                score: part(slots, lanes * dim, RowForm::F32),
                rows: part(cap as usize / ratio, dim, form),
            }
        };
        let mut layers = Vec::new();
        for &ratio in &dims.ratios {
            let comp_parts = (ratio != 0).then(|| comp(ratio, dims.head_dim, forms.kv));
            let index = (ratio == INDEXED_RATIO).then(|| comp(ratio, dims.index_dim, forms.index));
            layers.push((comp_parts, index));
        }
        let mut layers: Vec<LayerParts> = layers
            .into_iter()
            .map(|(comp, index)| LayerParts {
                raw: part(raw_slots(dims), dims.head_dim, forms.kv),
                comp,
                index,
                hidden: None,
            })
            .collect();
        if with_mtp {
            layers.push(LayerParts {
                raw: part(raw_slots(dims), dims.head_dim, forms.kv),
                comp: None,
                index: None,
                hidden: Some(part(HIDDEN_SLOTS, dims.n_hc * dims.n_embd, RowForm::F32)),
            });
        }
        Self { layers, bytes }
    }
}

/// One open sequence.
pub(crate) struct Seq {
    /// Tokens in the sequence.
    pub len: u32,
    /// Tokens it can hold.
    pub cap: u32,
    /// Shortest length, other than 0, that it can be set back to.
    pub floor: u32,
    /// Its row in the table of addresses.
    pub row: usize,
    /// First pair whose row is known; 0 unless loaded from a state without them.
    pub pairs_from: u32,
    /// First position whose final streams are known.
    pub hidden_from: u32,
    pub layout: Layout,
    memory: Buf,
}

impl Seq {
    /// An empty sequence.
    pub(crate) fn new(device: &Arc<Device>, layout: Layout, cap: u32, row: usize) -> Result<Self> {
        let memory = device.alloc(layout.bytes)?;
        Ok(Self { len: 0, cap, floor: 0, row, pairs_from: 0, hidden_from: 0, layout, memory })
    }

    /// The address of a part.
    pub(crate) fn at(&self, part: Part) -> u64 {
        self.memory.at() + part.offset as u64
    }

    /// Its row of the table of addresses.
    pub(crate) fn addresses(&self) -> Vec<LayerAddresses> {
        let at = |p: Option<Part>| p.map_or(0, |p| self.at(p));
        let layer = |l: &LayerParts| LayerAddresses {
            raw: self.at(l.raw),
            comp: at(l.comp.map(|c| c.rows)),
            idx: at(l.index.map(|c| c.rows)),
            comp_kv: at(l.comp.map(|c| c.kv)),
            comp_sc: at(l.comp.map(|c| c.score)),
            idx_kv: at(l.index.map(|c| c.kv)),
            idx_sc: at(l.index.map(|c| c.score)),
            hidden: at(l.hidden),
        };
        self.layout.layers.iter().map(layer).collect()
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
            (self.floor, self.pairs_from, self.hidden_from) = (0, 0, 0);
        }
        self.len = len;
        Ok(())
    }

    /// Rows `from..to` of a ring by position, or of a table by number, as f32.
    pub(crate) fn rows(&self, device: &Device, part: Part, from: u32, to: u32) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity((to - from) as usize * part.width);
        for (slot, n) in runs(part.rows, from, to) {
            let mut bytes = vec![0; n * part.row_bytes()];
            device.read(self.at(part) + (slot * part.row_bytes()) as u64, &mut bytes)?;
            part.form.unpack(&bytes, part.width, &mut values);
        }
        Ok(values)
    }

    /// Stores rows from `from` on; of more rows than a ring has slots only the last ones.
    pub(crate) fn set_rows(
        &self,
        device: &Device,
        part: Part,
        from: u32,
        values: &[f32],
    ) -> Result<()> {
        let n = values.len() / part.width.max(1);
        let skip = n.saturating_sub(part.rows);
        let values = &values[skip * part.width..];
        let count = |n: usize| u32::try_from(n).expect("fewer than positions");
        let (from, to) = (from + count(skip), from + count(n));
        let mut rest = values;
        for (slot, n) in runs(part.rows, from, to) {
            let own;
            (own, rest) = rest.split_at(n * part.width);
            let at = self.at(part) + (slot * part.row_bytes()) as u64;
            device.write(at, &part.form.pack(own, part.width))?;
        }
        Ok(())
    }
}

/// Runs of slots that hold positions `from..to` of a ring.
fn runs(slots: usize, from: u32, to: u32) -> Vec<(usize, usize)> {
    let (mut at, end) = (from as usize, to as usize);
    let mut runs = Vec::new();
    while at < end {
        let slot = at % slots;
        let n = (end - at).min(slots - slot);
        runs.push((slot, n));
        at += n;
    }
    runs
}

/// `Tok` of `common.cuh`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, FromBytes, Immutable)]
#[repr(C)]
pub(crate) struct Tok {
    pub id: i32,
    pub pos: i32,
    pub seq: i32,
    pub start: i32,
    pub pos0: i32,
    pub n: i32,
    pub from: i32,
    pub pad: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_wrap_around_the_ring() {
        assert_eq!(runs(10, 3, 5), [(3, 2)]);
        assert_eq!(runs(10, 8, 13), [(8, 2), (0, 3)]);
        assert_eq!(runs(10, 25, 35), [(5, 5), (0, 5)]);
        assert_eq!(runs(10, 7, 7), []);
    }

    const PACKED: RowForms = RowForms { kv: RowForm::Fp8 { plain: 448 }, index: RowForm::Fp4 };

    /// Rows that grow with the sequence take 592 and 80 bytes for the 1,024 and 256 of f16.
    #[test]
    fn packed_rows_make_sequences_small() {
        let dims = ds4_model::shapes::flash();
        let plain = RowForms { kv: RowForm::F16, index: RowForm::F16 };
        let grown = |forms: RowForms| {
            let bytes = |cap: u32| Layout::new(&dims, forms, cap, false).bytes;
            bytes(1 << 17) - bytes(1 << 16)
        };
        let rows = |kv: usize, index: usize| -> usize {
            let of = |ratio: usize| {
                let n = (1_usize << 16).checked_div(ratio).unwrap_or(0);
                n * (kv + if ratio == INDEXED_RATIO { index } else { 0 })
            };
            dims.ratios.iter().map(|ratio| of(*ratio)).sum()
        };
        assert_eq!(grown(plain), rows(1024, 256));
        assert_eq!(grown(PACKED), rows(592, 80));
        let fixed = |forms| Layout::new(&dims, forms, 0, false).bytes;
        assert!(fixed(PACKED) < fixed(plain));
    }

    #[test]
    fn parts_do_not_overlap() {
        let dims = ds4_model::shapes::flash_with(6);
        let layout = Layout::new(&dims, PACKED, 1000, true);
        let mut parts: Vec<Part> = Vec::new();
        for l in &layout.layers {
            parts.push(l.raw);
            parts.extend(l.hidden);
            for c in [l.comp, l.index].into_iter().flatten() {
                parts.extend([c.kv, c.score, c.rows]);
            }
        }
        parts.sort_by_key(|p| p.offset);
        assert!(parts.windows(2).all(|w| w[0].offset + w[0].bytes() <= w[1].offset));
        let last = parts.last().unwrap();
        assert!(last.offset + last.bytes() <= layout.bytes);
        assert_eq!(layout.layers.len(), 7);
    }
}
