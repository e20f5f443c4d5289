//! `IQ2_XXS`: vectors of 8 magnitudes out of a codebook, signs of even parity, a scale per 32.
//!
//! For a scale, the best vector is looked for among those near the element-wise rounding; a list
//! per rounding result says which. A group tries several scales, the block chooses `d` such that
//! the largest of them has the largest code, and every group takes the better of the two codes
//! around its own scale.

use std::sync::LazyLock;

use crate::block::{F16, Iq2Group, Iq2Xxs};
use crate::quant::code;
use crate::tables::{IQ2_XXS_GRID, IQ2_XXS_LEVELS, iq2_signs};

/// First scales tried for a group, in units of its root mean square. The last is for groups in
/// which a few elements are much larger than the rest, or none is.
const STARTS: [f32; 4] = [0.03, 0.039, 0.051, 0.075];

/// How much farther than the nearest vector, in squared distance, others are still tried. With
/// equal weights the error stops falling at 900; unequal ones gain a little up to 1500.
const FARTHER: i32 = 1200;

/// The codebook as floats, and for every rounding result the vectors to try.
struct Book {
    vectors: [[f32; 8]; 256],
    /// Indices of vectors, list after list.
    near: Vec<u8>,
    /// Where the list of a rounding result (its levels as digits in base 3) starts; one more.
    starts: Vec<u32>,
}

static BOOK: LazyLock<Book> = LazyLock::new(|| {
    let vectors = IQ2_XXS_GRID.map(|v| v.to_le_bytes().map(i32::from));
    let mut near = Vec::new();
    let mut starts = vec![0];
    for rounded in 0..3usize.pow(8) {
        let mut rest = rounded;
        let target: [i32; 8] = std::array::from_fn(|_| {
            let level = i32::from(IQ2_XXS_LEVELS[rest % 3]);
            rest /= 3;
            level
        });
        let distance = vectors.map(|v| v.iter().zip(target).map(|(v, t)| (v - t).pow(2)).sum());
        let least: i32 = distance.into_iter().min().unwrap_or(0);
        // The rounding itself, where it is a vector, cannot be beaten.
        let limit = if least == 0 { 0 } else { least + FARTHER };
        near.extend((0..=255u8).filter(|&i| distance[usize::from(i)] <= limit));
        starts.push(u32::try_from(near.len()).expect("at most 256 · 3^8"));
    }
    let vectors = IQ2_XXS_GRID.map(|v| v.to_le_bytes().map(f32::from));
    Book { vectors, near, starts }
});

/// Eight elements.
#[derive(Clone, Copy)]
struct Eight {
    /// Magnitudes.
    a: [f32; 8],
    /// Weights.
    w: [f32; 8],
    /// Weight · element with the sign it will have left out; negative where the sign is wrong.
    wx: [f32; 8],
    /// The signs it will have; bit set for minus, an even number of them.
    signs: u8,
    /// The element whose sign is wrong, if the number of minus signs was odd.
    wrong: Option<usize>,
}

impl Eight {
    fn new(x: &[f32], w: &[f32]) -> Self {
        let w: [f32; 8] = std::array::from_fn(|j| w[j]);
        let a: [f32; 8] = std::array::from_fn(|j| x[j].abs());
        let mut wx: [f32; 8] = std::array::from_fn(|j| w[j] * a[j]);
        let mut signs = (0..8).fold(0u8, |s, j| s | u8::from(x[j] < 0.0) << j);
        let mut wrong = None;
        if signs != iq2_signs(signs) {
            // A wrong sign costs 4 · scale · magnitude · weight · |x|.
            let least = (0..8).fold(0, |least, j| if wx[j] < wx[least] { j } else { least });
            wx[least] = -wx[least];
            signs ^= 1 << least;
            wrong = Some(least);
        }
        Self { a, w, wx, signs, wrong }
    }

    /// The best vector at a scale.
    fn pick(&self, book: &Book, scale: f32) -> Pick {
        const POWERS: [usize; 8] = [1, 3, 9, 27, 81, 243, 729, 2187];
        // Half-way between the levels.
        let (one, two) = (16.5 * scale, 34.0 * scale);
        let digit =
            |j: usize| (usize::from(self.a[j] > one) + usize::from(self.a[j] > two)) * POWERS[j];
        let mut rounded = (0..8).map(digit).sum::<usize>();
        if let Some(j) = self.wrong {
            rounded -= digit(j);
        }
        let list = book.starts[rounded] as usize..book.starts[rounded + 1] as usize;
        let index = match &book.near[list] {
            &[only] => only,
            list => self.nearest(book, list, scale),
        };
        let v = &book.vectors[usize::from(index)];
        let (mut xv, mut vv) = ([0f32; 4], [0f32; 4]);
        for j in 0..4 {
            let k = j + 4;
            xv[j] = self.wx[j] * v[j] + self.wx[k] * v[k];
            vv[j] = self.w[j] * v[j] * v[j] + self.w[k] * v[k] * v[k];
        }
        Pick { index, xv: sum(xv), vv: sum(vv) }
    }

    /// The one of `list` with the least Σw(v − x/scale)².
    #[inline]
    fn nearest(&self, book: &Book, list: &[u8], scale: f32) -> u8 {
        let twice = self.wx.map(|wx| wx * (2.0 / scale));
        let mut best = (f32::INFINITY, list[0]);
        for &index in list {
            let v = &book.vectors[usize::from(index)];
            let mut cost = [0f32; 4];
            for j in 0..4 {
                let k = j + 4;
                cost[j] =
                    (self.w[j] * v[j] - twice[j]) * v[j] + (self.w[k] * v[k] - twice[k]) * v[k];
            }
            let cost = sum(cost);
            if cost < best.0 {
                best = (cost, index);
            }
        }
        best.1
    }
}

fn sum(v: [f32; 4]) -> f32 {
    (v[0] + v[2]) + (v[1] + v[3])
}

/// A vector chosen for eight elements, with Σwxv and Σwv².
#[derive(Clone, Copy)]
struct Pick {
    index: u8,
    xv: f32,
    vv: f32,
}

/// The vectors of a group, with the sums over all 32 elements.
struct Picks {
    index: [u8; 4],
    xv: f32,
    vv: f32,
}

fn pick_all(book: &Book, group: &[Eight; 4], scale: f32) -> Picks {
    let picks = group.map(|e| e.pick(book, scale));
    let xv = picks.iter().map(|p| p.xv).sum();
    Picks { index: picks.map(|p| p.index), xv, vv: picks.iter().map(|p| p.vv).sum() }
}

/// The best scale of a group if it could be any number.
fn real_best(book: &Book, group: &[Eight; 4]) -> f32 {
    let (mut xx, mut sum_w) = (0.0, 0.0);
    for e in group {
        for j in 0..8 {
            xx += e.w[j] * e.a[j] * e.a[j];
            sum_w += e.w[j];
        }
    }
    let rms = (xx / sum_w).sqrt();
    if rms == 0.0 {
        return 0.0;
    }
    // The error falls by (Σwxv)² / Σwv² when the scale is Σwxv / Σwv².
    let mut best = (0.0, 0.0);
    for start in STARTS {
        let mut scale = start * rms;
        for _ in 0..2 {
            let picks = pick_all(book, group, scale);
            scale = picks.xv / picks.vv;
            let gain = picks.xv * scale;
            // A scale that is not positive has no use; it comes from weights of very unlike size.
            if gain <= best.0 || scale <= 0.0 {
                break;
            }
            best = (gain, scale);
        }
    }
    best.1
}

/// Encodes a block.
pub(super) fn iq2_xxs(x: &[f32; 256], w: &[f32; 256]) -> Iq2Xxs {
    let book = &*BOOK;
    let groups: [[Eight; 4]; 8] = std::array::from_fn(|g| {
        std::array::from_fn(|i| {
            let at = 32 * g + 8 * i;
            Eight::new(&x[at..at + 8], &w[at..at + 8])
        })
    });
    let real = groups.map(|group| real_best(book, &group));
    // The largest code means 15.5 · 0.25.
    let d = F16::new(real.iter().fold(0f32, |m, &s| m.max(s)) / (15.5 * 0.25));
    let zero = Iq2Group { index: [0; 4], signs_scale: [0; 4] };
    if d.get() == 0.0 {
        return Iq2Xxs { d, groups: [zero; 8] };
    }
    let (mut fit_x, mut fit_v) = (0.0, 0.0);
    let groups = std::array::from_fn(|g| {
        let (group, picks, factor) = encode_group(book, &groups[g], real[g], d.get());
        fit_x += factor * picks.xv;
        fit_v += factor * factor * picks.vv;
        group
    });
    // With everything else fixed, the best d follows.
    Iq2Xxs { d: F16::new((fit_x / fit_v).max(0.0)), groups }
}

/// The better of the two scale codes around `real`; returns the group, its vectors and
/// scale / d.
fn encode_group(book: &Book, group: &[Eight; 4], real: f32, d: f32) -> (Iq2Group, Picks, f32) {
    let low = (real / (0.25 * d) - 0.5).floor();
    let [a, b] = [low, low + 1.0].map(|c| {
        let c = c.clamp(0.0, 15.0);
        let factor = (0.5 + c) * 0.25;
        let picks = pick_all(book, group, factor * d);
        let scale = factor * d;
        (scale * (scale * picks.vv - 2.0 * picks.xv), c, picks, factor)
    });
    let (_, c, picks, factor) = if b.0 < a.0 { b } else { a };
    let signs = (0..4).fold(0, |s, i| s | u32::from(group[i].signs & 0x7f) << (7 * i));
    let word = signs | u32::from(code(c)) << 28;
    (Iq2Group { index: picks.index, signs_scale: word.to_le_bytes() }, picks, factor)
}
