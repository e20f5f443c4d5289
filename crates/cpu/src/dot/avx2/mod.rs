//! AVX2 kernels: row kernels for one token and a few, panels for many, and f32 products.
//!
//! The integer products follow one pattern. `maddubs` multiplies unsigned by signed bytes, so a
//! signed weight lends its sign to the activation; a few sums of two products fit 16 bits in every
//! format. `madd` with the sub-block's scale, or with ones, then widens to 32 bits.

#![expect(clippy::needless_range_loop, reason = "lanes of several arrays are numbered together")]
#![cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the intrinsics' names are their own prefix")
)]

mod dense;
mod fill;
mod gemm;
mod iq2;
pub(super) mod rows;

use std::arch::x86_64::*;

use ds4_gguf::block::F16;

use super::Tile;

/// Computes the tile; see [`super::tile`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(t: &Tile<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        let done = if t.toks.n < FEW { rows::tile(t) } else { gemm::tile(t) };
        if !done {
            dense::tile(t);
        }
    }
}

/// Number of tokens from which on unpacking a panel pays, measured for every format.
const FEW: usize = 6;

/// 32 bytes.
#[target_feature(enable = "avx2")]
pub(super) fn load<T: Copy, const L: usize>(b: &[T; L]) -> __m256i {
    const { assert!(size_of::<T>() * L == 32) };
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
}

/// 16 bytes.
#[target_feature(enable = "avx2")]
pub(super) fn load16<T: Copy, const L: usize>(b: &[T; L]) -> __m128i {
    const { assert!(size_of::<T>() * L == 16) };
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(b.as_ptr().cast()) }
}

/// 8 floats.
#[target_feature(enable = "avx2")]
pub(super) fn load_ps(b: &[f32; 8]) -> __m256 {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(b.as_ptr()) }
}

/// 32 bytes.
#[target_feature(enable = "avx2")]
fn store<T: Copy, const L: usize>(b: &mut [T; L], v: __m256i) {
    const { assert!(size_of::<T>() * L == 32) };
    // SAFETY: 32 writable bytes of integers; the store needs no alignment.
    unsafe { _mm256_storeu_si256(b.as_mut_ptr().cast(), v) }
}

/// 16 bytes.
#[target_feature(enable = "avx2")]
fn store16<T: Copy, const L: usize>(b: &mut [T; L], v: __m128i) {
    const { assert!(size_of::<T>() * L == 16) };
    // SAFETY: 16 writable bytes of integers; the store needs no alignment.
    unsafe { _mm_storeu_si128(b.as_mut_ptr().cast(), v) }
}

/// 8 floats.
#[target_feature(enable = "avx2")]
fn store_to_ps(y: &mut [f32; 8], v: __m256) {
    // SAFETY: `y` has room for 8 values; the store needs no alignment.
    unsafe { _mm256_storeu_ps(y.as_mut_ptr(), v) }
}

/// One f16 per lane. Not from an array: it would be written in parts and read as a whole, which
/// waits.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn f16s(v: impl Fn(usize) -> F16) -> __m256 {
    let v = |lane| i16::from_le_bytes(v(lane).0);
    _mm256_cvtph_ps(_mm_set_epi16(v(7), v(6), v(5), v(4), v(3), v(2), v(1), v(0)))
}

/// 8 floats.
#[target_feature(enable = "avx2")]
pub(super) fn store_ps(v: __m256) -> [f32; 8] {
    let mut y = [0.0; 8];
    store_to_ps(&mut y, v);
    y
}
