//! Rotation frequencies of every layer kind as data (§2.5): window layers plain, others with YaRN.

use std::f64::consts::PI;

use crate::{Dims, shapes};

/// Radians per position of each interleaved channel pair, `rope_dim / 2` values.
///
/// Two tables, because the two references differ: the model was trained with f32 frequencies and
/// f32 angles ([`crate::Numerics::rope_f32`]); the numpy reference of the `ds4` mode uses f64.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFreqs {
    /// Every operation rounded to f32; the canonical table of §2.5 for the published shapes.
    pub single: Vec<f32>,
    /// Every operation in f64.
    pub double: Vec<f64>,
}

impl RopeFreqs {
    /// The frequencies of all layers with this ratio; the MTP block has ratio 0.
    pub fn new(dims: &Dims, ratio: usize) -> Self {
        let base = if ratio == 0 { dims.rope_base } else { dims.rope_base_comp };
        let ramp = (ratio != 0 && dims.yarn_factor > 1.0).then(|| Ramp::new(dims));
        let pairs = dims.rope_dim / 2;
        let single = if ratio != 0 && has_published_yarn(dims) {
            PUBLISHED.to_vec()
        } else {
            (0..pairs).map(|i| single(dims, base, i, ramp.as_ref())).collect()
        };
        Self { single, double: (0..pairs).map(|i| double(dims, base, i, ramp.as_ref())).collect() }
    }
}

/// Whether the numbers that enter θ' are those of the published shapes.
fn has_published_yarn(d: &Dims) -> bool {
    let p = shapes::flash_with(1);
    let key = |d: &Dims| (d.rope_dim, d.rope_base_comp, d.yarn_factor, d.yarn_ctx);
    let betas = |d: &Dims| (d.yarn_beta_fast, d.yarn_beta_slow);
    key(d) == key(&p) && betas(d) == betas(&p)
}

/// θ' of the compressed layers of the published shapes, as listed in §2.5. These 32 values are
/// canonical: power functions of one ulp of error, as frameworks have them, gave them to the model.
#[expect(clippy::unreadable_literal, clippy::excessive_precision, reason = "as published")]
const PUBLISHED: [f32; 32] = [
    1.0,
    0.687656045,
    0.472870797,
    0.325172424,
    0.223606795,
    0.153764561,
    0.105737135,
    0.0727107748,
    0.0500000007,
    0.0343828015,
    0.0236435384,
    0.0162586235,
    0.0111803403,
    0.00768822804,
    0.00528685609,
    0.00363553851,
    0.00226562493,
    0.00139680132,
    0.000849689706,
    0.000508081983,
    0.000296977785,
    0.000168179977,
    9.08678412e-05,
    4.5444227e-05,
    1.95312532e-05,
    5.37231244e-06,
    3.69430336e-06,
    2.5404097e-06,
    1.74692798e-06,
    1.20128561e-06,
    8.260713e-07,
    5.6805294e-07,
];

/// Between `low` and `high` the pairs pass from unscaled to divided by the YaRN factor.
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    fn new(dims: &Dims) -> Self {
        let low = corr(dims, dims.yarn_beta_fast).floor().max(0.0);
        let high = corr(dims, dims.yarn_beta_slow).ceil().min(dims.rope_dim as f64 - 1.0);
        Self { low, high }
    }

    /// Width of the transition; never 0.
    fn width(&self) -> f64 {
        (self.high - self.low).max(0.001)
    }
}

/// Pair index whose wavelength fits `beta` times into the original context.
fn corr(dims: &Dims, beta: f32) -> f64 {
    let turns = f64::from(dims.yarn_ctx) / (f64::from(beta) * 2.0 * PI);
    dims.rope_dim as f64 * turns.ln() / (2.0 * f64::from(dims.rope_base_comp).ln())
}

fn double(dims: &Dims, base: f32, i: usize, ramp: Option<&Ramp>) -> f64 {
    let theta = 1.0 / f64::from(base).powf(2.0 * i as f64 / dims.rope_dim as f64);
    let Some(ramp) = ramp else { return theta };
    let keep = 1.0 - ((i as f64 - ramp.low) / ramp.width()).clamp(0.0, 1.0);
    theta / f64::from(dims.yarn_factor) * (1.0 - keep) + theta * keep
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the definition")]
fn single(dims: &Dims, base: f32, i: usize, ramp: Option<&Ramp>) -> f32 {
    let exponent = (2 * i) as f32 / dims.rope_dim as f32;
    // The f64 power rounded once is the correctly rounded f32 power.
    let theta = 1.0 / f64::from(base).powf(f64::from(exponent)) as f32;
    let Some(ramp) = ramp else { return theta };
    let keep = 1.0 - ((i as f32 - ramp.low as f32) / ramp.width() as f32).clamp(0.0, 1.0);
    theta / dims.yarn_factor * (1.0 - keep) + theta * keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::flash;

    #[test]
    fn formula_gives_the_canonical_table_within_two_ulp() {
        let d = flash();
        assert_eq!(RopeFreqs::new(&d, 4).single, PUBLISHED);
        assert_eq!(RopeFreqs::new(&d, 128), RopeFreqs::new(&d, 4));
        let ramp = Ramp::new(&d);
        for (i, published) in PUBLISHED.iter().enumerate() {
            let ours = single(&d, d.rope_base_comp, i, Some(&ramp));
            assert!(ours.to_bits().abs_diff(published.to_bits()) <= 2, "{i}: {ours} {published}");
        }
    }

    #[test]
    fn unpublished_numbers_use_the_formula() {
        // numpy: 1 / float32(160000) ** (2 i / 32), then YaRN to a context of 65536.
        let d = Dims { rope_dim: 32, ..flash() };
        let t = RopeFreqs::new(&d, 4).single;
        let expected = [1.0, 0.472_870_8, 0.223_606_8, 0.105_737_12];
        assert_eq!(t[..4], expected);
    }

    #[test]
    fn corrections_are_the_published_numbers() {
        let d = flash();
        assert!((corr(&d, d.yarn_beta_fast) - 15.453_295).abs() < 1e-6);
        assert!((corr(&d, d.yarn_beta_slow) - 24.708_424).abs() < 1e-6);
        let ramp = Ramp::new(&d);
        assert_eq!((ramp.low, ramp.high), (15.0, 25.0));
    }

    #[test]
    fn window_layers_are_plain_and_double_follows_single() {
        let plain = RopeFreqs::new(&flash(), 0);
        assert_eq!(plain.single.len(), 32);
        assert!((plain.double[16] - 0.01).abs() < 1e-15);
        for ratio in [0, 4] {
            let t = RopeFreqs::new(&flash(), ratio);
            for (s, d) in t.single.iter().zip(&t.double) {
                assert!((f64::from(*s) / d - 1.0).abs() < 3e-7, "{s} {d}");
            }
        }
    }

    #[test]
    fn no_scaling_without_a_factor() {
        let d = Dims { yarn_factor: 1.0, rope_base_comp: 1e4, ..flash() };
        assert_eq!(RopeFreqs::new(&d, 4), RopeFreqs::new(&d, 0));
    }
}
