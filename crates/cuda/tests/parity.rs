//! The kernels against independent references and against the CPU runner, stage by stage, on the
//! emulator: the same kernels that a GPU runs, on the processor.

mod common;

use std::fmt::Write as _;

use common::{compare, emulated};
use ds4_model::testing::{Bounds, Oracle};
use ds4_model::{Place, Stage};

/// As the CPU's suite has them: where one ulp crosses a rounding step, a row or an activation moves
/// by that step.
fn rounded(_: Place, stage: Stage) -> Bounds {
    use Stage as S;
    match stage {
        // Before anything is rounded in the layer.
        S::AttnHcIn | S::AttnHcPost | S::AttnHcComb => Bounds { median: 2e-6, p99: 1e-4 },
        _ => Bounds { median: 2e-3, p99: 5e-2 },
    }
}

/// Spans of 17 and more tokens take the kernels of prefill, shorter ones those of decode.
#[test]
fn quantised_weights_against_the_reference() {
    let oracle = Oracle::quant();
    let reference = oracle.reference("ds4").expect("it is committed");
    let mut failures = String::new();
    for chunk in [1, 3, 5, 40] {
        let mut runner = emulated(&oracle.model, reference.numerics);
        let (parity, logits) = compare(&mut runner, &oracle, reference, chunk);
        println!("chunks of {chunk}\n{parity}\nlargest difference of logits {logits:?}");
        if let Err(what) = parity.check(rounded) {
            writeln!(failures, "chunks of {chunk}:\n{what}").expect("a string grows");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Most experts outside the device: the processor computes them, and every stage is the same.
#[test]
fn experts_outside_the_device() {
    let oracle = Oracle::quant();
    let reference = oracle.reference("ds4").expect("it is committed");
    for (chunk, inside) in [(5, 2), (40, 3)] {
        let mut runner = common::hybrid(&oracle.model, reference.numerics, inside);
        assert_eq!(runner.device_experts(), inside);
        let (parity, _) = compare(&mut runner, &oracle, reference, chunk);
        if let Err(what) = parity.check(rounded) {
            panic!("{inside} experts inside, chunks of {chunk}:\n{what}");
        }
    }
}
