//! Hyper-connections: how the residual streams are mixed into a sublayer's input and how its
//! output is spread over them again (§2.2, §2.3).

use ds4_model::Dims;
use ds4_model::limits::HC_MAX;

use crate::vec_ops;

/// Splits one token's mix `fn·rms(X)` into gates, in place: `[pre | post | comb]` (§2.2 steps 3–7).
pub(crate) fn split(mix: &mut [f32], base: &[f32], scale: &[f32], dims: &Dims) {
    let n = dims.n_hc;
    debug_assert_eq!(mix.len(), dims.hc_mix());
    for (part, range) in [0..n, n..2 * n, 2 * n..mix.len()].into_iter().enumerate() {
        for (m, base) in mix[range.clone()].iter_mut().zip(&base[range]) {
            *m = *m * scale[part] + base;
        }
    }
    for pre in &mut mix[..n] {
        *pre = sigmoid(*pre) + dims.hc_eps;
    }
    for post in &mut mix[n..2 * n] {
        *post = 2.0 * sigmoid(*post);
    }
    sinkhorn(&mut mix[2 * n..], n, dims.sinkhorn_iters, dims.hc_eps);
}

/// The head's gates: only `pre`, with one scale and no Sinkhorn (§2.10).
pub(crate) fn split_head(mix: &mut [f32], base: &[f32], scale: &[f32], dims: &Dims) {
    for (pre, base) in mix.iter_mut().zip(base) {
        *pre = sigmoid(*pre * scale[0] + base) + dims.hc_eps;
    }
}

/// `x = Σ_h pre[h] · X[h]`.
pub(crate) fn gather(streams: &[f32], pre: &[f32], x: &mut [f32]) {
    let (first, rest) = streams.split_at(x.len());
    vec_ops::mix(x, pre[0], first, &pre[1..], rest);
}

/// `X'[k] = post[k]·y + Σ_j comb[j][k]·X[j]`: column `k` of `comb` makes stream `k`.
pub(crate) fn spread(streams: &[f32], y: &[f32], post: &[f32], comb: &[f32], next: &mut [f32]) {
    let n = post.len();
    for (k, out) in next.chunks_exact_mut(y.len()).enumerate() {
        let mut column = [0.0; HC_MAX];
        for (j, c) in column[..n].iter_mut().enumerate() {
            *c = comb[j * n + k];
        }
        vec_ops::mix(out, post[k], y, &column[..n], streams);
    }
}

/// Row softmax, then alternating column and row normalisation of the `n × n` matrix `c` (§2.2).
fn sinkhorn(c: &mut [f32], n: usize, iterations: usize, eps: f32) {
    for row in c.chunks_exact_mut(n) {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
        let mut sum = 0.0;
        for v in row.iter_mut() {
            *v = (*v - max).exp();
            sum += *v;
        }
        for v in row {
            *v = *v / sum + eps;
        }
    }
    normalise_columns(c, n, eps);
    for _ in 1..iterations {
        for row in c.chunks_exact_mut(n) {
            let sum = row.iter().sum::<f32>() + eps;
            for v in row {
                *v /= sum;
            }
        }
        normalise_columns(c, n, eps);
    }
}

fn normalise_columns(c: &mut [f32], n: usize, eps: f32) {
    for k in 0..n {
        let sum = c.iter().skip(k).step_by(n).sum::<f32>() + eps;
        for v in c.iter_mut().skip(k).step_by(n) {
            *v /= sum;
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
#[expect(clippy::float_cmp, clippy::excessive_precision, reason = "as published")]
mod tests {
    use super::*;

    #[test]
    fn split_of_the_specification() {
        let dims = ds4_model::shapes::flash();
        let mut mix: Vec<f32> = (0..24).map(|i| 0.3 * (1.7 * i as f32 + 0.2).sin()).collect();
        let base: Vec<f32> = (0..24).map(|i| 0.1 * (i as f32).cos()).collect();
        split(&mut mix, &base, &[0.8, 1.2, 2.0], &dims);
        let expected = [
            0.536_854_2,
            0.569_827_2,
            0.463_113_2,
            0.425_865_7, // pre
            1.085_367_1,
            1.132_729_8,
            0.899_341_8,
            0.956_785_5, // post
            0.280_296_3,
            0.344_935_9,
            0.193_810_1,
            0.180_956_6, // comb, by rows
            0.295_759_3,
            0.284_176_2,
            0.210_584_9,
            0.209_478_6,
            0.219_257_7,
            0.197_086_3,
            0.273_114_1,
            0.310_540_9,
            0.204_685_6,
            0.173_800_5,
            0.322_490_0,
            0.299_022_8,
        ];
        for (i, (m, e)) in mix.iter().zip(expected).enumerate() {
            assert!((m - e).abs() < 1e-6, "value {i}: found {m}, expected {e}");
        }
    }

    /// Two iterations have not converged: the order of rows and columns shows.
    #[test]
    fn columns_are_normalised_last() {
        let mut c = vec![1.0, 2.0, 0.5, -1.0];
        sinkhorn(&mut c, 2, 2, 1e-6);
        assert!((c[0] + c[2] - 1.0).abs() < 1e-5, "{c:?}");
        assert!((c[0] + c[1] - 1.0).abs() > 1e-4, "{c:?}");
    }

    #[test]
    fn spread_sums_over_the_rows_of_comb() {
        let (streams, y) = ([1.0, 10.0, 2.0, 20.0], [0.5, 5.0]);
        let mut next = [0.0; 4];
        spread(&streams, &y, &[2.0, 4.0], &[1.0, 3.0, 7.0, 9.0], &mut next);
        assert_eq!(
            next,
            [1.0 + 1.0 + 14.0, 10.0 + 10.0 + 140.0, 2.0 + 3.0 + 18.0, 20.0 + 30.0 + 180.0]
        );
    }
}
