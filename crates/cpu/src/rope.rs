//! Rotation of the last channels of a vector by its position (§2.5).

use ds4_model::{Dims, Numerics, RopeFreqs};

/// The frequencies of one layer kind, and how an angle is rounded.
#[derive(Debug)]
pub(crate) struct Rope {
    freqs: RopeFreqs,
    f32_angle: bool,
}

impl Rope {
    /// The rotation of every layer with this compression ratio.
    pub(crate) fn new(dims: &Dims, ratio: usize, numerics: Numerics) -> Self {
        Self { freqs: RopeFreqs::new(dims, ratio), f32_angle: numerics.rope_f32 }
    }

    /// Writes cosine and sine of each pair's angle at `pos`, interleaved: `out` has `rope_dim`
    /// values. The angle of the trained model is the *rounded* f32 product; its cosine is then
    /// taken accurately.
    pub(crate) fn turns(&self, pos: u32, out: &mut [f32]) {
        debug_assert_eq!(out.len(), 2 * self.freqs.double.len());
        for (i, cs) in out.chunks_exact_mut(2).enumerate() {
            let angle = if self.f32_angle {
                f64::from(pos as f32 * self.freqs.single[i])
            } else {
                f64::from(pos) * self.freqs.double[i]
            };
            let (sin, cos) = angle.sin_cos();
            #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 as the model does")]
            let turn = (cos as f32, sin as f32);
            (cs[0], cs[1]) = turn;
        }
    }
}

/// Rotates interleaved pairs of the last `turns.len()` values of `x`.
pub(crate) fn rotate(x: &mut [f32], turns: &[f32]) {
    let tail = x.len() - turns.len();
    for (pair, cs) in x[tail..].chunks_exact_mut(2).zip(turns.chunks_exact(2)) {
        let (a, b, cos, sin) = (pair[0], pair[1], cs[0], cs[1]);
        (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
    }
}

/// Undoes [`rotate`]: keys are values here, so the output of attention is turned back.
pub(crate) fn rotate_back(x: &mut [f32], turns: &[f32]) {
    let tail = x.len() - turns.len();
    for (pair, cs) in x[tail..].chunks_exact_mut(2).zip(turns.chunks_exact(2)) {
        let (a, b, cos, sin) = (pair[0], pair[1], cs[0], cs[1]);
        (pair[0], pair[1]) = (a * cos + b * sin, b * cos - a * sin);
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, clippy::cast_possible_truncation, reason = "exact roundings")]
mod tests {
    use super::*;

    fn rope(f32_angle: bool) -> Rope {
        let freqs = RopeFreqs { single: vec![1.0, 0.1], double: vec![1.0, 0.1] };
        Rope { freqs, f32_angle }
    }

    #[test]
    fn interleaved_pairs_of_the_tail_turn() {
        let mut turns = [0.0; 4];
        rope(false).turns(3, &mut turns);
        let mut x = [5.0, 7.0, 1.0, 0.0, 0.0, 1.0];
        rotate(&mut x, &turns);
        let expected = [5.0, 7.0, 3f32.cos(), 3f32.sin(), -0.3f32.sin(), 0.3f32.cos()];
        for (x, e) in x.iter().zip(expected) {
            assert!((x - e).abs() < 1e-6, "{x} {e}");
        }
        rotate_back(&mut x, &turns);
        for (x, e) in x.iter().zip([5.0, 7.0, 1.0, 0.0, 0.0, 1.0]) {
            assert!((x - e).abs() < 1e-6, "{x} {e}");
        }
    }

    #[test]
    fn trained_angles_are_rounded_to_f32() {
        let (mut single, mut double) = ([0.0; 4], [0.0; 4]);
        let pos = 987_653;
        rope(true).turns(pos, &mut single);
        rope(false).turns(pos, &mut double);
        let rounded = f64::from(pos as f32 * 0.1f32);
        assert_eq!(single[2], rounded.cos() as f32);
        assert_ne!(single[2], double[2]);
    }
}
