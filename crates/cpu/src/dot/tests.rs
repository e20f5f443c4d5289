//! Every kernel of every instruction set at hand against dequantise-then-f64 on random blocks.

use ds4_gguf::TensorType as T;

use super::Isa;
use crate::acts::{ActForm, Acts};
use crate::matmul::{Job, Mat, matmul_with};
use crate::pool::Pool;
use crate::synthetic::{Rng, Scales, values, weights};

/// One product: shapes, inputs and what it should give.
struct Case {
    ty: T,
    form: ActForm,
    rows: usize,
    cols: usize,
    n: usize,
    groups: usize,
    tokens: Option<Vec<u32>>,
}

impl Case {
    fn check(&self, pool: &Pool, rng: &mut Rng, scales: Scales) {
        let Self { ty, form, rows, cols, n, groups, .. } = *self;
        let w = weights(rng, ty, rows * cols, scales);
        let mut acts = Acts::new();
        acts.set(pool, &values(rng, n * groups * cols), n * groups, cols, &[form]);
        let toks: Vec<u32> = self.tokens.clone().unwrap_or_else(|| (0..n as u32).collect());
        let mut wf = vec![0.0; rows * cols];
        ds4_gguf::dequantize_row(ty, &w, &mut wf);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; toks.len() * rows];
            let mat = Mat { name: "", ty, rows, cols, data: &w };
            let mut job = Job::new(mat, &acts, form, &mut y).groups(groups);
            if let Some(t) = &self.tokens {
                job = job.tokens(t);
            }
            matmul_with(isa, pool, &mut [job]);
            if let Some(spec) = &first {
                let same = y.iter().zip(spec).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{isa:?} {ty} × {form:?} {scales:?}, {rows}×{cols}, {n} tokens");
                continue;
            }
            first = Some(y.clone());
            for (t, tok) in toks.iter().enumerate() {
                for r in 0..rows {
                    let x_row = *tok as usize * groups + r / (rows / groups);
                    let w = &wf[r * cols..(r + 1) * cols];
                    let (want, size) = expected(&acts, form, x_row, w);
                    let got = f64::from(y[t * rows + r]);
                    // `size` is what cancellation leaves of relative accuracy.
                    assert!(
                        (got - want).abs() <= 1e-6 * size + 1e-30,
                        "{isa:?} {ty} × {form:?} {scales:?}, {rows}×{cols}, {n} tokens, \
                         {groups} groups, row {r}, token {t}: {got} for {want} ± {size:e}"
                    );
                }
            }
        }
    }
}

/// The product over dequantised values in f64, and the sum of its terms' sizes.
fn expected(acts: &Acts, form: ActForm, x_row: usize, w: &[f32]) -> (f64, f64) {
    let mut x = vec![0.0; w.len()];
    acts.values(form, x_row, 0, &mut x);
    let terms = w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
    terms.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
}

const FORMS: [ActForm; 3] = [ActForm::F32, ActForm::Q8_0, ActForm::Q8K];

/// Shapes around the limits of vectors, panels and batches.
#[test]
fn products_equal_the_dequantised_sums() {
    let pool = Pool::new(2);
    let mut rng = Rng(1);
    for ty in T::ALL {
        for form in FORMS {
            let shapes = [(1, 256, 1), (19, 512, 2), (16, 256, 3), (40, 768, 7), (150, 2048, 21)];
            for (rows, cols, n) in shapes {
                for scales in [Scales::Usual, Scales::Extreme] {
                    let case = Case { ty, form, rows, cols, n, groups: 1, tokens: None };
                    case.check(&pool, &mut rng, scales);
                }
            }
        }
    }
}

/// Every number of tokens that kernels take together, and those between.
#[test]
fn few_tokens() {
    let pool = Pool::new(2);
    let mut rng = Rng(5);
    for ty in [T::Q8_0, T::Mxfp4, T::Q2K, T::Q4K, T::Iq2Xxs] {
        for n in 1..18 {
            for form in [ActForm::Q8_0, ActForm::Q8K] {
                let case = Case { ty, form, rows: 35, cols: 512, n, groups: 1, tokens: None };
                case.check(&pool, &mut rng, Scales::Usual);
            }
        }
    }
}

/// Columns that are no whole number of vectors.
#[test]
fn odd_columns() {
    let pool = Pool::new(1);
    let mut rng = Rng(2);
    for ty in [T::F32, T::F16, T::Bf16] {
        for cols in [1, 7, 24, 96, 257, 300] {
            for n in [1, 5, 19] {
                let form = ActForm::F32;
                let case = Case { ty, form, rows: 18, cols, n, groups: 1, tokens: None };
                case.check(&pool, &mut rng, Scales::Usual);
            }
        }
    }
    for ty in [T::Q8_0, T::F16, T::Mxfp4] {
        let form = ActForm::Q8_0;
        for n in [3, 20] {
            let case = Case { ty, form, rows: 18, cols: 96, n, groups: 1, tokens: None };
            case.check(&pool, &mut rng, Scales::Usual);
        }
    }
}

/// Parts of a stacked matrix, and chosen tokens, for few and for many of them.
#[test]
fn groups_and_chosen_tokens() {
    let pool = Pool::new(3);
    let mut rng = Rng(3);
    for (ty, form) in [(T::Q8_0, ActForm::Q8_0), (T::F16, ActForm::F32), (T::Q2K, ActForm::Q8K)] {
        for n in [1, 4, 23] {
            let case = Case { ty, form, rows: 8 * 20, cols: 256, n, groups: 8, tokens: None };
            case.check(&pool, &mut rng, Scales::Usual);
            let tokens = Some((0..n as u32).rev().step_by(2).collect());
            let case = Case { ty, form, rows: 33, cols: 256, n, groups: 1, tokens };
            case.check(&pool, &mut rng, Scales::Usual);
        }
    }
}

/// Several products of one call do not disturb each other.
#[test]
fn jobs_of_one_call() {
    let pool = Pool::new(2);
    let mut rng = Rng(4);
    let w: Vec<Vec<u8>> =
        (1..6).map(|i| weights(&mut rng, T::Q8_0, 50 * i * 64, Scales::Usual)).collect();
    let mut acts = Acts::new();
    acts.set(&pool, &values(&mut rng, 3 * 64), 3, 64, &[ActForm::Q8_0]);
    let mat = |i: usize| Mat { name: "", ty: T::Q8_0, rows: 50 * (i + 1), cols: 64, data: &w[i] };
    let mut alone: Vec<Vec<f32>> = (0..5).map(|i| vec![0.0; 150 * (i + 1)]).collect();
    let mut together = alone.clone();
    for (i, y) in alone.iter_mut().enumerate() {
        matmul_with(Isa::Scalar, &pool, &mut [Job::new(mat(i), &acts, ActForm::Q8_0, y)]);
    }
    let jobs = together.iter_mut().enumerate();
    let mut jobs: Vec<_> = jobs.map(|(i, y)| Job::new(mat(i), &acts, ActForm::Q8_0, y)).collect();
    matmul_with(Isa::Scalar, &pool, &mut jobs);
    assert_eq!(alone, together);
    assert!(alone.iter().flatten().any(|y| *y != 0.0));
}
