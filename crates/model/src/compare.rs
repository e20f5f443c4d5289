//! How far a backend's stages are from a reference: errors per token, and choices with a margin.
//!
//! Rounding modes are not continuous: one ulp can move a quantisation step. So tokens are compared
//! one by one and judged by median and 99th percentile, and a choice between two scores that are
//! nearer than a stated margin is not called wrong.

use std::fmt;

use crate::npy::Array;

/// Normalised mean square error: `Σ (ours − theirs)² / Σ theirs²`.
///
/// Equal infinities count as equal; any other value that is not finite makes the error infinite.
pub fn nmse(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "lengths");
    let (mut diff, mut norm) = (0.0, 0.0);
    for (a, b) in ours.iter().zip(theirs) {
        if a.is_infinite() && a.total_cmp(b).is_eq() {
            continue;
        }
        let (a, b) = (f64::from(*a), f64::from(*b));
        diff += (a - b).powi(2);
        norm += b.powi(2);
    }
    ratio(diff, norm)
}

/// `diff / norm`, 0 for equal and infinite for different or meaningless values.
fn ratio(diff: f64, norm: f64) -> f64 {
    if diff == 0.0 {
        0.0
    } else if diff.is_finite() && norm.is_finite() && norm > 0.0 {
        diff / norm
    } else {
        f64::INFINITY
    }
}

/// Errors of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageError {
    /// Full name of the stage.
    pub name: String,
    /// Tokens, or rows, compared.
    pub rows: usize,
    /// Over all values.
    pub nmse: f64,
    /// Median of `‖ours − theirs‖ / ‖theirs‖` of a row.
    pub median: f64,
    /// 99th percentile of the same.
    pub p99: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
}

impl StageError {
    /// Compares two arrays row by row.
    ///
    /// # Panics
    /// If their shapes differ: that is never a matter of rounding.
    pub fn new(name: &str, ours: &Array, theirs: &Array) -> Self {
        assert_eq!(ours.shape, theirs.shape, "shape of {name}");
        let rows = theirs.rows();
        let row = |i: usize| nmse(ours.row(i), theirs.row(i)).sqrt();
        let mut relative: Vec<f64> = (0..rows).map(row).collect();
        relative.sort_by(f64::total_cmp);
        let at = |share: f64| percentile(&relative, share);
        let diff = |(a, b): (&f32, &f32)| {
            let same = a.is_infinite() && a.total_cmp(b).is_eq();
            if same { 0.0 } else { f64::from((a - b).abs()) }
        };
        let max_abs = ours.data.iter().zip(&theirs.data).map(diff).fold(0.0, nan_max);
        Self {
            name: name.to_owned(),
            rows,
            nmse: nmse(&ours.data, &theirs.data),
            median: at(0.5),
            p99: at(0.99),
            max_abs,
        }
    }
}

/// The larger value; not-a-number wins, so that it is seen.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The value below which `share` of the sorted values lie; 0 of none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index between 0 and the length"
)]
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    sorted[(share * last as f64).ceil() as usize]
}

/// Errors of many stages, shown as one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorTable(pub Vec<StageError>);

impl fmt::Display for ErrorTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = ("stage", "rows");
        writeln!(
            f,
            "{a:<20} {b:>6} {:>10} {:>10} {:>10} {:>10}",
            "nmse", "median", "p99", "max abs"
        )?;
        for e in &self.0 {
            let (name, rows) = (&e.name, e.rows);
            write!(f, "{name:<20} {rows:>6} {:>10.2e} {:>10.2e}", e.nmse, e.median)?;
            writeln!(f, " {:>10.2e} {:>10.2e}", e.p99, e.max_abs)?;
        }
        Ok(())
    }
}

/// Tokens whose experts were chosen differently by more than rounding.
///
/// `scores` are the reference's scores with bias, by which experts are chosen:
/// `[tokens, n_expert]`. At every place of the order the two chosen experts must be equal, or
/// their scores nearer than `margin`; 0 asks for equal choices.
pub fn wrong_experts(ours: &Array, theirs: &Array, scores: &Array, margin: f32) -> Vec<usize> {
    assert_eq!(ours.shape, theirs.shape, "shape of the choices");
    let wrong = |row: usize| {
        let score = scores.row(row);
        let pairs = ours.row(row).iter().zip(theirs.row(row));
        pairs.filter(|(a, b)| a.total_cmp(b).is_ne()).any(|(a, b)| {
            match (at(score, *a), at(score, *b)) {
                (Some(a), Some(b)) => (a - b).abs() >= margin,
                _ => true,
            }
        })
    };
    (0..theirs.rows()).filter(|row| wrong(*row)).collect()
}

/// Tokens whose index rows were chosen differently by more than rounding.
///
/// Choices are ascending row numbers, −1 padded; `scores` are the reference's, one per visible row.
/// Every row that only the reference chose must score less than `margin` above every row that only
/// we chose; 0 asks for equal sets.
pub fn wrong_rows(ours: &Array, theirs: &Array, scores: &Array, margin: f32) -> Vec<usize> {
    assert_eq!(ours.shape, theirs.shape, "shape of the choices");
    let wrong = |row: usize| {
        let (a, b, score) = (ours.row(row), theirs.row(row), scores.row(row));
        let only = |x: &[f32], y: &[f32]| -> Option<Vec<f32>> {
            x.iter().filter(|id| !y.contains(id)).map(|id| at(score, *id)).collect()
        };
        match (only(a, b), only(b, a)) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                let worst = a.iter().copied().fold(f32::INFINITY, f32::min);
                b.iter().any(|s| s - worst >= margin)
            }
            _ => true,
        }
    };
    (0..theirs.rows()).filter(|row| wrong(*row)).collect()
}

/// The finite score of a chosen id.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ids are small integers held as floats"
)]
fn at(scores: &[f32], id: f32) -> Option<f32> {
    if id < 0.0 {
        return None;
    }
    scores.get(id as usize).copied().filter(|s| s.is_finite())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    fn array(rows: usize, data: &[f32]) -> Array {
        Array::new(vec![rows, data.len() / rows], data.to_vec())
    }

    #[test]
    fn nmse_is_relative_and_sees_infinities() {
        let inf = f32::NEG_INFINITY;
        assert!((nmse(&[1.1, 0.0], &[1.0, 0.0]) - 0.01).abs() < 1e-6);
        assert_eq!(nmse(&[inf, 2.0], &[inf, 2.0]), 0.0);
        assert_eq!(nmse(&[0.0, 2.0], &[inf, 2.0]), f64::INFINITY);
        assert_eq!(nmse(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(nmse(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(nmse(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn one_bad_row_of_many_moves_the_maximum_only() {
        let theirs = array(200, &[1.0; 400]);
        let mut ours = theirs.clone();
        ours.data[100] = 3.0;
        let e = StageError::new("x", &ours, &theirs);
        assert_eq!((e.median, e.p99, e.max_abs), (0.0, 0.0, 2.0));
        ours.data.iter_mut().for_each(|x| *x *= 1.01);
        let e = StageError::new("x", &ours, &theirs);
        assert!((e.median - 0.01).abs() < 1e-6 && e.p99 < 0.011, "{e:?}");
        let shown = ErrorTable(vec![e]).to_string();
        assert!(shown.starts_with("stage") && shown.contains("1.00e-2"), "{shown}");
        ours.data[0] = f32::NAN;
        let e = StageError::new("x", &ours, &theirs);
        assert!(e.max_abs.is_nan() && e.nmse.is_infinite(), "{e:?}");
    }

    #[test]
    fn near_ties_of_experts_are_not_wrong() {
        let scores = array(2, &[0.9, 0.5, 0.499, 0.1, 0.9, 0.5, 0.499, 0.1]);
        let theirs = array(2, &[0.0, 1.0, 0.0, 1.0]);
        let ours = array(2, &[0.0, 2.0, 0.0, 3.0]);
        assert_eq!(wrong_experts(&ours, &theirs, &scores, 0.01), [1]);
        assert_eq!(wrong_experts(&ours, &theirs, &scores, 0.0), [0, 1]);
        assert_eq!(wrong_experts(&theirs, &theirs, &scores, 0.0), [0usize; 0]);
        let swapped = array(2, &[1.0, 0.0, 0.0, 9.0]);
        assert_eq!(wrong_experts(&swapped, &theirs, &scores, 0.1), [0, 1]);
    }

    #[test]
    fn near_ties_of_rows_are_not_wrong() {
        let inf = f32::NEG_INFINITY;
        let scores = array(1, &[3.0, 2.0, 1.999, 1.0, inf]);
        let theirs = array(1, &[0.0, 1.0]);
        let check = |ours: [f32; 2], margin| wrong_rows(&array(1, &ours), &theirs, &scores, margin);
        assert!(check([0.0, 1.0], 0.0).is_empty());
        assert!(check([0.0, 2.0], 0.01).is_empty());
        assert_eq!(check([0.0, 2.0], 0.0), [0]);
        assert_eq!(check([0.0, 3.0], 0.01), [0]);
        assert_eq!(check([0.0, 4.0], 9.0), [0], "a row that is not visible");
        assert_eq!(check([-1.0, 0.0], 9.0), [0], "too few rows");
    }
}
