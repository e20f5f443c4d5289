//! Random weights and activations, for tests and for measuring speed without a model.

use ds4_gguf::TensorType as T;

/// splitmix64.
#[derive(Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn pick<V: Copy>(&mut self, from: &[V]) -> V {
        from[(self.next() % from.len() as u64) as usize]
    }
}

/// What the scales of blocks may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scales {
    /// About 1e-2, as in real weights.
    Usual,
    /// Zero, negative, subnormal and the largest f16.
    #[cfg_attr(not(test), expect(dead_code, reason = "speed does not depend on the values"))]
    Extreme,
}

/// `n` random elements of a format: every bit pattern in the values, scales as said.
pub(crate) fn weights(rng: &mut Rng, ty: T, n: usize, scales: Scales) -> Vec<u8> {
    let bytes = ty.row_bytes(n).expect("whole blocks");
    let mut w: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).collect();
    w.truncate(bytes);
    for b in w.chunks_exact_mut(ty.block_bytes()) {
        match ty {
            T::F32 => b.copy_from_slice(&rng.unit().to_le_bytes()),
            T::F16 => b.copy_from_slice(&half::f16::from_f32(rng.unit()).to_le_bytes()),
            T::Bf16 => b.copy_from_slice(&half::bf16::from_f32(rng.unit()).to_le_bytes()),
            T::I32 => b.copy_from_slice(&((rng.next() % 100) as i32 - 50).to_le_bytes()),
            T::Q8_0 | T::Iq2Xxs => f16_scale(rng, scales, &mut b[..2]),
            T::Q4K => {
                f16_scale(rng, scales, &mut b[..2]);
                f16_scale(rng, scales, &mut b[2..4]);
            }
            T::Q2K => {
                f16_scale(rng, scales, &mut b[80..82]);
                f16_scale(rng, scales, &mut b[82..84]);
            }
            T::Mxfp4 => {
                b[0] = match scales {
                    Scales::Usual => 118 + (rng.next() % 6) as u8,
                    Scales::Extreme => rng.pick(&[0, 1, 2, 60, 127, 180, 200]),
                }
            }
        }
    }
    w
}

fn f16_scale(rng: &mut Rng, scales: Scales, b: &mut [u8]) {
    let v = match scales {
        Scales::Usual => 0.01 + 0.005 * rng.unit(),
        Scales::Extreme => rng.pick(&[0.0, -0.05, 6e-8, 1e-5, 60000.0, -60000.0, 1.0]),
    };
    b.copy_from_slice(&half::f16::from_f32(v).to_le_bytes());
}

/// Random activations; every block of 32 has its own size, some are zero.
pub(crate) fn values(rng: &mut Rng, n: usize) -> Vec<f32> {
    let mut x = vec![0.0; n];
    for b in x.chunks_mut(32) {
        let size = rng.pick(&[0.0, 1e-3, 1.0, 1.0, 30.0]);
        for v in b {
            *v = size * rng.unit();
        }
    }
    x
}
