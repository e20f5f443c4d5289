//! The runner against independent references, stage by stage: plain mode end to end, the rounding
//! modes layer by layer (a rounding step is not continuous, so errors must not travel); with every
//! instruction set of the processor.

#![expect(clippy::print_stdout, reason = "the tables are for people")]

mod common;
#[path = "common/parity.rs"]
mod parity;

use std::sync::{Mutex, PoisonError};

use ds4_cpu::Isa;
use ds4_model::testing::{Bounds, Oracle};
use ds4_model::{Place, Stage};
use parity::compare;

/// The instruction set is chosen for the whole process: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Prints the tables of one mode and checks them; returns the largest difference of any logit.
fn check(oracle: &Oracle, mode: &str, forced: bool, bounds: fn(Place, Stage) -> Bounds) -> f64 {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let r = oracle.reference(mode).expect("it is committed");
    let mut worst = 0.0;
    for isa in Isa::available() {
        Isa::select(isa);
        let outcome = compare(oracle, r, 17, forced);
        println!("{} {mode} {isa:?}\n{}", oracle.name, outcome.parity);
        let [prompt, decoded] = outcome.logits;
        println!("largest difference of logits: prompt {prompt:.2e}, decoded {decoded:.2e}\n");
        if let Err(what) = outcome.parity.check(bounds) {
            panic!("{mode} {isa:?}:\n{what}");
        }
        worst = [prompt, decoded].into_iter().fold(worst, f64::max);
    }
    worst
}

/// Plain mode differs by the order of sums only.
fn continuous(_: Place, _: Stage) -> Bounds {
    Bounds { median: 1e-5, p99: 1e-4 }
}

/// Rounding modes: where one ulp crosses a rounding step, a row or an activation moves by that
/// step, and with it every later token that sees the row. Of so few tokens the 99th percentile is
/// the worst one; of hundreds it stays near 1.3e-2.
fn rounded(_: Place, stage: Stage) -> Bounds {
    use Stage as S;
    match stage {
        // Before anything is rounded in the layer.
        S::AttnHcIn | S::AttnHcPost | S::AttnHcComb => Bounds { median: 2e-6, p99: 1e-4 },
        _ => Bounds { median: 2e-3, p99: 5e-2 },
    }
}

#[test]
fn float_weights_plain() {
    let worst = check(&Oracle::micro(), "plain", false, continuous);
    assert!(worst < 1e-4, "{worst:e}");
}

#[test]
fn quantised_weights_plain() {
    let worst = check(&Oracle::quant(), "plain", false, continuous);
    assert!(worst < 1e-4, "{worst:e}");
}

#[test]
fn float_weights_official() {
    check(&Oracle::micro(), "official", true, rounded);
}

#[test]
fn quantised_weights_profile_g() {
    check(&Oracle::quant(), "ds4", true, rounded);
}
