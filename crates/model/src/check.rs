//! Which numbers make a model of this architecture: ranges, relations, and needs of a numeric mode.

use crate::limits::{
    CTX_MAX, EXPERT_MAX, HC_MAX, LAYER_MAX, SINKHORN_MAX, TOP_K_MAX, VOCAB_MAX, WIDTH_MAX,
    WINDOW_MAX,
};
use crate::metadata::{full, key, mismatch};
use crate::{Dims, Error, INDEXED_RATIO, Numerics, Result};

impl Dims {
    /// Checks ranges and relations; `file` is named in messages.
    ///
    /// # Errors
    /// Names the metadata key, its value and what is allowed.
    pub fn check(&self, file: &str) -> Result<()> {
        let c = Checker { file };
        self.check_ranges(&c)?;
        self.check_floats(&c)?;
        self.check_relations(&c)?;
        self.check_lists(&c)
    }

    /// Profile G as far as this shape allows: without the roundings whose blocks do not fit.
    /// All of it for the published shapes.
    pub fn profile_g(&self) -> Numerics {
        let mut numerics = Numerics::PROFILE_G;
        let fits = |one: Numerics| self.check_numerics(&one).is_ok();
        numerics.kv_fp8 = fits(Numerics { kv_fp8: true, ..Numerics::PLAIN });
        numerics.index_fp4 = fits(Numerics { index_fp4: true, ..Numerics::PLAIN });
        numerics.act_q8 = fits(Numerics { act_q8: true, ..Numerics::PLAIN });
        numerics
    }

    /// Checks what the roundings of `numerics` need of the shape: whole FP8 and FP4 blocks, a
    /// Hadamard matrix, whole int8 blocks.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the switch and the size that does not fit.
    pub fn check_numerics(&self, numerics: &Numerics) -> Result<()> {
        let fail = |what: String| {
            Err(Error::Unsupported(format!("{what}; use plain numerics with this shape")))
        };
        let nope = self.head_dim - self.rope_dim;
        if numerics.kv_fp8 && !nope.is_multiple_of(64) {
            return fail(format!(
                "FP8 rows need blocks of 64, but {nope} channels are not rotated"
            ));
        }
        let d = self.index_dim;
        let indexed = self.ratios.contains(&INDEXED_RATIO);
        if numerics.index_fp4 && indexed && !(d.is_power_of_two() && d.is_multiple_of(32)) {
            return fail(format!("FP4 index rows need a power of two from 32, but they have {d}"));
        }
        for (what, n) in [("hidden size", self.n_embd), ("expert size", self.n_ff)] {
            if numerics.act_q8 && !n.is_multiple_of(256) {
                return fail(format!("int8 activations need blocks of 256, but the {what} is {n}"));
            }
        }
        Ok(())
    }

    fn check_ranges(&self, c: &Checker<'_>) -> Result<()> {
        c.within(key::N_LAYER, self.n_layer, 1, LAYER_MAX)?;
        c.within(key::N_EMBD, self.n_embd, 1, WIDTH_MAX)?;
        c.within(key::N_VOCAB, self.n_vocab, 1, VOCAB_MAX)?;
        c.within(key::N_HEAD, self.n_head, 1, WIDTH_MAX)?;
        c.within(key::HEAD_DIM, self.head_dim, 2, WIDTH_MAX)?;
        c.within(key::ROPE_DIM, self.rope_dim, 2, WIDTH_MAX)?;
        c.within(key::Q_RANK, self.q_rank, 1, WIDTH_MAX)?;
        c.within(key::N_OUT_GROUP, self.n_out_group, 1, WIDTH_MAX)?;
        c.within(key::OUT_RANK, self.out_rank, 1, WIDTH_MAX)?;
        c.within(key::WINDOW, self.window, 1, WINDOW_MAX)?;
        c.within(key::N_INDEX_HEAD, self.n_index_head, 1, WIDTH_MAX)?;
        c.within(key::INDEX_DIM, self.index_dim, 1, WIDTH_MAX)?;
        c.within(key::INDEX_TOP_K, self.index_top_k, 1, TOP_K_MAX)?;
        c.within(key::N_EXPERT, self.n_expert, 1, EXPERT_MAX)?;
        c.within(key::N_EXPERT_USED, self.n_expert_used, 1, self.n_expert)?;
        c.within(key::N_FF, self.n_ff, 1, WIDTH_MAX)?;
        c.within(key::N_HASH_LAYER, self.n_hash_layer, 0, self.n_layer)?;
        c.within(key::N_HC, self.n_hc, 1, HC_MAX)?;
        c.within(key::SINKHORN, self.sinkhorn_iters, 1, SINKHORN_MAX)?;
        c.within(key::CTX, self.ctx_max as usize, 1, CTX_MAX)?;
        c.within(key::YARN_CTX, self.yarn_ctx as usize, 1, CTX_MAX)
    }

    fn check_floats(&self, c: &Checker<'_>) -> Result<()> {
        c.positive(key::EXPERT_SCALE, self.expert_scale)?;
        c.positive(key::HC_EPS, self.hc_eps)?;
        c.positive(key::RMS_EPS, self.rms_eps)?;
        c.positive(key::YARN_FACTOR, self.yarn_factor)?;
        c.positive(key::YARN_BETA_FAST, self.yarn_beta_fast)?;
        c.positive(key::YARN_BETA_SLOW, self.yarn_beta_slow)?;
        for (key, base) in
            [(key::ROPE_BASE, self.rope_base), (key::ROPE_BASE_COMP, self.rope_base_comp)]
        {
            c.positive(key, base)?;
            c.that(base > 1.0, key, base, || "more than 1".to_owned())?;
        }
        for clamp in &self.swiglu_clamp {
            c.positive(key::CLAMP, *clamp)?;
        }
        for clamp in &self.swiglu_clamp_shared {
            c.positive(key::CLAMP_SHARED, *clamp)?;
        }
        Ok(())
    }

    fn check_relations(&self, c: &Checker<'_>) -> Result<()> {
        let (rope, head) = (self.rope_dim, self.head_dim);
        c.that(rope.is_multiple_of(2) && rope < head, key::ROPE_DIM, rope, || {
            format!("an even number below {} = {head}", full(key::HEAD_DIM))
        })?;
        let heads = self.n_head;
        c.that(heads.is_multiple_of(self.n_out_group), key::N_OUT_GROUP, self.n_out_group, || {
            format!("a divisor of {} = {heads}", full(key::N_HEAD))
        })?;
        c.product(key::N_HEAD, [heads, head])?;
        c.product(key::N_OUT_GROUP, [self.n_out_group, self.out_rank])?;
        c.product(key::N_INDEX_HEAD, [self.n_index_head, self.index_dim])?;
        c.product(key::N_HC, [self.n_hc, self.n_embd])?;
        let (dim, indexed) = (self.index_dim, self.ratios.contains(&INDEXED_RATIO));
        c.that(!indexed || dim >= rope, key::INDEX_DIM, dim, || {
            format!("at least {} = {rope}", full(key::ROPE_DIM))
        })
    }

    fn check_lists(&self, c: &Checker<'_>) -> Result<()> {
        let n = self.n_layer;
        c.that(self.ratios.len() == n, key::RATIOS, self.ratios.len(), || format!("{n} values"))?;
        for (l, ratio) in self.ratios.iter().enumerate() {
            let known = *ratio == 0 || (2..=WINDOW_MAX).contains(ratio);
            c.that(known, key::RATIOS, format!("{ratio} in layer {l}"), || {
                format!("0 (window), {INDEXED_RATIO} (indexed) or 2 to {WINDOW_MAX} (dense)")
            })?;
        }
        for (key, list) in
            [(key::CLAMP, &self.swiglu_clamp), (key::CLAMP_SHARED, &self.swiglu_clamp_shared)]
        {
            let found = format!("{} values", list.len());
            c.that((n..=n + 1).contains(&list.len()), key, found, || format!("{n} values"))?;
        }
        Ok(())
    }
}

/// Checks of one value, with messages that name its key.
struct Checker<'a> {
    file: &'a str,
}

impl Checker<'_> {
    fn that(
        &self,
        ok: bool,
        key: &str,
        found: impl ToString,
        expected: impl FnOnce() -> String,
    ) -> Result<()> {
        if ok { Ok(()) } else { Err(mismatch(self.file, &full(key), found, &expected())) }
    }

    fn within(&self, key: &str, n: usize, min: usize, max: usize) -> Result<()> {
        self.that((min..=max).contains(&n), key, n, || format!("{min} to {max}"))
    }

    fn positive(&self, key: &str, x: f32) -> Result<()> {
        let expected = || "a positive finite number".to_owned();
        self.that(x.is_finite() && x > 0.0, key, x, expected)
    }

    /// A width that is a product stays below the limit too; names the first factor's key.
    fn product(&self, key: &str, factors: [usize; 2]) -> Result<()> {
        let [a, b] = factors;
        let n = a.checked_mul(b).filter(|n| *n <= WIDTH_MAX);
        self.that(n.is_some(), key, a, || format!("at most {WIDTH_MAX} / {b}"))
    }
}
