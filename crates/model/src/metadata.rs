//! `Dims` from a file's metadata (§5.2): the one place that knows metadata keys.

use ds4_gguf::Gguf;

use crate::limits::LAYER_MAX;
use crate::{Dims, Error, Result};

/// Prefix of the model's own keys, which is also its architecture name.
pub(crate) const ARCH: &str = "deepseek4";

/// Keys that [`Dims::check`] names; without the prefix.
pub(crate) mod key {
    pub(crate) const N_LAYER: &str = "block_count";
    pub(crate) const CTX: &str = "context_length";
    pub(crate) const N_EMBD: &str = "embedding_length";
    pub(crate) const N_VOCAB: &str = "vocab_size";
    pub(crate) const N_HEAD: &str = "attention.head_count";
    pub(crate) const N_HEAD_KV: &str = "attention.head_count_kv";
    pub(crate) const HEAD_DIM: &str = "attention.key_length";
    pub(crate) const VALUE_DIM: &str = "attention.value_length";
    pub(crate) const ROPE_DIM: &str = "rope.dimension_count";
    pub(crate) const Q_RANK: &str = "attention.q_lora_rank";
    pub(crate) const OUT_RANK: &str = "attention.output_lora_rank";
    pub(crate) const N_OUT_GROUP: &str = "attention.output_group_count";
    pub(crate) const WINDOW: &str = "attention.sliding_window";
    pub(crate) const RATIOS: &str = "attention.compress_ratios";
    pub(crate) const ROPE_BASE_COMP: &str = "attention.compress_rope_freq_base";
    pub(crate) const N_INDEX_HEAD: &str = "attention.indexer.head_count";
    pub(crate) const INDEX_DIM: &str = "attention.indexer.key_length";
    pub(crate) const INDEX_TOP_K: &str = "attention.indexer.top_k";
    pub(crate) const RMS_EPS: &str = "attention.layer_norm_rms_epsilon";
    pub(crate) const ROPE_BASE: &str = "rope.freq_base";
    pub(crate) const ROPE_SCALING: &str = "rope.scaling.type";
    pub(crate) const YARN_FACTOR: &str = "rope.scaling.factor";
    pub(crate) const YARN_CTX: &str = "rope.scaling.original_context_length";
    pub(crate) const YARN_BETA_FAST: &str = "rope.scaling.yarn_beta_fast";
    pub(crate) const YARN_BETA_SLOW: &str = "rope.scaling.yarn_beta_slow";
    pub(crate) const N_EXPERT: &str = "expert_count";
    pub(crate) const N_EXPERT_USED: &str = "expert_used_count";
    pub(crate) const N_EXPERT_SHARED: &str = "expert_shared_count";
    pub(crate) const N_FF: &str = "expert_feed_forward_length";
    pub(crate) const N_EXPERT_GROUP: &str = "expert_group_count";
    pub(crate) const N_EXPERT_GROUP_USED: &str = "expert_group_used_count";
    pub(crate) const EXPERT_SCALE: &str = "expert_weights_scale";
    pub(crate) const EXPERT_NORM: &str = "expert_weights_norm";
    pub(crate) const EXPERT_GATING: &str = "expert_gating_func";
    pub(crate) const N_HASH_LAYER: &str = "hash_layer_count";
    pub(crate) const CLAMP: &str = "swiglu_clamp_exp";
    pub(crate) const CLAMP_SHARED: &str = "swiglu_clamp_shexp";
    pub(crate) const N_NEXTN: &str = "nextn_predict_layers";
    pub(crate) const N_HC: &str = "hyper_connection.count";
    pub(crate) const SINKHORN: &str = "hyper_connection.sinkhorn_iterations";
    pub(crate) const HC_EPS: &str = "hyper_connection.epsilon";
}

/// The full name of a key, as in the file and in messages.
pub(crate) fn full(key: &str) -> String {
    format!("{ARCH}.{key}")
}

impl Dims {
    /// Reads the model's numbers from the metadata and checks them.
    ///
    /// # Errors
    /// Names the key, what was found and what the architecture needs; says what to do about
    /// files of other architectures.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        check_arch(gguf)?;
        let m = Reader { gguf };
        let n_layer = m.size(key::N_LAYER)?;
        if !(1..=LAYER_MAX).contains(&n_layer) {
            return Err(m.wrong(key::N_LAYER, n_layer, &format!("1 to {LAYER_MAX}")));
        }
        check_fixed(&m)?;
        let swiglu_clamp = m.clamps(key::CLAMP, n_layer)?;
        let swiglu_clamp_shared = if m.has(key::CLAMP_SHARED) {
            m.clamps(key::CLAMP_SHARED, n_layer)?
        } else {
            swiglu_clamp.clone()
        };
        let dims = Self {
            n_layer,
            n_embd: m.size(key::N_EMBD)?,
            n_vocab: m.size(key::N_VOCAB)?,
            n_head: m.size(key::N_HEAD)?,
            head_dim: m.size(key::HEAD_DIM)?,
            rope_dim: m.size(key::ROPE_DIM)?,
            q_rank: m.size(key::Q_RANK)?,
            n_out_group: m.size(key::N_OUT_GROUP)?,
            out_rank: m.size(key::OUT_RANK)?,
            window: m.size(key::WINDOW)?,
            ratios: m.ratios(n_layer)?,
            n_index_head: m.size(key::N_INDEX_HEAD)?,
            index_dim: m.size(key::INDEX_DIM)?,
            index_top_k: m.size(key::INDEX_TOP_K)?,
            n_expert: m.size(key::N_EXPERT)?,
            n_expert_used: m.size(key::N_EXPERT_USED)?,
            n_ff: m.size(key::N_FF)?,
            n_hash_layer: m.size(key::N_HASH_LAYER)?,
            expert_scale: m.float(key::EXPERT_SCALE)?,
            swiglu_clamp,
            swiglu_clamp_shared,
            n_hc: m.size(key::N_HC)?,
            sinkhorn_iters: m.size(key::SINKHORN)?,
            hc_eps: m.float(key::HC_EPS)?,
            rms_eps: m.float(key::RMS_EPS)?,
            rope_base: m.float(key::ROPE_BASE)?,
            rope_base_comp: m.float(key::ROPE_BASE_COMP)?,
            yarn_factor: m.float(key::YARN_FACTOR)?,
            yarn_ctx: m.int(key::YARN_CTX)?,
            yarn_beta_fast: m.float(key::YARN_BETA_FAST)?,
            yarn_beta_slow: m.float(key::YARN_BETA_SLOW)?,
            ctx_max: if m.has(key::CTX) { m.int(key::CTX)? } else { 1 << 20 },
        };
        dims.check(gguf.name())?;
        Ok(dims)
    }
}

/// Refuses other architectures, saying what to do.
fn check_arch(gguf: &Gguf) -> Result<()> {
    let name = gguf.name();
    let arch = gguf.metadata().str("general.architecture")?;
    let advice = match arch {
        ARCH => return Ok(()),
        "deepseek4_mtp_support" => "it is an MTP file: give it with --mtp, and the model with -m",
        "deepseek41" | "deepseek_v41" | "deepseek4.1" => {
            "V4.1 is another architecture; use a DeepSeek V4 Flash file"
        }
        _ => "ds4 runs DeepSeek V4 Flash only; use one of its GGUF files",
    };
    Err(Error::Unsupported(format!("{name}: architecture {arch:?} is not {ARCH:?}: {advice}")))
}

/// Keys with one possible value.
fn check_fixed(m: &Reader<'_>) -> Result<()> {
    m.fixed(key::N_HEAD_KV, 1)?;
    m.fixed(key::N_EXPERT_SHARED, 1)?;
    let head_dim = m.int(key::HEAD_DIM)?;
    if m.int(key::VALUE_DIM)? != head_dim {
        let expected = format!("{head_dim}, as {}", full(key::HEAD_DIM));
        return Err(m.wrong(key::VALUE_DIM, m.int(key::VALUE_DIM)?, &expected));
    }
    if !m.gguf.metadata().bool(&full(key::EXPERT_NORM))? {
        return Err(m.wrong(key::EXPERT_NORM, false, "true"));
    }
    if m.has(key::EXPERT_GATING) && m.int(key::EXPERT_GATING)? != 4 {
        let found = m.int(key::EXPERT_GATING)?;
        return Err(m.wrong(key::EXPERT_GATING, found, "4 (square root of softplus)"));
    }
    for group in [key::N_EXPERT_GROUP, key::N_EXPERT_GROUP_USED] {
        if m.has(group) && m.int(group)? > 1 {
            return Err(m.wrong(group, m.int(group)?, "0 or 1: there is no group routing"));
        }
    }
    if m.has(key::ROPE_SCALING) {
        let found = m.gguf.metadata().str(&full(key::ROPE_SCALING))?;
        if found != "yarn" {
            return Err(m.wrong(key::ROPE_SCALING, format!("{found:?}"), "\"yarn\""));
        }
    }
    if m.has(key::N_NEXTN) && m.int(key::N_NEXTN)? > 1 {
        let found = m.int(key::N_NEXTN)?;
        return Err(m.later_release(&format!("{} = {found}", full(key::N_NEXTN))));
    }
    Ok(())
}

/// Typed look-up of the model's own keys.
struct Reader<'a> {
    gguf: &'a Gguf,
}

impl Reader<'_> {
    fn has(&self, key: &str) -> bool {
        self.gguf.metadata().has(&full(key))
    }

    fn int(&self, key: &str) -> Result<u32> {
        Ok(self.gguf.metadata().u32(&full(key))?)
    }

    fn size(&self, key: &str) -> Result<usize> {
        Ok(self.int(key)? as usize)
    }

    fn float(&self, key: &str) -> Result<f32> {
        Ok(self.gguf.metadata().f32(&full(key))?)
    }

    fn wrong(&self, key: &str, found: impl ToString, expected: &str) -> Error {
        mismatch(self.gguf.name(), &full(key), found, expected)
    }

    fn fixed(&self, key: &str, expected: u32) -> Result<()> {
        let found = self.int(key)?;
        if found == expected {
            return Ok(());
        }
        Err(self.wrong(key, found, &expected.to_string()))
    }

    /// One value per layer; a further value belongs to the MTP block.
    fn clamps(&self, key: &str, n_layer: usize) -> Result<Vec<f32>> {
        let all = self.gguf.metadata().f32s(&full(key))?;
        if all.len() == n_layer || all.len() == n_layer + 1 {
            return Ok(all);
        }
        let expected = format!("{n_layer} (one per layer)");
        Err(self.wrong(key, format!("{} values", all.len()), &expected))
    }

    /// The ratio of every trunk layer; the list may end with the MTP block's, which is 0.
    fn ratios(&self, n_layer: usize) -> Result<Vec<usize>> {
        let all = self.gguf.metadata().u32s(&full(key::RATIOS))?;
        let ratios = |n: usize| all[..n].iter().map(|r| *r as usize).collect();
        match all.len().checked_sub(n_layer) {
            Some(1) if all[n_layer] != 0 => Err(self.wrong(
                key::RATIOS,
                format!("{} for the MTP block", all[n_layer]),
                "0 for the MTP block",
            )),
            Some(0 | 1) => Ok(ratios(n_layer)),
            // One entry per layer and three MTP stages.
            Some(3) => {
                let found = format!("{} has {} entries", full(key::RATIOS), all.len());
                Err(self.later_release(&format!("{found} for {n_layer} layers")))
            }
            _ => Err(self.wrong(
                key::RATIOS,
                format!("{} values", all.len()),
                &format!("{n_layer} (one per layer), or one more for the MTP block"),
            )),
        }
    }

    fn later_release(&self, found: &str) -> Error {
        Error::Unsupported(format!(
            "{}: {found}: a later release with several MTP stages (0731, DSpark) is another \
             architecture; use a file of the first DeepSeek V4 Flash release",
            self.gguf.name()
        ))
    }
}

/// An [`Error::Mismatch`].
#[expect(clippy::needless_pass_by_value, reason = "numbers and texts alike")]
pub(crate) fn mismatch(file: &str, key: &str, found: impl ToString, expected: &str) -> Error {
    Error::Mismatch {
        file: file.to_owned(),
        key: key.to_owned(),
        found: found.to_string(),
        expected: expected.to_owned(),
    }
}
