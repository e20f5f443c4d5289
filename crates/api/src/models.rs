//! Names of models: what they say about a request, and the lists that clients read.

use ds4_text::{Effort, Thinking};
use serde_json::{Value, json};

use crate::{Request, Rules};

/// Whether a request without a word about thinking should think, by the name of its model.
/// Clients use their smallest model for titles and summaries, which are not worth a thought.
pub(crate) fn thinks_by_name(model: &str, rules: Rules) -> Option<bool> {
    match model {
        "deepseek-chat" => Some(false),
        "deepseek-reasoner" => Some(true),
        name if rules == Rules::Lenient && name.to_ascii_lowercase().contains("haiku") => {
            Some(false)
        }
        _ => None,
    }
}

/// What requests for a model get that do not say otherwise themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelRule {
    /// The model's name; a `*` stands for anything.
    pub name: String,
    /// Whether to think.
    pub thinking: Option<bool>,
    /// How much to think.
    pub effort: Option<Effort>,
    /// Tokens that an answer may have.
    pub max_tokens: Option<u32>,
}

impl ModelRule {
    /// Whether this is a rule for the model.
    pub fn matches(&self, model: &str) -> bool {
        matches(&self.name, model)
    }

    /// Fills in what the request leaves open.
    pub fn apply(&self, request: &mut Request) {
        if !request.is_thinking_explicit {
            request.conversation.thinking = match (self.thinking, request.conversation.thinking) {
                (Some(false), _) | (None, Thinking::Off) => Thinking::Off,
                (Some(true), Thinking::Off) => Thinking::On(self.effort.unwrap_or(Effort::High)),
                (_, Thinking::On(effort)) => Thinking::On(self.effort.unwrap_or(effort)),
            };
        }
        request.max_tokens = request.max_tokens.or(self.max_tokens);
    }
}

/// Applies the first rule for the request's model.
pub fn apply_rules(rules: &[ModelRule], request: &mut Request) {
    if let Some(rule) = rules.iter().find(|rule| rule.matches(&request.model)) {
        rule.apply(request);
    }
}

/// Whether `pattern`, in which `*` stands for anything, is all of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(end)
}

/// A model as the lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Tokens that fit the context.
    pub context: usize,
    /// Tokens that an answer may have.
    pub max_tokens: usize,
    /// Names under which it is listed, the model's own first.
    pub names: Vec<String>,
}

/// Whose list of models it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListForm {
    /// OpenAI's.
    OpenAi,
    /// Anthropic's: for requests with an `anthropic-version`.
    Anthropic,
}

/// When the weights were made; the same every day, so that lists can be compared.
const CREATED: u64 = 1_767_225_600;
const CREATED_AT: &str = "2026-01-01T00:00:00Z";
const DISPLAY_NAME: &str = "DeepSeek V4 Flash";

/// What requests may set.
const PARAMETERS: [&str; 16] = [
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "seed",
    "stream",
    "reasoning_effort",
    "response_format",
    "structured_outputs",
    "logprobs",
    "top_logprobs",
];

/// One model, under one of its names.
pub fn model(info: &ModelInfo, name: &str, form: ListForm) -> Value {
    let mut model = json!({
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "ds4",
        "name": DISPLAY_NAME,
        "context_length": info.context,
        "top_provider": {
            "context_length": info.context,
            "max_completion_tokens": info.max_tokens.min(info.context),
            "is_moderated": false,
        },
        "supported_parameters": PARAMETERS,
    });
    if form == ListForm::Anthropic {
        model["type"] = "model".into();
        model["display_name"] = DISPLAY_NAME.into();
        model["created_at"] = CREATED_AT.into();
        model["lifecycle"] = "active".into();
        model["max_input_tokens"] = info.context.into();
        model["max_tokens"] = info.max_tokens.min(info.context).into();
    }
    model
}

/// All names of the model.
pub fn list(info: &ModelInfo, form: ListForm) -> Value {
    let data: Vec<Value> = info.names.iter().map(|name| model(info, name, form)).collect();
    let mut list = json!({"object": "list", "data": data});
    if form == ListForm::Anthropic {
        list["has_more"] = false.into();
        list["first_id"] = info.names.first().cloned().into();
        list["last_id"] = info.names.last().cloned().into();
    }
    list
}

/// The answer to a request to count the tokens of a prompt.
pub fn token_count(n_tokens: usize) -> Value {
    json!({"input_tokens": n_tokens})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Api, chat};

    #[test]
    fn patterns() {
        for (pattern, text, is_match) in [
            ("gpt-5", "gpt-5", true),
            ("gpt-5", "gpt-55", false),
            ("claude-*", "claude-opus", true),
            ("*haiku*", "claude-haiku-4", true),
            ("*haiku*", "haik", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_fill_in_what_is_open() {
        let rules = [
            ModelRule {
                name: "claude-*".into(),
                thinking: Some(true),
                effort: Some(Effort::Max),
                max_tokens: Some(100),
            },
            ModelRule { name: "*".into(), thinking: Some(false), ..ModelRule::default() },
        ];
        let thinking = |body: Value| {
            let mut body = body;
            body["messages"] = json!([{"role": "user", "content": "x"}]);
            let mut request = chat::convert(&body, Rules::Lenient).unwrap();
            assert_eq!(request.api, Api::Chat);
            apply_rules(&rules, &mut request);
            (request.conversation.thinking, request.max_tokens)
        };
        let max = Thinking::On(Effort::Max);
        for (body, expected) in [
            (json!({"model": "claude-x"}), (max, Some(100))),
            (json!({"model": "claude-haiku"}), (max, Some(100))),
            (
                json!({"model": "claude-x", "thinking": false, "max_tokens": 5}),
                (Thinking::Off, Some(5)),
            ),
            (
                json!({"model": "claude-x", "reasoning_effort": "low"}),
                (Thinking::On(Effort::Low), Some(100)),
            ),
            (json!({"model": "gpt"}), (Thinking::Off, None)),
        ] {
            assert_eq!(thinking(body.clone()), expected, "{body}");
        }
    }

    #[test]
    fn small_models_do_not_think() {
        assert_eq!(thinks_by_name("claude-3-5-Haiku-latest", Rules::Lenient), Some(false));
        assert_eq!(thinks_by_name("claude-3-5-haiku-latest", Rules::Hosted), None);
        assert_eq!(thinks_by_name("deepseek-reasoner", Rules::Hosted), Some(true));
        assert_eq!(thinks_by_name("deepseek-v4-flash", Rules::Lenient), None);
    }

    #[test]
    fn both_lists() {
        let info =
            ModelInfo { context: 1000, max_tokens: 5000, names: vec!["a".into(), "b".into()] };
        let openai = list(&info, ListForm::OpenAi);
        assert_eq!(openai["data"][1]["id"], "b");
        assert_eq!(openai["data"][0]["top_provider"]["max_completion_tokens"], 1000);
        assert!(openai["data"][0].get("type").is_none());
        let anthropic = list(&info, ListForm::Anthropic);
        assert_eq!(anthropic["data"][0]["type"], "model");
        assert_eq!(anthropic["last_id"], "b");
        assert_eq!(token_count(7).to_string(), "{\"input_tokens\":7}");
    }
}
