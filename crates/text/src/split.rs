//! The pre-tokenizer: cuts plain text into the pieces within which merges happen (§A.3).
//!
//! Three splits in a row, each within the pieces of the one before, so that the end of a piece is
//! the end of text for the next. Matches and the gaps between them are both pieces.

use crate::class::Class;

/// Calls `piece` with every piece of `text`, in order; their concatenation is `text`.
pub(crate) fn pieces<'a>(text: &'a str, piece: &mut impl FnMut(&'a str)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if Class::of(first).is(Class::NUMBER) {
            rest = numbers(rest, piece);
        } else {
            let cjk = Class::of(first).is(Class::CJK);
            let run =
                run_len(rest, |class| !class.is(Class::NUMBER) && class.is(Class::CJK) == cjk);
            words(&rest[..run], piece);
            rest = &rest[run..];
        }
    }
}

/// `\p{N}{1,3}`: the run of numbers at the start, in threes. Returns what follows the run.
fn numbers<'a>(text: &'a str, piece: &mut impl FnMut(&'a str)) -> &'a str {
    let run = run_len(text, |class| class.is(Class::NUMBER));
    let mut digits = &text[..run];
    while !digits.is_empty() {
        let three = digits.char_indices().nth(3).map_or(digits.len(), |(at, _)| at);
        piece(&digits[..three]);
        digits = &digits[three..];
    }
    &text[run..]
}

/// The third split, on a segment without numbers.
fn words<'a>(segment: &'a str, piece: &mut impl FnMut(&'a str)) {
    let (mut gap, mut at) = (0, 0);
    while at < segment.len() {
        let len = match_len(&segment[at..]);
        if len == 0 {
            at += segment[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if gap < at {
            piece(&segment[gap..at]);
        }
        piece(&segment[at..at + len]);
        at += len;
        gap = at;
    }
    if gap < at {
        piece(&segment[gap..]);
    }
}

/// Length of the alternation's match at the start of `text`, 0 when there is none.
fn match_len(text: &str) -> usize {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let class = Class::of(first);
    let second = chars.next();
    let second_class = second.map(Class::of);
    let second_is = |wanted| second_class.is_some_and(|class| class.is(wanted));
    let after_first = &text[first.len_utf8()..];

    // [!-/:-@\[-`{-~][A-Za-z]+
    if first.is_ascii_punctuation() && second.is_some_and(|c| c.is_ascii_alphabetic()) {
        return 1 + after_first.bytes().take_while(u8::is_ascii_alphabetic).count();
    }
    // [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
    if class.is(Class::WORD) || (!class.is(Class::NO_PREFIX) && second_is(Class::WORD)) {
        return first.len_utf8() + run_len(after_first, |class| class.is(Class::WORD));
    }
    // ` ?[\p{P}\p{S}]+[\r\n]*`
    if class.is(Class::SIGN) || (first == ' ' && second_is(Class::SIGN)) {
        let signs = first.len_utf8() + run_len(after_first, |class| class.is(Class::SIGN));
        return signs + run_len(&text[signs..], |class| class.is(Class::NEWLINE));
    }
    if class.is(Class::SPACE) { space_len(text) } else { 0 }
}

/// `\s*[\r\n]+`, then `\s+(?!\S)`, then `\s+`: the length of the first that matches a run of white
/// space at the start.
fn space_len(text: &str) -> usize {
    let run = &text[..run_len(text, |class| class.is(Class::SPACE))];
    if let Some(newline) = run.rfind(['\r', '\n']) {
        return newline + 1;
    }
    let last = run.chars().next_back().map_or(0, char::len_utf8);
    // A run in front of something else leaves its last character to that.
    if run.len() < text.len() && run.len() > last { run.len() - last } else { run.len() }
}

fn run_len(text: &str, belongs: impl Fn(Class) -> bool) -> usize {
    text.char_indices().find(|&(_, c)| !belongs(Class::of(c))).map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[&str]) {
        let mut found = Vec::new();
        pieces(text, &mut |piece| found.push(piece));
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn each_rule() {
        check("", &[]);
        check("1234567", &["123", "456", "7"]);
        check("½²Ⅳ9", &["½²Ⅳ", "9"]);
        check("Hello world", &["Hello", " world"]);
        check(".foo _bar", &[".foo", " _", "bar"]);
        check("_bar", &["_bar"]);
        check("a.b", &["a", ".b"]);
        check("a . b", &["a", " .", " b"]);
        check("x  y", &["x", " ", " y"]);
        check("x   ", &["x", "   "]);
        check("x  1", &["x", "  ", "1"]);
        check("x  中", &["x", "  ", "中"]);
        check("a\n\n  b", &["a", "\n\n", " ", " b"]);
        check("a \r\n b", &["a", " \r\n", " b"]);
        check("});\n\nx", &["});\n\n", "x"]);
        check("\tx\u{a0}y", &["\tx", "\u{a0}y"]);
        check("e\u{301}a \u{301}", &["e\u{301}a", " \u{301}"]);
        check("日本語テキスト。ok", &["日本語テキスト", "。", "ok"]);
        check("カ・タ", &["カ", "・", "タ"]);
        check("\0\0a\0", &["\0", "\0a", "\0"]);
        check("\n", &["\n"]);
        check("\u{3000}、", &["\u{3000}", "、"]);
        check("x\u{ff08}y", &["x", "\u{ff08}", "y"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in any::<String>()) {
            let mut joined = String::new();
            pieces(&text, &mut |piece| {
                assert!(!piece.is_empty());
                joined.push_str(piece);
            });
            prop_assert_eq!(joined, text);
        }
    }
}
