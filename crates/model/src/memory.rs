//! How much memory a sequence takes: the one plan from which runners allocate and reports count.
//!
//! Rings are indexed by position and have a margin, so that going back is setting the length back
//! (§3). Sizes are in f32 values, as the CPU keeps them.

use crate::{Dims, INDEXED_RATIO};

/// Tokens a sequence can be set back without a replay: the margin of every ring.
pub const ROLLBACK_MAX: usize = 64;
/// Longest proposal of `draft`: its rows stand in the MTP ring beyond the sequence's end.
pub const DRAFT_MAX: usize = 16;

/// Size of a table of f32 values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Rows, or slots of a ring.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
}

impl Table {
    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        self.rows as u64 * self.width as u64 * 4
    }
}

/// What one compressor keeps (§2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompPlan {
    /// Tokens of a window.
    pub ratio: usize,
    /// Ring of projections, twice: `kv_t` and `sc_t`, `[lanes · dim]` per position.
    pub ring: Table,
    /// Completed rows, `[dim]` each.
    pub rows: Table,
}

impl CompPlan {
    fn new(ratio: usize, dim: usize, cap: u32) -> Self {
        let lanes = Dims::comp_lanes(ratio);
        Self {
            ratio,
            ring: Table { rows: lanes * ratio + ROLLBACK_MAX, width: lanes * dim },
            rows: Table { rows: cap as usize / ratio, width: dim },
        }
    }
}

/// What one trunk layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// Ring of raw rows: the margin and the window without the token itself, which is in the chunk.
    pub raw: Table,
    /// Present when the ratio is not 0.
    pub comp: Option<CompPlan>,
    /// Present when the ratio is 4.
    pub index: Option<CompPlan>,
}

impl LayerPlan {
    fn new(dims: &Dims, ratio: usize, cap: u32) -> Self {
        let comp = |on: bool, dim| on.then(|| CompPlan::new(ratio, dim, cap));
        Self {
            raw: Table { rows: dims.window - 1 + ROLLBACK_MAX, width: dims.head_dim },
            comp: comp(ratio != 0, dims.head_dim),
            index: comp(ratio == INDEXED_RATIO, dims.index_dim),
        }
    }
}

/// What the MTP block keeps (§4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MtpPlan {
    /// Ring of raw rows, with room for a proposal beyond the end.
    pub raw: Table,
    /// Ring of the trunk's final streams: `[n_hc · n_embd]` per position.
    pub hidden: Table,
}

/// Everything a sequence keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqPlan {
    /// Tokens the sequence can hold.
    pub cap: u32,
    /// One per trunk layer.
    pub layers: Vec<LayerPlan>,
    /// Present when an MTP block is loaded.
    pub mtp: Option<MtpPlan>,
}

/// Bytes of a sequence by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqBytes {
    /// Raw rings of the trunk.
    pub raw: u64,
    /// Compressed attention rows.
    pub comp: u64,
    /// Index rows.
    pub index: u64,
    /// Rings of the compressors.
    pub rings: u64,
    /// All of the MTP block.
    pub mtp: u64,
}

impl SeqBytes {
    /// The sum.
    pub const fn total(&self) -> u64 {
        self.raw + self.comp + self.index + self.rings + self.mtp
    }
}

impl SeqPlan {
    /// The plan of a sequence of `cap` tokens.
    pub fn new(dims: &Dims, cap: u32, with_mtp: bool) -> Self {
        let wide = dims.n_hc * dims.n_embd;
        let raw_rows = dims.window - 1 + ROLLBACK_MAX + DRAFT_MAX;
        let mtp = MtpPlan {
            raw: Table { rows: raw_rows, width: dims.head_dim },
            hidden: Table { rows: ROLLBACK_MAX + 1, width: wide },
        };
        Self {
            cap,
            layers: dims.ratios.iter().map(|r| LayerPlan::new(dims, *r, cap)).collect(),
            mtp: with_mtp.then_some(mtp),
        }
    }

    /// Bytes by kind.
    pub fn bytes(&self) -> SeqBytes {
        let mut sum = SeqBytes::default();
        for layer in &self.layers {
            sum.raw += layer.raw.bytes();
            sum.comp += layer.comp.map_or(0, |c| c.rows.bytes());
            sum.index += layer.index.map_or(0, |c| c.rows.bytes());
            let ring = |c: Option<CompPlan>| c.map_or(0, |c| 2 * c.ring.bytes());
            sum.rings += ring(layer.comp) + ring(layer.index);
        }
        sum.mtp = self.mtp.map_or(0, |m| m.raw.bytes() + m.hidden.bytes());
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::flash;

    #[test]
    fn rows_of_a_million_tokens_are_the_published_figure() {
        let bytes = SeqPlan::new(&flash(), 1 << 20, false).bytes();
        // §3: 13 760 bytes per token of f32 rows, 13.44 GiB at 1M.
        assert_eq!(bytes.comp + bytes.index, 13_760 << 20);
        // §3: raw rings of 128 rows are 11.3 MB; ours have the margin.
        assert_eq!(bytes.raw, 43 * (127 + 64) * 512 * 4);
        assert_eq!(bytes.mtp, 0);
    }

    #[test]
    fn rings_without_margin_are_the_published_frontier() {
        // §3: 64 KiB + 16 KiB of an indexed layer, 512 KiB of a dense one; the margin on top.
        let plan = SeqPlan::new(&flash(), 4096, true);
        let bare = |c: CompPlan| {
            let rows = c.ring.rows - ROLLBACK_MAX;
            2 * Table { rows, ..c.ring }.bytes()
        };
        let sum: u64 = plan.layers.iter().flat_map(|l| [l.comp, l.index]).flatten().map(bare).sum();
        assert_eq!(sum, (21 * 80 + 20 * 512) * 1024);
        assert!(plan.bytes().mtp > 0);
    }
}
