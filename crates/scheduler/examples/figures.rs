//! Figures of the scheduler and the disk cache over a model file: what a hit, a save, a restart and a
//! cancelled prompt cost. `cargo run --release -p ds4-scheduler --example figures -- models/nano.gguf`

#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ds4_cpu::CpuOptions;
use ds4_engine::{Cancel, End, Sampling, Stats};
use ds4_kvstore::{KeyBuilder, KvStore, Options as StoreOptions, Piece, ToolEntry, pieces};
use ds4_model::{ModelFile, TokenId};
use ds4_scheduler::{
    Client, Cuts, Disk, DiskOptions, Options, Request, Scheduler, Started, Texts, Worker, identity,
};

const CTX: u32 = 24_000;
const TALK: usize = 10_000;

/// Every token is its own mark.
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

/// What is heard of a request.
enum News {
    Started(Started),
    Token(TokenId, Instant),
    Done(Instant),
}

struct Ear(Sender<News>);

impl Client for Ear {
    fn started(&mut self, started: &Started) {
        let _ = self.0.send(News::Started(started.clone()));
    }
    fn is_constrained(&self) -> bool {
        false
    }
    fn token(&mut self, token: TokenId, _: &[f32]) -> ControlFlow<()> {
        let _ = self.0.send(News::Token(token, Instant::now()));
        ControlFlow::Continue(())
    }
    fn done(&mut self, _: Result<End, ds4_scheduler::Error>, _: &Stats) {
        let _ = self.0.send(News::Done(Instant::now()));
    }
}

/// One request from its submission to its end.
struct Heard {
    started: Option<Started>,
    tokens: Vec<TokenId>,
    times: Vec<Instant>,
    asked: Instant,
    done: Instant,
}

impl Heard {
    fn wait(asked: Instant, news: &Receiver<News>) -> Self {
        let mut heard =
            Self { started: None, tokens: Vec::new(), times: Vec::new(), asked, done: asked };
        for news in news {
            match news {
                News::Started(started) => heard.started = Some(started),
                News::Token(token, at) => {
                    heard.tokens.push(token);
                    heard.times.push(at);
                }
                News::Done(at) => heard.done = at,
            }
        }
        heard
    }

    fn ttft(&self) -> Duration {
        self.times.first().map_or(Duration::ZERO, |t| *t - self.asked)
    }

    fn say(&self, what: &str) {
        let s = self.started.as_ref().expect("it began");
        println!(
            "{what:44} ttft {:>9.1?}  reused {:>5} of {:>5}  {}",
            self.ttft(),
            s.reused,
            s.prompt_tokens,
            s.source.name()
        );
    }
}

fn submit(worker: &Worker, prompt: &[TokenId], n: usize) -> (Instant, Receiver<News>, Cancel) {
    let (sender, news) = channel();
    let cancel = Cancel::default();
    let request = Request {
        id: 1,
        prompt: prompt.to_vec(),
        cuts: Cuts::default(),
        max_tokens: n,
        stops: Vec::new(),
        sampling: Sampling::GREEDY,
        cancel: cancel.clone(),
    };
    let asked = Instant::now();
    worker.submit(request, Box::new(Ear(sender))).expect("there is room");
    (asked, news, cancel)
}

fn ask(worker: &Worker, prompt: &[TokenId], n: usize) -> Heard {
    let (asked, news, _) = submit(worker, prompt, n);
    Heard::wait(asked, &news)
}

fn tokens(file: &ModelFile, n: usize, seed: u64) -> Vec<TokenId> {
    let n_vocab = file.dims.n_vocab as u64;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        TokenId(u32::try_from((state >> 33) % n_vocab).expect("below the vocabulary"))
    };
    (0..n).map(|_| next()).collect()
}

/// A worker over the model, with a cache directory or without.
fn worker(
    file: &Arc<ModelFile>,
    dir: Option<&Path>,
) -> Result<(Worker, Option<KvStore>), Box<dyn Error>> {
    let numerics = file.dims.profile_g();
    let runner = ds4_cpu::open(file, &CpuOptions { numerics, ..CpuOptions::default() })?;
    let store = dir.map(|dir| {
        let options = StoreOptions {
            budget_bytes: 4 << 30,
            tokens_min: 512,
            identity: identity(file, numerics),
            accepts_family: false,
            quant_bits: 0,
            ctx: CTX,
            n_vocab: u32::try_from(file.dims.n_vocab).expect("a small vocabulary"),
            hourly_bytes_max: 0,
            queue_bytes_max: 2 << 30,
        };
        KvStore::open(dir, options)
    });
    let store = store.transpose()?;
    let disk = store.clone().map(|store| Disk { store, options: DiskOptions::default() });
    let options = Options { ctx: CTX, ..Options::default() };
    let scheduler = Scheduler::new(runner, options, Box::new(Marks), disk);
    Ok((Worker::spawn(scheduler)?, store))
}

fn sorted_ms(mut times: Vec<Duration>) -> (f64, f64, f64) {
    times.sort_unstable();
    let ms = |at: usize| times[at.min(times.len() - 1)].as_secs_f64() * 1e3;
    (ms(times.len() / 2), ms(times.len() * 99 / 100), ms(times.len() - 1))
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "models/nano.gguf".to_owned());
    let file = Arc::new(ModelFile::open(Path::new(&path), None)?);
    reuse(&file)?;
    restarts(&file)?;
    sharing(&file)
}

fn reuse(file: &Arc<ModelFile>) -> Result<(), Box<dyn Error>> {
    let (worker, _) = worker(file, None)?;
    let mut talk = tokens(file, TALK, 1);
    let first = ask(&worker, &talk, 32);
    first.say("cold, 10k tokens");
    ask(&worker, &talk, 32).say("the same again");
    let answered = talk.len();
    talk.extend(&first.tokens);
    talk.extend(tokens(file, 200, 2));
    ask(&worker, &talk, 32).say("next turn, 200 new tokens");
    talk.truncate(answered + first.tokens.len() + 100);
    talk.extend(tokens(file, 100, 3));
    ask(&worker, &talk, 32).say("its message edited half-way");
    let mut other = talk[..6000].to_vec();
    other.extend(tokens(file, 200, 4));
    ask(&worker, &other, 32).say("another conversation, 6000 tokens shared");
    ask(&worker, &talk, 32).say("the first one again");
    worker.shut_down();
    Ok(())
}

fn restarts(file: &Arc<ModelFile>) -> Result<(), Box<dyn Error>> {
    let mut talk = tokens(file, TALK + 300, 1);
    for clean in [true, false] {
        let dir = tempfile::tempdir()?;
        let (first, store) = worker(file, Some(dir.path()))?;
        let store = store.expect("it was opened");
        let answer = ask(&first, &talk[..TALK + 300], 32);
        if clean {
            let began = Instant::now();
            first.shut_down();
            println!("{:44} {:>9.1?}", "clean end", began.elapsed());
        }
        store.flush();
        let (stats, counters) = (store.stats(), first.status().counters);
        println!(
            "{:44} {} files, {:.2} MiB, copied in {:.1} ms, written in {} ms on the side",
            if clean { "stored until a clean end" } else { "stored until a kill" },
            stats.stored,
            stats.stored_bytes as f64 / f64::from(1 << 20),
            counters.copy_us as f64 / 1e3,
            stats.stored_ms,
        );
        for entry in store.entries() {
            let (reason, n) = (entry.header.reason.name(), entry.header.tokens);
            println!("{:44} {n} tokens, {} bytes", format!("  {reason}"), entry.file_bytes);
        }
        // A killed process leaves its files and nothing else.
        std::mem::forget(first);
        let (second, _) = worker(file, Some(dir.path()))?;
        talk.extend(&answer.tokens);
        talk.extend(tokens(file, 50, 7));
        let what = if clean { "next turn after a clean end" } else { "next turn after a kill" };
        ask(&second, &talk, 8).say(what);
        talk.truncate(TALK + 300);
        second.shut_down();
    }
    Ok(())
}

fn sharing(file: &Arc<ModelFile>) -> Result<(), Box<dyn Error>> {
    let (worker, _) = worker(file, None)?;
    ask(&worker, &tokens(file, 200, 20), 2).say("200 tokens alone");
    let (asked, news, cancel) = submit(&worker, &tokens(file, 20_000, 21), 2);
    std::thread::sleep(Duration::from_millis(1500));
    ask(&worker, &tokens(file, 200, 22), 2).say("200 tokens beside a prompt of 20k");
    let talking = ask(&worker, &tokens(file, 200, 23), 100);
    talking.say("100 tokens of answer beside it");
    let gaps = talking.times.windows(2).map(|w| w[1] - w[0]).collect();
    let (p50, p99, max) = sorted_ms(gaps);
    println!("{:44} p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms", "time between its tokens");
    cancel.set();
    Heard::wait(asked, &news);
    let alone = ask(&worker, &tokens(file, 200, 24), 100);
    let (p50, p99, max) = sorted_ms(alone.times.windows(2).map(|w| w[1] - w[0]).collect());
    println!(
        "{:44} p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms",
        "time between tokens alone"
    );
    let late = Arc::new(Mutex::new(Vec::new()));
    for i in 0..20 {
        let (asked, news, cancel) = submit(&worker, &tokens(file, 20_000, 30 + i), 2);
        std::thread::sleep(Duration::from_millis(700 + 37 * i));
        let began = Instant::now();
        cancel.set();
        let heard = Heard::wait(asked, &news);
        late.lock().expect("no panic").push(heard.done - began);
    }
    let times = late.lock().expect("no panic").clone();
    let (p50, _, max) = sorted_ms(times);
    println!(
        "{:44} p50 {p50:.1} ms, max {max:.1} ms of 20",
        "cancelled in a prompt, until it ended"
    );
    worker.shut_down();
    Ok(())
}
