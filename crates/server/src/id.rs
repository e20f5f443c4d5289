//! Numbers that nobody can guess.

use std::fmt::Write;

/// 32 hex digits. Without a source of randomness there is no safe id, so a system that has none
/// cannot be served from.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes.iter().fold(String::with_capacity(32), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// A seed for a request that has none.
pub(crate) fn new_seed() -> u64 {
    getrandom::u64().expect("the operating system gives random bytes")
}
