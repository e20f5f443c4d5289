//! The exponential of sampling: the same bits on every machine, and a loop that vectorises.
//!
//! The C library's `expf` differs between systems in the last bit, which would let a seed choose
//! different tokens on them. This one is additions and multiplications only.

/// `e^x` for `x ≤ 0`, within 3e-7 of it relatively; 0 where the result would be subnormal.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    /// Added and taken away again, it rounds to an integer, which then is in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, so that `n · HIGH` is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * HIGH) - n * LOW;
    // Taylor's series, |r| ≤ ln 2 / 2: the first term left out is below 1.2e-7.
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    // 2^n: n plus the bias, moved to the exponent.
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    // Also for −∞ and whatever became of it above.
    if x > -87.0 { p * scale } else { 0.0 }
}

/// Values in flight, so that one addition need not wait for the one before it.
const LANES: usize = 16;

/// Sum of `e^((x − max) / temp)` over all `x`, none above `max`.
pub(crate) fn sum_exp(values: &[f32], max: f32, temp: f32) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        let weights = chunk.map(|x| exp((x - max) / temp));
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += f64::from(weight);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(exp((x - max) / temp))).sum();
    sums.iter().sum::<f64>() + rest
}

/// The highest value, −∞ for none, and whether all are ordinary: neither NaN nor +∞.
pub(crate) fn highest(values: &[f32]) -> (f32, bool) {
    let mut highs = [f32::NEG_INFINITY; LANES];
    let mut bad = [false; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let x = chunk[lane];
            highs[lane] = if x > highs[lane] { x } else { highs[lane] };
            bad[lane] |= x.is_nan() || x == f32::INFINITY;
        }
    }
    let high = highs.iter().chain(rest).fold(f32::NEG_INFINITY, |high, x| high.max(*x));
    let is_bad = bad.contains(&true) || rest.iter().any(|x| x.is_nan() || *x == f32::INFINITY);
    (high, !is_bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_exponential() {
        let mut worst = 0.0_f64;
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        for x in [-87.0, -100.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp(x).to_bits(), 0, "{x}");
        }
    }

    #[test]
    fn sums_and_maxima_take_every_value() {
        for n in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..n).map(|i| -((i * 7 % n) as f32) / 8.0).collect();
            let want: f64 = values.iter().map(|&x| f64::from(x / 2.0).exp()).sum();
            assert!((sum_exp(&values, 0.0, 2.0) - want).abs() < 1e-5, "{n}");
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!((highest(&values).0.to_bits(), highest(&values).1), (high.to_bits(), true));
            for at in 0..n {
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut values = values.clone();
                    values[at] = bad;
                    assert!(!highest(&values).1, "{bad} at {at} of {n}");
                }
            }
        }
    }
}
