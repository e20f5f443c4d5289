//! Formats with one scale per 32 elements and fixed levels: `Q8_0` and MXFP4.

use crate::block::{F16, Mxfp4, Q8_0};
use crate::quant::nearest;
use crate::tables::{E2M1, e8m0};

/// The scale that maps the largest element to 127, then once the scale that fits those levels
/// best; whichever gives the smaller error.
pub(super) fn q8_0(x: &[f32; 32], w: &[f32; 32]) -> Q8_0 {
    let max = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let (first, error) = q8_0_with(F16::new(max / 127.0), x, w);
    let (mut xq, mut qq) = (0.0, 0.0);
    for i in 0..32 {
        let q = f32::from(first.q[i]);
        xq += w[i] * x[i] * q;
        qq += w[i] * q * q;
    }
    if qq == 0.0 {
        return first;
    }
    let (second, second_error) = q8_0_with(F16::new(xq / qq), x, w);
    if second_error < error { second } else { first }
}

fn q8_0_with(d: F16, x: &[f32; 32], w: &[f32; 32]) -> (Q8_0, f32) {
    let scale = d.get();
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut error = 0.0;
    let q = std::array::from_fn(|i| {
        let q = nearest((x[i] * inverse).clamp(-127.0, 127.0));
        error += w[i] * (scale * q - x[i]).powi(2);
        #[expect(clippy::cast_possible_truncation, reason = "from -127 to 127")]
        {
            q as i8
        }
    });
    (Q8_0 { d, q }, error)
}

/// The best of the scales around the one that maps the largest element into 4 to 8, where E2M1
/// ends (at 6).
pub(super) fn mxfp4(x: &[f32; 32], w: &[f32; 32]) -> Mxfp4 {
    let max = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let exponent = max.to_bits().to_be_bytes();
    let exponent = exponent[0] << 1 | exponent[1] >> 7;
    let mut best = (f64::INFINITY, Mxfp4 { e: 0, qs: [0; 16] });
    for below in [2, 1, 3] {
        let (block, error) = mxfp4_with(exponent.saturating_sub(below), x, w);
        if error < best.0 {
            best = (error, block);
        }
    }
    best.1
}

fn mxfp4_with(e: u8, x: &[f32; 32], w: &[f32; 32]) -> (Mxfp4, f64) {
    let scale = e8m0(e);
    let mut error = 0.0;
    let codes: [u8; 32] = std::array::from_fn(|i| {
        let code = e2m1(x[i] / scale);
        // The square of a large element is beyond f32.
        error += f64::from(w[i]) * f64::from(scale * E2M1[usize::from(code)] - x[i]).powi(2);
        code
    });
    (Mxfp4 { e, qs: std::array::from_fn(|l| codes[l] | codes[l + 16] << 4) }, error)
}

/// The code of the nearest E2M1 value; ties go to the even code.
fn e2m1(x: f32) -> u8 {
    let a = x.abs();
    let above = |limit: f32| u8::from(a > limit);
    let from = |limit: f32| u8::from(a >= limit);
    let code = above(0.25) + from(0.75) + above(1.25) + from(1.75) + above(2.5) + from(3.5);
    let code = code + above(5.0);
    // No minus zero: readers that use integers have none.
    if x < 0.0 && code > 0 { code | 8 } else { code }
}
