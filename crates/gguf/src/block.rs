//! The blocks of the quantised formats as they lie in the file (§6), without alignment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::TensorType;

/// A block format whose blocks can be viewed in place.
pub trait Block: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {
    /// The tensor type made of these blocks.
    const TYPE: TensorType;
}

/// `bytes` as blocks; they must be a whole number of blocks.
pub fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    assert_whole::<B>(bytes.len());
    <[B]>::ref_from_bytes(bytes).expect("blocks have no alignment and any bits are valid")
}

/// `bytes` as blocks to be written; they must be a whole number of blocks.
pub fn blocks_mut<B: Block>(bytes: &mut [u8]) -> &mut [B] {
    assert_whole::<B>(bytes.len());
    <[B]>::mut_from_bytes(bytes).expect("blocks have no alignment and any bits are valid")
}

fn assert_whole<B: Block>(len: usize) {
    assert!(len.is_multiple_of(size_of::<B>()), "{len} bytes are no whole {} blocks", B::TYPE);
}

/// A little-endian IEEE binary16 at any address.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct F16(pub [u8; 2]);

impl F16 {
    /// Its value.
    pub fn get(self) -> f32 {
        half::f16::from_le_bytes(self.0).to_f32()
    }

    /// The nearest one, ties to even.
    pub fn new(value: f32) -> Self {
        Self(half::f16::from_f32(value).to_le_bytes())
    }
}

/// 32 elements: `x[i] = d · q[i]` (§6.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Q8_0 {
    /// Scale.
    pub d: F16,
    /// Values.
    pub q: [i8; 32],
}

/// 256 elements in 16 sub-blocks: `x = d · scale · q − dmin · min` (§6.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Q2K {
    /// Sub-block `s`: scale in the low nibble, minimum in the high nibble.
    pub scales: [u8; 16],
    /// Element `128n + 32j + l` is bits `2j..2j+2` of byte `32n + l`.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minima.
    pub dmin: F16,
}

/// 256 elements in 8 sub-blocks: `x = d · scale · q − dmin · min` (§6.5).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Q4K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minima.
    pub dmin: F16,
    /// 8 scales and 8 minima of 6 bits, see [`Q4K::scale_min`].
    pub scales: [u8; 12],
    /// Element `64k + l` is the low nibble of byte `32k + l`, element `64k + 32 + l` the high one.
    pub qs: [u8; 128],
}

impl Q4K {
    /// Scale and minimum of sub-block `j` (32 elements).
    pub const fn scale_min(&self, j: usize) -> (u8, u8) {
        let s = &self.scales;
        if j < 4 {
            (s[j] & 63, s[j + 4] & 63)
        } else {
            ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4)
        }
    }

    /// Packs 6-bit scales and minima.
    pub fn pack_scales(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
        std::array::from_fn(|i| match i {
            0..4 => scales[i] | (scales[i + 4] >> 4) << 6,
            4..8 => mins[i - 4] | (mins[i] >> 4) << 6,
            _ => (scales[i - 4] & 15) | (mins[i - 4] & 15) << 4,
        })
    }
}

/// 256 elements in 8 groups of 32 (§6.6): `x = d · (0.5 + scale) · 0.25 · sign · magnitude`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Iq2Xxs {
    /// Scale.
    pub d: F16,
    /// The groups.
    pub groups: [Iq2Group; 8],
}

/// 32 elements of an [`Iq2Xxs`] block.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Iq2Group {
    /// Four indices into [`crate::tables::IQ2_XXS_GRID`], 8 elements each.
    pub index: [u8; 4],
    /// Little-endian u32: four 7-bit sign selectors from bit 0, the scale in bits 28 to 31.
    pub signs_scale: [u8; 4],
}

/// 32 elements: `x = e2m1 · 2^(e − 127)` (§6.7).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Mxfp4 {
    /// E8M0 scale.
    pub e: u8,
    /// Element `l` is the low nibble of byte `l`, element `l + 16` the high one.
    pub qs: [u8; 16],
}

macro_rules! block {
    ($($block:ident),*) => {$(
        impl Block for $block {
            const TYPE: TensorType = TensorType::$block;
        }
        const _: () = assert!(size_of::<$block>() == TensorType::$block.block_bytes());
    )*};
}
block!(Q8_0, Q2K, Q4K, Iq2Xxs, Mxfp4);
