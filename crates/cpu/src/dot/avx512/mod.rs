//! AVX-512 kernels for processors with VNNI, VBMI and GFNI (Ice Lake, Zen 4 and later).
//!
//! `dpbusd` multiplies unsigned by signed bytes and adds four products to 32 bits. Where a weight
//! has a sign, something else gives: the weight is raised and the sum begins with what that makes
//! it too large by, the activation takes the sign, or the activation is raised instead.
//!
//! Contains `unsafe`: loads and stores, and calls of functions compiled for these instructions.

#![expect(clippy::needless_range_loop, reason = "lanes of several arrays are numbered together")]
#![cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the intrinsics' names are their own prefix")
)]

mod dense;
mod fill;
mod gemm;
mod iq2;
mod pairs;
mod rows;

use std::arch::x86_64::*;

use ds4_gguf::TensorType;

use super::Tile;

/// Computes the tile; see [`super::tile`].
///
/// # Safety
/// The processor has AVX-512 with VL, BW, VNNI and VBMI, and GFNI.
pub(super) unsafe fn tile(t: &Tile<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        let done = if t.toks.n < few(t.ty) { rows::tile(t) } else { gemm::tile(t) };
        if !done {
            dense::tile(t);
        }
    }
}

/// Number of tokens from which on unpacking a panel pays, measured.
fn few(ty: TensorType) -> usize {
    match ty {
        TensorType::Mxfp4 => 10,
        TensorType::Q8_0 => 6,
        _ => 5,
    }
}

/// 64 bytes.
#[target_feature(enable = "avx512f")]
fn load<T: Copy, const L: usize>(b: &[T; L]) -> __m512i {
    const { assert!(size_of::<T>() * L == 64) };
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(b.as_ptr().cast()) }
}

/// 64 bytes.
#[target_feature(enable = "avx512f")]
fn store<T: Copy, const L: usize>(b: &mut [T; L], v: __m512i) {
    const { assert!(size_of::<T>() * L == 64) };
    // SAFETY: 64 writable bytes of integers; the store needs no alignment.
    unsafe { _mm512_storeu_si512(b.as_mut_ptr().cast(), v) }
}

/// 16 floats.
#[target_feature(enable = "avx512f")]
fn load_ps(b: &[f32; 16]) -> __m512 {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(b.as_ptr()) }
}

/// 16 floats.
#[target_feature(enable = "avx512f")]
fn store_ps(b: &mut [f32; 16], v: __m512) {
    // SAFETY: 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(b.as_mut_ptr(), v) }
}

/// Two halves.
#[target_feature(enable = "avx512f")]
fn both(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// The sum of the halves.
#[target_feature(enable = "avx512f")]
fn fold(v: __m512i) -> __m256i {
    _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
}
