//! Whether a reply is right, by the rules of the suite's README.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cases::{Call, Case, Rule};

/// A parsed reply.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// As generated, control tokens by their literals.
    pub(super) raw: String,
    pub(super) reasoning: String,
    pub(super) content: String,
    pub(super) calls: Vec<(String, Value)>,
    /// The model ended it itself.
    pub(super) is_whole: bool,
}

/// What is thought of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The answer is right; `None` for samples.
    pub(super) is_right: Option<bool>,
    /// Thinking was on or off as asked.
    pub(super) is_obedient: bool,
}

impl Reply {
    /// Takes a reply apart with the parser every answer goes through.
    pub(super) fn parse(raw: String, thinking: bool, is_whole: bool) -> Result<Self> {
        let finish = if is_whole { "stop" } else { "length" };
        let input = json!([{"thinking": thinking, "raw_without_eos": raw, "finish": finish}]);
        let parsed = ds4_api::check::parse_json(&input)?;
        let text = |key: &str| parsed[0][key].as_str().unwrap_or_default().to_owned();
        let calls = parsed[0]["tool_calls"].as_array().cloned().unwrap_or_default();
        let calls = calls
            .iter()
            .map(|call| {
                let name = call["name"].as_str().unwrap_or_default().to_owned();
                let arguments = call["arguments"].as_str().unwrap_or("{}");
                let arguments = serde_json::from_str(arguments).context("arguments are no JSON")?;
                Ok((name, arguments))
            })
            .collect::<Result<_>>()?;
        let (reasoning, content) = (text("reasoning_content"), text("content"));
        Ok(Self { raw, reasoning, content, calls, is_whole })
    }
}

/// Judges one reply.
pub(super) fn judge(case: &Case, reply: &Reply) -> Verdict {
    let is_right = case.expect.as_ref().map(|expect| {
        let calls_right = match &expect.tool_calls {
            Some(wanted) => same_calls(wanted, &reply.calls),
            None => true,
        };
        let is_call = expect.tool_calls.as_ref().is_some_and(|c| !c.is_empty());
        let answer = expect.answer.as_deref().unwrap_or_default();
        calls_right && (is_call || answers(expect.rule, answer, &reply.content)) && reply.is_whole
    });
    Verdict { is_right, is_obedient: is_obedient(case.thinking, reply) }
}

fn is_obedient(thinking: bool, reply: &Reply) -> bool {
    let has_mark = |mark: &str| reply.raw.contains(mark);
    if !thinking {
        return !has_mark("<think>") && !has_mark("</think>");
    }
    let has_answer = !reply.content.trim().is_empty() || !reply.calls.is_empty();
    has_mark("</think>") && !reply.reasoning.trim().is_empty() && has_answer
}

fn same_calls(wanted: &[Call], got: &[(String, Value)]) -> bool {
    wanted.len() == got.len()
        && wanted.iter().zip(got).all(|(w, g)| w.name == g.0 && same_json(&w.arguments, &g.1))
}

/// Equal as values: key order does not matter, `1` equals `1.0`.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(k, v)| b.get(k).is_some_and(|other| same_json(v, other)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b))
        }
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

fn answers(rule: Rule, wanted: &str, content: &str) -> bool {
    match rule {
        Rule::Any => !content.trim().is_empty(),
        Rule::Exact => content.trim() == wanted.trim(),
        Rule::Contains => contains_word(&content.to_lowercase(), &wanted.to_lowercase()),
        Rule::Number => last_integer(content).as_deref() == Some(wanted.trim()),
    }
}

/// Whether `word` stands in `text` with no letter or digit touching it.
fn contains_word(text: &str, word: &str) -> bool {
    let touches = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(word).any(|(at, _)| {
        let (before, behind) = (&text[..at], &text[at + word.len()..]);
        !touches(before.chars().next_back()) && !touches(behind.chars().next())
    })
}

/// The last `-?[0-9]+` of a text.
fn last_integer(text: &str) -> Option<String> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let digits = text[..end].rfind(|c: char| !c.is_ascii_digit());
    let start = digits.map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let is_negative = text[..start].ends_with('-');
    Some(text[start - usize::from(is_negative)..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_their_rules() {
        assert!(answers(Rule::Exact, "a b", " a b\n"));
        assert!(!answers(Rule::Exact, "a b", "a  b"));
        assert!(answers(Rule::Contains, "51", "The code is 51."));
        assert!(!answers(Rule::Contains, "51", "The code is 512."));
        assert!(answers(Rule::Contains, "Paris", "it is paris"));
        assert!(answers(Rule::Number, "-7", "3 - 10 = -7."));
        assert!(answers(Rule::Number, "12", "5 + 7 = 12"));
        assert!(!answers(Rule::Number, "12", "no number"));
        assert!(answers(Rule::Number, "4", "é4"));
        assert!(!answers(Rule::Any, "", "  "));
    }

    #[test]
    fn arguments_are_compared_as_values() {
        let same = |a: &str, b: &str| {
            same_json(&serde_json::from_str(a).unwrap(), &serde_json::from_str(b).unwrap())
        };
        assert!(same(r#"{"a":1,"b":[true]}"#, r#"{"b":[true],"a":1.0}"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":"1"}"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":1,"b":2}"#));
    }

    #[test]
    fn thinking_is_judged_by_its_form() {
        let reply = |raw: &str, thinking| Reply::parse(raw.into(), thinking, true).unwrap();
        assert!(is_obedient(true, &reply("hm</think>yes", true)));
        assert!(!is_obedient(true, &reply("</think>yes", true)));
        assert!(!is_obedient(true, &reply("yes", true)));
        assert!(is_obedient(false, &reply("yes", false)));
        assert!(!is_obedient(false, &reply("x</think>yes", false)));
    }
}
