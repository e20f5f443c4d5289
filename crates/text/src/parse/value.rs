//! Values of parameters, as JSON.

use serde::de::IgnoredAny;

use super::marks::to_text;
use super::tag::{Dialect, Found, Name, read};
use crate::limits;
use crate::pyjson::{write_string, write_string_body};

/// A JSON string of `text`.
pub(super) fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    write_string(text, &mut out);
    out
}

/// The inside of a JSON string of marked bytes.
pub(super) fn json_string_body(marked: &[u8]) -> String {
    let mut out = String::with_capacity(marked.len());
    write_string_body(&to_text(marked), &mut out);
    out
}

/// `text` without the white space between its tokens, when it is JSON. Digits, escapes and key
/// order stay as they are.
pub(super) fn minify(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let (mut out, mut in_string, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        if !in_string && c.is_ascii_whitespace() {
            continue;
        }
        out.push(c);
        (in_string, escaped) = match c {
            '"' if !escaped => (!in_string, false),
            '\\' => (in_string, !escaped),
            _ => (in_string, false),
        };
    }
    Some(out)
}

/// A value that should be JSON; what is not becomes a JSON string, because clients fail on broken
/// arguments (§C.6 rule 6).
pub(super) fn json_value(marked: &[u8]) -> String {
    let text = to_text(marked);
    minify(&text).unwrap_or_else(|| json_string(&text))
}

/// A value of a parameter without a type: an object of the parameters nested in it, else text.
pub(super) fn untyped_value(marked: &[u8], dialect: Dialect, depth: usize) -> String {
    match nested(marked, dialect, depth) {
        Some(members) => object(&members),
        None => json_string(&to_text(marked)),
    }
}

/// An object of keys and JSON values; of a key given twice the last value counts, at the place of
/// the first.
pub(super) fn object(members: &[(String, String)]) -> String {
    let mut kept: Vec<(&str, &str)> = Vec::with_capacity(members.len());
    for (key, value) in members {
        match kept.iter_mut().find(|(k, _)| k == key) {
            Some(member) => member.1 = value,
            None => kept.push((key, value)),
        }
    }
    let members: Vec<String> =
        kept.iter().map(|(key, value)| format!("{}:{value}", json_string(key))).collect();
    format!("{{{}}}", members.join(","))
}

/// The parameters that a value consists of, if it consists of parameters.
fn nested(marked: &[u8], dialect: Dialect, depth: usize) -> Option<Vec<(String, String)>> {
    let mut rest = marked.trim_ascii();
    if depth >= limits::NESTED_PARAMETERS_MAX || !rest.starts_with(b"<") {
        return None;
    }
    let mut members = Vec::new();
    while !rest.is_empty() {
        let Found::Tag(tag) = read(rest, dialect) else { return None };
        if tag.name != Name::Parameter || tag.is_close {
            return None;
        }
        let key = tag.key?;
        rest = &rest[tag.len..];
        if tag.is_self_closing {
            members.push((key, json_string("")));
        } else {
            let (end, after) = value_end(rest, dialect, tag.string.is_none())?;
            let kind = Kind::of(tag.string.as_deref());
            members.push((key, kind.value(&rest[..end], dialect, depth + 1)));
            rest = &rest[after..];
        }
        rest = rest.trim_ascii_start();
    }
    Some(members)
}

/// Where a value ends and where its closing tag ends.
fn value_end(bytes: &[u8], dialect: Dialect, nests: bool) -> Option<(usize, usize)> {
    let (mut at, mut depth) = (0, 0usize);
    loop {
        at += bytes[at..].iter().position(|b| *b == b'<')?;
        match read(&bytes[at..], dialect) {
            Found::Tag(tag) if tag.name == Name::Parameter && tag.is_close => {
                if depth == 0 {
                    return Some((at, at + tag.len));
                }
                depth -= 1;
                at += tag.len;
            }
            Found::Tag(tag) if tag.name == Name::Parameter && nests && !tag.is_self_closing => {
                depth += 1;
                at += tag.len;
            }
            _ => at += 1,
        }
    }
}

/// How the value of a parameter is written, by its attribute `string`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is.
    Text,
    /// As JSON.
    Json,
    /// Not said.
    Untyped,
}

impl Kind {
    pub(super) fn of(string: Option<&str>) -> Self {
        match string {
            Some("true") => Self::Text,
            Some(_) => Self::Json,
            None => Self::Untyped,
        }
    }

    /// The value as JSON.
    pub(super) fn value(self, marked: &[u8], dialect: Dialect, depth: usize) -> String {
        match self {
            Self::Text => json_string(&to_text(marked)),
            Self::Json => json_value(marked),
            Self::Untyped => untyped_value(marked, dialect, depth),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_kept_but_for_white_space() {
        for (text, expected) in [
            (
                " {\"a\" : [1, 2.50 ,\t1e3],\n \"b c\":\" x \\\" y \" } ",
                r#"{"a":[1,2.50,1e3],"b c":" x \" y "}"#,
            ),
            ("\"\\\\\" ", r#""\\""#),
            ("007", "\"007\""),
            ("NaN", "\"NaN\""),
            ("", "\"\""),
            ("{\"a\":", "\"{\\\"a\\\":\""),
            ("12345678901234567890123", "12345678901234567890123"),
        ] {
            assert_eq!(json_value(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn nested_parameters_become_objects() {
        let value = "\n<parameter name=\"x\" string=\"false\">1</parameter>\n\
                     <parameter name=\"o\"><parameter name=\"y\">z</parameter></parameter>\n";
        assert_eq!(untyped_value(value.as_bytes(), Dialect::Bare, 0), r#"{"x":1,"o":{"y":"z"}}"#);
        assert_eq!(untyped_value(b"plain <b>", Dialect::Bare, 0), r#""plain <b>""#);
        let deep = "<parameter name=\"a\">".repeat(100) + &"</parameter>".repeat(100);
        assert!(untyped_value(deep.as_bytes(), Dialect::Bare, 0).starts_with("{\"a\":{\"a\":"));
    }

    #[test]
    fn the_last_of_two_values_counts() {
        let members = [("a", "1"), ("b", "2"), ("a", "3")];
        let members = members.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(object(&members), r#"{"a":3,"b":2}"#);
    }
}
