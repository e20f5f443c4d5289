//! The encoders' errors on the data of testdata/quant, and what they do with odd input.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "test helpers")]

mod common;

use common::floats;
use ds4_gguf::{TensorType, Unencodable, dequantize_row, quantize_row};
use proptest::prelude::*;

/// Encodes and decodes a row.
fn round_trip(ty: TensorType, x: &[f32], w: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0xaa; ty.row_bytes(x.len()).unwrap()];
    quantize_row(ty, x, w, &mut bytes).unwrap();
    let mut out = vec![0.0; x.len()];
    dequantize_row(ty, &bytes, &mut out);
    out
}

/// `√(Σw(y − x)² / Σwx²)`.
fn relative_error(x: &[f32], y: &[f32], w: &[f32]) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for ((&x, &y), &w) in x.iter().zip(y).zip(w) {
        error += f64::from(w) * (f64::from(y) - f64::from(x)).powi(2);
        size += f64::from(w) * f64::from(x).powi(2);
    }
    (error / size).sqrt()
}

fn check(ty: TensorType, file: &str, limit: f64) {
    let x = floats(&format!("{file}.src.f32"));
    let error = relative_error(&x, &round_trip(ty, &x, None), &vec![1.0; x.len()]);
    println!("{ty}: {error:.6}, limit {limit:.6}");
    assert!(error <= limit, "{ty}: {error} > {limit}");
}

/// The limits are what the encoders reach, rounded up. With equal weights ggml's quantiser reaches
/// 0.00469 (`Q8_0`), 0.1177 (MXFP4), 0.2702 (`Q2_K`), 0.0679 (`Q4_K`), 0.3374 (`IQ2_XXS`).
#[test]
fn errors_are_below_those_of_the_known_encoders() {
    check(TensorType::Q8_0, "q8_0", 0.0046);
    check(TensorType::Mxfp4, "mxfp4", 0.113);
    check(TensorType::Q2K, "q2_k", 0.2605);
    check(TensorType::Q4K, "q4_k", 0.067);
    check(TensorType::Iq2Xxs, "iq2_xxs", 0.324);
}

const BLOCKS: [TensorType; 5] =
    [TensorType::Q8_0, TensorType::Mxfp4, TensorType::Q2K, TensorType::Q4K, TensorType::Iq2Xxs];

#[test]
fn weights_lower_the_error_where_they_are_large() {
    for (ty, file) in
        [(TensorType::Q2K, "q2_k"), (TensorType::Q4K, "q4_k"), (TensorType::Iq2Xxs, "iq2_xxs")]
    {
        let x = floats(&format!("{file}.src.f32"));
        let w: Vec<f32> = (0..x.len()).map(|i| if i % 7 == 0 { 50.0 } else { 0.5 }).collect();
        let plain = relative_error(&x, &round_trip(ty, &x, None), &w);
        let weighted = relative_error(&x, &round_trip(ty, &x, Some(&w)), &w);
        assert!(weighted < 0.8 * plain, "{ty}: {weighted} with weights, {plain} without");
        // Only their relations count.
        let large: Vec<f32> = w.iter().map(|w| w * 1024.0).collect();
        assert_eq!(round_trip(ty, &x, Some(&w)), round_trip(ty, &x, Some(&large)));
    }
}

#[test]
fn plain_types_round_to_nearest_even() {
    let x = [1.0, 1.000_976_6, -65504.0, 1e-8];
    assert_eq!(round_trip(TensorType::F16, &x, None), [1.0, 1.000_976_6, -65504.0, 0.0]);
    let x = [1.0, 1.003_906_3, 1.011_718_8, -3.0e38];
    let y = round_trip(TensorType::Bf16, &x, None);
    assert_eq!(y[..3], [1.0, 1.0, 1.015_625]);
    assert_eq!(round_trip(TensorType::F32, &x, None), x);
    assert_eq!(round_trip(TensorType::I32, &[-1.0, 129_279.0], None), [-1.0, 129_279.0]);
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let refused = |ty: TensorType, value: f32| {
        let mut x = vec![0.0; 256];
        x[17] = value;
        let mut bytes = vec![0; ty.row_bytes(256).unwrap()];
        match quantize_row(ty, &x, None, &mut bytes) {
            Ok(()) => false,
            Err(e) => {
                let text = e.to_string();
                assert!(text.starts_with("element 17 is") && text.contains(ty.name()), "{text}");
                true
            }
        }
    };
    for ty in BLOCKS {
        assert!(refused(ty, f32::NAN) && refused(ty, f32::INFINITY), "{ty}");
        assert!(!refused(ty, 65504.0) && !refused(ty, -1e-40), "{ty}");
    }
    assert!(refused(TensorType::Q8_0, 1e6) && !refused(TensorType::Mxfp4, 3e38));
    assert!(refused(TensorType::F16, 65505.0) && !refused(TensorType::F32, f32::NAN));
    assert!(refused(TensorType::I32, 0.5) && refused(TensorType::I32, 2_147_483_648.0));
    assert!(refused(TensorType::I32, f32::NAN) && !refused(TensorType::I32, -2_147_483_648.0));

    let mut weights = vec![1.0; 32];
    weights[3] = f32::NAN;
    let result = quantize_row(TensorType::Q8_0, &[0.0; 32], Some(&weights), &mut [0; 34]);
    assert!(matches!(result, Err(Unencodable::Weight { index: 3, .. })));
}

#[test]
fn flat_and_unseen_blocks_are_exact_or_close() {
    for ty in BLOCKS {
        assert_eq!(round_trip(ty, &[0.0; 512], None), [0.0; 512], "{ty}: zeros");
        assert_eq!(round_trip(ty, &[1e-30; 256], None).len(), 256, "{ty}: too small for binary16");
        let x = [-0.5; 256];
        let y = round_trip(ty, &x, Some(&[0.0; 256]));
        // The best scale for 32 times the smallest magnitude is far from the usual ones.
        let limit = if ty == TensorType::Iq2Xxs { 0.2 } else { 0.01 };
        let error = relative_error(&x, &y, &[1.0; 256]);
        assert!(error < limit, "{ty}: {error} for a constant that has no weight at all");
    }
}

#[test]
fn values_of_the_mxfp4_grid_stay_as_they_are() {
    let raw = common::bytes("mxfp4.raw");
    let mut x = vec![0.0; raw.len() / 17 * 32];
    dequantize_row(TensorType::Mxfp4, &raw, &mut x);
    assert_eq!(round_trip(TensorType::Mxfp4, &x, None), x);
}

/// Rows of 256 of all sizes and mixtures of them.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let element = (-1f32..1.0, -6..6i32).prop_map(|(x, e)| x * 4f32.powi(e));
    prop_oneof![
        proptest::collection::vec(element, 256),
        (proptest::collection::vec(-1f32..1.0, 256), -30..15i32)
            .prop_map(|(x, e)| x.into_iter().map(|x| x * 2f32.powi(e)).collect()),
        proptest::collection::vec(prop_oneof![Just(0.0), Just(1.0), Just(-3.0)], 256),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_row_is_worse_than_zeros(
        x in rows(),
        w in proptest::collection::vec((-20..20i32).prop_map(|e| 2f32.powi(e)), 256),
        weighted: bool,
    ) {
        prop_assume!(x.iter().any(|&x| x != 0.0));
        let w = if weighted { w } else { vec![1.0; 256] };
        for ty in BLOCKS {
            let y = round_trip(ty, &x, weighted.then_some(&w));
            let error = relative_error(&x, &y, &w);
            // Weights below 1e-4 of the mean are raised to it, hence not quite 1.
            let limit = if weighted { 1.5 } else { 1.001 };
            prop_assert!(error <= limit, "{ty}: {error}");
        }
    }
}
