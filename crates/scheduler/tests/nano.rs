//! Models on the CPU through the scheduler: the same request gives the same tokens alone, batched,
//! after a hit of any kind, after a restart, and however its prompt was cut. The small quantised
//! model of the oracle in every variant, the demo model once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Heard, run};
use ds4_cpu::CpuOptions;
use ds4_engine::{Cancel, End, Sampling};
use ds4_kvstore::{KeyBuilder, KvStore, Options as StoreOptions, Piece, ToolEntry, pieces};
use ds4_model::{ModelFile, Runner, TokenId};
use ds4_scheduler::{
    Cuts, Disk, DiskOptions, Options, Request, Scheduler, Source, Texts, identity,
};

const CTX: u32 = 1800;
const ANSWER: usize = 12;

fn nano() -> Arc<ModelFile> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano.gguf");
    Arc::new(ModelFile::open(&path, None).unwrap())
}

fn quant() -> Arc<ModelFile> {
    Arc::new(ds4_model::testing::quant())
}

fn runner(file: &Arc<ModelFile>) -> Box<dyn Runner> {
    let numerics = file.dims.profile_g();
    let options = CpuOptions { threads: 2, numerics, ..CpuOptions::default() };
    ds4_cpu::open(file, &options).unwrap()
}

/// Every token is its own mark: text does not matter here.
struct Marks;

impl Texts for Marks {
    fn encode(&self, tokens: &[TokenId], key: &mut KeyBuilder) {
        for token in tokens {
            key.control(token.0);
        }
    }

    fn tokens(&self, encoding: &[u8]) -> Option<Vec<TokenId>> {
        let id = |piece: Piece| match piece {
            Piece::Control(id) => Some(TokenId(id)),
            Piece::Plain(_) => None,
        };
        pieces(encoding)?.into_iter().map(id).collect()
    }

    fn text(&self, tokens: &[TokenId]) -> String {
        format!("{} tokens", tokens.len())
    }

    fn tools(&self, _: &[TokenId]) -> Vec<ToolEntry> {
        Vec::new()
    }

    fn learn(&self, _: &[TokenId], _: &[ToolEntry]) {}
}

fn options() -> Options {
    // Chunks of any size, as the clock has it.
    Options { parallel: 4, ctx: CTX, mark_interval: Some(128), draft_max: 3, ..Options::default() }
}

fn scheduler(file: &Arc<ModelFile>, options: Options, disk: Option<Disk>) -> Scheduler {
    Scheduler::new(runner(file), options, Box::new(Marks), disk)
}

fn disk(file: &ModelFile, dir: &Path) -> Disk {
    disk_of(file, dir, false)
}

fn disk_of(file: &ModelFile, dir: &Path, accepts_family: bool) -> Disk {
    let options = StoreOptions {
        budget_bytes: 1 << 30,
        tokens_min: 64,
        identity: identity(file, file.dims.profile_g()),
        accepts_family,
        quant_bits: 0,
        ctx: CTX,
        n_vocab: u32::try_from(file.dims.n_vocab).unwrap(),
        hourly_bytes_max: 0,
        queue_bytes_max: 1 << 30,
    };
    let options_disk = DiskOptions {
        tokens_min: 64,
        continued_interval: 120,
        growth_min: 1,
        align: 64,
        ..DiskOptions::default()
    };
    Disk { store: KvStore::open(dir, options).unwrap(), options: options_disk }
}

fn prompt(file: &ModelFile, shared: usize, n: usize, seed: u64) -> Vec<TokenId> {
    let n_vocab = u64::try_from(file.dims.n_vocab).unwrap();
    let token = |seed: u64, i: usize| {
        let x = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64 * 0x5851_f42d);
        let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        TokenId(u32::try_from((x >> 17) % n_vocab).unwrap())
    };
    (0..n).map(|i| token(if i < shared { 0 } else { seed }, i)).collect()
}

fn sampling(seed: Option<u64>) -> Sampling {
    seed.map_or(Sampling::GREEDY, |seed| Sampling { temp: 1.0, seed, ..Sampling::GREEDY })
}

fn request(prompt: &[TokenId], seed: Option<u64>) -> Request {
    Request {
        id: 1,
        prompt: prompt.to_vec(),
        cuts: Cuts { anchor: Some(90), ..Cuts::default() },
        max_tokens: ANSWER,
        stops: Vec::new(),
        sampling: sampling(seed),
        cancel: Cancel::default(),
    }
}

/// Prompts that share beginnings, of different lengths, greedy and not.
fn requests(file: &ModelFile) -> Vec<Request> {
    let of = |shared, n, seed| prompt(file, shared, n, seed);
    vec![
        request(&of(90, 120, 1), None),
        request(&of(90, 400, 2), Some(11)),
        request(&of(90, 277, 3), Some(12)),
        request(&of(0, 100, 4), None),
        request(&of(200, 230, 5), Some(13)),
        request(&of(0, 1, 6), Some(14)),
    ]
}

fn ask(s: &mut Scheduler, request: &Request) -> (Vec<u32>, Heard) {
    let heard = Heard::default();
    s.submit(request.clone(), Box::new(heard.clone()));
    run(s);
    let tokens = heard.0.lock().unwrap().tokens.clone();
    assert_eq!(heard.0.lock().unwrap().outcome, Some(Ok(End::Length)));
    (tokens, heard)
}

fn reused(heard: &Heard) -> (usize, Source) {
    let notes = heard.0.lock().unwrap();
    let started = notes.started.as_ref().unwrap();
    (started.reused, started.source)
}

/// The answer of each request alone on a new scheduler that computes without drafts.
fn alone(file: &Arc<ModelFile>, requests: &[Request]) -> Vec<Vec<u32>> {
    let plain = Options { parallel: 1, draft_max: 0, ..options() };
    requests.iter().map(|r| ask(&mut scheduler(file, plain, None), r).0).collect()
}

fn together(file: &Arc<ModelFile>, variants: &[Options]) {
    let requests = requests(file);
    let expected = alone(file, &requests);
    assert!(expected.iter().any(|a| a != &expected[0]));
    for options in variants {
        let mut s = scheduler(file, *options, None);
        let heard: Vec<Heard> = requests
            .iter()
            .map(|r| {
                let heard = Heard::default();
                s.submit(r.clone(), Box::new(heard.clone()));
                heard
            })
            .collect();
        run(&mut s);
        for (ix, (heard, expected)) in heard.iter().zip(&expected).enumerate() {
            assert_eq!(&heard.0.lock().unwrap().tokens, expected, "request {ix}, {options:?}");
        }
    }
}

#[test]
fn together_or_alone_with_chunks_of_any_size() {
    let quick = Options { step: Duration::ZERO, step_shared: Duration::ZERO, ..options() };
    let fixed = Options { chunk_fixed: Some(96), ..options() };
    let many = Options { parallel: 6, ..options() };
    let plain = Options { draft_max: 0, ..options() };
    together(&quant(), &[options(), quick, fixed, many, plain]);
}

#[test]
fn together_or_alone_on_nano() {
    together(&nano(), &[Options { parallel: 6, ..options() }]);
}

#[test]
fn after_hits_of_every_kind() {
    let file = quant();
    let requests = requests(&file);
    let expected = alone(&file, &requests);
    let long = request(&prompt(&file, 1700, 1700, 0), None);
    let expected_long = alone(&file, std::slice::from_ref(&long)).remove(0);
    let mut s = scheduler(&file, options(), None);
    let mut sources = Vec::new();
    // In an order that extends, forks, repeats and goes back; one lives on beside the others.
    let (first, _) = ask(&mut s, &long);
    assert_eq!(first, expected_long);
    for ix in [0, 1, 2, 1, 4, 3, 0, 5, 2, 2, 4, 1] {
        let (tokens, heard) = ask(&mut s, &requests[ix]);
        assert_eq!(tokens, expected[ix], "request {ix} after {sources:?}");
        sources.push(reused(&heard).1);
    }
    for kind in [Source::Cold, Source::Rewound, Source::Forked] {
        assert!(sources.contains(&kind), "{kind:?} is not in {sources:?}");
    }
    // A second turn extends what is live, its sampled tokens included.
    let mut more = requests[1].prompt.clone();
    more.extend(expected[1].iter().map(|&t| TokenId(t)));
    more.extend(prompt(&file, 0, 30, 9));
    let next = Request { prompt: more, ..requests[1].clone() };
    let (tokens, heard) = ask(&mut s, &next);
    assert_eq!(tokens, alone(&file, std::slice::from_ref(&next))[0]);
    assert_eq!(reused(&heard), (400 + ANSWER - 1, Source::Live));
}

#[test]
fn after_a_restart_clean_or_not() {
    let file = nano();
    let requests = requests(&file);
    let expected = alone(&file, &requests);
    let dir = tempfile::tempdir().unwrap();
    let mut s = scheduler(&file, options(), Some(disk(&file, dir.path())));
    for (r, expected) in requests.iter().zip(&expected) {
        assert_eq!(&ask(&mut s, r).0, expected);
    }
    // Without a clean exit only frontiers are there.
    s.flush();
    drop(s);
    let mut s = scheduler(&file, options(), Some(disk(&file, dir.path())));
    let (tokens, heard) = ask(&mut s, &requests[1]);
    assert_eq!(tokens, expected[1]);
    // Every 120 tokens, rounded up to 128.
    assert_eq!(reused(&heard), (384, Source::Disk));
    let (tokens, heard) = ask(&mut s, &requests[2]);
    assert_eq!((tokens, reused(&heard).0 >= 90), (expected[2].clone(), true));
    s.shut_down();
    drop(s);
    let mut s = scheduler(&file, options(), Some(disk(&file, dir.path())));
    let mut more = requests[1].prompt.clone();
    more.extend(expected[1].iter().map(|&t| TokenId(t)));
    more.extend(prompt(&file, 0, 30, 9));
    let next = Request { prompt: more, ..requests[1].clone() };
    let (tokens, heard) = ask(&mut s, &next);
    assert_eq!(tokens, alone(&file, std::slice::from_ref(&next))[0]);
    assert_eq!(reused(&heard), (400 + ANSWER - 1, Source::Disk));
}

#[test]
fn a_state_that_was_saved_is_loaded_with_the_same_logits() {
    let file = nano();
    let dir = tempfile::tempdir().unwrap();
    let asked = requests(&file).remove(1);
    let mut s = scheduler(&file, options(), Some(disk(&file, dir.path())));
    ask(&mut s, &asked);
    s.shut_down();
    drop(s);
    // The same prompt, cut where a file ends: its logits come from the file, bit by bit.
    let cut = Request { prompt: asked.prompt[..384].to_vec(), ..asked };
    let mut s = scheduler(&file, options(), Some(disk(&file, dir.path())));
    let (tokens, heard) = ask(&mut s, &cut);
    assert_eq!(reused(&heard), (384, Source::Disk));
    assert_eq!(s.counters().prefilled_tokens, 0);
    assert_eq!(tokens, alone(&file, std::slice::from_ref(&cut))[0]);
}

#[test]
fn another_quantisation_s_states_are_taken_by_wish_alone() {
    let models = [1, 2].map(|seed| {
        let gguf = ds4_model::testing::quant_gguf(seed).unwrap();
        Arc::new(ModelFile::new(gguf, None).unwrap())
    });
    let dir = tempfile::tempdir().unwrap();
    let asked = requests(&models[0]).remove(1);
    let mut s = scheduler(&models[0], options(), Some(disk(&models[0], dir.path())));
    ask(&mut s, &asked);
    s.shut_down();
    drop(s);
    for (accepts, expected) in [(false, (0, Source::Cold)), (true, (384, Source::Disk))] {
        let disk = disk_of(&models[1], dir.path(), accepts);
        let off = DiskOptions { cold_max: 0, continued_interval: 0, ..disk.options };
        let disk = Disk { options: off, ..disk };
        let mut s = scheduler(&models[1], options(), Some(disk));
        let (_, heard) = ask(&mut s, &asked);
        assert_eq!(reused(&heard), expected, "accepts: {accepts}");
    }
}
