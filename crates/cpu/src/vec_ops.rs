//! f32 vectors of attention and the norms: the operations with no weights.

use crate::vectorise::vectorised;

vectorised! {
    /// `y += a·x`.
    pub(crate) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }

    /// `x *= s`.
    pub(crate) fn scale(x: &mut [f32], s: f32) {
        for x in x {
            *x *= s;
        }
    }

    /// The largest value; −∞ of nothing. Not-a-number counts as nothing.
    pub(crate) fn max(x: &[f32]) -> f32 {
        let (chunks, rest) = x.as_chunks::<16>();
        let mut max = [f32::NEG_INFINITY; 16];
        for x in chunks {
            for i in 0..16 {
                max[i] = if x[i] > max[i] { x[i] } else { max[i] };
            }
        }
        max.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| m.max(*x))
    }

    /// Replaces every `x` by `exp(x − m)` and returns the sum: value `i` goes to sum `i mod 16`.
    pub(crate) fn exp_sum(x: &mut [f32], m: f32) -> f32 {
        let mut sums = [0.0f32; 16];
        let (chunks, rest) = x.as_chunks_mut::<16>();
        for x in chunks {
            for i in 0..16 {
                x[i] = exp(x[i] - m);
                sums[i] += x[i];
            }
        }
        for (x, sum) in rest.iter_mut().zip(&mut sums) {
            *x = exp(*x - m);
            *sum += *x;
        }
        sums.iter().sum()
    }

    /// `Σ x²` in f64 (§2.0).
    pub(crate) fn sum_squares(x: &[f32]) -> f64 {
        let mut acc = [0.0f64; 8];
        let (chunks, rest) = x.as_chunks::<8>();
        for x in chunks {
            for i in 0..8 {
                acc[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        acc.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
    }

    /// `x ← s·w·x`.
    pub(crate) fn scale_each(x: &mut [f32], s: f32, w: &[f32]) {
        for (x, w) in x.iter_mut().zip(w) {
            *x *= s * w;
        }
    }

    /// `gate = silu(min(gate, clamp)) · clamp(up, ±clamp)`.
    pub(crate) fn swiglu(gate: &mut [f32], up: &[f32], clamp: f32) {
        for (g, u) in gate.iter_mut().zip(up) {
            let x = g.min(clamp);
            *g = x / (1.0 + exp(-x)) * u.clamp(-clamp, clamp);
        }
    }

    /// `m ← max(m, x)` of each.
    pub(crate) fn max_each(m: &mut [f32], x: &[f32]) {
        for (m, x) in m.iter_mut().zip(x) {
            *m = if *x > *m { *x } else { *m };
        }
    }

    /// One term of softmax-weighted sums: `e = exp(s − m)`, `total += e`, `y += e·x` of each.
    pub(crate) fn softmax_term(
        y: &mut [f32],
        total: &mut [f32],
        m: &[f32],
        s: &[f32],
        x: &[f32],
    ) {
        let inputs = s.iter().zip(m).zip(x);
        for ((y, total), ((s, m), x)) in y.iter_mut().zip(total).zip(inputs) {
            let e = exp(s - m);
            *total += e;
            *y += e * x;
        }
    }

    /// `out = a·x + Σ b_j·X_j`, where `X_j` are the rows of `rows`, each as long as `out`.
    pub(crate) fn mix(out: &mut [f32], a: f32, x: &[f32], b: &[f32], rows: &[f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = a * x;
        }
        for (b, row) in b.iter().zip(rows.chunks_exact(out.len())) {
            for (o, x) in out.iter_mut().zip(row) {
                *o += b * x;
            }
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)`; the mean is cast to f32 before `eps` is added (§2.0).
pub(crate) fn inv_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / ((sum_squares(x) / x.len() as f64) as f32 + eps).sqrt()
}

/// `eˣ` to within two units in the last place, in steps that a compiler does for many values at
/// once, with the same bits on every machine. Below −87.3 it is 0, above 88.3 infinite.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with so few digits that its products are exact.
    const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
    let t = x * std::f32::consts::LOG2_E + SHIFT;
    let n = t - SHIFT;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    // Taylor's series on ±ln 2 / 2, with the last terms fitted to it.
    let p = 1.388_888_9e-3;
    let p = p * r + 8.333_334e-3;
    let p = p * r + 4.166_666_7e-2;
    let p = p * r + 1.666_666_7e-1;
    let p = p * r + 0.5;
    let p = (p * r * r + r) + 1.0;
    // Where the power of two is not a number of its own, the result is 0 or infinite.
    let power = f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = p * power;
    let y = if x < -87.3 { 0.0 } else { y };
    if x > 88.3 { f32::INFINITY } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_near_everywhere() {
        for i in -87_000..88_200 {
            let x = i as f32 / 1000.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 2.4e-7, "exp({x}) = {found}, not {expected}");
        }
        assert_eq!(exp(0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(-1e9).to_bits(), 0);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(1e9).to_bits(), f32::INFINITY.to_bits());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn maxima_of_every_length() {
        for n in 0..50 {
            let x: Vec<f32> = (0..n).map(|i| -((i * 7 % 19) as f32)).collect();
            let expected = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x).to_bits(), expected.to_bits(), "{n} values");
        }
    }
}
