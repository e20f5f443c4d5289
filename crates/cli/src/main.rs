//! The `ds4` binary.
fn main() {}
