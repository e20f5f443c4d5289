//! The published shapes as named values, and how a shape is called in messages.

use crate::Dims;

/// DeepSeek V4 Flash with its 43 layers (§1).
pub fn flash() -> Dims {
    flash_with(43)
}

/// The Flash geometry with `n_layer` layers, as the synthetic files have it: 0, 0, 4, 128, 4, …
pub fn flash_with(n_layer: usize) -> Dims {
    Dims {
        n_layer,
        n_embd: 4096,
        n_vocab: 129_280,
        n_head: 64,
        head_dim: 512,
        rope_dim: 64,
        q_rank: 1024,
        n_out_group: 8,
        out_rank: 1024,
        window: 128,
        ratios: (0..n_layer).map(|l| if l < 2 { 0 } else { deep_ratio(l) }).collect(),
        n_index_head: 64,
        index_dim: 128,
        index_top_k: 512,
        n_expert: 256,
        n_expert_used: 6,
        n_ff: 2048,
        n_hash_layer: n_layer.min(3),
        expert_scale: 1.5,
        swiglu_clamp: vec![10.0; n_layer],
        swiglu_clamp_shared: vec![10.0; n_layer],
        n_hc: 4,
        sinkhorn_iters: 20,
        hc_eps: 1e-6,
        rms_eps: 1e-6,
        rope_base: 1e4,
        rope_base_comp: 1.6e5,
        yarn_factor: 16.0,
        yarn_ctx: 65_536,
        yarn_beta_fast: 32.0,
        yarn_beta_slow: 1.0,
        ctx_max: 1 << 20,
    }
}

/// DeepSeek V4 Pro (§1).
pub fn pro() -> Dims {
    let n_layer = 61;
    Dims {
        n_layer,
        n_embd: 7168,
        n_head: 128,
        q_rank: 1536,
        n_out_group: 16,
        ratios: (0..n_layer).map(|l| if l < 2 { 128 } else { deep_ratio(l) }).collect(),
        index_top_k: 1024,
        n_expert: 384,
        n_ff: 3072,
        expert_scale: 2.5,
        ..flash_with(n_layer)
    }
}

/// Ratio of layer `l` ≥ 2 of a published shape: indexed when even, else dense-compressed.
fn deep_ratio(l: usize) -> usize {
    if l.is_multiple_of(2) { 4 } else { 128 }
}

impl Dims {
    /// Name of the published model of this shape, if it is one.
    pub fn name(&self) -> Option<&'static str> {
        if self.same_geometry(&flash()) {
            Some("DeepSeek V4 Flash")
        } else if self.same_geometry(&pro()) {
            Some("DeepSeek V4 Pro")
        } else {
            None
        }
    }

    /// Whether this is the Flash geometry, with all layers or fewer.
    pub fn is_flash(&self) -> bool {
        self.same_geometry(&flash_with(self.n_layer.min(43)))
    }

    /// One phrase for messages: the published name, or what kind of shape it is instead.
    pub fn describe(&self) -> String {
        match self.name() {
            Some(name) => name.to_owned(),
            None if self.is_flash() => {
                format!("DeepSeek V4 Flash geometry with {} of 43 layers", self.n_layer)
            }
            None => format!(
                "unpublished shape of the DeepSeek V4 family ({} layers, width {}, {} experts)",
                self.n_layer, self.n_embd, self.n_expert
            ),
        }
    }

    /// Equality of everything but the context length a file claims.
    fn same_geometry(&self, other: &Self) -> bool {
        Self { ctx_max: other.ctx_max, ..self.clone() } == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_shapes_have_their_names() {
        assert_eq!(flash().name(), Some("DeepSeek V4 Flash"));
        assert_eq!(pro().name(), Some("DeepSeek V4 Pro"));
        let five = flash_with(5);
        assert_eq!(five.name(), None);
        assert!(five.is_flash());
        assert_eq!(five.describe(), "DeepSeek V4 Flash geometry with 5 of 43 layers");
        let odd = Dims { n_embd: 256, ..flash() };
        assert!(!odd.is_flash());
        assert!(odd.describe().starts_with("unpublished shape"));
    }

    #[test]
    fn layer_kinds_are_counted_as_published() {
        let count = |d: &Dims, r: usize| d.ratios.iter().filter(|x| **x == r).count();
        assert_eq!([0, 4, 128].map(|r| count(&flash(), r)), [2, 21, 20]);
        assert_eq!([0, 4, 128].map(|r| count(&pro(), r)), [0, 30, 31]);
        flash().check("flash").unwrap();
        pro().check("pro").unwrap();
    }
}
