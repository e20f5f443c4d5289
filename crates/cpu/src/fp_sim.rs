//! Simulated low-precision storage: E4M3 and E2M1 round trips with power-of-two scales, and the
//! Hadamard rotation in front of the second. Rows stay `f32`; only their values are rounded.

use crate::vectorise::vectorised;

/// Width of an E4M3 block of an attention row (§6.9).
pub(crate) const FP8_BLOCK: usize = 64;
/// Width of an E2M1 block of an index row or query (§6.10).
pub(crate) const FP4_BLOCK: usize = 32;

/// Largest E4M3 magnitude.
const E4M3_MAX: f32 = 448.0;
/// Largest E2M1 magnitude.
const E2M1_MAX: f32 = 6.0;
/// Blocks below this magnitude are scaled as if they had it (§6.9).
const FP8_AMAX_MIN: f32 = 1e-4;
/// The same floor for E2M1: `6 · 2^−126` keeps the scale a normal number (§6.10).
const FP4_AMAX_MIN: f32 = 6.0 * f32::MIN_POSITIVE;

vectorised! {
    /// E4M3 round trip of `x` in blocks of [`FP8_BLOCK`] (§6.9).
    pub(crate) fn fp8_round_trip(x: &mut [f32]) {
        debug_assert!(x.len().is_multiple_of(FP8_BLOCK), "{} values in blocks of 64", x.len());
        for block in x.chunks_exact_mut(FP8_BLOCK) {
            let (up, down) = block_scale(block, FP8_AMAX_MIN, 1.0 / E4M3_MAX);
            for v in block {
                *v = round_e4m3((*v * down).clamp(-E4M3_MAX, E4M3_MAX)) * up;
            }
        }
    }

    /// E2M1 round trip of `x` in blocks of [`FP4_BLOCK`] (§6.10).
    pub(crate) fn fp4_round_trip(x: &mut [f32]) {
        debug_assert!(x.len().is_multiple_of(FP4_BLOCK), "{} values in blocks of 32", x.len());
        for block in x.chunks_exact_mut(FP4_BLOCK) {
            let (up, down) = block_scale(block, FP4_AMAX_MIN, 1.0 / E2M1_MAX);
            for v in block {
                *v = round_e2m1((*v * down).clamp(-E2M1_MAX, E2M1_MAX)) * up;
            }
        }
    }

    /// Hadamard rotation in natural (Sylvester) order, scaled by `1/√n`; `n` is a power of two (§2.8).
    pub(crate) fn hadamard(x: &mut [f32]) {
        let n = x.len();
        debug_assert!(n.is_power_of_two(), "{n} is not a power of two");
        let mut half = 1;
        while half < n {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the definition")]
        let scale = (1.0 / (n as f64).sqrt()) as f32;
        for v in x {
            *v *= scale;
        }
    }
}

/// Rounds to the nearest f16, as rows are stored in profile G.
pub(crate) fn f16_round_trip(x: &mut [f32]) {
    for v in x {
        *v = half::f16::from_f32(*v).to_f32();
    }
}

/// `(2^k, 2^−k)` with `k = ⌈log2(amax · max_inverse)⌉`, exact.
#[inline]
fn block_scale(block: &[f32], amax_min: f32, max_inverse: f32) -> (f32, f32) {
    let amax = block.iter().fold(amax_min, |m, v| m.max(v.abs()));
    let k = ceil_log2(amax * max_inverse);
    (exp2i(k), exp2i(-k))
}

/// `⌈log2 x⌉` of a positive normal number, read from its bits: a logarithm would be off by one
/// next to powers of two.
#[inline]
fn ceil_log2(x: f32) -> i32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23).cast_signed() - 127;
    exponent + i32::from(bits & 0x007f_ffff != 0)
}

/// `2^k`, exact where `f32` can hold it, down to the smallest subnormal.
#[inline]
fn exp2i(k: i32) -> f32 {
    match k {
        -126..=127 => f32::from_bits((k + 127).cast_unsigned() << 23),
        -149..=-127 => f32::from_bits(1 << (k + 149)),
        128.. => f32::INFINITY,
        _ => 0.0,
    }
}

/// Nearest E4M3 value of `|x| ≤ 448`, ties to even.
#[inline]
fn round_e4m3(x: f32) -> f32 {
    // Below 2^−6 values are multiples of 2^−9: the addition leaves exactly that unit in the last
    // place. Above, three mantissa bits stay.
    const UNIT: f32 = 1.5 * 16384.0; // 2^14 has a unit of 2^−9
    if x.abs() < 1.0 / 64.0 {
        return ((x.abs() + UNIT) - UNIT).copysign(x);
    }
    let bits = x.to_bits();
    let odd = (bits >> 20) & 1;
    // Wrapping: not-a-number may have all bits set.
    f32::from_bits(bits.wrapping_add(0x0007_ffff + odd) & 0xfff0_0000)
}

/// Nearest value of {0, ½, 1, 1½, 2, 3, 4, 6} of `|x| ≤ 6`, ties to the even code.
#[inline]
fn round_e2m1(x: f32) -> f32 {
    let a = x.abs();
    let (inverse, unit) = match a {
        a if a < 2.0 => (2.0, 0.5),
        a if a < 4.0 => (1.0, 1.0),
        _ => (0.5, 2.0),
    };
    ((a * inverse).round_ties_even() * unit).copysign(x)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "roundings are exact")]
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f32]) {
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!((f - e).abs() < 2e-6, "value {i}: found {f}, expected {e}");
        }
    }

    #[test]
    fn fp8_block_of_the_specification() {
        let mut x: Vec<f32> =
            (0..64).map(|i| (0.37 * i as f32).sin() * (1.0 + i as f32 / 16.0)).collect();
        let (up, _) = block_scale(&x, FP8_AMAX_MIN, 1.0 / E4M3_MAX);
        assert_eq!(up, 0.015_625);
        fp8_round_trip(&mut x);
        close(&x, &[0.0, 0.375, 0.75, 1.125, 1.25, 1.25, 1.125, 0.75]);
    }

    #[test]
    fn hadamard_and_fp4_of_the_specification() {
        let mut x: Vec<f32> = (0..128).map(|i| (0.11 * i as f32).cos()).collect();
        hadamard(&mut x);
        close(&x, &[0.843_078, 0.039_24, 0.078_718, -0.005_126, 0.159_381, -0.010_38]);
        let scale = |b: &[f32]| block_scale(b, FP4_AMAX_MIN, 1.0 / E2M1_MAX).0;
        assert_eq!((scale(&x[..32]), scale(&x[32..64])), (0.25, 1.0));
        fp4_round_trip(&mut x);
        close(&x, &[0.75, 0.0, 0.125, 0.0, 0.125, 0.0]);
        close(&x[32..], &[-4.0, 0.0, 0.5, 0.0, 1.0, 0.0]);
    }

    /// A file of `testdata/activations`.
    fn values(name: &str) -> Vec<f32> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/activations/");
        let bytes = std::fs::read(format!("{dir}{name}.f32")).unwrap();
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn round_trips_equal_the_reference_bit_for_bit() {
        let (mut fp8, mut fp4) = (values("act.in"), values("act.in"));
        assert_eq!(fp8.len(), 32 * 512);
        fp8_round_trip(&mut fp8);
        assert_eq!(fp8, values("act_fp8_kv64.out"));
        fp4_round_trip(&mut fp4);
        assert_eq!(fp4, values("act_fp4_32.out"));
    }

    #[test]
    fn hadamard_equals_the_reference() {
        let mut x = values("act.in");
        x.chunks_exact_mut(128).for_each(hadamard);
        let expected = values("hadamard128.out");
        for (x, e) in x.chunks_exact(128).zip(expected.chunks_exact(128)) {
            let scale = e.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            assert!(x.iter().zip(e).all(|(x, e)| (x - e).abs() <= 1e-6 * scale), "{x:?} {e:?}");
        }
    }

    #[test]
    fn e2m1_ties_go_to_the_even_code() {
        let ties = [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0)];
        for (x, expected) in ties.into_iter().chain([(5.0, 4.0), (6.0, 6.0)]) {
            assert_eq!(round_e2m1(x), expected, "{x}");
            assert_eq!(round_e2m1(-x), -expected, "-{x}");
        }
    }

    #[test]
    fn every_e4m3_value_and_midpoint() {
        let grid: Vec<f32> = (0u8..0x7f)
            .map(|code| {
                let (e, m) = (i32::from(code >> 3), f32::from(code & 7));
                if e == 0 { m * exp2i(-9) } else { (1.0 + m / 8.0) * exp2i(e - 7) }
            })
            .collect();
        for (i, &g) in grid.iter().enumerate() {
            assert_eq!(round_e4m3(g), g);
            assert_eq!(round_e4m3(-g), -g);
            let Some(&next) = grid.get(i + 1) else { continue };
            let even = if i % 2 == 0 { g } else { next };
            assert_eq!(round_e4m3(f32::midpoint(g, next)), even, "between {g} and {next}");
            let above = f32::from_bits(f32::midpoint(g, next).to_bits() + 1);
            assert_eq!(round_e4m3(above), next);
        }
    }

    #[test]
    fn scale_is_the_exact_ceiling() {
        for k in [-120, -33, -1, 0, 1, 60] {
            let p = exp2i(k);
            assert_eq!(ceil_log2(p), k);
            assert_eq!(ceil_log2(f32::from_bits(p.to_bits() + 1)), k + 1);
            assert_eq!(ceil_log2(f32::from_bits(p.to_bits() - 1)), k);
        }
    }

    #[test]
    fn damaged_values_do_not_panic() {
        for v in [f32::NAN, -f32::NAN, f32::from_bits(u32::MAX), f32::INFINITY, f32::MAX] {
            fp8_round_trip(&mut [v; 64]);
            fp4_round_trip(&mut [v; 32]);
        }
    }

    #[test]
    fn zero_and_tiny_blocks_stay_finite() {
        for v in [0.0, 1e-30, -1e-38, f32::MIN_POSITIVE] {
            let mut x = [v; 64];
            fp8_round_trip(&mut x);
            assert!(x.iter().all(|v| v.is_finite()));
            let mut x = [v; 32];
            fp4_round_trip(&mut x);
            assert!(x.iter().all(|v| v.is_finite()));
        }
    }
}
