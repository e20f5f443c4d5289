//! The Unicode classes that the pre-tokenizer's patterns name, as bits of one byte.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Classes of one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(u8);

impl Class {
    /// `\p{L}`.
    pub(crate) const LETTER: Self = Self(1);
    /// `\p{M}`.
    pub(crate) const MARK: Self = Self(2);
    /// `\p{N}`.
    pub(crate) const NUMBER: Self = Self(4);
    /// `\p{P}` or `\p{S}`, which always occur together.
    pub(crate) const SIGN: Self = Self(8);
    /// `\s`.
    pub(crate) const SPACE: Self = Self(16);
    /// `[\r\n]`.
    pub(crate) const NEWLINE: Self = Self(32);
    /// The script ranges of the second split (§A.3).
    pub(crate) const CJK: Self = Self(64);
    /// `[\p{L}\p{M}]`.
    pub(crate) const WORD: Self = Self(Self::LETTER.0 | Self::MARK.0);
    /// What may not be the odd character in front of a word.
    pub(crate) const NO_PREFIX: Self = Self(Self::LETTER.0 | Self::SIGN.0 | Self::NEWLINE.0);

    /// Classes of `c`.
    pub(crate) fn of(c: char) -> Self {
        match ASCII.get(c as usize) {
            Some(&class) => class,
            None => Self::beyond_ascii(c),
        }
    }

    fn beyond_ascii(c: char) -> Self {
        let cjk = match c {
            '\u{4e00}'..='\u{9fa5}' => return Self(Self::CJK.0 | Self::LETTER.0),
            '\u{3040}'..='\u{30ff}' => Self::CJK.0,
            _ => 0,
        };
        let group = match c.general_category_group() {
            GeneralCategoryGroup::Letter => Self::LETTER.0,
            GeneralCategoryGroup::Mark => Self::MARK.0,
            GeneralCategoryGroup::Number => Self::NUMBER.0,
            GeneralCategoryGroup::Punctuation | GeneralCategoryGroup::Symbol => Self::SIGN.0,
            GeneralCategoryGroup::Separator | GeneralCategoryGroup::Other => 0,
        };
        let space = if c.is_whitespace() { Self::SPACE.0 } else { 0 };
        Self(cjk | group | space)
    }

    /// Whether any class of `other` applies.
    pub(crate) fn is(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

const ASCII: [Class; 128] = {
    let mut table = [Class(0); 128];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'\n' | b'\r' => Class(Class::SPACE.0 | Class::NEWLINE.0),
            b'\t' | 0x0b | 0x0c | b' ' => Class::SPACE,
            b'0'..=b'9' => Class::NUMBER,
            b'a'..=b'z' | b'A'..=b'Z' => Class::LETTER,
            0x21..=0x7e => Class::SIGN,
            _ => Class(0),
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_those_of_the_reference() {
        // The reference's regex engine knows Unicode 16.0; characters that later versions assign
        // would be cut differently.
        assert_eq!(unicode_properties::UNICODE_VERSION, (16, 0, 0));
    }

    #[test]
    fn classes_of_single_characters() {
        for (c, class) in [
            ('a', Class::LETTER),
            ('中', Class::LETTER),
            ('ー', Class::LETTER),
            ('\u{301}', Class::MARK),
            ('½', Class::NUMBER),
            ('Ⅳ', Class::NUMBER),
            ('+', Class::SIGN),
            ('。', Class::SIGN),
            ('€', Class::SIGN),
            ('・', Class::SIGN),
            ('\u{a0}', Class::SPACE),
            ('\u{85}', Class::SPACE),
            ('\r', Class::NEWLINE),
        ] {
            assert!(Class::of(c).is(class), "{c:?}");
        }
        for c in ['\0', '\u{7f}', '\u{200b}', '\u{e000}', '\u{378}'] {
            assert_eq!(Class::of(c), Class(0), "{c:?}");
        }
        for c in ['一', '龥', '\u{3040}', 'ん', 'ヿ'] {
            assert!(Class::of(c).is(Class::CJK), "{c:?}");
        }
        assert!(!Class::of('龦').is(Class::CJK));
    }

    #[test]
    fn the_ascii_table_agrees_with_unicode() {
        for c in (0..128u8).map(char::from) {
            let newline = if matches!(c, '\r' | '\n') { Class::NEWLINE.0 } else { 0 };
            assert_eq!(Class::of(c).0, Class::beyond_ascii(c).0 | newline, "{c:?}");
        }
    }
}
