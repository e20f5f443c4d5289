//! What was typed for `serve`; `serve_options.rs` says what it means.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};

use crate::args::ModelArgs;

/// Flags of `serve`. Each may also stand in the file of `--config`, under its long name.
#[derive(Args, Debug)]
#[command(after_help = "A flag wins over its environment variable, and that over the file of \
    --config, whose keys are the long names of flags: port = 8001, api-key = [\"a\", \"b\"]. The \
    first SIGINT or SIGTERM lets running requests end and stores sessions; the second leaves at \
    once. Exit status: 0 asked to end, 1 failed, 2 wrong usage, 70 the device was lost, 130 left \
    at once.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub sessions: SessionArgs,
    #[command(flatten)]
    pub answers: AnswerArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub logs: LogArgs,
}

/// Who can connect.
#[derive(Args, Debug)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Read flags from this TOML file
    #[arg(long, value_name = "FILE", env = "DS4_CONFIG")]
    pub config: Option<PathBuf>,
    /// Change to this directory before anything is opened
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,
    /// Address to listen on; 0.0.0.0 for all of IPv4, :: for everything
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "DS4_HOST")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000, env = "DS4_PORT")]
    pub port: u16,
    /// Listen on this Unix socket too
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,
    /// Let web pages of all origins ask
    #[arg(long)]
    pub cors: bool,
    /// Key that requests must show; repeatable [default: none is needed]
    #[arg(long, value_name = "KEY", env = "DS4_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,
    /// Read keys from this file, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Silence after which a stream sends a sign of life
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = value_parser!(u64).range(1..=3600))]
    pub keepalive_sec: u64,
    /// Close the connection of a client that takes nothing for so long
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = value_parser!(u64).range(1..=3600))]
    pub stall_sec: u64,
    /// Time that running requests get when the server is asked to end
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = value_parser!(u64).range(0..=86_400))]
    pub drain_sec: u64,
    /// Time that a request may take; 0 for any
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_sec: u64,
    /// Size of a request's body
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = value_parser!(u16).range(1..=4096))]
    pub max_body_mb: u16,
}

/// How many conversations fit.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sessions")]
pub(crate) struct SessionArgs {
    /// Context length of each session in tokens
    #[arg(short, long, value_name = "N", default_value_t = 32_768)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub ctx: u32,
    /// Sessions at once [default: up to 8, as memory allows]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    pub parallel: Option<u16>,
    /// Tokens that all sessions together may hold [default: as many as fit each]
    #[arg(long, value_name = "N")]
    pub ctx_total: Option<u64>,
    /// Requests that may wait for a session; more are refused
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_queue: u16,
}

/// How requests are answered.
#[derive(Args, Debug)]
#[command(next_help_heading = "Answers")]
pub(crate) struct AnswerArgs {
    /// Tokens of an answer when the request does not say
    #[arg(short = 'n', long, value_name = "N", default_value_t = 393_216)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Release of the prompt format
    #[arg(long, value_name = "P", default_value = "2604", value_parser = ["2604", "2607"])]
    pub profile: String,
    /// Let the request's sampling count while thinking too
    #[arg(long)]
    pub honor_sampling: bool,
    /// Effort of thinking when the request does not say
    #[arg(long, value_name = "E")]
    pub default_effort: Option<EffortArg>,
    /// Answer /v1/completions as a chat instead of continuing the text
    #[arg(long)]
    pub completions_chat: bool,
    /// List the model under another name too; MODEL is deepseek-v4-flash, deepseek-chat (does not
    /// think) or deepseek-reasoner (thinks); repeatable
    #[arg(long, value_name = "NAME=MODEL")]
    pub model_alias: Vec<String>,
    /// What requests for some models get that do not say otherwise: a name in which * stands for
    /// anything, and think, nothink, low, high, max or a number of tokens, separated by commas;
    /// repeatable
    #[arg(long, value_name = "NAME=SETTINGS")]
    pub model_rule: Vec<String>,
    #[arg(long, hide = true, value_name = "FILE")]
    pub test_script: Option<PathBuf>,
}

/// Effort of thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EffortArg {
    Low,
    High,
    Max,
}

/// What is kept.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheArgs {
    /// Keep sessions on disk in this directory
    #[arg(long, value_name = "DIR")]
    pub kv_disk_dir: Option<PathBuf>,
    /// Size of the disk cache
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub kv_disk_space_mb: u64,
    /// Shorter sessions are not stored, in tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub kv_cache_min_tokens: u32,
    /// Longest prompt that is stored before it is answered, in tokens; 0 stores none
    #[arg(long, value_name = "N", default_value_t = 30_000)]
    pub kv_cache_cold_max_tokens: usize,
    /// Distance at which growing sessions are stored, in tokens; 0 stores none
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub kv_cache_continued_interval_tokens: usize,
    /// Tokens left off the end of a prompt when it is stored
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub kv_cache_boundary_trim_tokens: usize,
    /// Stored lengths are multiples of this, in tokens
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub kv_cache_boundary_align_tokens: usize,
    /// Load no session of the same model in another quantisation; the default
    #[arg(long, conflicts_with = "kv_cache_accept_different_quant")]
    pub kv_cache_reject_different_quant: bool,
    /// Load sessions of the same model in another quantisation, though their answers differ
    #[arg(long)]
    pub kv_cache_accept_different_quant: bool,
    /// Write no more than this in an hour; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub kv_cache_write_mb_per_hour: u64,
    /// Render earlier tool calls as the client sends them, not as the model wrote them
    #[arg(long)]
    pub disable_exact_dsml_tool_replay: bool,
    /// Tool calls whose exact text is remembered
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub tool_memory_max_ids: usize,
}

/// What is written down.
#[derive(Args, Debug)]
#[command(next_help_heading = "Logs")]
pub(crate) struct LogArgs {
    /// Append prompts, cache decisions and outputs to this file
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write log lines as JSON
    #[arg(long)]
    pub log_json: bool,
    #[arg(
        help = "Least level of log lines: error, warn, info, debug or trace; also by part, as in \
        info,ds4_scheduler=debug"
    )]
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "DS4_LOG")]
    pub log: String,
    /// Accepted for compatibility: /metrics is always there
    #[arg(long)]
    pub metrics: bool,
}
