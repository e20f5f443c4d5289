//! RMS normalisation in place, with and without weights.

use crate::vec_ops;

/// `x ← rms(x)·weight`.
pub(crate) fn rms_weighted(x: &mut [f32], weight: &[f32], eps: f32) {
    let inverse = vec_ops::inv_rms(x, eps);
    vec_ops::scale_each(x, inverse, weight);
}

/// `x ← rms(x)`.
pub(crate) fn rms(x: &mut [f32], eps: f32) {
    let inverse = vec_ops::inv_rms(x, eps);
    vec_ops::scale(x, inverse);
}
