//! f32 vectors of attention and the norms: the operations with no weights.

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

/// The largest value; −∞ of nothing.
pub(crate) fn max(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x))
}

/// Replaces every `x` by `exp(x − m)` and returns the sum.
pub(crate) fn exp_sum(x: &mut [f32], m: f32) -> f32 {
    let mut sum = 0.0;
    for x in x {
        *x = (*x - m).exp();
        sum += *x;
    }
    sum
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

/// `1 / sqrt(mean(x²) + eps)`; the mean is cast to f32 before `eps` is added (§2.0).
pub(crate) fn inv_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / ((sum_squares(x) / x.len() as f64) as f32 + eps).sqrt()
}

/// `gate = silu(min(gate, clamp)) · clamp(up, ±clamp)`.
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32], clamp: f32) {
    for (g, u) in gate.iter_mut().zip(up) {
        let x = g.min(clamp);
        *g = x / (1.0 + (-x).exp()) * u.clamp(-clamp, clamp);
    }
}
