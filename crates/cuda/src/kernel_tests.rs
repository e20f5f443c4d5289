//! Single kernels on the emulator, at sizes that whole models in tests do not reach.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::sync::Arc;

use ds4_model::Numerics;
use ds4_model::testing::quant_dims;
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::device::{Device, Geometry};
use crate::emulator::Emulator;
use crate::seq::Tok;
use crate::shape::Defines;

fn device() -> Arc<Device> {
    let defines = Defines::new(&quant_dims(), Numerics::PROFILE_G).unwrap();
    Arc::new(Device::emulated(Emulator::new(&defines).unwrap()))
}

/// The chosen rows of a token that sees all of `scores`.
fn choose(device: &Arc<Device>, scores: &[f32]) -> Vec<i32> {
    let top_k = quant_dims().index_top_k;
    let buf = device.alloc(4 * scores.len()).unwrap();
    device.write(buf.at(), scores.as_bytes()).unwrap();
    let pos = i32::try_from(4 * scores.len() - 1).unwrap();
    let tok = Tok { pos, n: 1, ..Tok::default() };
    let toks = device.alloc(32).unwrap();
    device.write(toks.at(), tok.as_bytes()).unwrap();
    let chosen = device.alloc(4 * top_k).unwrap();
    let mut args = Args::new().ptr(buf.at()).long(scores.len()).ptr(toks.at()).ptr(chosen.at());
    device.launch("index_topk", Geometry::new(1, 1, 1024), &mut args).unwrap();
    let mut rows = vec![0_i32; top_k];
    device.read(chosen.at(), rows.as_mut_bytes()).unwrap();
    rows
}

/// Few rows, as many as threads keep, and more; with many equal scores: of these the lower rows win.
#[test]
fn the_rows_of_largest_score_are_chosen() {
    let device = device();
    let top_k = quant_dims().index_top_k;
    let mut seed = 7_u64;
    let mut next = |values: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) % values) as f32
    };
    for (n, values) in
        [(5, 3), (700, 4), (1024, 1 << 20), (5000, 50), (16_384, 1 << 20), (40_000, 300)]
    {
        let scores: Vec<f32> =
            (0..n).map(|_| (next(values) - values as f32 / 2.0) * 0.37).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let mut expected: Vec<i32> =
            order[..top_k].iter().map(|row| i32::try_from(*row).unwrap()).collect();
        expected.sort_unstable();
        assert_eq!(choose(&device, &scores), expected, "{n} rows of {values} values");
    }
    assert_eq!(choose(&device, &[1.0; 3000]), [0, 1, 2, 3]);
    assert_eq!(choose(&device, &[-0.0, 0.0, -1.0, 0.0, -0.0, f32::NEG_INFINITY]), [0, 1, 3, 4]);
}
