//! Which roundings of the model's own inference graph are simulated: a typed switch.

/// How a profile rounds (§2.0). One value for a loaded model, never changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each with a meaning")]
pub struct Numerics {
    /// E4M3 round trip of the non-rope part of every attention row, blocks of 64 (§6.9).
    pub kv_fp8: bool,
    /// Hadamard rotation and E2M1 round trip of indexer queries and rows, blocks of 32 (§6.10).
    pub index_fp4: bool,
    /// Attention rows, and index rows, are rounded to f16.
    pub kv_f16: bool,
    /// Activations are quantised to int8: `Q8_0` blocks before `Q8_0` matrices, `Q8_K` blocks
    /// before routed experts (§6.2, §6.4).
    pub act_q8: bool,
    /// Rotation angle is the rounded f32 product of position and f32 frequency (§2.5), else f64.
    pub rope_f32: bool,
}

impl Numerics {
    /// The bare architecture: weights dequantised, nothing rounded, as float references have it.
    pub const PLAIN: Self =
        Self { kv_fp8: false, index_fp4: false, kv_f16: false, act_q8: false, rope_f32: false };
    /// Plain with the FP8 and FP4 simulation of the official code.
    pub const OFFICIAL: Self =
        Self { kv_fp8: true, index_fp4: true, kv_f16: false, act_q8: false, rope_f32: true };
    /// What the C engine's CPU path computes, with f64 angles as in the numpy reference.
    pub const DS4: Self =
        Self { kv_fp8: true, index_fp4: true, kv_f16: true, act_q8: true, rope_f32: false };
    /// Profile G, the product's default: `DS4` with the angles the model was trained with.
    pub const PROFILE_G: Self = Self { rope_f32: true, ..Self::DS4 };
}
