//! Every limit on what a file may claim, far above any published model: a larger number is damage.

/// Trunk layers.
pub const LAYER_MAX: usize = 512;
/// Any width of a vector: hidden size, concatenated heads, ranks.
pub const WIDTH_MAX: usize = 1 << 20;
/// Vocabulary size.
pub const VOCAB_MAX: usize = 1 << 22;
/// Routed experts of a layer; ids are kept as `u16`.
pub const EXPERT_MAX: usize = 1 << 16;
/// Raw rows a token sees, and tokens of one compressed row.
pub const WINDOW_MAX: usize = 1 << 16;
/// Rows an indexed layer attends to.
pub const TOP_K_MAX: usize = 1 << 20;
/// Hyper-connection streams.
pub const HC_MAX: usize = 16;
/// Sinkhorn iterations.
pub const SINKHORN_MAX: usize = 1000;
/// Context length: positions are `u32` and angles lose meaning far below this.
pub const CTX_MAX: usize = 1 << 24;
