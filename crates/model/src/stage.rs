//! The named intermediate values every backend can expose: the ground on which they are compared.

use std::fmt;

/// One intermediate value of a block, or of the output head. Shapes are per chunk of `t` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// `hc_pre` output before `attn_norm`: `[t, n_embd]`.
    AttnHcIn,
    /// `post` of the attention hyper-connection: `[t, n_hc]`.
    AttnHcPost,
    /// `comb` of the attention hyper-connection, `[source][destination]`: `[t, n_hc, n_hc]`.
    AttnHcComb,
    /// The token's raw attention row, as stored: `[t, head_dim]`.
    KvRaw,
    /// Compressed attention rows completed by this chunk: `[rows, head_dim]`.
    CompRows,
    /// Index rows completed by this chunk: `[rows, index_dim]`.
    IndexRows,
    /// Indexer score of every visible row, −∞ where not visible: `[t, rows of the last token]`.
    IndexScores,
    /// Chosen row numbers, ascending, −1 padded, exact in f32: `[t, index_top_k]`.
    IndexTopk,
    /// Attention sublayer output: `[t, n_embd]`.
    AttnOut,
    /// FFN sublayer input after `ffn_norm`: `[t, n_embd]`.
    FfnNorm,
    /// Unbiased router scores: `[t, n_expert]`.
    RouterProbs,
    /// Chosen experts in order of choice: `[t, n_expert_used]`.
    RouterIds,
    /// Their weights, scaled: `[t, n_expert_used]`.
    RouterWeights,
    /// FFN sublayer output: `[t, n_embd]`.
    FfnOut,
    /// Hyper-connection state after the block: `[t, n_hc, n_embd]`.
    Hidden,
    /// Output norm of the head: `[t, n_embd]` (tokens whose logits are wanted).
    FinalNorm,
    /// Logits: `[t, n_vocab]` (tokens whose logits are wanted).
    Logits,
}

impl Stage {
    /// Every stage, in the order of computation.
    pub const ALL: [Self; 17] = [
        Self::AttnHcIn,
        Self::AttnHcPost,
        Self::AttnHcComb,
        Self::KvRaw,
        Self::CompRows,
        Self::IndexRows,
        Self::IndexScores,
        Self::IndexTopk,
        Self::AttnOut,
        Self::FfnNorm,
        Self::RouterProbs,
        Self::RouterIds,
        Self::RouterWeights,
        Self::FfnOut,
        Self::Hidden,
        Self::FinalNorm,
        Self::Logits,
    ];

    /// The name used in reference files (`ref_index.json`), without the block prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AttnHcIn => "attn_hc_in",
            Self::AttnHcPost => "attn_hc_post",
            Self::AttnHcComb => "attn_hc_comb",
            Self::KvRaw => "kv_raw",
            Self::CompRows => "comp_rows",
            Self::IndexRows => "index_rows",
            Self::IndexScores => "index_scores",
            Self::IndexTopk => "index_topk",
            Self::AttnOut => "attn_out",
            Self::FfnNorm => "ffn_norm",
            Self::RouterProbs => "router_probs",
            Self::RouterIds => "router_ids",
            Self::RouterWeights => "router_weights",
            Self::FfnOut => "ffn_out",
            Self::Hidden => "hidden",
            Self::FinalNorm => "final_norm",
            Self::Logits => "logits",
        }
    }
}

/// Which part of the model a stage value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Trunk layer.
    Layer(usize),
    /// The MTP block and its head.
    Mtp,
    /// The trunk's output head.
    Head,
}

impl Place {
    /// Full name of `stage` here, as in reference files: `L3.hidden`, `mtp.logits`, `final_norm`.
    pub fn name(self, stage: Stage) -> String {
        match self {
            Self::Layer(i) => format!("L{i}.{}", stage.name()),
            Self::Mtp => format!("mtp.{}", stage.name()),
            Self::Head => stage.name().to_owned(),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the routed experts of a chunk read. A slot is one (token, chosen expert) pair; the slots of
/// an expert are together.
#[derive(Clone, Copy, Debug)]
pub struct ExpertInputs<'a> {
    /// Expert `e` has the slots `bounds[e]..bounds[e + 1]`.
    pub bounds: &'a [u32],
    /// The row of `gate_up` that each slot reads.
    pub token_of: &'a [u32],
    /// Input of the gate and up projections: `[t, n_embd]`.
    pub gate_up: &'a [f32],
    /// Input of the down projections, the router's weight in it: `[slots, n_ff]`.
    pub down: &'a [f32],
}

/// Watches a runner. `record` is called after each stage of each chunk, in order of positions.
pub trait Probe: Send {
    /// Receives one stage value of the tokens at positions `pos0..`, row-major with `shape`.
    fn record(&mut self, place: Place, stage: Stage, pos0: u32, shape: &[usize], data: &[f32]);

    /// Receives what the routed experts of one chunk read, before any rounding.
    fn experts(&mut self, place: Place, inputs: ExpertInputs<'_>) {
        let _ = (place, inputs);
    }

    /// Teacher forcing: the hyper-connection state to use as the input of trunk layer `layer` for
    /// positions `pos0..pos0 + t`, `[t, n_hc, n_embd]`; `None` lets the runner's own state pass.
    fn force_hidden(&mut self, layer: usize, pos0: u32, t: usize) -> Option<Vec<f32>> {
        let _ = (layer, pos0, t);
        None
    }
}
