//! What a server is told; the command line resolves it.

use std::time::Duration;

use ds4_api::models::ModelRule;
use ds4_text::{Effort, Profile};

use crate::{Keys, limits};

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens that fit each session.
    pub ctx: u32,
    /// Tokens of an answer when the request does not say.
    pub max_tokens: u32,
    /// Release of the prompt format.
    pub profile: Profile,
    /// Effort of requests that do not name one.
    pub default_effort: Option<Effort>,
    /// Whether the client's sampling counts while thinking too.
    pub honor_sampling: bool,
    /// Whether `/v1/completions` answers the prompt as a message instead of continuing it.
    pub completions_chat: bool,
    /// Names of the model besides its own, each with the name that it stands for.
    pub aliases: Vec<(String, String)>,
    /// What requests get by their model's name.
    pub rules: Vec<ModelRule>,
    /// Keys, one of which a request must show.
    pub keys: Keys,
    /// Whether web pages of other machines may ask.
    pub cors: bool,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Requests between their first byte and their last, streams included; more are refused.
    pub requests_max: usize,
    /// Silence after which a stream sends a sign of life.
    pub keep_alive: Duration,
    /// Time in which a client must take something of what is ready for it.
    pub stall_max: Duration,
    /// Time that a request may take altogether.
    pub time_max: Option<Duration>,
    /// Time that running requests get when the server is asked to end.
    pub drain_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ctx: 32_768,
            max_tokens: ds4_api::limits::MAX_TOKENS_MAX,
            profile: Profile::April,
            default_effort: None,
            honor_sampling: false,
            completions_chat: false,
            aliases: Vec::new(),
            rules: Vec::new(),
            keys: Keys::default(),
            cors: false,
            body_bytes_max: limits::BODY_BYTES_MAX,
            requests_max: 256,
            keep_alive: Duration::from_secs(5),
            stall_max: limits::STALL_MAX,
            time_max: None,
            drain_max: Duration::from_secs(10),
        }
    }
}

/// The name under which the model is known everywhere.
pub(crate) const MODEL: &str = "deepseek-v4-flash";
/// Names of the hosted API that say whether to think.
const HOSTED: [&str; 2] = ["deepseek-chat", "deepseek-reasoner"];

impl Options {
    /// Names to list, the model's own first.
    pub(crate) fn names(&self) -> Vec<String> {
        let own = std::iter::once(MODEL).chain(HOSTED).map(str::to_owned);
        own.chain(self.aliases.iter().map(|(alias, _)| alias.clone())).collect()
    }

    /// What a name stands for.
    pub(crate) fn meaning<'a>(&'a self, name: &'a str) -> &'a str {
        let of = |(alias, model): &'a (String, String)| (alias == name).then_some(model.as_str());
        self.aliases.iter().find_map(of).unwrap_or(name)
    }
}
