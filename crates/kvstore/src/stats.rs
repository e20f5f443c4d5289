//! Counters of a store, for metrics.

/// What a store did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Files written.
    pub stored: u64,
    /// Bytes of them.
    pub stored_bytes: u64,
    /// Time spent writing them, in milliseconds, on the writer's thread.
    pub stored_ms: u64,
    /// Snapshots not taken, for whatever cause.
    pub skipped: u64,
    /// Snapshots that could not be written.
    pub failed: u64,
    /// Files a sequence was loaded from.
    pub hits: u64,
    /// Tokens of them.
    pub hit_tokens: u64,
    /// Lookups without a usable file.
    pub misses: u64,
    /// Files dropped for the budget.
    pub evicted: u64,
    /// Files found damaged.
    pub set_aside: u64,
    /// Files that count against the budget now.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Whether writing was given up.
    pub is_off: bool,
}
