//! The tags of tool calls: `<｜DSML｜invoke name="…">` and their kin, read tolerantly.
//!
//! Accepted beyond the model's own form: attributes in any order, white space, a space before the
//! name (as a later model writes), self-closing tags, names with quotes in them.

use super::marks::TAG;
use crate::limits;

/// How the tags of a block are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// By the control token, as trained.
    Marked,
    /// The control token lost its first bar and became text: `<DSML｜invoke`.
    Short,
    /// Without any mark: `<invoke`.
    Bare,
}

impl Dialect {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Marked => &[TAG],
            Self::Short => "DSML｜".as_bytes(),
            Self::Bare => b"",
        }
    }

    /// Whether a tag of this name is one: without the mark only the known names are.
    fn may_be(self, name: &[u8], is_whole: bool) -> bool {
        let fits = |known: &&str| {
            if is_whole { known.as_bytes() == name } else { known.as_bytes().starts_with(name) }
        };
        self == Self::Marked || ["tool_calls", "invoke", "parameter"].iter().any(fits)
    }
}

/// A tag, its length in bytes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) len: usize,
    pub(super) name: Name,
    pub(super) is_close: bool,
    pub(super) is_self_closing: bool,
    /// The attribute `name`.
    pub(super) key: Option<String>,
    /// The attribute `string`.
    pub(super) string: Option<String>,
}

/// What a tag is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The block of calls.
    Block,
    Invoke,
    Parameter,
    /// Some other name, such as a misspelt one of the block.
    Other,
}

/// What stands at a `<`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Tag(Tag),
    /// Not a tag of this dialect.
    No,
    /// More bytes are needed to tell.
    Partial,
}

/// Reads the tag at the start of `bytes`, which begin with `<`.
pub(super) fn read(bytes: &[u8], dialect: Dialect) -> Found {
    let is_close = bytes.get(1) == Some(&b'/');
    let start = if is_close { 2 } else { 1 };
    let prefix = dialect.prefix();
    let rest = bytes.get(start..).unwrap_or_default();
    if !rest.starts_with(prefix) {
        return if prefix.starts_with(rest) { Found::Partial } else { Found::No };
    }
    let spaces = rest[prefix.len()..].iter().take_while(|b| **b == b' ').count();
    let name_start = start + prefix.len() + spaces;
    let mut name_len = bytes[name_start..].iter().take_while(|b| is_word(**b)).count();
    if bytes[name_start..].starts_with(b"invokename=") {
        // The strict parser does not ask for the space either.
        name_len = b"invoke".len();
    }
    let name_end = name_start + name_len;
    let name = &bytes[name_start..name_end];
    if !dialect.may_be(name, name_end < bytes.len()) {
        return Found::No;
    }
    if name_end == bytes.len() {
        return if bytes.len() > limits::TAG_BYTES_MAX { Found::No } else { Found::Partial };
    }
    let mut tag = Tag {
        len: 0,
        name: match name {
            b"tool_calls" | b"calls" => Name::Block,
            b"invoke" => Name::Invoke,
            b"parameter" => Name::Parameter,
            _ => Name::Other,
        },
        is_close,
        is_self_closing: false,
        key: None,
        string: None,
    };
    if is_close {
        // Nothing but white space may follow the name.
        let rest = bytes[name_end..].trim_ascii_start();
        return match rest.first() {
            None if bytes.len() <= limits::TAG_BYTES_MAX => Found::Partial,
            Some(b'>') => Found::Tag(Tag { len: bytes.len() - rest.len() + 1, ..tag }),
            _ => Found::No,
        };
    }
    match attributes(bytes, name_end, &mut tag) {
        Some(len) => {
            tag.len = len;
            Found::Tag(tag)
        }
        None if bytes.len() > limits::TAG_BYTES_MAX => {
            // No tag is this long: take what has a chance of being one.
            let end = bytes.iter().position(|b| *b == b'>').map_or(name_end, |end| end + 1);
            Found::Tag(Tag { len: end, key: None, string: None, ..tag })
        }
        None => Found::Partial,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Reads attributes from `at` on; returns the length of the whole tag, `None` when it goes on.
fn attributes(bytes: &[u8], mut at: usize, tag: &mut Tag) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            b'>' => return Some(at + 1),
            // A tag that was never closed ends where the next begins.
            b'<' | TAG => return Some(at),
            b'/' if *bytes.get(at + 1)? == b'>' => {
                tag.is_self_closing = true;
                return Some(at + 2);
            }
            byte if is_word(byte) => at = attribute(bytes, at, tag)?,
            _ => at += 1,
        }
    }
}

/// Reads one attribute at `start`; returns where it ends.
fn attribute(bytes: &[u8], start: usize, tag: &mut Tag) -> Option<usize> {
    let key_len = bytes[start..].iter().position(|b| !is_word(*b))?;
    let after_key = start + key_len;
    let is_space = |b: &u8| !b.is_ascii_whitespace();
    let equals = after_key + bytes[after_key..].iter().position(is_space)?;
    if bytes[equals] != b'=' {
        return Some(after_key);
    }
    let value = equals + 1 + bytes[equals + 1..].iter().position(is_space)?;
    let (text, end) = if bytes[value] == b'"' {
        let (len, end) = quoted(&bytes[value + 1..])?;
        (&bytes[value + 1..value + 1 + len], value + 1 + end)
    } else {
        let ends = |b: &u8| b.is_ascii_whitespace() || matches!(*b, b'>' | b'<' | TAG);
        let len = bytes[value..].iter().position(ends)?;
        (&bytes[value..value + len], value + len)
    };
    let text = String::from_utf8_lossy(text).into_owned();
    match &bytes[start..after_key] {
        b"name" => tag.key = tag.key.take().or(Some(text)),
        b"string" => tag.string = tag.string.take().or(Some(text)),
        _ => {}
    }
    Some(end)
}

/// Length of a quoted value, without and with its closing quote. It goes up to a quote that white
/// space or the end of the tag follows; a value without one ends at the first `>` or tag.
fn quoted(bytes: &[u8]) -> Option<(usize, usize)> {
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => {
                let next = *bytes.get(i + 1)?;
                if next.is_ascii_whitespace() || matches!(next, b'>' | b'/') {
                    return Some((i, i + 1));
                }
            }
            &TAG => {
                let open_end = bytes[..i].iter().position(|b| matches!(b, b'>' | b'<'));
                let end = open_end.unwrap_or(i);
                return Some((end, end));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        text: &str,
        dialect: Dialect,
        expected: Option<(Name, usize, Option<&str>, Option<&str>)>,
    ) {
        let bytes: Vec<u8> =
            text.replace('¦', "\u{1}").bytes().map(|b| if b == 1 { TAG } else { b }).collect();
        let found = match read(&bytes, dialect) {
            Found::Tag(tag) => Some(tag),
            Found::No => None,
            Found::Partial => panic!("{text}: partial"),
        };
        let found = found.as_ref().map(|t| (t.name, t.len, t.key.as_deref(), t.string.as_deref()));
        assert_eq!(found, expected, "{text}");
        // No decision changes with what follows, and none is made early.
        if let Some((_, len, ..)) = expected {
            for cut in 0..len {
                let early = read(&bytes[..cut.max(1)], dialect);
                assert!(early == Found::Partial, "{text} cut at {cut}: {early:?}");
            }
        }
    }

    #[test]
    fn tags_of_every_form() {
        use Name::{Block, Invoke, Other, Parameter};
        let marked = Dialect::Marked;
        check("<¦tool_calls>\n", marked, Some((Block, 13, None, None)));
        check("<¦invokename=\"f\">", marked, Some((Invoke, 17, Some("f"), None)));
        check("</¦invoke>\n", marked, Some((Invoke, 10, None, None)));
        check("<¦ invoke name=\"f\">", marked, Some((Invoke, 19, Some("f"), None)));
        check("<¦function_calls>", marked, Some((Other, 17, None, None)));
        check(
            "<¦parameter name=\"a\" string=\"true\">v",
            marked,
            Some((Parameter, 35, Some("a"), Some("true"))),
        );
        check(
            "<¦parameter string = 'x' name = \"a>b\"  />",
            marked,
            Some((Parameter, 41, Some("a>b"), Some("'x'"))),
        );
        check("<¦parameter name=\"a\"b\" >", marked, Some((Parameter, 24, Some("a\"b"), None)));
        check(
            "<¦parameter name=a string=false>",
            marked,
            Some((Parameter, 32, Some("a"), Some("false"))),
        );
        check("<tool_calls>x", Dialect::Bare, Some((Block, 12, None, None)));
        check("<DSML｜invoke name=\"f\">", Dialect::Short, Some((Invoke, 24, Some("f"), None)));
        check("<b>", Dialect::Bare, None);
        check("<invoker>", Dialect::Bare, None);
        check("<tool>", marked, None);
        check("<DSML｜x>", Dialect::Short, None);
    }

    #[test]
    fn broken_tags_end_where_the_next_begins() {
        let found = read(b"<\xfainvoke name=\"f>\n<\xfaparameter", Dialect::Marked);
        let Found::Tag(tag) = found else { panic!("{found:?}") };
        assert_eq!((tag.key.as_deref(), tag.len), (Some("f"), 17));
        let Found::Tag(tag) = read(b"<\xfainvoke name=\"f<\xfax>", Dialect::Marked) else {
            panic!()
        };
        assert_eq!((tag.key.as_deref(), tag.len), (Some("f"), 16));
        let long = [b"<\xfainvoke name=\"".as_slice(), &vec![b'x'; limits::TAG_BYTES_MAX]].concat();
        assert!(matches!(read(&long, Dialect::Marked), Found::Tag(_)));
    }
}
