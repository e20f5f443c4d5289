//! What each client reads, as of Claude Code 2.1, Codex 0.169, opencode 1.18 and Pi 0.73.

use std::path::Path;

use clap::ValueEnum;
use serde_json::json;

use super::{Content, Facts, MODEL, NAME, Recipe};

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Client {
    Claude,
    Codex,
    Opencode,
    Pi,
}

/// A key for servers that want none: clients insist on one.
const NO_KEY: &str = "none";
/// Time that a client waits for a long prompt: half an hour.
const PATIENCE_MS: u32 = 1_800_000;

impl Client {
    pub(super) fn recipe(self, facts: &Facts, home: &Path) -> Recipe {
        match self {
            Self::Claude => claude(facts, home),
            Self::Codex => codex(facts, home),
            Self::Opencode => opencode(facts, home),
            Self::Pi => pi(facts, home),
        }
    }
}

fn claude(facts: &Facts, home: &Path) -> Recipe {
    let path = home.join(".claude/ds4.settings.json");
    let key = facts.key.as_deref().unwrap_or(NO_KEY);
    let settings = json!({"env": {
        "ANTHROPIC_BASE_URL": facts.url,
        "ANTHROPIC_AUTH_TOKEN": key,
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "deepseek-chat",
        "CLAUDE_CODE_SUBAGENT_MODEL": MODEL,
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": facts.ctx.to_string(),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": (facts.ctx / 4).min(32_000).to_string(),
        "API_TIMEOUT_MS": PATIENCE_MS.to_string(),
    }});
    Recipe {
        run: format!("claude --settings {}", path.display()),
        path,
        content: Content::Whole(format!("{settings:#}\n")),
        notes: "its own prompt has about 20000 tokens: serve with --ctx 100000 or more",
    }
}

fn codex(facts: &Facts, home: &Path) -> Recipe {
    let quoted = |text: &str| json!(text).to_string();
    let key = facts
        .key
        .as_ref()
        .map_or_else(String::new, |key| format!("experimental_bearer_token = {}\n", quoted(key)));
    let (url, ctx) = (quoted(&format!("{}/v1", facts.url)), facts.ctx);
    let compact = ctx / 5 * 4;
    let text = format!(
        "model = \"{MODEL}\"\nmodel_provider = \"{NAME}\"\nmodel_context_window = {ctx}\n\
         model_auto_compact_token_limit = {compact}\n\n[model_providers.{NAME}]\n\
         name = \"{NAME}\"\nbase_url = {url}\nwire_api = \"responses\"\nrequires_openai_auth = false\n\
         supports_websockets = false\nstream_idle_timeout_ms = {PATIENCE_MS}\n{key}"
    );
    Recipe {
        path: home.join(".codex/ds4.config.toml"),
        content: Content::Whole(text),
        run: format!("codex --profile {NAME}"),
        notes: "its own prompt has about 15000 tokens: serve with --ctx 65536 or more",
    }
}

fn opencode(facts: &Facts, home: &Path) -> Recipe {
    let mut options = json!({"baseURL": format!("{}/v1", facts.url), "timeout": PATIENCE_MS});
    options["apiKey"] = facts.key.as_deref().unwrap_or(NO_KEY).into();
    let model = |name: &str, reasoning: bool| {
        json!({
            "name": name, "reasoning": reasoning, "tool_call": true, "temperature": true,
            "interleaved": {"field": "reasoning_content"},
            "limit": {"context": facts.ctx, "output": facts.ctx / 4},
        })
    };
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": "ds4",
        "options": options,
        "models": {
            MODEL: model("DeepSeek V4 Flash", true),
            "deepseek-chat": model("DeepSeek V4 Flash, without thinking", false),
        },
    });
    Recipe {
        path: home.join(".config/opencode/opencode.json"),
        content: Content::Fields(json!({
            "$schema": "https://opencode.ai/config.json",
            "provider": {NAME: provider},
        })),
        run: format!("opencode -m {NAME}/{MODEL}"),
        notes: "\"small_model\": \"ds4/deepseek-chat\" lets it write titles without thinking",
    }
}

fn pi(facts: &Facts, home: &Path) -> Recipe {
    let provider = json!({
        "baseUrl": format!("{}/v1", facts.url),
        "api": "openai-completions",
        "apiKey": facts.key.as_deref().unwrap_or(NO_KEY),
        "compat": {
            "supportsDeveloperRole": true,
            "supportsReasoningEffort": true,
            "supportsStore": false,
            "maxTokensField": "max_tokens",
            "thinkingFormat": "deepseek",
        },
        "models": [{
            "id": MODEL,
            "name": "DeepSeek V4 Flash (ds4)",
            "reasoning": true,
            "thinkingLevelMap": {
                "minimal": null, "low": "low", "medium": null, "high": "high", "xhigh": "max",
            },
            "input": ["text"],
            "contextWindow": facts.ctx,
            "maxTokens": facts.ctx / 4,
            "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        }],
    });
    Recipe {
        path: home.join(".pi/agent/models.json"),
        content: Content::Fields(json!({"providers": {NAME: provider}})),
        run: format!("pi --provider {NAME} --model {MODEL}"),
        notes: "",
    }
}
