//! What the kernels are compiled for: a model's numbers and roundings as macros.

use ds4_model::{Dims, Error, Numerics, Result};

/// The macros of one shape, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defines(Vec<(&'static str, String)>);

impl Defines {
    /// The macros of a model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for shapes and roundings that no kernel exists for; says why.
    pub fn new(dims: &Dims, numerics: Numerics) -> Result<Self> {
        check(dims, numerics)?;
        let int = |name, value: usize| (name, value.to_string());
        let float = |name, value: f32| (name, format!("{value:e}f"));
        Ok(Self(vec![
            int("N_EMBD", dims.n_embd),
            int("N_HEAD", dims.n_head),
            int("HEAD_DIM", dims.head_dim),
            int("ROPE_DIM", dims.rope_dim),
            int("Q_RANK", dims.q_rank),
            int("N_GROUP", dims.n_out_group),
            int("OUT_RANK", dims.out_rank),
            int("WINDOW", dims.window),
            int("IDX_HEADS", dims.n_index_head),
            int("IDX_DIM", dims.index_dim),
            int("IDX_TOPK", dims.index_top_k),
            int("N_EXPERT", dims.n_expert),
            int("N_USED", dims.n_expert_used),
            int("N_FF", dims.n_ff),
            int("N_HC", dims.n_hc),
            int("SINKHORN", dims.sinkhorn_iters),
            float("HC_EPS", dims.hc_eps),
            float("RMS_EPS", dims.rms_eps),
            int("KV_FP8", usize::from(numerics.kv_fp8)),
            int("IDX_FP4", usize::from(numerics.index_fp4)),
        ]))
    }

    /// As flags of a compiler.
    pub fn flags(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(name, value)| format!("-D{name}={value}"))
    }

    /// A short name of the shape together with the kernels' sources.
    pub(crate) fn key(&self, sources: &str) -> String {
        let text: Vec<String> = self.flags().collect();
        crate::image::hash(&[sources.as_bytes(), text.join(" ").as_bytes()])
    }
}

/// What every kernel takes for granted.
fn check(dims: &Dims, numerics: Numerics) -> Result<()> {
    dims.check_numerics(&numerics)?;
    let indexed = dims.ratios.contains(&ds4_model::INDEXED_RATIO);
    let needs = [
        (numerics.act_q8 && numerics.kv_f16, "the roundings of profile G or ds4 (--numerics)"),
        (dims.head_dim.is_multiple_of(16), "heads whose width is a multiple of 16"),
        (dims.n_hc <= 5, "at most 5 hyper-connection streams"),
        (dims.n_expert <= 1024, "at most 1024 experts"),
        (dims.n_expert_used <= 32, "at most 32 experts per token"),
        (!indexed || dims.index_dim <= 128, "index rows of at most 128 channels"),
        (!indexed || dims.index_top_k <= 1024, "at most 1024 index rows per token"),
        (dims.out_rank.is_multiple_of(16), "output groups whose rank is a multiple of 16"),
        (dims.ratios.iter().all(|r| *r <= 128), "compression ratios of at most 128"),
    ];
    match needs.into_iter().find(|(ok, _)| !ok) {
        None => Ok(()),
        Some((_, what)) => {
            Err(Error::Unsupported(format!("the CUDA backend needs {what}; use --backend cpu")))
        }
    }
}
