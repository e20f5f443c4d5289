//! Seeded noise in every storage format: any bits of a quantised block are values, so blocks are
//! filled with random bits and scales of the wanted size.
//!
//! Integers and exactly rounded operations only, so that equal seeds give equal bytes everywhere.

use ds4_gguf::TensorType;
use ds4_gguf::block::F16;

/// Distribution of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Noise {
    /// Mean; quantised formats have none.
    pub(crate) mean: f32,
    /// Standard deviation.
    pub(crate) std: f32,
}

/// Bytes filled from one seed.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// FNV-1a of a name, 64 bits.
pub(crate) fn fnv(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The splitmix64 output function.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Increment of splitmix64.
pub(crate) const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A xoshiro256++ stream; ours, because equal seeds must give equal bytes for ever.
pub(crate) struct Rng([u64; 4]);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self([1, 2, 3, 4].map(|i| mix(seed.wrapping_add(GAMMA.wrapping_mul(i)))))
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A bell curve of mean 0 and deviation 1 within ±3.46: the sum of four uniform numbers.
    #[inline]
    fn bell(&mut self) -> f32 {
        /// Deviation of the sum of four uniform integers below 2^16.
        const STD: f32 = 37_837.227;
        let x = self.next();
        let sum = [0, 16, 32, 48].map(|s| (x >> s) & 0xffff).iter().sum::<u64>();
        #[expect(clippy::cast_possible_wrap, reason = "below 2^18")]
        let centred = sum as i64 - 2 * 0xffff;
        centred as f32 / STD
    }
}

/// Block scales of some size, spread evenly over 0.6 to 1.4 times `base`.
struct Scales([F16; 256]);

impl Scales {
    /// Root mean square of the spread.
    const RMS: f32 = 1.026_32;

    /// Scales for blocks whose values have deviation `unit` when the scale is 1.
    fn new(std: f32, unit: f32) -> Self {
        let base = std / (unit * Self::RMS);
        let at = |i: usize| F16::new(base * (0.6 + 0.8 * (i as f32 + 0.5) / 256.0));
        Self(std::array::from_fn(at))
    }

    fn pick(&self, rng: &mut Rng) -> [u8; 2] {
        self.0[(rng.next() >> 56) as usize].0
    }
}

/// Fills whole blocks with noise; `mean` counts only in `F32`, `F16` and `Bf16`.
///
/// # Panics
/// For types without a fill: `I32` has no noise, `Mxfp4` is not in the synthetic layouts.
pub(crate) fn fill(ty: TensorType, noise: Noise, rng: &mut Rng, out: &mut [u8]) {
    let Noise { mean, std } = noise;
    match ty {
        TensorType::F32 => each(out, || (mean + std * rng.bell()).to_le_bytes()),
        TensorType::F16 => each(out, || F16::new(mean + std * rng.bell()).0),
        TensorType::Bf16 => each(out, || {
            let [.., low, high] = (mean + std * rng.bell()).to_le_bytes();
            [low, high]
        }),
        TensorType::Q8_0 => {
            // Deviation of the integers −127..=127; −128 becomes −127, as quantisers write it.
            let scales = Scales::new(std, 73.613);
            for block in out.chunks_exact_mut(34) {
                let (d, q) = block.split_at_mut(2);
                bits(q, rng);
                q.iter_mut().filter(|q| **q == 0x80).for_each(|q| *q = 0x81);
                d.copy_from_slice(&scales.pick(rng));
            }
        }
        TensorType::Q2K => {
            // scale · q − 1.5 · min of random nibbles and 2-bit q.
            let (d, min) = (Scales::new(std, 13.888), Scales::new(1.5 * std, 13.888));
            for block in out.chunks_exact_mut(84) {
                let (q, scales) = block.split_at_mut(80);
                bits(q, rng);
                k_scales(scales, &d, &min, rng);
            }
        }
        TensorType::Q4K => {
            // scale · q − 7.5 · min of random 6-bit scales and nibbles.
            let (d, min) = (Scales::new(std, 258.24), Scales::new(7.5 * std, 258.24));
            for block in out.chunks_exact_mut(144) {
                let (scales, q) = block.split_at_mut(4);
                bits(q, rng);
                k_scales(scales, &d, &min, rng);
            }
        }
        TensorType::Iq2Xxs => {
            let scales = Scales::new(std, 53.233);
            for block in out.chunks_exact_mut(66) {
                let (d, q) = block.split_at_mut(2);
                bits(q, rng);
                d.copy_from_slice(&scales.pick(rng));
            }
        }
        TensorType::I32 | TensorType::Mxfp4 => panic!("no noise of type {ty}"),
    }
}

fn each<const N: usize>(out: &mut [u8], mut value: impl FnMut() -> [u8; N]) {
    let (values, _) = out.as_chunks_mut::<N>();
    for v in values {
        *v = value();
    }
}

fn bits(out: &mut [u8], rng: &mut Rng) {
    let (words, rest) = out.as_chunks_mut::<8>();
    for w in words {
        *w = rng.next().to_le_bytes();
    }
    let last = rng.next().to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// `d` and `dmin` of one K block, from the same draw so that their ratio is constant.
fn k_scales(out: &mut [u8], d: &Scales, min: &Scales, rng: &mut Rng) {
    let i = (rng.next() >> 56) as usize;
    out[..2].copy_from_slice(&d.0[i].0);
    out[2..].copy_from_slice(&min.0[i].0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_of_every_type_has_its_deviation() {
        let types = [
            TensorType::F32,
            TensorType::F16,
            TensorType::Bf16,
            TensorType::Q8_0,
            TensorType::Q2K,
            TensorType::Q4K,
            TensorType::Iq2Xxs,
        ];
        for ty in types {
            let n = 1 << 20;
            let mut bytes = vec![0; ty.row_bytes(n).unwrap()];
            fill(ty, Noise { mean: 0.0, std: 0.02 }, &mut Rng::new(7), &mut bytes);
            let mut x = vec![0.0; n];
            ds4_gguf::dequantize_row(ty, &bytes, &mut x);
            let mean = x.iter().sum::<f32>() / n as f32;
            let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n as f32;
            assert!((var.sqrt() / 0.02 - 1.0).abs() < 0.01, "{ty}: {}", var.sqrt());
            assert!(mean.abs() < 0.0003, "{ty}: {mean}");
        }
    }

    #[test]
    fn streams_are_pinned() {
        let mut rng = Rng::new(1);
        let first = [rng.next(), rng.next()];
        assert_eq!(first, [Rng::new(1).next(), first[1]]);
        assert_eq!(fnv("a"), 0xaf63_dc4c_8601_ec8c);
        // splitmix64 of seed 0, from its published description.
        assert_eq!(mix(GAMMA), 0xe220_a839_7b1d_cdaf);
    }
}
