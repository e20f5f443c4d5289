//! `ds4 serve`: everything a server is made of, put together.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use ds4_engine::DRAFT_MAX;
use ds4_gguf::TensorType;
use ds4_kvstore::KvStore;
use ds4_model::{ModelFile, Runner};
use ds4_scheduler::{Disk, Options as Sharing, Scheduler, Worker, identity};
use ds4_server::{Keys, Listener, Script, Server, Stopped, Trace};
use ds4_turns::{CacheTexts, Turns};
use tokio::net::{TcpListener, UnixListener, lookup_host};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::backend::{Found, Needs};
use crate::serve_options::{DiskCache, Serve};
use crate::serve_plan::{self, Plan, Wanted};
use crate::{backend, load, serve_log};

/// Threads that convert and render requests.
const PREPARING_MAX: usize = 8;
/// Bytes of sessions that may wait to be written.
const WRITING_BYTES_MAX: u64 = 1 << 30;
/// What a process hears that writes beyond its limit of file size; the same on all that have it.
const SIGXFSZ: i32 = 25;

/// The device was lost while serving: exit status 70.
#[derive(Debug)]
pub(crate) struct DeviceLost;

impl fmt::Display for DeviceLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device was lost, or the worker has broken; see the log")
    }
}

impl std::error::Error for DeviceLost {}

/// Serves until it is asked to end.
pub(crate) fn run(mut serve: Serve) -> Result<()> {
    serve_log::start(&serve.log)?;
    serve.options.keys = keys(&serve)?;
    let script = serve.script.as_deref().map(read_script).transpose()?;
    let trace = serve.trace.as_deref().map(open_trace).transpose()?;
    let runtime = runtime()?;
    // Ports that are taken should be known before minutes are spent on loading.
    let sockets = runtime.block_on(Sockets::bind(&serve))?;
    let file = Arc::new(load::open_file(&serve.model)?);
    let (runner, plan) = start_runner(&mut serve, &file)?;
    serve.options.requests_max = 2 * (plan.parallel + serve.queue_max) + 16;
    let ctx = serve.options.ctx;
    let store = serve.disk.as_ref().map(|disk| open_store(disk, &file, ctx)).transpose()?;
    let (worker, turns) = start_worker(&serve, &file, runner, &plan, store.clone())?;
    let server = Server::new(worker, turns, serve.options.clone());
    let server = Arc::new(server.with_store(store).with_trace(trace).with_script(script));
    let stopped = runtime.block_on(async {
        sockets.announce(!serve.options.keys.is_empty());
        let stop = end_signal()?;
        Ok::<Stopped, io::Error>(ds4_server::serve(server, sockets.listeners, stop).await)
    });
    if let Some(path) = &serve.unix {
        let _ = fs::remove_file(path);
    }
    match stopped.context("cannot listen for signals")? {
        Stopped::Asked => {
            tracing::info!("ds4-server: ended");
            Ok(())
        }
        Stopped::DeviceLost => Err(DeviceLost.into()),
    }
}

fn runtime() -> Result<Runtime> {
    // The cores belong to the model: connections need little.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).max_blocking_threads(PREPARING_MAX).enable_all();
    builder.build().context("cannot start threads")
}

fn keys(serve: &Serve) -> Result<Keys> {
    let Some(path) = &serve.key_file else { return Ok(serve.options.keys.clone()) };
    let text = load::read_text(path)?;
    let keys = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let all = serve.options.keys.clone().and(keys);
    if all.is_empty() {
        bail!("{}: there is no key in it", path.display());
    }
    Ok(all)
}

fn read_script(path: &Path) -> Result<Script> {
    Script::from_json(&load::read_text(path)?).with_context(|| path.display().to_string())
}

fn open_trace(path: &Path) -> Result<Trace> {
    Trace::open(path).with_context(|| format!("cannot write {}", path.display()))
}

fn open_store(disk: &DiskCache, file: &ModelFile, ctx: u32) -> Result<KvStore> {
    let options = ds4_kvstore::Options {
        budget_bytes: disk.budget_bytes,
        tokens_min: u32::try_from(disk.options.tokens_min).unwrap_or(u32::MAX),
        identity: identity(file, file.dims.profile_g()),
        accepts_family: disk.accepts_family,
        quant_bits: quant_bits(file),
        ctx,
        n_vocab: u32::try_from(file.dims.n_vocab).context("the vocabulary is too large")?,
        hourly_bytes_max: disk.hourly_bytes_max,
        queue_bytes_max: WRITING_BYTES_MAX,
    };
    KvStore::open(&disk.dir, options).with_context(|| format!("{}", disk.dir.display()))
}

/// Bits of the routed experts as the C engine counts them; 0 for others.
fn quant_bits(file: &ModelFile) -> u8 {
    let mut tensors = file.gguf.tensors().iter();
    match tensors.find(|t| t.name.ends_with("ffn_gate_exps.weight")).map(|t| t.ty) {
        Some(TensorType::Iq2Xxs | TensorType::Q2K) => 2,
        Some(TensorType::Q4K | TensorType::Mxfp4) => 4,
        _ => 0,
    }
}

/// Loads the model where it is to run, and settles what sessions get there.
fn start_runner(serve: &mut Serve, file: &Arc<ModelFile>) -> Result<(Box<dyn Runner>, Plan)> {
    let (ctx, ctx_total, parallel) = (serve.options.ctx, serve.ctx_total, serve.parallel);
    let wanted = Wanted { ctx, ctx_total, parallel, weights_bytes_max: None };
    let needs = Needs::seq(ctx);
    load::describe(file, needs);
    match backend::cuda(file, &serve.model, needs)? {
        Found::Cuda(runner) => {
            let plan = serve_plan::on_device(&*runner, runner.free_bytes()?, wanted)?;
            Ok((runner, plan))
        }
        Found::Cpu(why) => {
            let weights_bytes_max = load::weights_bytes_max(file, serve.model.ram_bytes);
            // Settled once: the plan below is made for it.
            serve.model.ram_bytes = weights_bytes_max;
            let plan = serve_plan::plan(file, Wanted { weights_bytes_max, ..wanted })?;
            let runner = load::start_cpu(file, &serve.model, None, why.as_deref())?;
            Ok((Box::new(runner), plan))
        }
    }
}

fn start_worker(
    serve: &Serve,
    file: &ModelFile,
    runner: Box<dyn Runner>,
    plan: &Plan,
    store: Option<KvStore>,
) -> Result<(Worker, Arc<Turns>)> {
    let tokenizer = Arc::new(load::tokenizer(&file.gguf)?);
    let turns = Turns::new(tokenizer, serve.turns);
    let turns = Arc::new(match &store {
        Some(store) => turns.with_disk(store.clone()),
        None => turns,
    });
    let sharing = Sharing {
        parallel: plan.parallel,
        ctx: serve.options.ctx,
        ctx_total: serve.ctx_total,
        queue_max: serve.queue_max,
        draft_max: serve.model.draft_max.min(DRAFT_MAX),
        marks_bytes_max: plan.marks_bytes,
        ..Sharing::default()
    };
    let disk_options = serve.disk.as_ref().map(|disk| disk.options);
    let disk = store.zip(disk_options).map(|(store, options)| Disk { store, options });
    let texts = Box::new(CacheTexts::new(Arc::clone(&turns)));
    let scheduler = Scheduler::new(runner, sharing, texts, disk);
    Ok((Worker::spawn(scheduler).context("cannot start the worker")?, turns))
}

/// Where connections will come from.
struct Sockets {
    listeners: Vec<Listener>,
    /// For people.
    names: Vec<String>,
    /// Whether other machines can connect.
    is_public: bool,
}

impl Sockets {
    async fn bind(serve: &Serve) -> Result<Self> {
        let (mut listeners, mut names, mut is_public) = (Vec::new(), Vec::new(), false);
        let mut failure = None;
        for address in addresses(&serve.host, serve.port).await? {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let address = listener.local_addr().unwrap_or(address);
                    is_public |= !address.ip().to_canonical().is_loopback();
                    names.push(format!("http://{address}"));
                    listeners.push(Listener::Tcp(listener));
                }
                Err(error) => failure = failure.or(Some((address, error))),
            }
        }
        // A machine without IPv6 cannot have all addresses of a name.
        if let (true, Some((address, error))) = (listeners.is_empty(), failure) {
            bail!("cannot listen on {address}: {error}");
        }
        if let Some(path) = &serve.unix {
            listeners.push(Listener::Unix(bind_unix(path)?));
            names.push(format!("unix:{}", path.display()));
        }
        Ok(Self { listeners, names, is_public })
    }

    /// Says that requests are taken.
    fn announce(&self, has_keys: bool) {
        if self.is_public && !has_keys {
            tracing::warn!(
                "listening beyond this machine without --api-key: whoever reaches the port can use \
                 the model and its cached conversations' speed"
            );
        }
        for name in &self.names {
            tracing::info!("ds4-server: listening on {name}");
        }
    }
}

/// The addresses of a host. `localhost` is both of its own.
async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if host == "localhost" {
        let own = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        return Ok(own.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = lookup_host((host, port)).await;
    let found: Vec<SocketAddr> =
        found.with_context(|| format!("--host {host}: no such address"))?.collect();
    if found.is_empty() { Err(anyhow!("--host {host}: no such address")) } else { Ok(found) }
}

fn bind_unix(path: &PathBuf) -> Result<UnixListener> {
    let name = path.display();
    // A socket that nobody listens on is left over from a server that was killed.
    let is_left = fs::symlink_metadata(path).is_ok_and(|meta| {
        use std::os::unix::fs::FileTypeExt;
        meta.file_type().is_socket() && std::os::unix::net::UnixStream::connect(path).is_err()
    });
    if is_left {
        fs::remove_file(path).with_context(|| format!("cannot replace {name}"))?;
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {name}"))
}

/// Ready at the first SIGINT or SIGTERM. The second leaves at once.
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Files that may not grow are an error of who writes them, not the end of the program.
    drop(signal(SignalKind::from_raw(SIGXFSZ))?);
    let (first, asked) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match first.take() {
                Some(first) => {
                    tracing::info!("ds4-server: ending; again to leave at once");
                    drop(first);
                }
                None => std::process::exit(130),
            }
        }
    });
    Ok(async { drop(asked.await) })
}
