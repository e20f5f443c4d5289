//! Formats whose sub-blocks have a scale and a minimum: `Q2_K` and `Q4_K`.
//!
//! An element is `d · s · q − dmin · m` with a level `q` of its own, codes `s` and `m` of its
//! sub-block, and `d`, `dmin` of the block. First every sub-block finds the real scale and minimum
//! that suit it best. Then the block chooses `d` and `dmin` such that the largest of them have the
//! largest codes, every sub-block the best codes around its real ones, and the block fits `d` and
//! `dmin` to these by least squares; this is repeated while it helps.

use crate::block::{F16, Q2K, Q4K};
use crate::quant::{code, nearest};

/// How often `d` and `dmin` are chosen; more gains less than 0.1 %.
const ROUNDS: usize = 3;

/// Encodes a block.
pub(super) fn q2_k(x: &[f32; 256], w: &[f32; 256]) -> Q2K {
    let subs = split::<16, 16>(x, w, |sub| sub.real_best::<3>([1.0, 0.85, 0.7]));
    let best = search::<16, 16, 3, 15>(&subs);
    let mut block = Q2K { scales: [0; 16], qs: [0; 64], d: best.d, dmin: best.dmin };
    for (s, sub) in subs.iter().enumerate() {
        block.scales[s] = best.scales[s] | best.mins[s] << 4;
        let (n, j, upper) = (s / 8, s % 8 / 2, s % 2);
        let bytes = &mut block.qs[32 * n + 16 * upper..][..16];
        for (byte, q) in bytes.iter_mut().zip(sub.levels::<3>(best.affine(s))) {
            *byte |= q << (2 * j);
        }
    }
    block
}

/// Encodes a block.
pub(super) fn q4_k(x: &[f32; 256], w: &[f32; 256]) -> Q4K {
    let subs = split::<8, 32>(x, w, |sub| sub.real_best::<15>([1.0, 0.95, 0.9]));
    let best = search::<8, 32, 15, 63>(&subs);
    let scales = Q4K::pack_scales(best.scales, best.mins);
    let mut block = Q4K { d: best.d, dmin: best.dmin, scales, qs: [0; 128] };
    for (s, sub) in subs.iter().enumerate() {
        let bytes = &mut block.qs[32 * (s / 2)..][..32];
        for (byte, q) in bytes.iter_mut().zip(sub.levels::<15>(best.affine(s))) {
            *byte |= q << (4 * (s % 2));
        }
    }
    block
}

/// `scale · q − min`, neither negative.
#[derive(Clone, Copy)]
struct Affine {
    scale: f32,
    min: f32,
}

/// The `N` elements of a sub-block with their weights.
struct Sub<const N: usize> {
    x: [f32; N],
    w: [f32; N],
    /// Σw, Σwx, Σwx².
    sum_w: f32,
    sum_x: f32,
    sum_xx: f32,
    /// The best scale and minimum if they could be any numbers.
    real: Affine,
}

/// Sums over a sub-block that depend on its levels: Σwq, Σwq², Σwxq.
#[derive(Clone, Copy, Default)]
struct Moments {
    q: f32,
    qq: f32,
    xq: f32,
}

fn split<const SUBS: usize, const N: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    real: impl Fn(&Sub<N>) -> Affine,
) -> [Sub<N>; SUBS] {
    const { assert!(SUBS * N == 256) };
    let (x, w) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    std::array::from_fn(|i| {
        let [sum_w, sum_x, sum_xx] = sums(&x[i], &w[i], |x, w| [w, w * x, w * x * x]);
        let real_none = Affine { scale: 0.0, min: 0.0 };
        let mut sub = Sub { x: x[i], w: w[i], sum_w, sum_x, sum_xx, real: real_none };
        sub.real = real(&sub);
        sub
    })
}

/// Three sums over the elements, in four lanes so that the compiler can use vectors.
#[inline]
fn sums<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    terms: impl Fn(f32, f32) -> [f32; 3],
) -> [f32; 3] {
    let mut lanes = [[0f32; 4]; 3];
    for (x, w) in x.as_chunks::<4>().0.iter().zip(w.as_chunks::<4>().0) {
        for l in 0..4 {
            let t = terms(x[l], w[l]);
            for (lane, t) in lanes.iter_mut().zip(t) {
                lane[l] += t;
            }
        }
    }
    lanes.map(|l| (l[0] + l[1]) + (l[2] + l[3]))
}

impl<const N: usize> Sub<N> {
    /// The best level of an element, from 0 to `Q`.
    #[inline]
    fn level<const Q: u8>(x: f32, inverse: f32, min: f32) -> f32 {
        nearest(((x + min) * inverse).max(0.0).min(f32::from(Q)))
    }

    fn levels<const Q: u8>(&self, a: Affine) -> [u8; N] {
        let inverse = reciprocal(a.scale);
        self.x.map(|x| code(Self::level::<Q>(x, inverse, a.min)))
    }

    /// Sums for the best levels of a given scale and minimum.
    #[inline]
    fn moments<const Q: u8>(&self, a: Affine) -> Moments {
        let inverse = reciprocal(a.scale);
        let [q, qq, xq] = sums(&self.x, &self.w, |x, w| {
            let q = Self::level::<Q>(x, inverse, a.min);
            [w * q, w * q * q, w * q * x]
        });
        Moments { q, qq, xq }
    }

    /// Σw(scale · q − min − x)².
    fn error(&self, m: &Moments, Affine { scale, min }: Affine) -> f32 {
        self.sum_xx
            + min * (min * self.sum_w + 2.0 * self.sum_x - 2.0 * scale * m.q)
            + scale * (scale * m.qq - 2.0 * m.xq)
    }

    /// The best scale and minimum for given levels.
    fn fit(&self, m: &Moments) -> Affine {
        let det = m.qq * self.sum_w - m.q * m.q;
        if det > 0.0 {
            let scale = (m.xq * self.sum_w - m.q * self.sum_x) / det;
            let min = (scale * m.q - self.sum_x) / self.sum_w;
            if min >= 0.0 && scale >= 0.0 {
                return Affine { scale, min };
            }
        }
        let scale = if m.qq > 0.0 { (m.xq / m.qq).max(0.0) } else { 0.0 };
        Affine { scale, min: 0.0 }
    }

    /// Searches scale and minimum from several starts: the range of the elements, cut on either
    /// side by each factor of `cuts`.
    fn real_best<const Q: u8>(&self, cuts: [f32; 3]) -> Affine {
        let low = self.x.iter().fold(0f32, |m, &x| m.min(x));
        let high = self.x.iter().fold(f32::MIN, |m, &x| m.max(x));
        let flat = Affine { scale: 0.0, min: -low };
        if high <= low {
            return flat;
        }
        let mut best = (f32::INFINITY, flat);
        for (cut_low, cut_high) in cuts.iter().flat_map(|&l| cuts.map(|h| (l, h))) {
            let min = -low * cut_low;
            let high = if high > 0.0 { high * cut_high } else { high };
            let mut a = Affine { scale: (high + min) / f32::from(Q), min };
            for _ in 0..2 {
                let moments = self.moments::<Q>(a);
                a = self.fit(&moments);
                let error = self.error(&moments, a);
                if error >= best.0 {
                    break;
                }
                best = (error, a);
            }
        }
        best.1
    }
}

fn reciprocal(x: f32) -> f32 {
    if x > 0.0 { 1.0 / x } else { 0.0 }
}

/// All numbers of a block except the levels.
struct Choice<const SUBS: usize> {
    d: F16,
    dmin: F16,
    scales: [u8; SUBS],
    mins: [u8; SUBS],
    error: f32,
}

impl<const SUBS: usize> Choice<SUBS> {
    fn affine(&self, s: usize) -> Affine {
        let scale = self.d.get() * f32::from(self.scales[s]);
        Affine { scale, min: self.dmin.get() * f32::from(self.mins[s]) }
    }
}

/// Sums over a block from which `d` and `dmin` follow for given codes and levels.
#[derive(Default)]
struct Equations {
    ss: f32,
    mm: f32,
    sm: f32,
    sx: f32,
    mx: f32,
}

impl Equations {
    /// The `d` and `dmin` with the least error, neither negative.
    fn solve(&self) -> (F16, F16) {
        let det = self.ss * self.mm - self.sm * self.sm;
        let (d, dmin) = if det > 0.0 {
            let d = (self.sx * self.mm - self.sm * self.mx) / det;
            (d, (self.sx * self.sm - self.ss * self.mx) / det)
        } else if self.ss > 0.0 {
            (self.sx / self.ss, 0.0)
        } else {
            (0.0, 0.0)
        };
        (F16::new(d.max(0.0)), F16::new(dmin.max(0.0)))
    }
}

/// The best codes found for levels up to `Q` and codes up to `S`.
fn search<const SUBS: usize, const N: usize, const Q: u8, const S: u8>(
    subs: &[Sub<N>; SUBS],
) -> Choice<SUBS> {
    let largest = |part: fn(Affine) -> f32| {
        subs.iter().fold(0f32, |m, sub| m.max(part(sub.real))) / f32::from(S)
    };
    let (d, dmin) = (F16::new(largest(|a| a.scale)), F16::new(largest(|a| a.min)));
    let (mut best, mut equations) = choose::<SUBS, N, Q, S>(subs, d, dmin);
    for _ in 1..ROUNDS {
        let (d, dmin) = equations.solve();
        if (d, dmin) == (best.d, best.dmin) {
            break;
        }
        let (choice, next) = choose::<SUBS, N, Q, S>(subs, d, dmin);
        if choice.error >= best.error {
            break;
        }
        (best, equations) = (choice, next);
    }
    best
}

/// The best codes of every sub-block for given `d` and `dmin`.
fn choose<const SUBS: usize, const N: usize, const Q: u8, const S: u8>(
    subs: &[Sub<N>; SUBS],
    d: F16,
    dmin: F16,
) -> (Choice<SUBS>, Equations) {
    let unit = Affine { scale: d.get(), min: dmin.get() };
    let mut choice = Choice { d, dmin, scales: [0; SUBS], mins: [0; SUBS], error: 0.0 };
    let mut eq = Equations::default();
    for (i, sub) in subs.iter().enumerate() {
        let (error, codes, m) = sub.best_codes::<Q, S>(unit);
        choice.error += error;
        choice.scales[i] = code(codes.scale);
        choice.mins[i] = code(codes.min);
        eq.ss += codes.scale * codes.scale * m.qq;
        eq.mm += codes.min * codes.min * sub.sum_w;
        eq.sm += codes.scale * codes.min * m.q;
        eq.sx += codes.scale * m.xq;
        eq.mx += codes.min * sub.sum_x;
    }
    (choice, eq)
}

impl<const N: usize> Sub<N> {
    /// The best codes next to the real scale and minimum, in units of `unit`: error, codes, sums.
    fn best_codes<const Q: u8, const S: u8>(&self, unit: Affine) -> (f32, Affine, Moments) {
        let around = |real: f32, unit: f32| {
            let centre = (real * reciprocal(unit)).min(f32::from(S)).round();
            [0.0, -1.0, 1.0].map(|step| (centre + step).clamp(0.0, f32::from(S)))
        };
        let none = Affine { scale: 0.0, min: 0.0 };
        let mut best = (f32::INFINITY, none, Moments::default());
        for scale in around(self.real.scale, unit.scale) {
            for min in around(self.real.min, unit.min) {
                let a = Affine { scale: scale * unit.scale, min: min * unit.min };
                let moments = self.moments::<Q>(a);
                let error = self.error(&moments, a);
                if error < best.0 {
                    best = (error, Affine { scale, min }, moments);
                }
            }
        }
        best
    }
}
