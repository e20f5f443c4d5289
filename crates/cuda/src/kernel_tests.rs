//! Single kernels on the emulator, at sizes that whole models in tests do not reach.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::sync::Arc;

use ds4_model::Numerics;
use ds4_model::testing::quant_dims;
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::constants::Constants;
use crate::device::{Buf, Device, Geometry};
use crate::emulator::Emulator;
use crate::layer::AttnArg;
use crate::packed::RowForm;
use crate::seq::{LayerAddresses, Tok, raw_slots};
use crate::shape::Defines;

fn device() -> Arc<Device> {
    let defines = Defines::new(&quant_dims(), Numerics::PROFILE_G).unwrap();
    Arc::new(Device::emulated(Emulator::new(&defines).unwrap()))
}

/// The chosen rows of a token that sees all of `scores`.
fn choose(device: &Arc<Device>, scores: &[f32]) -> Vec<i32> {
    let top_k = quant_dims().index_top_k;
    let buf = device.alloc(4 * scores.len()).unwrap();
    device.write(buf.at(), scores.as_bytes()).unwrap();
    let pos = i32::try_from(4 * scores.len() - 1).unwrap();
    let tok = Tok { pos, n: 1, ..Tok::default() };
    let toks = device.alloc(32).unwrap();
    device.write(toks.at(), tok.as_bytes()).unwrap();
    let chosen = device.alloc(4 * top_k).unwrap();
    let mut args = Args::new().ptr(buf.at()).long(scores.len()).ptr(toks.at()).ptr(chosen.at());
    device.launch("index_topk", Geometry::new(1, 1, 1024), &mut args).unwrap();
    let mut rows = vec![0_i32; top_k];
    device.read(chosen.at(), rows.as_mut_bytes()).unwrap();
    rows
}

/// Few rows, as many as threads keep, and more; with many equal scores: of these the lower rows win.
#[test]
fn the_rows_of_largest_score_are_chosen() {
    let device = device();
    let top_k = quant_dims().index_top_k;
    let mut seed = 7_u64;
    let mut next = |values: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) % values) as f32
    };
    for (n, values) in
        [(5, 3), (700, 4), (1024, 1 << 20), (5000, 50), (16_384, 1 << 20), (40_000, 300)]
    {
        let scores: Vec<f32> =
            (0..n).map(|_| (next(values) - values as f32 / 2.0) * 0.37).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let mut expected: Vec<i32> =
            order[..top_k].iter().map(|row| i32::try_from(*row).unwrap()).collect();
        expected.sort_unstable();
        assert_eq!(choose(&device, &scores), expected, "{n} rows of {values} values");
    }
    assert_eq!(choose(&device, &[1.0; 3000]), [0, 1, 2, 3]);
    assert_eq!(choose(&device, &[-0.0, 0.0, -1.0, 0.0, -0.0, f32::NEG_INFINITY]), [0, 1, 3, 4]);
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
    let device = device();
    let (d, c) = (quant_dims(), Constants::read(&device, &quant_dims()).unwrap());
    for (pos, t) in [(0, 1), (3, 1), (70, 2), (900, 2), (9000, 1)] {
        let a = Attention::new(&device, c.rows.kv, pos, t);
        let blocks = d.n_head.div_ceil(c.attn.heads);
        let geometry = Geometry::new(t, 1, c.attn.threads).deep(blocks).shared(c.attn.shared);
        device.launch("attn", geometry, &mut a.arg.spread(1, 0, 0)).unwrap();
        let many = a.outputs(&device);
        a.out.iter().zip([4, 1]).for_each(|(b, n)| device.zero(b.at(), n * a.values).unwrap());
        let (one, mut args) = (c.attn_one, Args::new().raw(a.arg.as_bytes(), 8));
        let blocks = one.blocks * d.n_head.div_ceil(one.heads);
        let geometry = Geometry::new(blocks, t, one.threads).shared(one.shared);
        device.launch("attn_one", geometry, &mut args).unwrap();
        let found = a.outputs(&device);
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
