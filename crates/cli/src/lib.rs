//! The programs `ds4` and `ds4-server`: parse what was typed, resolve it, do one thing.
//!
//! A library only so that both programs share one copy of it; [`main`] is all they call.

#![forbid(unsafe_code)]

mod args;
mod backend;
mod bench;
mod bench_report;
mod cache;
mod chat;
mod convert;
mod demo;
mod dump;
mod eval;
mod fault;
mod imatrix;
mod inspect;
mod kernel_files;
mod kernels;
mod launches;
mod load;
mod lock;
mod logits;
mod machine;
mod number;
mod options;
mod quantize;
mod read_bytes;
mod repl;
mod serve;
mod serve_args;
mod serve_config;
mod serve_log;
mod serve_options;
mod serve_plan;
mod setup;
mod terminal;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;

use args::Cli;
use options::{Task, Usage};

/// Address space that any command may take before it can tell how much it needs.
const START_BYTES: u64 = 32 << 20;

/// Runs a command line, the program's own name first; the exit status.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (tool, argv) = args::normalise(argv);
    let result = machine::check_address_space(START_BYTES, "starting")
        .and_then(|()| serve_config::with_config(argv).map_err(anyhow::Error::from));
    let result = result.and_then(|argv| match Cli::try_parse_from(argv) {
        Ok(cli) => options::resolve(cli).map_err(anyhow::Error::from).and_then(|t| run(tool, t)),
        Err(error) => usage(&error),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fault::report(tool, &error),
    }
}

fn run(tool: &'static str, task: Task) -> Result<()> {
    match task {
        Task::Repl(chat) => repl::run(&chat),
        Task::Answer(chat, prompt) => chat::answer(&chat, &prompt),
        Task::DumpLogprobs { chat, prompt, file, top_k } => {
            dump::logprobs(&chat, &prompt, &file, top_k)
        }
        Task::DumpTokens { model, prompt } => dump::tokens(&model, &prompt),
        Task::Perplexity { model, ctx, file } => dump::score(&model, ctx, &file),
        Task::Imatrix(collect) => imatrix::run(&collect),
        Task::Inspect { model, mtp, ctx, is_json } => {
            inspect::run(&model, mtp.as_deref(), ctx, is_json)
        }
        Task::Tokenize { model, is_plain } => convert::tokenize(&model, is_plain),
        Task::Detokenize { model } => convert::detokenize(&model),
        Task::Render { model, profile } => convert::render(&model, &profile),
        Task::Parse => convert::parse(),
        Task::Logits(logits) => logits::run(&logits),
        Task::Bench(bench) => bench::run(tool, &bench),
        Task::Eval(eval) => eval::run(&eval),
        Task::Quantize(args) => quantize::run(&args),
        Task::Serve(args) => serve::run(*args),
        Task::Setup(setup) => setup::run(&setup),
        Task::Cache(args) => cache::run(&args.command),
    }
}

/// Help goes to stdout; a mistake becomes one line.
fn usage(error: &clap::Error) -> Result<()> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let text = error.render();
        std::io::stdout().write_all(text.to_string().as_bytes())?;
        return Ok(());
    }
    // The first paragraph says what is wrong; clap lists what is missing on lines of its own.
    let text = error.render().to_string();
    let lines: Vec<&str> =
        text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let what = lines.join(" ");
    Err(Usage(format!("{} (see --help)", what.trim_start_matches("error: "))).into())
}
