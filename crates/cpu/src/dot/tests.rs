//! Every kernel against dequantise-then-f64 on random blocks.

use ds4_gguf::TensorType as T;

use crate::acts::{ActForm, Acts};
use crate::matmul::{Job, Mat, matmul};
use crate::pool::Pool;

/// splitmix64.
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

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// What the scale of a block may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scales {
    /// About 1e-2, as in real weights.
    Usual,
    /// Zero, negative, subnormal and the largest f16.
    Extreme,
}

/// Random rows of a format: every bit pattern in the values, scales as said.
pub(crate) fn weights(rng: &mut Rng, ty: T, rows: usize, cols: usize, scales: Scales) -> Vec<u8> {
    let mut w = rng.bytes(rows * ty.row_bytes(cols).unwrap());
    let f16 = |b: &mut [u8], rng: &mut Rng| {
        let v = match scales {
            Scales::Usual => 0.01 + 0.005 * rng.unit(),
            Scales::Extreme => {
                [0.0, -0.05, 6e-8, 1e-5, 60000.0, -60000.0, 1.0][rng.next() as usize % 7]
            }
        };
        b.copy_from_slice(&half::f16::from_f32(v).to_le_bytes());
    };
    for b in w.chunks_exact_mut(ty.block_bytes()) {
        match ty {
            T::F32 => b.copy_from_slice(&rng.unit().to_le_bytes()),
            T::F16 => b.copy_from_slice(&half::f16::from_f32(rng.unit()).to_le_bytes()),
            T::Bf16 => b.copy_from_slice(&half::bf16::from_f32(rng.unit()).to_le_bytes()),
            T::I32 => b.copy_from_slice(&((rng.next() % 100) as i32 - 50).to_le_bytes()),
            T::Q8_0 | T::Iq2Xxs => f16(&mut b[..2], rng),
            T::Q4K => {
                f16(&mut b[..2], rng);
                f16(&mut b[2..4], rng);
            }
            T::Q2K => {
                f16(&mut b[80..82], rng);
                f16(&mut b[82..84], rng);
            }
            T::Mxfp4 => {
                b[0] = match scales {
                    Scales::Usual => 118 + (rng.next() % 6) as u8,
                    Scales::Extreme => [0, 1, 2, 60, 127, 180, 200][rng.next() as usize % 7],
                }
            }
        }
    }
    w
}

/// Random activations; each block of 32 has its own size, some are zero.
pub(crate) fn values(rng: &mut Rng, n: usize) -> Vec<f32> {
    let mut x = vec![0.0; n];
    for b in x.chunks_mut(32) {
        let size = [0.0, 1e-3, 1.0, 1.0, 30.0][rng.next() as usize % 5];
        b.iter_mut().for_each(|v| *v = size * rng.unit());
    }
    x
}

fn forms(ty: T, cols: usize) -> Vec<ActForm> {
    let mut f = vec![ActForm::F32, ActForm::Q8_0];
    if cols.is_multiple_of(256) {
        f.push(ActForm::Q8K);
    }
    let _ = ty;
    f
}

/// All weight types × forms × tokens × groups against f64 over the dequantised values.
#[test]
fn products_equal_the_dequantised_sums() {
    let pool = Pool::new(2);
    let mut rng = Rng(1);
    for ty in T::ALL {
        for (rows, cols, n) in [(1, 256, 1), (19, 512, 1), (40, 768, 3), (37, 2048, 21)] {
            for scales in [Scales::Usual, Scales::Extreme] {
                let w = weights(&mut rng, ty, rows, cols, scales);
                let x = values(&mut rng, n * cols);
                for form in forms(ty, cols) {
                    check(&pool, ty, form, (rows, cols, n), &w, &x);
                }
            }
        }
    }
}

fn check(
    pool: &Pool,
    ty: T,
    form: ActForm,
    (rows, cols, n): (usize, usize, usize),
    w: &[u8],
    x: &[f32],
) {
    let mut acts = Acts::new();
    acts.set(pool, x, n, cols, &[form]);
    let mut y = vec![f32::NAN; n * rows];
    let mat = Mat { ty, rows, cols, data: w };
    matmul(pool, &mut [Job::new(mat, &acts, form, &mut y)]);
    let mut wf = vec![0.0; rows * cols];
    ds4_gguf::dequantize_row(ty, w, &mut wf);
    let mut xf = vec![0.0; cols];
    for t in 0..n {
        acts.values(form, t, 0, &mut xf);
        for r in 0..rows {
            let terms = wf[r * cols..(r + 1) * cols].iter().zip(&xf);
            let (mut sum, mut size) = (0.0, 0.0);
            for (w, x) in terms {
                let p = f64::from(*w) * f64::from(*x);
                sum += p;
                size += p.abs();
            }
            let got = f64::from(y[t * rows + r]);
            let error = (got - sum).abs();
            // `size` is what cancellation leaves of relative accuracy.
            assert!(
                error <= 1e-6 * size + 1e-30,
                "{ty} × {form:?}, {rows}×{cols}, row {r} token {t}: {got} for {sum} ± {size:e}"
            );
        }
    }
}
