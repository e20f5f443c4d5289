//! From forms to grammars: over one vocabulary, compiled in bounded time, kept for the next turn.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

use ds4_text::Tokenizer;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::constraint::{Begin, Constraint};
use crate::dsml::{self, Part, Style};
use crate::form::{Answer, Calls, Form, Functions};
use crate::pattern::{self, Meaning};
use crate::schema::{self, Depth, Reading};
use crate::vocabulary::Vocabulary;
use crate::{Error, lark, limits};

/// Grammars over one vocabulary. Cheap to make: the trie of the tokens is built at the first need.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Arc<ParserFactory>>,
    /// Compiled grammars with their sources, the latest used last.
    cache: Mutex<VecDeque<(String, Grammar)>>,
    overdue: Arc<AtomicUsize>,
}

/// A compiled form. Cheap to clone; one serves any number of answers.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

pub(crate) struct Compiled {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) is_guard: bool,
    warnings: Vec<String>,
    /// At its beginning.
    pub(crate) matcher: Matcher,
}

/// What the compiler is given.
struct Source {
    grammar: TopLevelGrammar,
    warnings: Vec<String>,
}

impl Grammars {
    /// Grammars over the vocabulary of a tokenizer.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            factory: OnceLock::new(),
            cache: Mutex::new(VecDeque::new()),
            overdue: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Builds the trie of the tokens now, so that the first form need not wait for it.
    pub fn prepare(&self) {
        self.factory();
    }

    fn factory(&self) -> &Arc<ParserFactory> {
        self.factory.get_or_init(|| {
            let vocabulary: TokEnv = Arc::new(Vocabulary::new(Arc::clone(&self.tokenizer)));
            let slices = SlicedBiasComputer::general_slices();
            let mut factory =
                ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices)
                    .expect("the library's own slices over a checked vocabulary");
            factory.quiet();
            let limits = factory.limits_mut();
            limits.verbose_errors = false;
            limits.max_lexer_states = limits::LEXER_STATES_MAX;
            limits.max_grammar_size = limits::GRAMMAR_SYMBOLS_MAX;
            limits.max_items_in_row = limits::PARSER_ITEMS_MAX;
            limits.step_max_items = limits::MASK_ITEMS_MAX;
            Arc::new(factory)
        })
    }

    /// Compiles a form, or finds it compiled. Takes milliseconds, seconds at worst: not for the
    /// thread that steps the model.
    pub fn compile(&self, form: &Form) -> Result<Grammar, Error> {
        let depth = if form.is_guard() { Depth::Scalars } else { Depth::All };
        let compile = |depth| self.compile_source(form, self.source(form, depth)?);
        match compile(depth) {
            // Some schema of a function is beyond the compiler: its types can still be enforced.
            Err(error) if error.is_request() && may_relax(form) => {
                let mut source = self.source(form, Depth::Types)?;
                source.warnings.push(format!("{error}; of functions, only types are enforced"));
                self.compile_source(form, source)
            }
            found => found,
        }
    }

    fn compile_source(&self, form: &Form, source: Source) -> Result<Grammar, Error> {
        let key = serde_json::to_string(&source.grammar).expect("a grammar is JSON");
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|(known, _)| *known == key) {
            let known = cache.remove(at).expect("just found");
            cache.push_back(known);
            return Ok(cache.back().expect("just pushed").1.clone());
        }
        drop(cache);
        let mut matcher = self.run(source.grammar, form)?;
        let mut warnings = source.warnings;
        warnings.extend(matcher.grammar_warnings().iter().map(|w| format!("{}: {w}", form.path())));
        let grammar = Grammar(Arc::new(Compiled {
            tokenizer: Arc::clone(&self.tokenizer),
            is_guard: form.is_guard(),
            warnings,
            matcher,
        }));
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_back((key, grammar.clone()));
        if cache.len() > limits::CACHED_MAX {
            cache.pop_front();
        }
        Ok(grammar)
    }

    /// Runs the compiler on a thread of its own, which has the stack that it may need, and which is
    /// left behind when it takes too long: its own limits end it some time.
    fn run(&self, grammar: TopLevelGrammar, form: &Form) -> Result<Matcher, Error> {
        let path = form.path();
        if self.overdue.load(Ordering::Relaxed) >= limits::OVERDUE_MAX {
            return Err(Error::complex(path, "too many large schemas are being compiled"));
        }
        let factory = Arc::clone(self.factory());
        let (sender, receiver) = mpsc::channel();
        let overdue = Arc::clone(&self.overdue);
        let work = move || {
            let compile = || {
                let mut matcher = Matcher::new(factory.create_parser(grammar));
                // The first mask: a grammar that is too large for the parser shows at once.
                let _ = matcher.compute_mask_or_eos();
                matcher
            };
            let matcher = catch_unwind(AssertUnwindSafe(compile));
            if sender.send(matcher).is_err() {
                overdue.fetch_sub(1, Ordering::Relaxed);
            }
        };
        let builder = thread::Builder::new().name("ds4-grammar".into());
        let thread = builder.stack_size(limits::COMPILE_STACK).spawn(work);
        thread.map_err(|e| Error::Stuck(format!("no thread to compile on: {e}")))?;
        match receiver.recv_timeout(limits::COMPILE_TIME_MAX) {
            Ok(Ok(matcher)) => match matcher.get_error() {
                None => Ok(matcher),
                Some(message) => Err(refusal(path, &message)),
            },
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(Error::schema(path, "the compiler cannot take this form"))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.overdue.fetch_add(1, Ordering::Relaxed);
                let max = limits::COMPILE_TIME_MAX.as_secs();
                Err(Error::complex(path, format!("compiling takes longer than {max} s")))
            }
        }
    }

    fn source(&self, form: &Form, depth: Depth) -> Result<Source, Error> {
        let mut parts = Vec::new();
        let mut warnings = Vec::new();
        let reading = Reading { rigour: form.rigour, spacing: form.spacing };
        let answer = answer(form, reading, &mut parts, &mut warnings)?;
        let (functions, is_required) = match &form.calls {
            Calls::Free => {
                let main = format!("start: {}\n", answer.unwrap_or_default());
                return Ok(Source::new(main, parts, warnings));
            }
            Calls::Allowed(functions) => (functions, false),
            Calls::Required(functions) => (functions, true),
        };
        let style = Style {
            dsml: self.tokenizer.specials().dsml.ok_or(Error::NoToolCalls)?,
            is_guard: form.is_guard(),
            parallel: functions.parallel,
            reading,
        };
        let written = dsml::write(functions, style, depth)?;
        let mut lark = written.lark;
        lark.define("start", start(functions, is_required, answer.as_deref()));
        if style.is_guard {
            // Forcing tokens would change answers that are valid as the model writes them.
            lark.declare("%llguidance {\"no_forcing\": true}");
        }
        parts.extend(written.parts);
        warnings.extend(written.warnings);
        Ok(Source::new(lark.finish(), parts, warnings))
    }
}

/// What stands for the answer in the main grammar; `None` for any text.
fn answer(
    form: &Form,
    reading: Reading,
    parts: &mut Vec<(String, Part)>,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, Error> {
    let schema = match &form.answer {
        Answer::Free => return Ok(None),
        Answer::Pattern(text) => {
            let settled = pattern::settle(text, Meaning::Whole);
            let refuse = |what| Error::schema("response_format.regex", what);
            return settled.map(|text| Some(lark::regex(&text))).map_err(refuse);
        }
        Answer::JsonObject => json!({"type": "object"}),
        Answer::JsonSchema(schema) => {
            let prepared = schema::prepare(schema, form.path(), form.rigour)?;
            warnings.extend(prepared.warnings);
            prepared.schema
        }
    };
    parts.push(("answer".into(), Part::Json(reading.of(schema))));
    Ok(Some("@answer".into()))
}

fn start(functions: &Functions, is_required: bool, answer: Option<&str>) -> String {
    let block = "\"\\n\\n<\" mark block";
    match answer {
        _ if functions.is_open => "\"<\" mark inside".into(),
        _ if is_required => block.into(),
        Some(answer) => format!("{answer} | {block}"),
        // The model has written the mark.
        None => "block".into(),
    }
}

/// Whether a schema that fails is one of a function that is not strict.
fn may_relax(form: &Form) -> bool {
    match &form.calls {
        Calls::Free => false,
        Calls::Allowed(functions) | Calls::Required(functions) => {
            let is_strict =
                |f: &serde_json::Map<String, Value>| f.get("strict") == Some(&true.into());
            !functions.declared.iter().any(is_strict)
        }
    }
}

/// What the compiler says, as one line.
fn refusal(path: &str, message: &str) -> Error {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_suffix("<non-verbose/>").unwrap_or(line).trim();
    let is_limit = ["too big", "too large", "fuel", "too complex", "level exceeded"];
    if is_limit.iter().any(|word| line.contains(word)) {
        return Error::complex(path, line);
    }
    Error::schema(path, line)
}

impl Source {
    fn new(main: String, parts: Vec<(String, Part)>, warnings: Vec<String>) -> Self {
        let main = GrammarWithLexer { name: None, ..GrammarWithLexer::from_lark(main) };
        let part = |(name, part)| {
            let grammar = match part {
                Part::Lark(text) => GrammarWithLexer::from_lark(text),
                Part::Json(schema) => GrammarWithLexer::from_json_schema(schema),
            };
            GrammarWithLexer { name: Some(name), ..grammar }
        };
        let grammars = std::iter::once(main).chain(parts.into_iter().map(part)).collect();
        Self { grammar: TopLevelGrammar { grammars, max_tokens: None }, warnings }
    }
}

impl Grammar {
    /// What is left to the model, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Whether this is the very grammar that another compilation gave.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A constraint for one answer.
    pub fn begin(&self, begin: Begin<'_>) -> Result<Constraint, Error> {
        Constraint::new(Arc::clone(&self.0), begin)
    }
}

impl Form {
    /// Where the request says it.
    fn path(&self) -> &'static str {
        match (&self.answer, &self.calls) {
            (Answer::JsonSchema(_), _) => "response_format.json_schema.schema",
            (Answer::Pattern(_), _) => "response_format.regex",
            (Answer::JsonObject, Calls::Free) => "response_format",
            _ => "tools",
        }
    }
}
