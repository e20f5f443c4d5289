//! Single kernels on the emulator, at sizes that whole models in tests do not reach.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::sync::{Arc, LazyLock};

use ds4_model::Numerics;
use ds4_model::testing::quant_dims;
use half::bf16;
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::constants::Constants;
use crate::device::{Buf, Device, Geometry};
use crate::emulator::Emulator;
use crate::layer::AttnArg;
use crate::packed::RowForm;
use crate::seq::{LayerAddresses, Tok, raw_slots};
use crate::shape::Defines;

/// One for all tests, which must not build it side by side.
pub(crate) static DEVICE: LazyLock<Arc<Device>> = LazyLock::new(|| {
    let defines = Defines::new(&quant_dims(), Numerics::PROFILE_G).unwrap();
    Arc::new(Device::emulated(Emulator::new(&defines).unwrap()))
});

/// The chosen rows of a token that sees all of `scores`, by up to `blocks` blocks.
fn choose(scores: &[f32], blocks: usize) -> Vec<i32> {
    let device = &*DEVICE;
    let top_k = quant_dims().index_top_k;
    let buf = device.alloc(4 * scores.len()).unwrap();
    device.write(buf.at(), scores.as_bytes()).unwrap();
    let pos = i32::try_from(4 * scores.len() - 1).unwrap();
    let tok = Tok { pos, n: 1, ..Tok::default() };
    let toks = device.alloc(32).unwrap();
    device.write(toks.at(), tok.as_bytes()).unwrap();
    let chosen = device.alloc(4 * top_k).unwrap();
    let parts = device.alloc(8 * blocks * top_k).unwrap();
    let done = device.alloc(4).unwrap();
    let mut args = Args::new().ptr(buf.at()).long(scores.len()).ptr(toks.at()).ptr(chosen.at());
    args = args.ptr(parts.at()).ptr(done.at());
    device.launch("index_topk", Geometry::new(1, blocks, 1024), &mut args).unwrap();
    let (mut rows, mut left) = (vec![0_i32; top_k], 0_u32);
    device.read(chosen.at(), rows.as_mut_bytes()).unwrap();
    device.read(done.at(), left.as_mut_bytes()).unwrap();
    assert_eq!(left, 0, "the counter is ready for the next launch");
    rows
}

/// What [`choose`] should find.
fn best(scores: &[f32]) -> Vec<i32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Both zeros are one, as in the kernel.
    order.sort_by(|a, b| (scores[*b] + 0.0).total_cmp(&(scores[*a] + 0.0)));
    let rows = order[..quant_dims().index_top_k].iter();
    let mut rows: Vec<i32> = rows.map(|row| i32::try_from(*row).unwrap()).collect();
    rows.sort_unstable();
    rows
}

/// One block, a block with more rows than it holds, several blocks; with many equal scores: of these
/// the lower rows win.
#[test]
fn the_rows_of_largest_score_are_chosen() {
    let mut seed = 7_u64;
    let mut next = |values: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) % values) as f32
    };
    for (n, values) in [
        (5, 3),
        (700, 4),
        (1024, 1 << 20),
        (5000, 50),
        (16_384, 1 << 20),
        (40_000, 300),
        (100_001, 7),
    ] {
        let scores: Vec<f32> =
            (0..n).map(|_| (next(values) - values as f32 / 2.0) * 0.37).collect();
        for blocks in [1, 3, 16] {
            let chosen = choose(&scores, blocks);
            assert_eq!(chosen, best(&scores), "{n} rows of {values} values by {blocks}");
        }
    }
}

/// Scores that equal parts of their range do not tell apart: they go on to bits, and to rows.
#[test]
fn scores_of_any_distribution_are_chosen_from() {
    let n = 20_000_usize;
    let bits = |i: usize| u32::try_from(i % n).unwrap();
    let of = |f: &dyn Fn(usize) -> f32| (0..n).map(f).collect::<Vec<f32>>();
    let lists = [
        of(&|_| 1.0),
        of(&|i| if i % 2 == 0 { 0.0 } else { -0.0 }),
        // One far from all others, which are equal, or differ in their last bits.
        of(&|i| if i == 777 { 1e30 } else { 2.5 }),
        of(&|i| if i == 777 { 1e30 } else { f32::from_bits(0x3f80_0000 + bits(i * 7919)) }),
        // Two levels below the largest ones, then equal ones at the edge.
        of(&|i| match i % 5000 {
            17 => 1e20,
            18 => 1e-20,
            _ => -1.0 - (i % 3) as f32,
        }),
        of(&|i| if i == 3 { f32::INFINITY } else { -((i * 31 % n) as f32) }),
        of(&|i| if i % 100 == 0 { i as f32 } else { f32::NEG_INFINITY }),
        of(&|i| f32::from_bits(bits(i * 31))),
        of(&|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }),
    ];
    for (i, scores) in lists.iter().enumerate() {
        for (rows, blocks) in [(n, 1), (n, 4), (1000, 1), (66, 1), (5, 1)] {
            let scores = &scores[..rows];
            assert_eq!(choose(scores, blocks), best(scores), "list {i}, {rows} by {blocks}");
        }
    }
    assert_eq!(choose(&[-0.0, 0.0, -1.0, 0.0, -0.0, f32::NEG_INFINITY], 1), [0, 1, 3, 4]);
}

/// `index_few` and `index_scores` of tokens at several positions, in blocks that take rows in turns;
/// also rows of the step itself and the last ones, less than a tile.
#[test]
fn scores_of_few_tokens_are_those_of_many() {
    let (device, dims) = (&*DEVICE, quant_dims());
    let (heads, dim, n_rows) = (dims.n_index_head, dims.index_dim, 1003_usize);
    let buf = |bytes: &[u8]| {
        let buf = device.alloc(bytes.len()).unwrap();
        device.write(buf.at(), bytes).unwrap();
        buf
    };
    let value = |i: usize| ((i * 2_654_435_761) >> 7) % 13;
    let form = Constants::read(&DEVICE, &dims).unwrap().rows.index;
    let rows: Vec<f32> = (0..n_rows * dim).map(|i| value(i) as f32 * 0.5 - 3.0).collect();
    let rows = buf(&form.pack(&rows, dim));
    let positions = [4 * n_rows - 1, 4 * 500 + 2];
    let q: Vec<bf16> = (0..positions.len() * heads * dim)
        .map(|i| bf16::from_f32(value(i + 77) as f32 - 6.0))
        .collect();
    let weights: Vec<f32> =
        (0..positions.len() * heads).map(|i| value(i + 5) as f32 * 0.1 - 0.5).collect();
    let (q, weights) = (buf(q.as_bytes()), buf(weights.as_bytes()));
    let toks = positions.map(|pos| {
        let pos = i32::try_from(pos).unwrap();
        Tok { pos, pos0: pos - 6, n: 7, ..Tok::default() }
    });
    let toks = buf(toks.as_bytes());
    // Only the index rows of the one layer of the one sequence are read.
    let table = buf([0, 0, rows.at(), 0, 0, 0, 0, 0].as_bytes());
    let stride = n_rows.next_multiple_of(64);
    let all: Vec<Vec<f32>> = ["index_few", "index_scores"]
        .into_iter()
        .map(|kernel| {
            let scores = device.alloc(4 * positions.len() * stride).unwrap();
            let mut args = Args::new().ptr(q.at()).ptr(weights.at()).ptr(toks.at());
            args = args.ptr(table.at()).int(1).int(0);
            let is_few = kernel == "index_few";
            args = if is_few { args } else { args.int(positions.len()) };
            let mut args = args.int(0).ptr(scores.at()).long(stride);
            let geometry = Geometry::new(5, positions.len(), if is_few { 256 } else { 128 });
            device.launch(kernel, geometry, &mut args).unwrap();
            let mut values = vec![0.0_f32; positions.len() * stride];
            device.read(scores.at(), values.as_mut_bytes()).unwrap();
            values
        })
        .collect();
    let differ = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-4 * b.abs().max(1.0);
    assert_eq!(all[0].iter().zip(&all[1]).position(differ), None);
    let seen = all[0].iter().filter(|score| **score != 0.0).count();
    assert!(seen > 1400, "{seen} scores");
}

/// Operands of attention with random values: tokens from `pos` down, each of a sequence of its own that
/// has the same rows, in a layer of ratio 8.
struct Attention {
    arg: AttnArg,
    out: [Buf; 3],
    values: usize,
    _rest: Vec<Buf>,
}

impl Attention {
    fn new(device: &Arc<Device>, form: RowForm, pos: usize, t: usize) -> Self {
        let d = quant_dims();
        let mut seed = 11_u32;
        let mut unit = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let upload = |bytes: &[u8]| {
            let buf = device.alloc(bytes.len()).unwrap();
            device.write(buf.at(), bytes).unwrap();
            buf
        };
        let mut floats =
            |n: usize| upload((0..n).map(|_| 4.0 * unit()).collect::<Vec<f32>>().as_bytes());
        let all = t * d.n_head * d.head_dim;
        let (q, turns, sinks) = (floats(all), floats(t * d.rope_dim), floats(d.n_head));
        let rows = |rows: usize| {
            let value = |i: usize| ((i * 7919 + rows) % 512) as f32 / 256.0 - 1.0;
            let values: Vec<f32> = (0..rows * d.head_dim).map(value).collect();
            upload(&form.pack(&values, d.head_dim))
        };
        let (raw, comp, chunk) = (rows(raw_slots(&d)), rows(pos / 8 + 1), rows(t));
        let tok = |i: usize| {
            let int = |n: usize| i32::try_from(n).unwrap();
            Tok { pos: int(pos - i), pos0: int(pos - i), start: int(i), n: 1, ..Tok::default() }
        };
        let toks = upload((0..t).map(tok).collect::<Vec<_>>().as_bytes());
        let table = upload(LayerAddresses::of_rows(raw.at(), comp.at()).as_bytes());
        let out = [
            device.alloc(4 * all).unwrap(),
            device.alloc(all).unwrap(),
            device.alloc(all / 8).unwrap(),
        ];
        let arg = AttnArg {
            q: q.at(),
            turns: turns.at(),
            sinks: sinks.at(),
            toks: toks.at(),
            table: table.at(),
            places: 1,
            place: 0,
            raw: chunk.at(),
            chosen: 0,
            ratio: 8,
            pad: 0,
            out: out[0].at(),
            q8: out[1].at(),
            d8: out[2].at(),
        };
        Self { arg, out, values: all, _rest: vec![q, turns, sinks, raw, comp, chunk, toks, table] }
    }

    /// The outputs, and their int8 form as values.
    fn outputs(&self, device: &Device) -> [Vec<f32>; 2] {
        let n = self.values;
        let (mut f, mut d, mut q) = (vec![0.0_f32; n], vec![0.0_f32; n / 32], vec![0_i8; n]);
        device.read(self.out[0].at(), f.as_mut_bytes()).unwrap();
        device.read(self.out[1].at(), q.as_mut_bytes()).unwrap();
        device.read(self.out[2].at(), d.as_mut_bytes()).unwrap();
        let q = q.iter().enumerate().map(|(i, q)| f32::from(*q) * d[i / 32]).collect();
        [f, q]
    }
}

/// One launch by clusters of blocks is as the kernel of many tokens: with no row but the own, with
/// blocks that have none, with more rows than the blocks hold at once.
#[test]
fn attention_of_one_token_is_as_of_many() {
    let device = &*DEVICE;
    let (d, c) = (quant_dims(), Constants::read(device, &quant_dims()).unwrap());
    for (pos, t) in [(0, 1), (3, 1), (70, 2), (900, 2), (9000, 1)] {
        let a = Attention::new(device, c.rows.kv, pos, t);
        let blocks = d.n_head.div_ceil(c.attn.heads);
        let geometry = Geometry::new(t, 1, c.attn.threads).deep(blocks).shared(c.attn.shared);
        device.launch("attn", geometry, &mut a.arg.spread(1, 0, 0)).unwrap();
        let many = a.outputs(device);
        a.out.iter().zip([4, 1]).for_each(|(b, n)| device.zero(b.at(), n * a.values).unwrap());
        let (one, mut args) = (c.attn_one, Args::new().raw(a.arg.as_bytes(), 8));
        let blocks = one.blocks * d.n_head.div_ceil(one.heads);
        let geometry = Geometry::new(blocks, t, one.threads).shared(one.shared);
        device.launch("attn_one", geometry, &mut args).unwrap();
        let found = a.outputs(device);
        let most = many[0].iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        for (i, (x, y)) in many[0].iter().zip(&found[0]).enumerate() {
            assert!((x - y).abs() < 2e-6 * most, "value {i} at {pos}: {x} and {y}");
        }
        // A step of the int8 form where a sum falls on its other side.
        let far =
            many[1].iter().zip(&found[1]).filter(|(x, y)| (*x - *y).abs() > 1e-4 * most).count();
        assert!(most > 0.1 && far * 500 < a.values, "{far} of {} at {pos}", a.values);
    }
}
