//! From a form to what the grammar engine compiles: a main grammar, and those that it names.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value, json};

use crate::dsml::{self, Part, Style};
use crate::form::{Answer, Calls, Form, Functions};
use crate::pattern::{self, Meaning};
use crate::schema::{self, Depth, Reading};
use crate::{Error, lark};

/// What the engine is given.
pub(crate) struct Source {
    pub(crate) grammar: TopLevelGrammar,
    pub(crate) warnings: Vec<String>,
}

impl Source {
    /// The source of a form. Of functions that are not strict, this much of their schemas counts;
    /// `dsml` is the token that marks calls.
    pub(crate) fn of(form: &Form, dsml: Option<u32>, depth: Depth) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut warnings = Vec::new();
        let reading = Reading { rigour: form.rigour, spacing: form.spacing };
        let answer = answer(form, reading, &mut parts, &mut warnings)?;
        let (functions, is_required) = match &form.calls {
            Calls::Free => {
                // Without an answer's form there is nothing to enforce, and nothing is.
                let answer = answer.unwrap_or_else(|| lark::regex(lark::ANY));
                return Ok(Self::new(format!("start: {answer}\n"), parts, warnings));
            }
            Calls::Allowed(functions) => (functions, false),
            Calls::Required(functions) => (functions, true),
        };
        let style = Style {
            dsml: dsml.ok_or(Error::NoToolCalls)?,
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
        Ok(Self::new(lark.finish(), parts, warnings))
    }

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

/// Whether a schema that fails may be one of a function that is not strict.
pub(crate) fn may_relax(form: &Form) -> bool {
    match &form.calls {
        Calls::Free => false,
        Calls::Allowed(functions) | Calls::Required(functions) => {
            let is_strict = |f: &Map<String, Value>| f.get("strict") == Some(&true.into());
            !functions.declared.iter().any(is_strict)
        }
    }
}

/// What the compiler says, as one line.
pub(crate) fn refusal(path: &str, message: &str) -> Error {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_suffix("<non-verbose/>").unwrap_or(line).trim();
    if line.contains("oneOf constraints are not supported") {
        let message = "the keyword \"oneOf\" is not supported where it is not certain that its \
                       alternatives exclude each other";
        return Error::schema(path, message);
    }
    if let Some((_, reference)) = line.split_once("without 'referencing' feature; ref ") {
        return Error::schema(path, format!("the reference {reference} leads out of the schema"));
    }
    let is_limit = ["too big", "too large", "fuel", "too complex", "level exceeded"];
    if is_limit.iter().any(|word| line.contains(word)) {
        return Error::complex(path, line);
    }
    Error::schema(path, line)
}

impl Form {
    /// Where the request says it.
    pub(crate) fn path(&self) -> &'static str {
        match (&self.answer, &self.calls) {
            (Answer::JsonSchema(_), _) => "response_format.json_schema.schema",
            (Answer::Pattern(_), _) => "response_format.regex",
            (Answer::JsonObject, Calls::Free) => "response_format",
            _ => "tools",
        }
    }
}
