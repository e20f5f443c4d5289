//! The free text of a custom tool, out of the arguments of the function that stands for it.
//!
//! The model writes `{"input":"…"}`; the client wants what the string says, as it arrives. What
//! begins differently is kept until it is complete.

use serde_json::Value;

/// How the arguments of a well-behaved call begin.
const OPENING: &str = "{\"input\":\"";

/// An incremental reader of arguments.
#[derive(Debug, Default)]
pub(super) struct CustomInput {
    /// What is not decided yet: the opening, or an escape that has only begun.
    held: String,
    place: Place,
    /// Whether any of the string was handed out.
    text: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Opening,
    String,
    /// After the string.
    Done,
    /// Something else than one string.
    Other,
}

impl CustomInput {
    /// The text that the next piece of the arguments adds.
    pub(super) fn feed(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        if self.place == Place::Opening {
            if self.held.starts_with(OPENING) {
                self.held.drain(..OPENING.len());
                self.place = Place::String;
            } else if !OPENING.starts_with(&self.held) {
                self.place = Place::Other;
            }
        }
        if self.place != Place::String {
            return String::new();
        }
        let body = string_body(&self.held);
        let text = unescape(&self.held[..body.len]);
        self.held.drain(..body.len);
        if body.is_closed {
            self.place = Place::Done;
        }
        self.text.push_str(&text);
        text
    }

    /// The text that the end of the call adds; `arguments` is what all pieces come to.
    pub(super) fn finish(&mut self, arguments: &str) -> String {
        if self.place != Place::Other {
            return String::new();
        }
        self.place = Place::Done;
        let text = only_text(arguments).unwrap_or_else(|| arguments.to_owned());
        self.text.push_str(&text);
        text
    }

    /// All text so far.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

struct Body {
    /// Bytes that can be read.
    len: usize,
    is_closed: bool,
}

/// How much of a string without its opening quote can be read: up to its closing quote, or up to an
/// escape that is not complete.
fn string_body(text: &str) -> Body {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Body { len: at, is_closed: true },
            b'\\' => {
                let Some(len) = escape_len(&bytes[at..]) else { break };
                at += len;
            }
            _ => at += 1,
        }
    }
    Body { len: at, is_closed: false }
}

/// Bytes of the escape at the start, both halves of a surrogate pair included; `None` when more may
/// follow.
fn escape_len(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'u' => {
            let unit = bytes.get(2..6)?;
            let is_high =
                matches!(unit, [b'd' | b'D', b'8' | b'9' | b'a'..=b'b' | b'A'..=b'B', ..]);
            match (is_high, bytes.get(6), bytes.get(7)) {
                (true, None, _) | (true, Some(b'\\'), None) => None,
                (true, Some(b'\\'), Some(b'u')) => bytes.get(..12).map(<[u8]>::len),
                _ => Some(6),
            }
        }
        _ => Some(2),
    }
}

/// The text of the inside of a JSON string; what is no JSON stays as it is.
fn unescape(body: &str) -> String {
    serde_json::from_str(&format!("\"{body}\"")).unwrap_or_else(|_| body.to_owned())
}

/// The text of an object with one string in it, or with one called `input`.
fn only_text(arguments: &str) -> Option<String> {
    let Ok(Value::Object(object)) = serde_json::from_str(arguments) else { return None };
    let value = match object.get("input") {
        Some(value) => value,
        None if object.len() == 1 => object.values().next()?,
        None => return None,
    };
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text, for every way to cut the arguments in two.
    fn check(arguments: &str, expected: &str) {
        for at in (0..=arguments.len()).filter(|at| arguments.is_char_boundary(*at)) {
            let mut input = CustomInput::default();
            let mut text = input.feed(&arguments[..at]) + &input.feed(&arguments[at..]);
            text += &input.finish(arguments);
            assert_eq!(text, expected, "{arguments} cut at {at}");
            assert_eq!(input.text(), expected);
        }
        let mut input = CustomInput::default();
        let pieces = arguments.chars().map(|c| input.feed(&c.to_string()));
        assert_eq!(pieces.collect::<String>() + &input.finish(arguments), expected);
    }

    #[test]
    fn the_text_streams_however_it_is_cut() {
        check(r#"{"input":"*** Begin\n+\"é\\n\" \ud83d\ude00 €"}"#, "*** Begin\n+\"é\\n\" 😀 €");
        check(r#"{"input":""}"#, "");
        check(r#"{"input":"a","more":"b"}"#, "a");
        check(r#"{"input":"a"#, "a");
        check(r#"{"input":"a\"#, "a");
    }

    #[test]
    fn other_arguments_are_read_as_a_whole() {
        check(r#"{"patch":"a\nb"}"#, "a\nb");
        check(r#"{"x":1,"input":"a"}"#, "a");
        check(r#"{"x":1,"y":2}"#, r#"{"x":1,"y":2}"#);
        check("{}", "{}");
    }
}
