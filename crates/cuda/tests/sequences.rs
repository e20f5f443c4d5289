//! Random lives of sequences on the emulator: every way back to a state gives the same bits, and all
//! of it stays close to the CPU runner.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod common;

use std::sync::Arc;

use common::emulated;
use ds4_cpu::{CpuOptions, CpuRunner};
use ds4_cuda::CudaRunner;
use ds4_model::testing::quant;
use ds4_model::{Mark, Numerics, Runner, SeqId, Span, TokenId};

const NUMERICS: Numerics = Numerics::PROFILE_G;
const N_VOCAB: usize = 288;
const CAP: u32 = 330;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn tokens(&mut self, n: usize) -> Vec<TokenId> {
        (0..n).map(|_| TokenId(u32::try_from(self.below(N_VOCAB)).unwrap())).collect()
    }
}

/// A sequence on both runners, with marks of both.
struct Life {
    cpu: SeqId,
    gpu: SeqId,
    marks: Vec<(Mark, Mark)>,
}

struct World {
    cpu: CpuRunner,
    gpu: CudaRunner,
    lives: Vec<Life>,
    random: Random,
    /// Relative errors of rows.
    errors: Vec<f64>,
    log: Vec<String>,
}

fn error(a: &[f32], b: &[f32]) -> f64 {
    let norm =
        |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

fn once(r: &mut dyn Runner, seq: SeqId, tokens: &[TokenId]) -> Vec<u32> {
    let mut logits = Vec::new();
    r.forward(&[Span { seq, tokens, n_logits: tokens.len() }], &mut logits).unwrap();
    logits.iter().map(|v| v.to_bits()).collect()
}

impl World {
    fn new() -> Self {
        let options = CpuOptions { threads: 1, numerics: NUMERICS, ..CpuOptions::default() };
        let cpu = CpuRunner::new(&Arc::new(quant()), &options).unwrap();
        let gpu = emulated(&quant(), NUMERICS);
        Self { cpu, gpu, lives: Vec::new(), random: Random(0), errors: Vec::new(), log: Vec::new() }
    }

    fn len(&self, i: usize) -> u32 {
        let (a, b) = (
            self.cpu.seq_len(self.lives[i].cpu).unwrap(),
            self.gpu.seq_len(self.lives[i].gpu).unwrap(),
        );
        assert_eq!(a, b);
        a
    }

    fn open(&mut self) {
        let (cpu, gpu) = (self.cpu.open_seq(CAP).unwrap(), self.gpu.open_seq(CAP).unwrap());
        self.lives.push(Life { cpu, gpu, marks: Vec::new() });
    }

    fn forward(&mut self) {
        let mut order: Vec<usize> = (0..self.lives.len()).collect();
        let mut parts = Vec::new();
        let mut room = 64;
        let many = 1 + self.random.below(order.len());
        for _ in 0..many {
            let i = order.swap_remove(self.random.below(order.len()));
            let most = [1, 2, 4, 6, 17, 20, 60][self.random.below(7)];
            let n = (1 + self.random.below(most)).min((CAP - self.len(i)) as usize);
            if n == 0 || n > room {
                continue;
            }
            room -= n;
            parts.push((i, self.random.tokens(n), self.random.below(n + 1)));
        }
        if parts.is_empty() {
            return;
        }
        self.log.push(format!(
            "forward {:?}",
            parts.iter().map(|(i, t, n)| (*i, t.len(), *n)).collect::<Vec<_>>()
        ));
        let spans = |of: &dyn Fn(&Life) -> SeqId| -> Vec<Span<'_>> {
            parts
                .iter()
                .map(|(i, tokens, n)| Span { seq: of(&self.lives[*i]), tokens, n_logits: *n })
                .collect()
        };
        let (for_cpu, for_gpu) = (spans(&|l| l.cpu), spans(&|l| l.gpu));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        self.cpu.forward(&for_cpu, &mut a).unwrap();
        self.gpu.forward(&for_gpu, &mut b).unwrap();
        assert_eq!(a.len(), b.len());
        for (a, b) in a.chunks(N_VOCAB).zip(b.chunks(N_VOCAB)) {
            assert!(b.iter().all(|v| v.is_finite()), "{:#?}", self.log);
            self.errors.push(error(b, a));
        }
    }

    fn back(&mut self, i: usize) {
        let len = self.len(i);
        let to = len.saturating_sub(u32::try_from(self.random.below(70)).unwrap());
        let (a, b) =
            (self.cpu.truncate(self.lives[i].cpu, to), self.gpu.truncate(self.lives[i].gpu, to));
        self.log.push(format!("truncate {i} {len} {to} {}", a.is_ok()));
        assert_eq!(a.is_ok(), b.is_ok(), "{:#?}", self.log);
        if a.is_ok() {
            self.lives[i].marks.retain(|(m, _)| m.len <= to);
        }
    }

    fn mark(&mut self, i: usize) {
        let life = &mut self.lives[i];
        let marks =
            (self.cpu.mark(life.cpu).unwrap().unwrap(), self.gpu.mark(life.gpu).unwrap().unwrap());
        life.marks.push(marks);
        self.log.push(format!("mark {i}"));
    }

    fn return_to(&mut self, i: usize) {
        let life = &mut self.lives[i];
        if life.marks.is_empty() {
            return;
        }
        let k = self.random.below(life.marks.len());
        let (a, b) = &life.marks[k];
        self.log.push(format!("rewind {i} {}", a.len));
        self.cpu.rewind(life.cpu, a).unwrap();
        self.gpu.rewind(life.gpu, b).unwrap();
        let len = a.len;
        life.marks.retain(|(m, _)| m.len <= len);
    }

    fn fork(&mut self, i: usize) {
        let life = &self.lives[i];
        if life.marks.is_empty() || self.lives.len() > 4 {
            return;
        }
        let k = self.random.below(life.marks.len());
        let (a, b) = &life.marks[k];
        self.log.push(format!("fork {i} {}", a.len));
        let (cpu, gpu) =
            (self.cpu.fork(life.cpu, a, CAP).unwrap(), self.gpu.fork(life.gpu, b, CAP).unwrap());
        self.lives.push(Life { cpu, gpu, marks: Vec::new() });
    }

    fn close(&mut self, i: usize) {
        let life = self.lives.remove(i);
        self.cpu.close_seq(life.cpu);
        self.gpu.close_seq(life.gpu);
        self.log.push(format!("close {i}"));
    }

    /// The same tokens after every way to the present state.
    fn ways(&mut self, i: usize) {
        let (len, id) = (self.len(i), self.lives[i].gpu);
        let n = (1 + self.random.below(20)).min((CAP - len) as usize);
        if n == 0 {
            return;
        }
        self.log.push(format!("ways {i} {len} {n}"));
        let tokens = self.random.tokens(n);
        let g = &mut self.gpu;
        let mark = g.mark(id).unwrap().unwrap();
        let fork = g.fork(id, &mark, len + 40).unwrap();
        let mut bytes = Vec::new();
        g.save_seq(id, &mut bytes).unwrap();
        let loaded = g.load_seq(&mut &bytes[..], len + 21).unwrap();
        let drafts = |g: &mut CudaRunner, id| {
            let mut out = [TokenId(0); 3];
            let n = g.draft(id, TokenId(5), &mut out).unwrap();
            (n, out)
        };
        let own = drafts(g, id);
        assert_eq!(own, drafts(g, fork), "{:#?}", self.log);
        assert_eq!(own, drafts(g, loaded), "{:#?}", self.log);
        let expected = once(g, id, &tokens);
        let ended = drafts(g, id);
        g.truncate(id, len).unwrap();
        assert!(once(g, id, &tokens) == expected, "truncate: {:#?}", self.log);
        assert_eq!(ended, drafts(g, id), "{:#?}", self.log);
        for (other, what) in [(fork, "fork"), (loaded, "loaded")] {
            assert!(once(g, other, &tokens) == expected, "{what}: {:#?}", self.log);
            assert_eq!(ended, drafts(g, other), "{what}: {:#?}", self.log);
            g.close_seq(other);
        }
        g.rewind(id, &mark).unwrap();
        assert!(once(g, id, &tokens) == expected, "rewind: {:#?}", self.log);
        g.rewind(id, &mark).unwrap();
        let mut again = Vec::new();
        g.save_seq(id, &mut again).unwrap();
        assert!(again == bytes, "state: {:#?}", self.log);
    }

    fn act(&mut self) {
        let i = self.random.below(self.lives.len());
        match self.random.below(20) {
            0 if self.lives.len() < 4 => self.open(),
            1..=2 => self.back(i),
            3 => self.mark(i),
            4 => self.return_to(i),
            5 => self.fork(i),
            6 if self.lives.len() > 1 => self.close(i),
            7..=10 => self.ways(i),
            _ => self.forward(),
        }
    }
}

#[test]
fn random_lives_of_sequences() {
    let mut w = World::new();
    for seed in [10, 11] {
        w.random = Random(seed);
        w.open();
        (0..10).for_each(|_| w.act());
        (0..w.lives.len()).for_each(|_| w.close(0));
        w.log.clear();
    }
    w.errors.sort_by(f64::total_cmp);
    let (e, n) = (&w.errors, w.errors.len());
    let (median, p90) = (e[n / 2], e[n * 9 / 10]);
    println!("{n} rows: relative error, median {median:.1e}, p90 {p90:.1e}");
    assert!(median < 5e-2 && p90 < 0.4, "median {median:.2e}, p90 {p90:.2e}");
}
