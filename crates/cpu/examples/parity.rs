//! Holds the CPU against the references of other oracle models, made with
//! `testdata/oracle/tools/make_tiny.py DIR --preset …`:
//!
//! ```text
//! cargo run --release -p ds4-cpu --example parity -- DIR …
//! ```
//! Plain mode runs end to end, the rounding modes layer by layer. Prints one table per mode.

#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::path::Path;

use ds4_model::testing::Oracle;

#[path = "../tests/common/parity.rs"]
mod parity;

fn main() -> ds4_model::Result<()> {
    for dir in std::env::args().skip(1) {
        let oracle = Oracle::open(Path::new(&dir))?;
        for reference in &oracle.references {
            let forced = reference.mode != "plain";
            let outcome = parity::compare(&oracle, reference, 64, forced);
            println!("{dir} {}\n{}", reference.mode, outcome.parity);
            for (place, stage, tokens) in &outcome.parity.wrong_choices {
                println!("{}: wrong for tokens {tokens:?}", place.name(*stage));
            }
            let [prompt, decoded] = outcome.logits;
            println!("largest difference of logits: prompt {prompt:.2e}, decoded {decoded:.2e}\n");
        }
    }
    Ok(())
}
