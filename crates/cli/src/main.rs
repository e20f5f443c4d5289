//! The program `ds4`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    ds4_cli::main(std::env::args_os())
}
