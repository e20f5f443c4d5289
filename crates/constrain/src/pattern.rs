//! Regular expressions of requests.
//!
//! The grammar engine matches lexemes as a whole and has no look-around: a pattern that may match
//! anywhere gets text around it, one whose anchors stand elsewhere than at its ends is refused.

use llguidance::derivre::{RegexAst, RegexBuilder};
use llguidance::regex_to_lark;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, Look, LookSet};

use crate::limits;

/// How a pattern is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It matches the whole text; classes are Unicode's.
    Whole,
    /// It matches somewhere in the text, as in JSON Schema; `\d` and `\w` are ASCII.
    Somewhere,
}

/// The pattern as one that matches whole lexemes, or what is wrong with it.
pub(crate) fn settle(pattern: &str, meaning: Meaning) -> Result<String, String> {
    let ascii = if meaning == Meaning::Somewhere { "dw" } else { "" };
    // Unlike the engine's own functions this keeps the text a plain regular expression.
    let pattern = &regex_to_lark(pattern, ascii);
    let hir = check(pattern)?;
    let sides = hir.properties();
    let starts = anchor(sides.look_set_prefix(), sides.look_set_prefix_any(), Look::Start);
    let ends = anchor(sides.look_set_suffix(), sides.look_set_suffix_any(), Look::End);
    let (Some(starts), Some(ends)) = (starts, ends) else {
        return Err("only some of its alternatives are anchored".into());
    };
    let any = |is_anchored| if is_anchored { "" } else { "(?s:.*)" };
    Ok(match meaning {
        Meaning::Whole => pattern.clone(),
        Meaning::Somewhere => format!("{}(?:{pattern}){}", any(starts), any(ends)),
    })
}

/// Whether an anchor is always there; `None` when only sometimes.
fn anchor(always: LookSet, sometimes: LookSet, look: Look) -> Option<bool> {
    (always.contains(look) == sometimes.contains(look)).then(|| always.contains(look))
}

/// Checks what the engine can do with a pattern.
pub(crate) fn check(pattern: &str) -> Result<Hir, String> {
    if pattern.is_empty() {
        return Err("an empty pattern".into());
    }
    if pattern.len() > limits::PATTERN_BYTES_MAX {
        let (n, max) = (pattern.len(), limits::PATTERN_BYTES_MAX);
        return Err(format!("a pattern of {n} bytes; the limit is {max}"));
    }
    // The engine takes a group of this name for a look-ahead.
    if pattern.contains("<stop>") {
        return Err("a group of the name \"stop\"".into());
    }
    let hir = ParserBuilder::new().nest_limit(100).build().parse(pattern);
    let hir = hir.map_err(|e| summary(&e))?;
    for look in hir.properties().look_set().iter() {
        if !matches!(look, Look::Start | Look::End) {
            return Err("a word boundary or a multi-line anchor".into());
        }
    }
    Ok(hir)
}

/// Two of these patterns that may match in the same text, as far as can be told.
///
/// Takes time for each pair.
pub(crate) fn overlap<'a>(patterns: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let pairs = patterns.iter().enumerate();
    let mut pairs = pairs.flat_map(|(i, a)| patterns[i + 1..].iter().map(move |b| (*a, *b)));
    pairs.find(|(a, b)| !exclude_each_other(a, b).unwrap_or(false))
}

fn exclude_each_other(a: &str, b: &str) -> Option<bool> {
    let part = |text| settle(text, Meaning::Somewhere).ok().map(RegexAst::Regex);
    let mut builder = RegexBuilder::new();
    let both = builder.mk(&RegexAst::And(vec![part(a)?, part(b)?])).ok()?;
    Some(builder.to_regex_limited(both, OVERLAP_FUEL).ok()?.always_empty())
}

/// Work that comparing two patterns may take.
const OVERLAP_FUEL: u64 = 10_000;

/// The one line of a parser's message that says what is wrong.
fn summary(error: &regex_syntax::Error) -> String {
    let text = error.to_string();
    let line = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
    line.unwrap_or("not a regular expression").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somewhere(pattern: &str) -> Result<String, String> {
        settle(pattern, Meaning::Somewhere)
    }

    #[test]
    fn text_surrounds_what_is_not_anchored() {
        assert_eq!(somewhere("^a+$").unwrap(), "(?:^a+$)");
        assert_eq!(somewhere(r"\d/").unwrap(), r"(?s:.*)(?:[0-9]\/)(?s:.*)");
        assert_eq!(somewhere("^(a|b)").unwrap(), "(?:^(a|b))(?s:.*)");
        assert_eq!(somewhere("(^a|^b)$").unwrap(), "(?:(^a|^b)$)");
        assert_eq!(settle(r"^\d$", Meaning::Whole).unwrap(), r"^\d$");
    }

    #[test]
    fn what_the_engine_cannot_do_is_said() {
        for (pattern, message) in [
            ("^a|b", "only some of its alternatives are anchored"),
            (r"\bword", "a word boundary or a multi-line anchor"),
            ("(?=a)b", "look-around, including look-ahead and look-behind, is not supported"),
            (r"(a)\1", "backreferences are not supported"),
            ("(", "unclosed group"),
            ("", "an empty pattern"),
            ("(?P<stop>a)", "a group of the name \"stop\""),
        ] {
            assert_eq!(somewhere(pattern).unwrap_err(), message, "{pattern}");
        }
        assert!(check(&"(".repeat(101)).is_err());
        assert!(check(&"a".repeat(limits::PATTERN_BYTES_MAX + 1)).is_err());
    }
}
