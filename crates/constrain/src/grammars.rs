//! Grammars over one vocabulary, compiled in bounded time and kept for the next turn.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

use ds4_text::Tokenizer;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};

use crate::constraint::{Begin, Constraint};
use crate::form::Form;
use crate::schema::Depth;
use crate::source::{Source, may_relax, refusal};
use crate::vocabulary::Vocabulary;
use crate::{Error, limits};

/// Grammars over one vocabulary. Cheap to make: the trie of the tokens is built at the first need.
/// May be shared by threads.
pub struct Grammars(Arc<Shared>);

struct Shared {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<ParserFactory>,
    /// Compiled grammars with their sources, the latest used last.
    cache: Mutex<VecDeque<(String, Grammar)>>,
    /// Compilations that nobody waits for any more.
    overdue: AtomicUsize,
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

impl Grammars {
    /// Grammars over the vocabulary of a tokenizer.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self(Arc::new(Shared {
            tokenizer,
            factory: OnceLock::new(),
            cache: Mutex::new(VecDeque::new()),
            overdue: AtomicUsize::new(0),
        }))
    }

    /// Builds the trie of the tokens now, so that the first form need not wait for it.
    pub fn prepare(&self) {
        self.0.factory();
    }

    /// Compiles a form, or finds it compiled. Takes milliseconds, [`limits::COMPILE_TIME_MAX`] at
    /// worst: not for the thread that steps the model.
    ///
    /// The work is done on a thread of its own, which has the stack that it may need. When it takes
    /// too long it is left behind; its own limits end it some time.
    pub fn compile(&self, form: &Form) -> Result<Grammar, Error> {
        self.prepare();
        let path = form.path();
        if self.0.overdue.load(Ordering::Relaxed) >= limits::OVERDUE_MAX {
            return Err(Error::complex(path, "too many large schemas are being compiled"));
        }
        let (sender, receiver) = mpsc::channel();
        // Set by whoever comes first: the thread with its result, or the end of the time.
        let is_settled = Arc::new(AtomicBool::new(false));
        let work = {
            let (shared, form) = (Arc::clone(&self.0), form.clone());
            let is_settled = Arc::clone(&is_settled);
            move || {
                let found = catch_unwind(AssertUnwindSafe(|| shared.compile(&form)));
                // Nobody may be listening any more.
                let _ = sender.send(found);
                if is_settled.swap(true, Ordering::AcqRel) {
                    shared.overdue.fetch_sub(1, Ordering::Relaxed);
                }
            }
        };
        let builder = thread::Builder::new().name("ds4-grammar".into());
        let thread = builder.stack_size(limits::COMPILE_STACK).spawn(work);
        thread.map_err(|e| Error::Stuck(format!("no thread to compile on: {e}")))?;
        let mut found = receiver.recv_timeout(limits::COMPILE_TIME_MAX);
        if matches!(found, Err(mpsc::RecvTimeoutError::Timeout)) {
            self.0.overdue.fetch_add(1, Ordering::Relaxed);
            if !is_settled.swap(true, Ordering::AcqRel) {
                let max = limits::COMPILE_TIME_MAX.as_secs();
                return Err(Error::complex(path, format!("compiling takes longer than {max} s")));
            }
            // It came in this very moment.
            self.0.overdue.fetch_sub(1, Ordering::Relaxed);
            found = receiver.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected);
        }
        match found {
            Ok(Ok(found)) => found,
            _ => Err(Error::schema(path, "the compiler cannot take this form")),
        }
    }
}

impl Shared {
    fn factory(&self) -> &ParserFactory {
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
            factory
        })
    }

    fn compile(&self, form: &Form) -> Result<Grammar, Error> {
        let dsml = self.tokenizer.specials().dsml;
        let depth = if form.is_guard() { Depth::Scalars } else { Depth::All };
        let found = Source::of(form, dsml, depth).and_then(|source| self.cached(form, source));
        match found {
            // Some schema of a function is beyond the compiler: its types can still be enforced.
            Err(error) if error.is_request() && may_relax(form) => {
                let mut source = Source::of(form, dsml, Depth::Types)?;
                source.warnings.push(format!("{error}; of functions, only types are enforced"));
                self.cached(form, source)
            }
            found => found,
        }
    }

    /// Finds a source compiled, or compiles it.
    fn cached(&self, form: &Form, source: Source) -> Result<Grammar, Error> {
        let grammar = serde_json::to_string(&source.grammar).expect("a grammar is JSON");
        let key = format!("{grammar}\n{}", source.warnings.join("\n"));
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|(known, _)| *known == key) {
            let known = cache.remove(at).expect("just found");
            let grammar = known.1.clone();
            cache.push_back(known);
            return Ok(grammar);
        }
        drop(cache);
        let grammar = self.build(form, source)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_back((key, grammar.clone()));
        if cache.len() > limits::CACHED_MAX {
            cache.pop_front();
        }
        Ok(grammar)
    }

    fn build(&self, form: &Form, source: Source) -> Result<Grammar, Error> {
        let mut matcher = Matcher::new(self.factory().create_parser(source.grammar));
        // The first mask: a grammar that is too large for the parser shows at once.
        let _ = matcher.compute_mask_or_eos();
        if let Some(message) = matcher.get_error() {
            return Err(refusal(form.path(), &message));
        }
        let mut warnings = source.warnings;
        warnings.extend(matcher.grammar_warnings().iter().map(|w| format!("{}: {w}", form.path())));
        Ok(Grammar(Arc::new(Compiled {
            tokenizer: Arc::clone(&self.tokenizer),
            is_guard: form.is_guard(),
            warnings,
            matcher,
        })))
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
