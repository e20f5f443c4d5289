//! The element and block formats a tensor may have, with their sizes.
//!
//! Facts: architecture.md §6 (sizes and layouts), ggml type ids as stored in the file.

/// Storage format of one tensor. Blocks run along the contiguous (input) dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Upper half of an IEEE binary32.
    Bf16,
    /// 32-bit signed integer (expert ids of hash-routed layers).
    I32,
    /// 32 × int8 with one f16 scale (34 bytes).
    Q8_0,
    /// 256 × 2 bit, 16 sub-blocks with 4-bit scale and minimum (84 bytes).
    Q2K,
    /// 256 × 4 bit, 8 sub-blocks with 6-bit scale and minimum (144 bytes).
    Q4K,
    /// 256 elements from a codebook of 8-vectors, signs and 4-bit scales (66 bytes).
    Iq2Xxs,
    /// 32 × E2M1 with one E8M0 scale (17 bytes).
    Mxfp4,
}

impl TensorType {
    /// Every supported type.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::I32,
        Self::Q8_0,
        Self::Q2K,
        Self::Q4K,
        Self::Iq2Xxs,
        Self::Mxfp4,
    ];

    /// The type with this ggml id, if supported.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }

    /// The ggml id stored in the file.
    pub const fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q4K => 12,
            Self::Iq2Xxs => 16,
            Self::I32 => 26,
            Self::Bf16 => 30,
            Self::Mxfp4 => 39,
        }
    }

    /// The field's name of the type, upper case as in other tools.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q4K => "Q4_K",
            Self::Iq2Xxs => "IQ2_XXS",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// Elements in one block (1 for plain types).
    pub const fn block_elems(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::I32 => 1,
            Self::Q8_0 | Self::Mxfp4 => 32,
            Self::Q2K | Self::Q4K | Self::Iq2Xxs => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q4K => 144,
            Self::Iq2Xxs => 66,
            Self::Mxfp4 => 17,
        }
    }

    /// Bytes of a row of `elems` elements; `None` if it is not a whole number of blocks or
    /// overflows.
    pub const fn row_bytes(self, elems: usize) -> Option<usize> {
        if !elems.is_multiple_of(self.block_elems()) {
            return None;
        }
        (elems / self.block_elems()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How messages call a type that is not supported: ggml's name for it where there is one.
pub(crate) fn foreign_name(id: u32) -> String {
    let name = match id {
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        11 => "Q3_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        _ => return format!("{id} (unknown)"),
    };
    name.to_owned()
}
