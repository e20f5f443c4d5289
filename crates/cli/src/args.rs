//! What was typed: every flag, its type and its help; `options.rs` says what it means.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::cache::CacheArgs;
use crate::serve_args::ServeArgs;
use crate::setup::Client;

/// The command line of `ds4`.
#[derive(Debug, Parser)]
#[command(
    name = "ds4",
    version,
    about = "DeepSeek V4 Flash on this machine",
    before_help = "Without a command: a chat, or with -p or --prompt-file one answer. The answer \
        goes to stdout, all else to stderr. On a terminal, thinking is grey; elsewhere it stands \
        between <think> and </think>.",
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 70 the GPU failed.",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// What to do instead of a chat.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of the chat and of one answer.
    #[command(flatten)]
    pub chat: ChatArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a model file: metadata, tensors, sizes, memory at a context length
    Inspect(InspectArgs),
    /// Turn strings into token ids (JSON on stdin and stdout)
    Tokenize(TokenizeArgs),
    /// Turn token ids into text (JSON on stdin and stdout)
    Detokenize(VocabArgs),
    /// Render conversations into prompts (JSON on stdin and stdout)
    Render(RenderArgs),
    /// Parse raw model output into thinking, content and tool calls (JSON on stdin and stdout)
    Parse(ParseArgs),
    /// Write the logits of every position of a prompt to a .npy file
    Logits(LogitsArgs),
    /// Measure prefill and generation speed at growing context lengths
    Bench(BenchArgs),
    /// Judge a model's answers to held-out cases (Markdown on stdout)
    Eval(EvalArgs),
    /// Write a model file in another format
    Quantize(QuantizeArgs),
    /// Serve clients of OpenAI's and Anthropic's APIs
    Serve(Box<ServeArgs>),
    /// Show the configuration with which an agent uses this server, or write it
    Setup(SetupArgs),
    /// List, show, check and remove the files of the disk cache
    Cache(CacheArgs),
}

/// Flags of `eval`.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The cases; nano is the suite of the demo model
    #[arg(long, value_name = "NAME", default_value = "nano", value_parser = ["nano"])]
    pub suite: String,
    /// Read the suite's files from here [default: those in the program]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Categories to run, separated by commas [default: all, and the held-out texts]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Cases of each category at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Write every case with its reply to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Flags of `setup`.
#[derive(Args, Debug)]
pub(crate) struct SetupArgs {
    /// The agent
    #[arg(value_name = "CLIENT")]
    pub client: Client,
    /// Address of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// Key that the server asks for
    #[arg(long, value_name = "KEY", env = "DS4_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Context length in tokens [default: as the server says]
    #[arg(short, long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Write the agent's file, keeping a copy of what it was
    #[arg(long)]
    pub write: bool,
}

/// Flags of `quantize`.
#[derive(Args, Debug)]
pub(crate) struct QuantizeArgs {
    /// Model file to read: GGUF, best in F32 or F16
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Model file to write
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    #[arg(long, value_name = "NAME", default_value = "q4")]
    #[arg(help = "Types of the tensors: q2, q4, mxfp4, q8_0, f16 or f32")]
    pub recipe: String,
    /// Another type for tensors whose names match: PATTERN=TYPE, * for anything; repeatable
    #[arg(long, value_name = "PATTERN=TYPE")]
    pub tensor_type: Vec<String>,
    /// Importance matrix (.dat) that weighs the errors of each column
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// CPU threads [default: one for each core]
    #[arg(short, long, value_name = "N", env = "DS4_THREADS")]
    #[arg(value_parser = value_parser!(u16).range(1..=4096))]
    pub threads: Option<u16>,
}

/// Which model, on what.
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Model file [default: ds4flash.gguf in this directory, else the built-in demo model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// File with the MTP block, which drafts tokens that the model then verifies
    #[arg(long, value_name = "FILE")]
    pub mtp: Option<PathBuf>,
    /// Tokens to draft in a step when an MTP block is loaded; 0 never drafts, 16 is taken as 15
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = value_parser!(u8).range(0..=16))]
    pub mtp_draft: u8,
    /// Accepted for compatibility: drafts are always verified exactly, so no margin applies
    #[arg(long, value_name = "F", default_value_t = 3.0, value_parser = margin)]
    pub mtp_margin: f64,
    /// CPU threads [default: one for each core]
    #[arg(short, long, value_name = "N", env = "DS4_THREADS")]
    #[arg(value_parser = value_parser!(u16).range(1..=4096))]
    pub threads: Option<u16>,
    /// Where to compute: cuda or cpu [default: cuda if there is a GPU that holds the model]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<Backend>,
    /// Same as --backend cpu
    #[arg(long, conflicts_with_all = ["backend", "cuda", "metal"])]
    pub cpu: bool,
    /// Same as --backend cuda
    #[arg(long, conflicts_with_all = ["backend", "metal"])]
    pub cuda: bool,
    /// Same as --backend metal
    #[arg(long, conflicts_with = "backend")]
    pub metal: bool,
    /// Accepted for compatibility: results are always exact
    #[arg(long)]
    pub quality: bool,
    /// Read the whole model into memory before the first token
    #[arg(long)]
    pub warm_weights: bool,
    /// On the CPU: memory that weights may take, in GiB; experts beyond it are read from the file as they are
    /// chosen [default: all weights, or three quarters of the free memory if they do not fit]
    #[arg(long, value_name = "N", value_parser = ram_gb)]
    pub ram_gb: Option<f64>,
    /// On a GPU: memory that may be used there, in GiB; experts beyond it are computed by the CPU
    /// [default: all that is free]
    #[arg(long, value_name = "N", value_parser = ram_gb)]
    pub vram_gb: Option<f64>,
    /// Use the GPU although another ds4 does
    #[arg(long)]
    pub no_lock: bool,
    #[command(flatten)]
    pub steering: SteeringArgs,
}

/// Moving the layers' outputs along given directions.
#[expect(clippy::struct_field_names, reason = "the flags have this prefix")]
#[derive(Args, Debug)]
pub(crate) struct SteeringArgs {
    /// Steer with this file: for each layer a direction, an f32 for each channel
    #[arg(long, value_name = "FILE")]
    pub dir_steering_file: Option<PathBuf>,
    /// How strongly to steer the outputs of the FFN [default: 1 if no scale is given, else 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = steering_scale)]
    #[arg(requires = "dir_steering_file")]
    pub dir_steering_ffn: Option<f32>,
    /// How strongly to steer the outputs of attention [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = steering_scale)]
    #[arg(requires = "dir_steering_file")]
    pub dir_steering_attn: Option<f32>,
}

/// A place to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Metal,
    Cuda,
    Cpu,
}

/// Flags without a subcommand.
#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub thinking: ThinkingArgs,
    #[command(flatten)]
    pub diagnostics: DiagnosticArgs,
}

/// What to say to the model.
#[derive(Args, Debug)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// Answer this and exit; a text that begins with the BOS literal is taken as already rendered
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Answer the text of this file and exit
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// System prompt, also as -sys; an empty text means none
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "You are a helpful assistant",
        allow_hyphen_values = true
    )]
    pub system: String,
    /// Context length in tokens
    #[arg(short, long, value_name = "N", default_value_t = 32_768)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub ctx: u32,
}

/// How to choose tokens.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Tokens of an answer at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50_000)]
    pub tokens: u32,
    /// Temperature; 0 always takes the most probable token
    #[arg(long, value_name = "F", default_value_t = 1.0, allow_negative_numbers = true)]
    pub temp: f32,
    /// Keep the most probable tokens that hold this share of the probability
    #[arg(long, value_name = "F", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// Keep tokens at least this probable relative to the most probable one
    #[arg(long, value_name = "F", default_value_t = 0.05, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Seed of the random numbers [default: from the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Whether to think.
#[derive(Args, Debug)]
#[command(next_help_heading = "Thinking")]
pub(crate) struct ThinkingArgs {
    /// Think before answering; the default
    #[arg(long, conflicts_with_all = ["think_max", "nothink"])]
    pub think: bool,
    /// Think with maximum effort; needs --ctx 393216 or more
    #[arg(long, conflicts_with = "nothink")]
    pub think_max: bool,
    /// Answer at once
    #[arg(long)]
    pub nothink: bool,
}

/// Instead of an answer.
#[derive(Args, Debug)]
#[command(next_help_heading = "Diagnostics")]
pub(crate) struct DiagnosticArgs {
    /// Show the model, as `ds4 inspect` does
    #[arg(long)]
    pub inspect: bool,
    /// With --inspect: as JSON
    #[arg(long, requires = "inspect")]
    pub json: bool,
    /// Show the tokens of the prompt text as it stands, control literals recognised
    #[arg(long)]
    pub dump_tokens: bool,
    /// Write the log probabilities of a greedy answer to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub dump_logprobs: Option<PathBuf>,
    /// Entries of each step of --dump-logprobs
    #[arg(long, value_name = "K", default_value_t = 20)]
    #[arg(value_parser = value_parser!(u8).range(1..=128))]
    pub logprobs_top_k: u8,
    /// Score a text: its perplexity, token by token
    #[arg(long, value_name = "FILE")]
    pub perplexity_file: Option<PathBuf>,
    #[command(flatten)]
    pub imatrix: ImatrixArgs,
    #[command(flatten)]
    pub unavailable: UnavailableDiagnosticArgs,
}

/// Collecting an importance matrix.
#[expect(clippy::struct_field_names, reason = "the flags have this prefix")]
#[derive(Args, Debug)]
pub(crate) struct ImatrixArgs {
    /// Collect an importance matrix from these rendered prompts, each from its BOS on
    #[arg(long, value_name = "FILE", requires = "imatrix_out")]
    pub imatrix_dataset: Option<PathBuf>,
    /// With --imatrix-dataset: write it to this file
    #[arg(long, value_name = "FILE", requires = "imatrix_dataset")]
    pub imatrix_out: Option<PathBuf>,
    /// With --imatrix-dataset: prompts to run at most
    #[arg(long, value_name = "N", requires = "imatrix_dataset")]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub imatrix_max_prompts: Option<u32>,
    /// With --imatrix-dataset: tokens to run at most
    #[arg(long, value_name = "N", requires = "imatrix_dataset")]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub imatrix_max_tokens: Option<u32>,
}

/// Diagnostics of the C engine that this build refuses.
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
#[derive(Args, Debug)]
pub(crate) struct UnavailableDiagnosticArgs {
    #[arg(long, hide = true)]
    pub head_test: bool,
    #[arg(long, hide = true)]
    pub first_token_test: bool,
    #[arg(long, hide = true)]
    pub metal_graph_test: bool,
    #[arg(long, hide = true)]
    pub metal_graph_full_test: bool,
    #[arg(long, hide = true)]
    pub metal_graph_prompt_test: bool,
}

/// `ds4 inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Model file
    pub file: PathBuf,
    /// File with the MTP block
    #[arg(long, value_name = "FILE")]
    pub mtp: Option<PathBuf>,
    /// Context length to show the memory for, besides a few usual ones
    #[arg(short, long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Everything as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A command that reads a vocabulary.
#[derive(Args, Debug)]
pub(crate) struct VocabArgs {
    /// Model file; only its vocabulary is read [default: as for a chat]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// JSON on stdin and stdout; the only format
    #[arg(long)]
    pub json: bool,
}

/// `ds4 tokenize`.
#[derive(Args, Debug)]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub vocab: VocabArgs,
    /// Do not recognise added tokens: literals are ordinary text
    #[arg(long)]
    pub plain: bool,
}

/// `ds4 render`.
#[derive(Args, Debug)]
pub(crate) struct RenderArgs {
    #[command(flatten)]
    pub vocab: VocabArgs,
    /// Release of the prompt format
    #[arg(long, value_name = "P", default_value = "2604", value_parser = ["2604", "2607"])]
    pub profile: String,
}

/// `ds4 parse`.
#[derive(Args, Debug)]
pub(crate) struct ParseArgs {
    /// JSON on stdin and stdout; the only format
    #[arg(long)]
    pub json: bool,
}

/// `ds4 logits`.
#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// JSON array of token ids, or an object whose "prompt" is one
    #[arg(long, value_name = "FILE")]
    pub tokens: PathBuf,
    /// Result: f32 of shape [tokens, vocabulary]
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Roundings: plain is the bare architecture in f32, official adds FP8 rows and FP4 index rows,
    /// ds4 adds int8 activations [default: ds4 with the angles the model was trained with]
    #[arg(long, value_name = "MODE")]
    pub numerics: Option<NumericsArg>,
    /// Tokens in a call at most [default: as many as the backend takes]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub chunk: Option<u32>,
    /// Write every intermediate value to this directory, one .npy file each
    #[arg(long, value_name = "DIR")]
    pub stages: Option<PathBuf>,
}

/// Roundings of the reference implementations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NumericsArg {
    Plain,
    Ds4,
    Official,
}

/// `ds4 bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to prefill, tokenised as it stands
    #[arg(long, value_name = "FILE", conflicts_with = "chat_prompt_file")]
    pub prompt_file: Option<PathBuf>,
    /// Text to prefill, rendered as a user's message
    #[arg(long, value_name = "FILE")]
    pub chat_prompt_file: Option<PathBuf>,
    /// With --chat-prompt-file: system prompt, also as -sys
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "You are a helpful assistant",
        allow_hyphen_values = true
    )]
    pub system: String,
    /// First context length
    #[arg(long, value_name = "N", default_value_t = 2048)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub ctx_start: u32,
    /// Last context length
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub ctx_max: u32,
    /// Capacity to allocate [default: ctx-max + gen-tokens + 1]
    #[arg(long, value_name = "N")]
    pub ctx_alloc: Option<u32>,
    /// Tokens between context lengths
    #[arg(long, value_name = "N", default_value_t = 2048)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub step_incr: u32,
    /// Factor between context lengths, used instead of --step-incr when above 1
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = step_mul)]
    pub step_mul: f64,
    /// Tokens to generate at each context length
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub gen_tokens: u32,
    /// Write the CSV here [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write machine, model and rows here as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show what each part of the model, or each kernel of a GPU, costs at the last context length
    /// and what this machine allows; write PREFIX.trace.json, a timeline for Perfetto or Chrome, and
    /// PREFIX.svg, a flame graph
    #[arg(long, value_name = "PREFIX")]
    pub kernels: Option<PathBuf>,
    /// Add columns: latencies, bytes read per token, GB/s, share of the measured read bandwidth
    #[arg(long)]
    pub wide: bool,
    /// Random weights of the real shape instead of a file, and seeded token ids as the prompt
    #[arg(long, conflicts_with_all = ["model", "mtp", "prompt_file", "chat_prompt_file"])]
    #[arg(conflicts_with = "dir_steering_file")]
    pub synthetic: bool,
    /// With --synthetic: layers of the model [default: all 43]
    #[arg(long, value_name = "N", requires = "synthetic")]
    #[arg(value_parser = value_parser!(u16).range(1..=43))]
    pub layers: Option<u16>,
}

fn margin(text: &str) -> Result<f64, String> {
    float_in(text, 0.0, 1000.0)
}

fn ram_gb(text: &str) -> Result<f64, String> {
    float_in(text, 0.001, 1_048_576.0)
}

fn steering_scale(text: &str) -> Result<f32, String> {
    #[expect(clippy::cast_possible_truncation, reason = "at most 100")]
    float_in(text, -100.0, 100.0).map(|value| value as f32)
}

fn step_mul(text: &str) -> Result<f64, String> {
    float_in(text, 1.0, 1024.0)
}

fn float_in(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(format!("must be between {low} and {high}"))
    }
}

/// The arguments as clap understands them: `-sys` is `--system`, and a program called `ds4-bench`
/// is `ds4 bench`. Also returns the name to put before messages.
pub(crate) fn normalise(argv: impl IntoIterator<Item = OsString>) -> (&'static str, Vec<OsString>) {
    let mut argv = argv.into_iter();
    let program = argv.next().map(PathBuf::from).unwrap_or_default();
    let (tool, command) = match program.file_stem().and_then(|stem| stem.to_str()) {
        Some("ds4-bench") => ("ds4-bench", Some("bench")),
        Some("ds4-eval") => ("ds4-eval", Some("eval")),
        Some("ds4-server") => ("ds4-server", Some("serve")),
        _ => ("ds4", None),
    };
    let mut out = vec![OsString::from("ds4")];
    out.extend(command.map(OsString::from));
    // Only options may be renamed: the value behind a flag stays as it is.
    let mut is_value = false;
    for arg in argv {
        let is_sys = !is_value && arg == "-sys";
        is_value = !is_value && VALUED_TEXT.iter().any(|flag| arg == *flag);
        out.push(if is_sys { "--system".into() } else { arg });
        is_value |= is_sys;
    }
    (tool, out)
}

/// Flags whose value is free text, which may well be `-sys`.
const VALUED_TEXT: [&str; 3] = ["-p", "--prompt", "--system"];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn normal(args: &[&str]) -> (&'static str, Vec<String>) {
        let (tool, out) = normalise(args.iter().map(OsString::from));
        (tool, out.into_iter().map(|s| s.into_string().unwrap()).collect())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sys_is_an_option_but_not_a_value() {
        let (tool, args) = normal(&["/usr/bin/ds4", "-sys", "-sys", "-p", "-sys", "-c", "9"]);
        assert_eq!(tool, "ds4");
        assert_eq!(args, ["ds4", "--system", "-sys", "-p", "-sys", "-c", "9"]);
        let cli = Cli::try_parse_from(args).unwrap();
        assert_eq!(cli.chat.prompt.system, "-sys");
        assert_eq!(cli.chat.prompt.prompt.as_deref(), Some("-sys"));
    }

    #[test]
    fn a_link_named_for_a_tool_is_its_subcommand() {
        let (tool, args) = normal(&["./ds4-bench", "--gen-tokens", "3"]);
        assert_eq!((tool, &args[1][..]), ("ds4-bench", "bench"));
        let Some(Command::Bench(bench)) = Cli::try_parse_from(args).unwrap().command else {
            panic!("not a bench");
        };
        assert_eq!(bench.gen_tokens, 3);
    }
}
