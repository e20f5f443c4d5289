//! The held-out cases of nano: in the program, or in a directory of the same layout
//! (`testdata/nano_eval/README.md`).

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

macro_rules! suite_file {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../testdata/nano_eval/", $name)))
    };
}

/// Files of cases, in the order of the report.
const CASES: [(&str, &str); 9] = [
    suite_file!("tools.jsonl"),
    suite_file!("needle.jsonl"),
    suite_file!("arithmetic.jsonl"),
    suite_file!("copy.jsonl"),
    suite_file!("thinking.jsonl"),
    suite_file!("text.jsonl"),
    suite_file!("lookup.jsonl"),
    suite_file!("chat.jsonl"),
    suite_file!("samples.jsonl"),
];

/// Texts to be scored, and the text that hides needles.
const NOVEL: (&str, &str) = suite_file!("novel.txt");
const STORIES: (&str, &str) = suite_file!("stories.txt");
const HAYSTACK: (&str, &str) = suite_file!("haystack.txt");

/// Between documents of a text.
const DOCUMENT_END: &str = "\n\u{c}\n";

/// One case.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) category: String,
    pub(super) thinking: bool,
    pub(super) messages: Vec<Value>,
    #[serde(default)]
    pub(super) expect: Option<Expect>,
    #[serde(default)]
    haystack: Option<Haystack>,
}

/// What the reply must be.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Expect {
    #[serde(default)]
    pub(super) tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    pub(super) answer: Option<String>,
    #[serde(default, rename = "match")]
    pub(super) rule: Rule,
}

/// How an answer is compared.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rule {
    #[default]
    Any,
    Exact,
    Contains,
    Number,
}

/// A tool call.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Value,
}

/// Lines of the haystack, with sentences put between them.
#[derive(Clone, Debug, Deserialize)]
struct Haystack {
    from: usize,
    to: usize,
    insert: Vec<Needle>,
}

#[derive(Clone, Debug, Deserialize)]
struct Needle {
    before: usize,
    text: String,
}

/// All files of a suite.
pub(super) struct Suite {
    cases: Vec<Case>,
    novel: String,
    stories: String,
    haystack: Vec<String>,
}

impl Suite {
    /// The suite of a directory, or the built-in one.
    pub(super) fn open(dir: Option<&Path>) -> Result<Self> {
        let read = |(name, text): (&str, &str)| match dir {
            None => Ok(text.to_owned()),
            Some(dir) => crate::load::read_text(&dir.join(name)),
        };
        let mut cases = Vec::new();
        for file in CASES {
            for (ix, line) in read(file)?.lines().enumerate() {
                let place = || format!("{}, line {}", file.0, ix + 1);
                let case: Case = serde_json::from_str(line).with_context(place)?;
                cases.push(case);
            }
        }
        let haystack = read(HAYSTACK)?.lines().map(str::to_owned).collect();
        Ok(Self { cases, novel: read(NOVEL)?, stories: read(STORIES)?, haystack })
    }

    /// Cases of the named categories, all when none is named; at most `limit` of each.
    pub(super) fn cases(&self, only: &[String], limit: Option<usize>) -> Result<Vec<Case>> {
        if let Some(odd) = only.iter().find(|o| !self.categories().contains(&o.as_str())) {
            bail!("no category {odd:?}; there are {}", self.categories().join(", "));
        }
        let mut counts = std::collections::HashMap::new();
        let wanted = |case: &&Case| {
            let is_named = only.is_empty() || only.contains(&case.category);
            let n = counts.entry(case.category.clone()).or_insert(0);
            *n += usize::from(is_named);
            is_named && limit.is_none_or(|limit| *n <= limit)
        };
        Ok(self.cases.iter().filter(wanted).cloned().collect())
    }

    /// Category names, in order.
    pub(super) fn categories(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.cases.iter().map(|c| c.category.as_str()).collect();
        names.dedup();
        names
    }

    /// Held-out texts by name, cut into documents.
    pub(super) fn texts(&self) -> [(&'static str, Vec<&str>); 2] {
        [
            ("novel", self.novel.split(DOCUMENT_END).collect()),
            ("stories", self.stories.split(DOCUMENT_END).collect()),
        ]
    }

    /// The messages of a case with its haystack in place.
    pub(super) fn expand(&self, case: &Case) -> Result<Vec<Value>> {
        let mut messages = case.messages.clone();
        let Some(haystack) = &case.haystack else { return Ok(messages) };
        let text = self.hide(haystack)?;
        let last = messages.last_mut().and_then(|m| m.get_mut("content"));
        let content = last.context("a needle case needs a message")?;
        let full = content.as_str().context("its content is no text")?.replace("{haystack}", &text);
        *content = Value::String(full);
        Ok(messages)
    }

    fn hide(&self, h: &Haystack) -> Result<String> {
        if h.from > h.to || h.to > self.haystack.len() {
            bail!("the haystack has no lines {}…{}", h.from, h.to);
        }
        let mut parts: Vec<&str> = Vec::new();
        for line in h.from..h.to {
            parts.extend(h.insert.iter().filter(|n| n.before == line).map(|n| n.text.as_str()));
            parts.push(&self.haystack[line]);
        }
        Ok(parts.join(" "))
    }
}
