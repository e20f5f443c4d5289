//! A body to what the worker needs: converted, rendered, tokenised, with its sampling and its form.
//! This is the part of a request that computes; it runs on a thread that may.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ds4_api::responses;
use ds4_api::wire::Meta;
use ds4_api::{Api, ApiError, Request, RequestError, Rules, chat, completions, messages, models};
use ds4_constrain::{Answer, Begin, Calls, Constraint, Form, Rigour, Wishes};
use ds4_engine::Sampling;
use ds4_model::TokenId;
use ds4_text::parse::ParserOptions;
use ds4_text::{Effort, Thinking};
use ds4_turns::{NextTurn, Rendered};
use serde_json::Value;

use crate::id::{new_id, new_seed};
use crate::reply::Refusal;
use crate::script::Lines;
use crate::server::Server;
use crate::{Options, json};

/// Context from which maximum effort makes sense.
const EFFORT_MAX_CTX: u32 = 393_216;
/// Least probability relative to the most probable token, unless the client says otherwise.
const MIN_P: f32 = 0.05;

/// A request ready for the worker.
pub(crate) struct Job {
    /// Id in logs and headers.
    pub(crate) id: String,
    pub(crate) meta: Meta,
    pub(crate) request: Request,
    pub(crate) sampling: Sampling,
    /// One, or those of a completion.
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) arrived: Instant,
}

/// One prompt.
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) cuts: ds4_scheduler::Cuts,
    pub(crate) max_tokens: usize,
    /// Whether `max_tokens` is what the context leaves.
    pub(crate) fills_context: bool,
    pub(crate) parser: ParserOptions,
    /// What is needed to remember the answer.
    pub(crate) turn: Option<NextTurn>,
    /// Text that comes before the answer.
    pub(crate) echo: Option<String>,
    pub(crate) constraint: Option<Constraint>,
    pub(crate) script: Option<Lines>,
    /// The prompt as text and what was found for its history, for the trace.
    pub(crate) trace: Option<(String, Vec<String>)>,
}

/// What the headers of a request say.
#[derive(Clone, Debug)]
pub(crate) struct Hints {
    pub(crate) id: String,
    /// Whether the client's sampling counts in any case.
    pub(crate) honor_sampling: bool,
    /// Whether the response says where the beginning of the prompt came from.
    pub(crate) explains: bool,
    pub(crate) arrived: Instant,
}

/// Prepares a body.
pub(crate) fn prepare(
    server: &Arc<Server>,
    api: Api,
    body: Vec<u8>,
    hints: Hints,
) -> Result<Job, Refusal> {
    let body = json::parse(body)?;
    let options = server.options();
    let request = convert(api, &body, options)?;
    let sampling = sampling(&request, options.honor_sampling || hints.honor_sampling);
    sampling.check().map_err(|e| RequestError::invalid(e.to_string()))?;
    let (request, prompts) = if let Some(raw) = &request.raw {
        let ids = raw.encode(server.tokenizer())?;
        let prompts = ids.into_iter().map(|ids| raw_prompt(server, &request, &ids));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        (request, prompts)
    } else {
        let (request, prompt) = chat_prompt(server, request)?;
        (request, vec![prompt])
    };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let meta = Meta { id: new_id(), created, model: request.model.clone() };
    Ok(Job { id: hints.id, meta, request, sampling, prompts, arrived: hints.arrived })
}

/// The number of tokens that a body's prompt has, exactly as it would be rendered.
pub(crate) fn count(server: &Server, body: Vec<u8>) -> Result<usize, Refusal> {
    let mut body = json::parse(body)?;
    if let Value::Object(fields) = &mut body {
        // Not part of a question that only counts; some clients send it all the same.
        fields.remove("max_tokens");
    }
    let request = convert(Api::Messages, &body, server.options())?;
    Ok(render(server, &request)?.prompt.len())
}

/// The tokens of a chat's prompt.
pub(crate) fn chat_ids(server: &Server, body: &Value) -> Result<Vec<u32>, Refusal> {
    let request = convert(Api::Chat, body, server.options())?;
    Ok(render(server, &request)?.prompt.into_iter().map(|t| t.0).collect())
}

/// Converts a body; what it leaves open is filled in from the server's settings.
pub(crate) fn convert(api: Api, body: &Value, options: &Options) -> Result<Request, Refusal> {
    let rules = Rules::Lenient;
    let mut request = match api {
        Api::Chat => chat::convert(body, rules),
        Api::Completions if options.completions_chat => completions::convert_chat(body, rules),
        Api::Completions => completions::convert(body, rules),
        Api::Messages => messages::convert(body, rules),
        Api::Responses => responses::convert(body, rules),
    }?;
    let thinking = &mut request.conversation.thinking;
    if !request.is_thinking_explicit {
        match (options.meaning(&request.model), options.default_effort) {
            ("deepseek-chat", _) => *thinking = Thinking::Off,
            ("deepseek-reasoner", effort) => {
                *thinking = Thinking::On(effort.unwrap_or(Effort::High));
            }
            (_, Some(effort)) if *thinking != Thinking::Off => *thinking = Thinking::On(effort),
            _ => {}
        }
    }
    models::apply_rules(&options.rules, &mut request);
    if request.conversation.thinking == Thinking::On(Effort::Max) && options.ctx < EFFORT_MAX_CTX {
        request.conversation.thinking = Thinking::On(Effort::High);
        let warning = format!("maximum effort needs a context of {EFFORT_MAX_CTX}; using high");
        request.warnings.push(warning);
    }
    if request.raw.as_ref().is_some_and(|raw| raw.echo) && request.top_logprobs.is_some() {
        return Err(RequestError::invalid("echo: cannot be combined with logprobs").into());
    }
    Ok(request)
}

/// How tokens are chosen. While thinking, the client's wishes count only on demand.
fn sampling(request: &Request, honor: bool) -> Sampling {
    let asked = request.sampling;
    let thinks = request.conversation.thinking != Thinking::Off;
    let (temp, top_p) = if honor {
        (asked.temperature.unwrap_or(1.0), asked.top_p.unwrap_or(1.0))
    } else {
        request.hosted_sampling()
    };
    let honor = honor || !thinks;
    let seed = asked.seed.unwrap_or_else(new_seed);
    Sampling {
        temp,
        top_p,
        top_k: asked.top_k.filter(|_| honor).unwrap_or(0) as usize,
        min_p: asked.min_p.filter(|_| honor).unwrap_or(MIN_P),
        seed,
    }
}

fn raw_prompt(server: &Arc<Server>, request: &Request, ids: &[u32]) -> Result<Prompt, Refusal> {
    let tokenizer = server.tokenizer();
    let (max_tokens, fills_context) = budget(server.options(), request, ids.len())?;
    let text = || tokenizer.decode(ids).unwrap_or_default();
    let is_echo = request.raw.as_ref().is_some_and(|raw| raw.echo);
    let bos = tokenizer.specials().bos;
    let echo = || tokenizer.decode(ids.strip_prefix(&[bos]).unwrap_or(ids)).unwrap_or_default();
    let echo = is_echo.then(echo);
    let script = script(server, request.api, text);
    let trace = server.trace().map(|_| (text(), Vec::new()));
    Ok(Prompt {
        cuts: ds4_scheduler::Cuts::default(),
        max_tokens,
        fills_context,
        parser: request.parser_options(),
        turn: None,
        echo,
        constraint: None,
        script,
        trace,
        tokens: ids.iter().copied().map(TokenId).collect(),
    })
}

fn render(server: &Server, request: &Request) -> Result<Rendered, Refusal> {
    let rendered = server.turns().render(server.options().profile, &request.conversation);
    rendered.map_err(|error| RequestError::from(error).into())
}

fn chat_prompt(server: &Arc<Server>, mut request: Request) -> Result<(Request, Prompt), Refusal> {
    let rendered = render(server, &request)?;
    let (max_tokens, fills_context) = budget(server.options(), &request, rendered.prompt.len())?;
    let constraint = constraint(server, &mut request)?;
    let script = script(server, request.api, || rendered.segments.to_text());
    let notes = || rendered.notes.iter().map(ToString::to_string).collect();
    let trace = server.trace().map(|_| (rendered.segments.to_text(), notes()));
    let parser = request.parser_options();
    let prompt = Prompt {
        tokens: rendered.prompt,
        cuts: rendered.cuts,
        max_tokens,
        fills_context,
        parser,
        turn: Some(rendered.turn),
        echo: None,
        constraint,
        script,
        trace,
    };
    Ok((request, prompt))
}

/// Tokens that an answer may have, and whether it is the context that sets the limit.
fn budget(options: &Options, request: &Request, prompt: usize) -> Result<(usize, bool), Refusal> {
    let ctx = options.ctx as usize;
    if prompt >= ctx {
        return Err(ApiError::context_exceeded(request.api, prompt, ctx).into());
    }
    let (asked, room) = (request.max_tokens.unwrap_or(options.max_tokens) as usize, ctx - prompt);
    Ok((asked.min(room), asked > room))
}

/// What the answer must look like. A form that only guards against slips is dropped when it cannot
/// be compiled.
fn constraint(server: &Server, request: &mut Request) -> Result<Option<Constraint>, Refusal> {
    let rigour = if request.is_schema_strict { Rigour::Strict } else { Rigour::Lenient };
    let wishes = Wishes {
        parallel: request.parallel_tool_calls,
        pattern: request.answer_pattern.as_deref(),
        rigour,
        ..Wishes::default()
    };
    let Some(mut form) = Form::of(&request.conversation, wishes) else { return Ok(None) };
    if let Calls::Allowed(functions) | Calls::Required(functions) = &mut form.calls {
        functions.declared = request.callable().cloned().collect();
    }
    if matches!(&form.calls, Calls::Allowed(functions) if functions.declared.is_empty()) {
        form.calls = Calls::Free;
    }
    if form.answer == Answer::Free && form.calls == Calls::Free {
        return Ok(None);
    }
    let begin = Begin::of(&request.conversation);
    let made = server.grammars().compile(&form).and_then(|grammar| {
        request.warnings.extend(grammar.warnings().iter().cloned());
        grammar.begin(begin)
    });
    match made {
        Ok(constraint) => Ok(Some(constraint)),
        Err(error) if form.is_guard() => {
            tracing::debug!("tool calls are not guarded: {error}");
            Ok(None)
        }
        Err(error) if error.is_request() => Err(RequestError::invalid(error.to_string()).into()),
        Err(error) => Err(ApiError::internal(error.to_string()).into()),
    }
}

fn script(server: &Server, api: Api, prompt: impl Fn() -> String) -> Option<Lines> {
    let text = server.script()?.take(crate::route::api_name(api), &prompt())?;
    Some(Lines::new(server.tokenizer(), &text))
}
