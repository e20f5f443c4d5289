//! Cutting added tokens out of raw text, in the two passes of the reference (§A.4).

use std::collections::HashMap;

use crate::vocab::{Pass, Vocab};

/// The added tokens of a vocabulary, prepared for search.
pub(crate) struct Literals {
    passes: [Matcher; 2],
}

/// A stretch of raw text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stretch<'a> {
    Plain(&'a str),
    Token(u32),
}

impl Literals {
    pub(crate) fn new(vocab: &Vocab) -> Self {
        Self { passes: [Pass::First, Pass::Second].map(|pass| Matcher::new(vocab, pass)) }
    }

    /// Calls `found` with the stretches of `text`, in order. Plain stretches are never empty.
    pub(crate) fn cut<'a>(&self, text: &'a str, found: &mut impl FnMut(Stretch<'a>)) {
        self.passes[0].cut(text, &mut |stretch| match stretch {
            Stretch::Plain(gap) => self.passes[1].cut(gap, found),
            token @ Stretch::Token(_) => found(token),
        });
    }
}

/// Leftmost-longest search for a fixed set of literals.
struct Matcher {
    ids: HashMap<Vec<u8>, u32>,
    /// Lengths of the literals that start with each byte, longest first.
    lens: Vec<Vec<usize>>,
}

impl Matcher {
    fn new(vocab: &Vocab, pass: Pass) -> Self {
        let mut lens = vec![Vec::new(); 256];
        let mut ids = HashMap::new();
        for (literal, id) in vocab.added(pass) {
            lens[usize::from(literal[0])].push(literal.len());
            ids.insert(literal.to_vec(), id);
        }
        for lens in &mut lens {
            lens.sort_unstable_by(|a, b| b.cmp(a));
            lens.dedup();
        }
        Self { ids, lens }
    }

    fn at(&self, bytes: &[u8]) -> Option<(usize, u32)> {
        let lens = &self.lens[usize::from(*bytes.first()?)];
        lens.iter().find_map(|&len| self.ids.get(bytes.get(..len)?).map(|&id| (len, id)))
    }

    fn cut<'a>(&self, text: &'a str, found: &mut impl FnMut(Stretch<'a>)) {
        let (mut gap, mut at) = (0, 0);
        while at < text.len() {
            let Some((len, id)) = self.at(&text.as_bytes()[at..]) else {
                at += 1;
                continue;
            };
            if gap < at {
                found(Stretch::Plain(&text[gap..at]));
            }
            found(Stretch::Token(id));
            at += len;
            gap = at;
        }
        if gap < text.len() {
            found(Stretch::Plain(&text[gap..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alphabet::TO_CHAR;

    fn check(text: &str, expected: &[Stretch<'_>]) {
        let added = [("<a", 4), ("<ab", 4), ("b>", 3), ("中", 4)];
        let mut tokens: Vec<String> = added.iter().map(|(text, _)| (*text).to_owned()).collect();
        let mut types: Vec<i32> = added.iter().map(|(_, ty)| *ty).collect();
        tokens.extend(TO_CHAR.map(String::from));
        types.extend([1; 256]);
        let literals = Literals::new(&Vocab::new(&tokens, &types, &[]).unwrap());
        let mut found = Vec::new();
        literals.cut(text, &mut |stretch| found.push(stretch));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_first_pass_takes_before_the_second_looks() {
        use Stretch::{Plain, Token};
        check("", &[]);
        check("x<a", &[Plain("x"), Token(0)]);
        check("<abc", &[Token(1), Plain("c")]);
        check("<ab>", &[Token(0), Token(2)]);
        check("<<ab中b>b", &[Plain("<"), Token(1), Token(3), Token(2), Plain("b")]);
    }
}
