//! What was typed, resolved: defaults, environment, conflicts. Nothing is opened or computed here.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use ds4_engine::Sampling;
use ds4_model::Numerics;

use crate::args::{
    Backend as BackendArg, BenchArgs, ChatArgs, Cli, Command, EvalArgs, InspectArgs, LogitsArgs,
    ModelArgs, NumericsArg, ParseArgs, PromptArgs, QuantizeArgs, RenderArgs, SamplingArgs,
    SetupArgs, SteeringArgs, TokenizeArgs, VocabArgs,
};
use crate::cache::CacheArgs;
use crate::imatrix::Collect;
use crate::serve_options::{self, Serve};
use crate::setup::Client;

/// The caller typed something that makes no sense: exit status 2.
#[derive(Debug)]
pub(crate) struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Result of resolving.
pub(crate) type Resolved<T> = Result<T, Usage>;

pub(crate) fn refuse<T>(text: impl Into<String>) -> Resolved<T> {
    Err(Usage(text.into()))
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Chat until the user leaves.
    Repl(Chat),
    /// Answer one prompt.
    Answer(Chat, Prompt),
    /// Write the log probabilities of a greedy answer.
    DumpLogprobs { chat: Chat, prompt: Prompt, file: PathBuf, top_k: usize },
    /// Show the tokens of a text.
    DumpTokens { model: Source, prompt: Prompt },
    /// Score a text.
    Perplexity { model: Model, ctx: u32, file: PathBuf },
    /// Collect an importance matrix.
    Imatrix(Collect),
    /// Show a model file.
    Inspect { model: Source, mtp: Option<PathBuf>, ctx: Option<u32>, is_json: bool },
    /// Strings to ids.
    Tokenize { model: Source, is_plain: bool },
    /// Ids to text.
    Detokenize { model: Source },
    /// Conversations to prompts.
    Render { model: Source, profile: String },
    /// Output to messages.
    Parse,
    /// Logits of a prompt.
    Logits(Logits),
    /// Speed.
    Bench(Bench),
    /// Quality.
    Eval(Eval),
    /// Another format.
    Quantize(QuantizeArgs),
    /// A server.
    Serve(Box<Serve>),
    /// An agent's configuration.
    Setup(Setup),
    /// Files of the disk cache.
    Cache(CacheArgs),
}

/// `ds4 setup`.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The agent.
    pub client: Client,
    /// Address of the server.
    pub url: String,
    /// Key that the server asks for.
    pub key: Option<String>,
    /// Context length, if the server is not to be asked.
    pub ctx: Option<u32>,
    /// Whether to write.
    pub write: bool,
    /// Where the agents' files are.
    pub home: PathBuf,
}

/// `ds4 eval`.
#[derive(Debug)]
pub(crate) struct Eval {
    /// The model.
    pub model: Model,
    /// Files of the suite, else those in the program.
    pub dir: Option<PathBuf>,
    /// Categories, all when empty.
    pub only: Vec<String>,
    /// Cases of each at most.
    pub limit: Option<usize>,
    /// File for every reply.
    pub json: Option<PathBuf>,
}

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A GGUF file.
    File(PathBuf),
    /// The model inside the program.
    Demo,
}

/// A model to run.
#[derive(Debug)]
pub(crate) struct Model {
    /// Main file.
    pub source: Source,
    /// File with the MTP block.
    pub mtp: Option<PathBuf>,
    /// Drafts in a step at most.
    pub draft_max: usize,
    /// Where to compute.
    pub backend: Backend,
    /// Whether a GPU is taken for this process alone.
    pub is_locked: bool,
    /// CPU threads; `None` for one on each core.
    pub threads: Option<usize>,
    /// Read all weights before the first token.
    pub is_warm: bool,
    /// Bytes of weights that may be in memory; `None` to choose by what is free.
    pub ram_bytes: Option<u64>,
    /// Bytes of a GPU that may be used; `None` for all that are free.
    pub vram_bytes: Option<u64>,
    /// How to steer it.
    pub steering: Option<SteeringFile>,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// On a GPU if there is one that holds the model, else on the CPU.
    Auto,
    /// On the CPU.
    Cpu,
    /// On an NVIDIA GPU.
    Cuda,
}

/// Directions in a file, and how strongly they count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SteeringFile {
    /// The file.
    pub path: PathBuf,
    /// Scale for attention.
    pub attn: f32,
    /// Scale for the FFN.
    pub ffn: f32,
}

/// How much to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// Not at all.
    Off,
    /// As the model sees fit.
    On,
    /// With the maximum-effort text in front of the prompt.
    Max,
}

/// Context length from which maximum effort makes sense.
pub(crate) const THINK_MAX_CTX: u32 = 393_216;

/// A chat's settings.
#[derive(Debug)]
pub(crate) struct Chat {
    /// The model.
    pub model: Model,
    /// Capacity in tokens.
    pub ctx: u32,
    /// System prompt, empty for none.
    pub system: String,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// How much to think.
    pub thinking: Thinking,
}

/// Where a prompt's text is.
#[derive(Debug)]
pub(crate) enum Prompt {
    /// Typed.
    Text(String),
    /// In a file.
    File(PathBuf),
}

/// `ds4 logits`.
#[derive(Debug)]
pub(crate) struct Logits {
    /// The model.
    pub model: Model,
    /// File with the ids.
    pub tokens: PathBuf,
    /// File for the logits.
    pub out: PathBuf,
    /// Roundings, if not those the model was made with.
    pub numerics: Option<Numerics>,
    /// Tokens in a call at most.
    pub chunk: Option<usize>,
    /// Directory for intermediate values.
    pub stages: Option<PathBuf>,
}

/// `ds4 bench`.
#[derive(Debug)]
pub(crate) struct Bench {
    /// What is measured.
    pub subject: Subject,
    /// The model's settings.
    pub model: Model,
    /// Context lengths to measure at, ascending.
    pub frontiers: Vec<u32>,
    /// Capacity to allocate.
    pub ctx_alloc: u32,
    /// Tokens to generate at each.
    pub gen_tokens: usize,
    /// CSV file, else stdout.
    pub csv: Option<PathBuf>,
    /// JSON file.
    pub json: Option<PathBuf>,
    /// More columns.
    pub is_wide: bool,
    /// Beginning of the names of files about the parts' costs.
    pub kernels: Option<PathBuf>,
}

/// What a bench runs on.
#[derive(Debug)]
pub(crate) enum Subject {
    /// The text of this file as it stands.
    Text(PathBuf),
    /// The text of this file as a user's message under this system prompt.
    Chat { file: PathBuf, system: String },
    /// Random weights with this many layers, seeded token ids.
    Synthetic { n_layer: usize },
}

/// Resolves a command line.
pub(crate) fn resolve(cli: Cli) -> Resolved<Task> {
    match cli.command {
        None => resolve_chat(cli.chat),
        Some(Command::Inspect(InspectArgs { file, mtp, ctx, json })) => {
            Ok(Task::Inspect { model: Source::File(file), mtp, ctx, is_json: json })
        }
        Some(Command::Tokenize(TokenizeArgs { vocab, plain })) => {
            Ok(Task::Tokenize { model: vocabulary(vocab)?, is_plain: plain })
        }
        Some(Command::Detokenize(vocab)) => Ok(Task::Detokenize { model: vocabulary(vocab)? }),
        Some(Command::Render(RenderArgs { vocab, profile })) => {
            Ok(Task::Render { model: vocabulary(vocab)?, profile })
        }
        Some(Command::Parse(ParseArgs { json })) => json_only(json).map(|()| Task::Parse),
        Some(Command::Logits(args)) => Ok(Task::Logits(resolve_logits(args)?)),
        Some(Command::Bench(args)) => Ok(Task::Bench(resolve_bench(args)?)),
        Some(Command::Eval(EvalArgs { model, suite: _, dir, only, limit, json })) => {
            let model = resolve_model(model)?;
            Ok(Task::Eval(Eval { model, dir, only, limit, json }))
        }
        Some(Command::Quantize(args)) => Ok(Task::Quantize(args)),
        Some(Command::Serve(args)) => serve_options::resolve(*args).map(Box::new).map(Task::Serve),
        Some(Command::Setup(args)) => resolve_setup(args),
        Some(Command::Cache(args)) => Ok(Task::Cache(args)),
    }
}

fn resolve_setup(args: SetupArgs) -> Resolved<Task> {
    let SetupArgs { client, url, key, ctx, write } = args;
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(Task::Setup(Setup { client, url, key, ctx, write, home: home.into() })),
        None => refuse("HOME is not set"),
    }
}

/// The checking commands speak JSON only; the flag says so where they are called.
fn json_only(is_json: bool) -> Resolved<()> {
    if is_json { Ok(()) } else { refuse("this command reads and writes JSON only: add --json") }
}

fn vocabulary(args: VocabArgs) -> Resolved<Source> {
    json_only(args.json)?;
    Ok(source(args.model))
}

/// `-m`, else `./ds4flash.gguf`, else the model inside the program.
fn source(model: Option<PathBuf>) -> Source {
    let default = PathBuf::from("ds4flash.gguf");
    match model {
        Some(file) => Source::File(file),
        // A dangling link is a mistake to be named, not a reason to run another model.
        None if default.symlink_metadata().is_ok() => Source::File(default),
        None => Source::Demo,
    }
}

fn resolve_chat(args: ChatArgs) -> Resolved<Task> {
    let ChatArgs { model, prompt: typed, sampling, thinking, diagnostics } = args;
    refuse_unavailable_diagnostics(&diagnostics.unavailable)?;
    let model = resolve_model(model)?;
    let PromptArgs { prompt, prompt_file, system, ctx } = typed;
    if prompt.is_some() && prompt_file.is_some() {
        return refuse("specify only one prompt source");
    }
    let prompt = prompt.map(Prompt::Text).or(prompt_file.map(Prompt::File));
    let needs_prompt = |flag: &str| Usage(format!("{flag} needs -p or --prompt-file"));
    if diagnostics.inspect {
        let Model { source, mtp, .. } = model;
        let is_json = diagnostics.json;
        return Ok(Task::Inspect { model: source, mtp, ctx: Some(ctx), is_json });
    }
    if diagnostics.dump_tokens {
        let prompt = prompt.ok_or_else(|| needs_prompt("--dump-tokens"))?;
        return Ok(Task::DumpTokens { model: model.source, prompt });
    }
    if let Some(file) = diagnostics.perplexity_file {
        return Ok(Task::Perplexity { model, ctx, file });
    }
    let imatrix = diagnostics.imatrix;
    if let (Some(dataset), Some(out)) = (imatrix.imatrix_dataset, imatrix.imatrix_out) {
        let max_prompts = imatrix.imatrix_max_prompts.map(|n| n as usize);
        let max_tokens = imatrix.imatrix_max_tokens.map(|n| n as usize);
        return Ok(Task::Imatrix(Collect { model, dataset, out, max_prompts, max_tokens }));
    }
    let thinking = match (thinking.nothink, thinking.think_max) {
        (true, _) => Thinking::Off,
        (false, false) => Thinking::On,
        (false, true) => Thinking::Max,
    };
    let max_tokens = sampling.tokens as usize;
    let sampling = resolve_sampling(&sampling)?;
    let chat = Chat { model, ctx, system, sampling, max_tokens, thinking };
    if let Some(file) = diagnostics.dump_logprobs {
        let prompt = prompt.ok_or_else(|| needs_prompt("--dump-logprobs"))?;
        let top_k = usize::from(diagnostics.logprobs_top_k);
        return Ok(Task::DumpLogprobs { chat, prompt, file, top_k });
    }
    Ok(match prompt {
        Some(prompt) => Task::Answer(chat, prompt),
        None => Task::Repl(chat),
    })
}

fn resolve_sampling(args: &SamplingArgs) -> Resolved<Sampling> {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs().wrapping_mul(1_000_000_007) ^ u64::from(since.subsec_nanos())
    };
    let sampling = Sampling {
        temp: args.temp,
        top_k: args.top_k as usize,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed.unwrap_or_else(now),
    };
    sampling.check().map_err(|error| Usage(error.to_string()))?;
    Ok(sampling)
}

pub(crate) fn resolve_model(args: ModelArgs) -> Resolved<Model> {
    let backend = resolve_backend(&args)?;
    let is_off = |value: std::ffi::OsString| !value.is_empty() && value != "0";
    let may_draft = !std::env::var_os("DS4_MTP_SPEC_DISABLE").is_some_and(is_off);
    Ok(Model {
        source: source(args.model),
        mtp: args.mtp,
        draft_max: if may_draft { usize::from(args.mtp_draft) } else { 0 },
        backend,
        is_locked: !args.no_lock,
        threads: args.threads.map(usize::from),
        is_warm: args.warm_weights,
        ram_bytes: args.ram_gb.map(gib_bytes),
        vram_bytes: args.vram_gb.map(gib_bytes),
        steering: resolve_steering(args.steering),
    })
}

fn resolve_backend(args: &ModelArgs) -> Resolved<Backend> {
    match (args.backend, args.metal, args.cuda, args.cpu) {
        (Some(BackendArg::Metal), ..) => no_metal("--backend metal"),
        (None, true, ..) => no_metal("--metal"),
        (Some(BackendArg::Cuda), ..) | (None, _, true, _) if args.ram_gb.is_some() => refuse(
            "--ram-gb keeps a part of the weights in memory, which only the CPU can do: drop it or \
             use --backend cpu",
        ),
        (Some(BackendArg::Cpu), ..) | (None, _, _, true) if args.vram_gb.is_some() => {
            refuse("--vram-gb limits a GPU, but the CPU was asked for: drop one of both")
        }
        (Some(BackendArg::Cuda), ..) | (None, _, true, _) => Ok(Backend::Cuda),
        (Some(BackendArg::Cpu), ..) | (None, _, _, true) => Ok(Backend::Cpu),
        (None, false, false, false) => Ok(Backend::Auto),
    }
}

fn no_metal<T>(flag: &str) -> Resolved<T> {
    refuse(format!(
        "{flag} is not available in this build, which computes on NVIDIA GPUs and on the CPU: drop it"
    ))
}

/// GiB to bytes.
fn gib_bytes(gib: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^50, checked by clap")]
    #[expect(clippy::cast_sign_loss, reason = "at least 0.001, checked by clap")]
    let bytes = (gib * (1u64 << 30) as f64) as u64;
    bytes
}

/// Without any scale the FFN is steered with 1.
fn resolve_steering(args: SteeringArgs) -> Option<SteeringFile> {
    let path = args.dir_steering_file?;
    let (attn, ffn) = (args.dir_steering_attn, args.dir_steering_ffn);
    let is_default = attn.is_none() && ffn.is_none();
    let ffn = ffn.unwrap_or(if is_default { 1.0 } else { 0.0 });
    Some(SteeringFile { path, attn: attn.unwrap_or(0.0), ffn })
}

fn refuse_unavailable_diagnostics(args: &crate::args::UnavailableDiagnosticArgs) -> Resolved<()> {
    let tests = [
        (args.head_test, "--head-test"),
        (args.first_token_test, "--first-token-test"),
        (args.metal_graph_test, "--metal-graph-test"),
        (args.metal_graph_full_test, "--metal-graph-full-test"),
        (args.metal_graph_prompt_test, "--metal-graph-prompt-test"),
    ];
    match tests.iter().find(|(is_set, _)| *is_set) {
        Some((_, flag)) => refuse(format!(
            "{flag} is not available in this build: `cargo test --workspace` checks the CPU backend"
        )),
        None => Ok(()),
    }
}

fn resolve_logits(args: LogitsArgs) -> Resolved<Logits> {
    let LogitsArgs { model, tokens, out, numerics, chunk, stages } = args;
    let numerics = numerics.map(|mode| match mode {
        NumericsArg::Plain => Numerics::PLAIN,
        NumericsArg::Ds4 => Numerics::DS4,
        NumericsArg::Official => Numerics::OFFICIAL,
    });
    let chunk = chunk.map(|n| n as usize);
    Ok(Logits { model: resolve_model(model)?, tokens, out, numerics, chunk, stages })
}

fn resolve_bench(args: BenchArgs) -> Resolved<Bench> {
    let subject = match (args.synthetic, args.prompt_file, args.chat_prompt_file) {
        (true, _, _) => Subject::Synthetic { n_layer: args.layers.map_or(43, usize::from) },
        (false, Some(file), None) => Subject::Text(file),
        (false, None, Some(file)) => Subject::Chat { file, system: args.system },
        (false, _, _) => {
            return refuse("specify --prompt-file, --chat-prompt-file or --synthetic");
        }
    };
    if args.ctx_start > args.ctx_max {
        return refuse("--ctx-start must not exceed --ctx-max");
    }
    let frontiers = frontiers(args.ctx_start, args.ctx_max, args.step_incr, args.step_mul);
    let needed = u64::from(args.ctx_max) + u64::from(args.gen_tokens) + 1;
    let needed = u32::try_from(needed).map_err(|_| Usage("--ctx-max is too large".to_owned()))?;
    let ctx_alloc = args.ctx_alloc.unwrap_or(needed);
    if ctx_alloc < needed {
        return refuse(format!("--ctx-alloc must be at least {needed}: ctx-max + gen-tokens + 1"));
    }
    Ok(Bench {
        subject,
        model: resolve_model(args.model)?,
        frontiers,
        ctx_alloc,
        gen_tokens: args.gen_tokens as usize,
        csv: args.csv,
        json: args.json,
        is_wide: args.wide,
        kernels: args.kernels,
    })
}

/// Context lengths from `start` to `max`, the last one included.
fn frontiers(start: u32, max: u32, incr: u32, mul: f64) -> Vec<u32> {
    let mut out = vec![start];
    let mut at = start;
    while at < max {
        let next = if mul > 1.0 {
            let scaled = (f64::from(at) * mul).round().min(f64::from(u32::MAX));
            #[expect(clippy::cast_possible_truncation, reason = "clamped to u32 above")]
            #[expect(clippy::cast_sign_loss, reason = "a product of positive numbers")]
            let scaled = scaled as u32;
            scaled.max(at + 1)
        } else {
            at.saturating_add(incr)
        };
        at = next.min(max);
        out.push(at);
    }
    out
}

/// The demo model on a backend.
#[cfg(test)]
pub(crate) fn test_model(backend: Backend) -> Model {
    Model {
        source: Source::Demo,
        mtp: None,
        draft_max: 0,
        backend,
        is_locked: true,
        threads: Some(1),
        is_warm: false,
        ram_bytes: None,
        vram_bytes: None,
        steering: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn task(args: &[&str]) -> Result<Task, String> {
        let argv = std::iter::once("ds4").chain(args.iter().copied());
        let cli = Cli::try_parse_from(argv).map_err(|e| e.to_string())?;
        resolve(cli).map_err(|e| e.to_string())
    }

    #[test]
    fn frontiers_end_at_the_maximum() {
        assert_eq!(frontiers(2048, 8192, 2048, 1.0), [2048, 4096, 6144, 8192]);
        assert_eq!(frontiers(2048, 5000, 2048, 1.0), [2048, 4096, 5000]);
        assert_eq!(frontiers(2048, 32_768, 2048, 2.0), [2048, 4096, 8192, 16_384, 32_768]);
        assert_eq!(frontiers(3, 7, 1, 1.1), [3, 4, 5, 6, 7]);
        assert_eq!(frontiers(9, 9, 1, 1.0), [9]);
    }

    #[test]
    fn nothing_is_silently_ignored() {
        for (args, want) in [
            (&["--metal"][..], "--metal is not available"),
            (&["--backend", "metal"], "--backend metal is not available"),
            (&["--cuda", "--cpu"], "cannot be used with"),
            (&["--cuda", "--ram-gb", "9"], "--ram-gb keeps a part of the weights"),
            (&["--backend", "cuda", "--ram-gb", "9"], "use --backend cpu"),
            (&["--dir-steering-ffn", "-1"], "--dir-steering-file"),
            (&["--dir-steering-file", "x", "--dir-steering-attn", "101"], "between -100 and 100"),
            (&["--imatrix-out", "x"], "--imatrix-dataset"),
            (&["--imatrix-dataset", "x"], "--imatrix-out"),
            (&["bench", "--synthetic", "--dir-steering-file", "x"], "--dir-steering-file"),
            (&["--head-test"], "--head-test is not available"),
            (&["-p", "a", "--prompt-file", "b"], "specify only one prompt source"),
            (&["--dump-tokens"], "--dump-tokens needs -p or --prompt-file"),
            (&["--dump-logprobs", "f"], "--dump-logprobs needs -p or --prompt-file"),
            (&["--temp", "-1"], "temperature must be between 0 and 100, not -1"),
            (&["--top-p", "0"], "top_p must be above 0 and at most 1, not 0"),
            (&["--min-p", "nan"], "min_p must be between 0 and 1, not NaN"),
            (&["tokenize", "-m", "x"], "add --json"),
            (&["bench"], "specify --prompt-file, --chat-prompt-file or --synthetic"),
            (&["bench", "--synthetic", "--ctx-start", "9", "--ctx-max", "8"], "--ctx-start"),
            (&["bench", "--synthetic", "--ctx-alloc", "9"], "at least 32897"),
        ] {
            let error = task(args).unwrap_err();
            assert!(error.contains(want), "{args:?}: {error}");
        }
    }

    #[test]
    fn the_backend_is_what_was_asked_for() {
        for (args, want) in [
            (&[][..], Backend::Auto),
            (&["--ram-gb", "9"], Backend::Auto),
            (&["--cpu"], Backend::Cpu),
            (&["--backend", "cpu"], Backend::Cpu),
            (&["--cuda"], Backend::Cuda),
            (&["--backend", "cuda"], Backend::Cuda),
        ] {
            let Task::Answer(chat, _) = task(&[&["-p", "hi"], args].concat()).unwrap() else {
                panic!("not an answer");
            };
            assert_eq!(chat.model.backend, want, "{args:?}");
            assert!(chat.model.is_locked);
        }
        let Task::Repl(chat) = task(&["--no-lock"]).unwrap() else { panic!("not a chat") };
        assert!(!chat.model.is_locked);
    }

    #[test]
    fn the_ffn_is_steered_unless_a_scale_says_otherwise() {
        for (args, attn, ffn) in [
            (&[][..], 0.0, 1.0),
            (&["--dir-steering-ffn", "-2"], 0.0, -2.0),
            (&["--dir-steering-attn", "0.5"], 0.5, 0.0),
            (&["--dir-steering-attn", "3", "--dir-steering-ffn", "4"], 3.0, 4.0),
        ] {
            let args = [&["-p", "hi", "--dir-steering-file", "v.f32"], args].concat();
            let Task::Answer(chat, _) = task(&args).unwrap() else { panic!("not an answer") };
            let want = SteeringFile { path: "v.f32".into(), attn, ffn };
            assert_eq!(chat.model.steering, Some(want), "{args:?}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_c_engine() {
        let Task::Answer(chat, _) = task(&["-p", "hi", "-m", "x.gguf"]).unwrap() else {
            panic!("not an answer");
        };
        let Sampling { temp, top_k, top_p, min_p, .. } = chat.sampling;
        assert_eq!((temp, top_k, top_p, min_p), (1.0, 0, 1.0, 0.05));
        assert_eq!((chat.ctx, chat.max_tokens, chat.thinking), (32_768, 50_000, Thinking::On));
        assert_eq!(chat.system, "You are a helpful assistant");
        assert_eq!(chat.model.source, Source::File("x.gguf".into()));
    }
}
