//! Which experts a token uses and with which weights (§2.9 steps 1–3).

/// Floor of the sum that weights are divided by; far below any real sum of chosen scores.
const SUM_MIN: f32 = 1.0 / 16384.0;

/// `s_e = √softplus(g_e)`, in place.
pub(crate) fn scores(logits: &mut [f32]) {
    for g in logits {
        *g = softplus(*g).sqrt();
    }
}

/// The experts with the largest `score + bias`, best first; of equal ones the lower id.
pub(crate) fn best(scores: &[f32], bias: &[f32], ids: &mut [u16]) {
    for k in 0..ids.len() {
        let (taken, rest) = ids.split_at_mut(k);
        let mut best: Option<(f32, u16)> = None;
        for ((e, s), b) in (0u16..=u16::MAX).zip(scores).zip(bias) {
            let value = s + b;
            // Total order: a damaged model must not make two choices out of one expert.
            let better = best.is_none_or(|(v, _)| value.total_cmp(&v).is_gt());
            if better && !taken.contains(&e) {
                best = Some((value, e));
            }
        }
        rest[0] = best.expect("Dims allows no more choices than experts").1;
    }
}

/// `w_e = scale · s_e / Σ s` over the chosen experts, from scores without the bias.
pub(crate) fn weights(scores: &[f32], ids: &[u16], scale: f32, out: &mut [f32]) {
    for (w, id) in out.iter_mut().zip(ids) {
        *w = scores[usize::from(*id)];
    }
    let factor = scale / out.iter().sum::<f32>().max(SUM_MIN);
    for w in out {
        *w *= factor;
    }
}

/// `ln(1 + e^z)`, without overflow and without losing small values.
fn softplus(z: f32) -> f32 {
    match z {
        z if z > 20.0 => z,
        z if z < -20.0 => z.exp(),
        z => z.exp().ln_1p(),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, clippy::excessive_precision, reason = "as published")]
mod tests {
    use super::*;

    #[test]
    fn scores_of_the_specification() {
        let mut x = [-3.0, -1.0, 0.0, 0.5, 2.0, 25.0];
        scores(&mut x);
        let expected = [0.220_425_4, 0.559_697_9, 0.832_554_6, 0.986_953_4, 1.458_399_1, 5.0];
        for (x, e) in x.iter().zip(expected) {
            assert!((x - e).abs() < 1e-6, "{x} {e}");
        }
    }

    #[test]
    fn the_bias_chooses_and_the_lower_id_wins() {
        let mut ids = [0; 2];
        best(&[1.0, 2.0, 3.0, 2.0], &[0.0, 1.0, 0.0, 1.0], &mut ids);
        assert_eq!(ids, [1, 2]);
        best(&[1.0, 1.0, 1.0], &[0.0; 3], &mut ids);
        assert_eq!(ids, [0, 1]);
        best(&[f32::NAN; 3], &[0.0; 3], &mut ids);
        assert_eq!(ids, [0, 1]);
    }

    #[test]
    fn weights_ignore_the_bias_and_sum_to_the_scale() {
        let mut w = [0.0; 3];
        weights(&[1.0, 9.0, 3.0], &[2, 0, 0], 1.25, &mut w);
        assert_eq!(w, [0.75, 0.25, 0.25]);
    }
}
