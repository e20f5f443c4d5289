//! Writing grammars in llguidance's dialect of Lark.

use std::fmt::{Display, Write};

use crate::limits;

/// A literal of this text.
pub(crate) fn literal(text: &str) -> String {
    // The dialect takes strings as JSON does, but for the one more control character.
    serde_json::to_string(text).expect("a string is JSON").replace('\u{7f}', "\\u007f")
}

/// A lexeme that matches a settled pattern.
pub(crate) fn regex(settled: &str) -> String {
    format!("/{settled}/")
}

/// A pattern that all texts match.
pub(crate) const ANY: &str = "(?s:.*)";

/// A pattern of texts of this many characters.
pub(crate) fn length(min: u64, max: Option<u64>) -> Result<String, String> {
    let top = max.unwrap_or(min);
    if top < min || top > u64::from(u32::MAX >> 1) {
        return Err(format!("lengths from {min} to {top}"));
    }
    let max = max.map_or_else(String::new, |max| max.to_string());
    Ok(format!("(?s:.{{{min},{max}}})"))
}

/// The control token of this id.
pub(crate) fn token(id: u32) -> String {
    format!("<[{id}]>")
}

/// A grammar being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lark {
    text: String,
    n: usize,
}

impl Lark {
    /// Adds a definition.
    pub(crate) fn define(&mut self, name: impl Display, body: impl Display) {
        writeln!(self.text, "{name}: {body}").expect("writing to a string");
    }

    /// Adds a terminal of its own and returns its name.
    pub(crate) fn terminal(&mut self, body: impl Display) -> String {
        self.n += 1;
        let name = format!("T{}", self.n);
        self.define(&name, body);
        name
    }

    /// Adds a declaration.
    pub(crate) fn declare(&mut self, declaration: &str) {
        self.text.insert_str(0, &format!("{declaration}\n"));
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// Any JSON value of these kinds, with white space wherever JSON allows it; escapes as JSON has
/// them, which the schema compiler restricts.
pub(crate) fn any_json(starts: &[&str]) -> String {
    format!(
        r#"start: {starts}
value: object | array | STRING | NUMBER | WORD
object: "{{" (member ("," member)*)? "}}"
member: STRING ":" value
array: "[" (value ("," value)*)? "]"
STRING: /"([^"\\\x00-\x1f]|\\(["\\\/bfnrt]|u{unit}|u{high}\\u{low}))*"/
NUMBER: /-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/
INTEGER: /-?(0|[1-9][0-9]*)/
WORD: /true|false|null/
BOOLEAN: /true|false/
NULL: "null"
%ignore /[ \t\r\n]+/
"#,
        starts = starts.join(" | "),
        unit = "([0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})",
        high = "[dD][89abAB][0-9a-fA-F]{2}",
        low = "[dD][c-fC-F][0-9a-fA-F]{2}",
    )
}

/// White space that may stand between tags.
pub(crate) fn tag_space() -> String {
    format!("/[ \\t\\r\\n]{{0,{}}}/", limits::TAG_SPACE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_escaped() {
        assert_eq!(literal("a\"b\\\n中\u{1}\u{7f}"), r#""a\"b\\\n中\u0001\u007f""#);
        assert_eq!(length(2, None).unwrap(), "(?s:.{2,})");
        assert_eq!(length(0, Some(5)).unwrap(), "(?s:.{0,5})");
        assert!(length(6, Some(5)).is_err());
    }
}
