//! What was typed for `serve`, resolved.

use std::path::PathBuf;
use std::time::Duration;

use ds4_api::models::ModelRule;
use ds4_scheduler::DiskOptions;
use ds4_server::{Keys, Options};
use ds4_text::{Effort, Profile};

use crate::options::{Model, Resolved, Usage, refuse, resolve_model};
use crate::serve_args::{AnswerArgs, CacheArgs, EffortArg, NetworkArgs, ServeArgs};

/// `ds4 serve`.
#[derive(Debug)]
pub(crate) struct Serve {
    /// The model.
    pub model: Model,
    /// Settings of the server.
    pub options: Options,
    /// Host and port.
    pub host: String,
    /// Port.
    pub port: u16,
    /// A Unix socket.
    pub unix: Option<PathBuf>,
    /// File with further keys.
    pub key_file: Option<PathBuf>,
    /// Sessions, if not as many as memory allows.
    pub parallel: Option<usize>,
    /// Tokens of all sessions together; 0 for no limit.
    pub ctx_total: usize,
    /// Requests that may wait.
    pub queue_max: usize,
    /// The disk cache.
    pub disk: Option<DiskCache>,
    /// The memory of turns.
    pub turns: ds4_turns::Options,
    /// Trace file.
    pub trace: Option<PathBuf>,
    /// Script of answers.
    pub script: Option<PathBuf>,
    /// How to log.
    pub log: Log,
}

/// How to log.
#[derive(Debug)]
pub(crate) struct Log {
    /// Levels, by part.
    pub levels: String,
    /// Lines are JSON.
    pub is_json: bool,
}

/// The disk cache.
#[derive(Debug)]
pub(crate) struct DiskCache {
    /// Folder.
    pub dir: PathBuf,
    /// Size in bytes.
    pub budget_bytes: u64,
    /// Whether sessions of other quantisations are loaded.
    pub accepts_family: bool,
    /// Bytes written in an hour at most; 0 for no limit.
    pub hourly_bytes_max: u64,
    /// When to write.
    pub options: DiskOptions,
}

/// Resolves the flags of `serve`. Changes the working directory on demand, because the default
/// model is looked for in it.
pub(crate) fn resolve(args: ServeArgs) -> Resolved<Serve> {
    let ServeArgs { model, network, sessions, answers, cache, logs } = args;
    if let Some(dir) = &network.chdir {
        std::env::set_current_dir(dir)
            .map_err(|e| Usage(format!("--chdir {}: {e}", dir.display())))?;
    }
    let ctx_total = sessions.ctx_total.unwrap_or(0);
    if ctx_total != 0 && ctx_total < u64::from(sessions.ctx) {
        return refuse("--ctx-total must be at least --ctx");
    }
    let disk = disk(&cache)?;
    let turns = ds4_turns::Options {
        replay: !cache.disable_exact_dsml_tool_replay,
        ids_max: cache.tool_memory_max_ids,
        ..ds4_turns::Options::default()
    };
    let (host, port) = (network.host.clone(), network.port);
    let (unix, key_file) = (network.unix.clone(), network.api_key_file.clone());
    let script = answers.test_script.clone();
    Ok(Serve {
        model: resolve_model(model)?,
        options: options(sessions.ctx, &network, &answers)?,
        host,
        port,
        unix,
        key_file,
        parallel: sessions.parallel.map(usize::from),
        ctx_total: usize::try_from(ctx_total).unwrap_or(usize::MAX),
        queue_max: usize::from(sessions.max_queue),
        disk,
        turns,
        trace: logs.trace,
        script,
        log: Log { levels: logs.log, is_json: logs.log_json },
    })
}

fn options(ctx: u32, network: &NetworkArgs, answers: &AnswerArgs) -> Resolved<Options> {
    let effort = |arg| match arg {
        EffortArg::Low => Effort::Low,
        EffortArg::High => Effort::High,
        EffortArg::Max => Effort::Max,
    };
    let rules = answers.model_rule.iter().map(|text| rule(text));
    Ok(Options {
        ctx,
        max_tokens: answers.tokens,
        profile: Profile::from_name(&answers.profile).expect("checked by clap"),
        default_effort: answers.default_effort.map(effort),
        honor_sampling: answers.honor_sampling,
        completions_chat: answers.completions_chat,
        aliases: answers.model_alias.iter().map(|text| alias(text)).collect::<Resolved<_>>()?,
        rules: rules.collect::<Resolved<_>>()?,
        keys: Keys::new(&network.api_key),
        cors: network.cors,
        body_bytes_max: usize::from(network.max_body_mb) << 20,
        keep_alive: Duration::from_secs(network.keepalive_sec),
        stall_max: Duration::from_secs(network.stall_sec),
        time_max: (network.max_sec > 0).then(|| Duration::from_secs(network.max_sec)),
        drain_max: Duration::from_secs(network.drain_sec),
        ..Options::default()
    })
}

/// `NAME=MODEL`.
fn alias(text: &str) -> Resolved<(String, String)> {
    const MODELS: [&str; 3] = ["deepseek-v4-flash", "deepseek-chat", "deepseek-reasoner"];
    match text.split_once('=') {
        Some((name, model)) if !name.is_empty() && MODELS.contains(&model) => {
            Ok((name.to_owned(), model.to_owned()))
        }
        _ => refuse(format!("--model-alias {text}: must be NAME=MODEL with one of {MODELS:?}")),
    }
}

/// `NAME=SETTINGS`.
fn rule(text: &str) -> Resolved<ModelRule> {
    let wrong = || {
        let settings = "think, nothink, low, high, max or a number of tokens";
        Usage(format!("--model-rule {text}: must be NAME=SETTINGS with {settings}"))
    };
    let (name, settings) = text.split_once('=').ok_or_else(wrong)?;
    let mut rule = ModelRule { name: name.to_owned(), ..ModelRule::default() };
    for setting in settings.split(',').map(str::trim) {
        match setting {
            "think" => rule.thinking = Some(true),
            "nothink" => rule.thinking = Some(false),
            "low" => rule.effort = Some(Effort::Low),
            "high" => rule.effort = Some(Effort::High),
            "max" => rule.effort = Some(Effort::Max),
            number => {
                let n: u32 = number.parse().map_err(|_| wrong())?;
                rule.max_tokens = Some(n).filter(|n| *n > 0);
            }
        }
    }
    Ok(rule)
}

fn disk(cache: &CacheArgs) -> Resolved<Option<DiskCache>> {
    let cold_max = cache.kv_cache_cold_max_tokens;
    let tokens_min = cache.kv_cache_min_tokens as usize;
    if cold_max != 0 && cold_max < tokens_min {
        return refuse("--kv-cache-cold-max-tokens must be 0 or at least --kv-cache-min-tokens");
    }
    if cache.kv_cache_boundary_align_tokens == 0 {
        return refuse("--kv-cache-boundary-align-tokens must be at least 1");
    }
    let Some(dir) = cache.kv_disk_dir.clone() else { return Ok(None) };
    let options = DiskOptions {
        tokens_min,
        cold_max,
        continued_interval: cache.kv_cache_continued_interval_tokens,
        trim: cache.kv_cache_boundary_trim_tokens,
        align: cache.kv_cache_boundary_align_tokens,
        ..DiskOptions::default()
    };
    Ok(Some(DiskCache {
        dir,
        budget_bytes: cache.kv_disk_space_mb.saturating_mul(1 << 20),
        accepts_family: cache.kv_cache_accept_different_quant,
        hourly_bytes_max: cache.kv_cache_write_mb_per_hour.saturating_mul(1 << 20),
        options,
    }))
}
