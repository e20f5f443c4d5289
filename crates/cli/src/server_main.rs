//! The program `ds4-server`: `ds4 serve` under the name and with the flags of the C engine's.

#![forbid(unsafe_code)]

use std::env::args_os;
use std::iter::once;

fn main() -> std::process::ExitCode {
    ds4_cli::main(once("ds4-server".into()).chain(args_os().skip(1)))
}
