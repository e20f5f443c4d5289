//! The numbers of a model: a value read from the file and checked, never assumed.

/// Shape and constants of one model of the DeepSeek V4 family (architecture.md §1).
#[derive(Clone, Debug, PartialEq)]
pub struct Dims {
    /// Trunk layers.
    pub n_layer: usize,
    /// Hidden size D.
    pub n_embd: usize,
    /// Vocabulary size.
    pub n_vocab: usize,
    /// Attention heads; there is one shared key/value head.
    pub n_head: usize,
    /// Width of a head and of an attention row.
    pub head_dim: usize,
    /// Rotated channels, the last of each head.
    pub rope_dim: usize,
    /// Rank of the query projection.
    pub q_rank: usize,
    /// Groups of the output projection.
    pub n_out_group: usize,
    /// Rank of each output group.
    pub out_rank: usize,
    /// Raw rows a token sees, itself included.
    pub window: usize,
    /// Compression ratio of each trunk layer: 0 window only, 4 indexed, else dense-compressed.
    pub ratios: Vec<usize>,
    /// Indexer heads.
    pub n_index_head: usize,
    /// Width of an indexer head and of an index row.
    pub index_dim: usize,
    /// Rows an indexed layer attends to.
    pub index_top_k: usize,
    /// Routed experts of a layer.
    pub n_expert: usize,
    /// Routed experts used per token.
    pub n_expert_used: usize,
    /// Hidden size of an expert, routed or shared.
    pub n_ff: usize,
    /// Leading layers whose experts are chosen by token id.
    pub n_hash_layer: usize,
    /// Scale of the normalised router weights.
    pub expert_scale: f32,
    /// SwiGLU clamp of the routed experts of each layer; one more value is the MTP block's.
    pub swiglu_clamp: Vec<f32>,
    /// SwiGLU clamp of the shared expert of each layer; one more value is the MTP block's.
    pub swiglu_clamp_shared: Vec<f32>,
    /// Hyper-connection streams.
    pub n_hc: usize,
    /// Sinkhorn iterations, the initial softmax/column pair included.
    pub sinkhorn_iters: usize,
    /// Epsilon of the hyper-connection gates and normalisations.
    pub hc_eps: f32,
    /// Epsilon of every RMS norm.
    pub rms_eps: f32,
    /// Rotation base of window-only layers and of the MTP block.
    pub rope_base: f32,
    /// Rotation base of compressed layers.
    pub rope_base_comp: f32,
    /// YaRN factor of compressed layers.
    pub yarn_factor: f32,
    /// YaRN original context length.
    pub yarn_ctx: u32,
    /// YaRN beta fast.
    pub yarn_beta_fast: f32,
    /// YaRN beta slow.
    pub yarn_beta_slow: f32,
    /// Context length the model was made for, in tokens.
    pub ctx_max: u32,
}

/// Ratio of indexed layers: the only one whose windows overlap and which has an indexer (§2.7).
pub const INDEXED_RATIO: usize = 4;

impl Dims {
    /// Values of the hyper-connection mix: pre, post and comb (24 for 4 streams).
    pub fn hc_mix(&self) -> usize {
        2 * self.n_hc + self.n_hc * self.n_hc
    }

    /// SwiGLU clamps of the MTP block, routed and shared: its own, else those of the last layer.
    pub fn mtp_clamps(&self) -> (f32, f32) {
        let last = |list: &[f32]| *list.last().expect("checked: one value per layer");
        (last(&self.swiglu_clamp), last(&self.swiglu_clamp_shared))
    }

    /// Lanes of a compressor's projections: 2 in overlapping (indexed) layers, else 1 (§2.7).
    pub fn comp_lanes(ratio: usize) -> usize {
        if ratio == INDEXED_RATIO { 2 } else { 1 }
    }

    /// Compressed rows visible to the token at position `pos` of a layer with this ratio.
    pub fn n_comp(ratio: usize, pos: u32) -> usize {
        (pos as usize + 1).checked_div(ratio).unwrap_or(0)
    }
}
