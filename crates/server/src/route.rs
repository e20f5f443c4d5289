//! What is served where: the one table from which the router and the OpenAPI document are made.

use axum::http::{HeaderMap, Method};
use ds4_api::Api;

/// Something that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// An answer of the model.
    Generate(Api),
    CountTokens,
    Models,
    Model,
    Tokenize,
    Detokenize,
    Health,
    Metrics,
    OpenApi,
}

impl Route {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::Generate(Api::Chat),
        Self::Generate(Api::Completions),
        Self::Generate(Api::Messages),
        Self::Generate(Api::Responses),
        Self::CountTokens,
        Self::Models,
        Self::Model,
        Self::Tokenize,
        Self::Detokenize,
        Self::Health,
        Self::Metrics,
        Self::OpenApi,
    ];

    /// Its paths, the documented one first; the others are where clients look for it that were
    /// made for other servers, or whose base address lacks a part.
    pub(crate) fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Generate(Api::Chat) => &[
                "/v1/chat/completions",
                "/chat/completions",
                "/beta/chat/completions",
                "/beta/v1/chat/completions",
            ],
            Self::Generate(Api::Completions) => {
                &["/v1/completions", "/completions", "/beta/completions", "/beta/v1/completions"]
            }
            Self::Generate(Api::Messages) => {
                &["/v1/messages", "/messages", "/anthropic/v1/messages", "/anthropic/messages"]
            }
            Self::Generate(Api::Responses) => &["/v1/responses", "/responses"],
            Self::CountTokens => &[
                "/v1/messages/count_tokens",
                "/messages/count_tokens",
                "/anthropic/v1/messages/count_tokens",
                "/anthropic/messages/count_tokens",
            ],
            Self::Models => &[
                "/v1/models",
                "/models",
                "/beta/models",
                "/anthropic/v1/models",
                "/anthropic/models",
            ],
            Self::Model => &[
                "/v1/models/{*id}",
                "/models/{*id}",
                "/beta/models/{*id}",
                "/anthropic/v1/models/{*id}",
                "/anthropic/models/{*id}",
            ],
            Self::Tokenize => &["/tokenize", "/v1/tokenize"],
            Self::Detokenize => &["/detokenize", "/v1/detokenize"],
            Self::Health => &["/health", "/v1/health"],
            Self::Metrics => &["/metrics"],
            Self::OpenApi => &["/openapi.json", "/v1/openapi.json"],
        }
    }

    /// How it is asked for.
    pub(crate) fn method(self) -> Method {
        match self {
            Self::Generate(_) | Self::CountTokens | Self::Tokenize | Self::Detokenize => {
                Method::POST
            }
            Self::Models | Self::Model | Self::Health | Self::Metrics | Self::OpenApi => {
                Method::GET
            }
        }
    }

    /// The methods to name to those who use another.
    pub(crate) fn allowed(self) -> &'static str {
        if self.method() == Method::POST { "POST, OPTIONS" } else { "GET, HEAD, OPTIONS" }
    }
}

/// Whose clients ask, for the form of errors.
pub(crate) fn api_of(path: &str, headers: &HeaderMap) -> Api {
    let is_messages = path.contains("/messages")
        || path.starts_with("/anthropic")
        || headers.contains_key("anthropic-version");
    if is_messages {
        Api::Messages
    } else if path.ends_with("/responses") {
        Api::Responses
    } else if path.ends_with("/completions") && !path.ends_with("/chat/completions") {
        Api::Completions
    } else {
        Api::Chat
    }
}

/// A word for metrics and logs.
pub(crate) fn api_name(api: Api) -> &'static str {
    match api {
        Api::Chat => "chat",
        Api::Completions => "completions",
        Api::Messages => "messages",
        Api::Responses => "responses",
    }
}
