//! Stop strings, matched on bytes while text streams: what could still become one is held back.

/// Finds the first of several stop strings in a stream of text.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<Vec<u8>>,
    held: Vec<u8>,
    /// Index of the stop string that was seen.
    found: Option<usize>,
}

impl StopStrings {
    /// Watches for these strings; empty ones are ignored.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let bytes = |stop: &S| stop.as_ref().as_bytes().to_vec();
        let stops = stops.iter().map(bytes).filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: Vec::new(), found: None }
    }

    /// Takes the next piece of text; returns what is certain to come before any stop string. Text
    /// after a stop string is swallowed.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_found() {
            return String::new();
        }
        self.held.extend_from_slice(text.as_bytes());
        let safe = match self.earliest() {
            Some((at, stop)) => {
                self.found = Some(stop);
                at
            }
            None => self.held.len() - self.undecided(),
        };
        let out: Vec<u8> = self.held.drain(..safe).collect();
        if self.is_found() {
            self.held.clear();
        }
        // A stop string starts at a character of the text, so both sides of a cut are UTF-8.
        String::from_utf8(out).expect("cut before a whole character")
    }

    /// The end of the text: returns what was held back.
    pub fn finish(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.held)).expect("held text is whole characters")
    }

    /// Whether a stop string has been seen.
    pub fn is_found(&self) -> bool {
        self.found.is_some()
    }

    /// The stop string that has been seen.
    pub fn found(&self) -> Option<&str> {
        let stop = &self.stops[self.found?];
        Some(std::str::from_utf8(stop).expect("it came as text"))
    }

    /// Where the earliest complete stop string starts, and which it is.
    fn earliest(&self) -> Option<(usize, usize)> {
        let find = |(ix, stop): (usize, &Vec<u8>)| {
            let at = self.held.windows(stop.len()).position(|window| window == stop)?;
            Some((at, ix))
        };
        self.stops.iter().enumerate().filter_map(find).min()
    }

    /// Length of the longest tail that is a beginning of a stop string.
    fn undecided(&self) -> usize {
        let tail = |stop: &Vec<u8>| {
            let longest = (stop.len() - 1).min(self.held.len());
            (1..=longest).rev().find(|&n| self.held.ends_with(&stop[..n])).unwrap_or(0)
        };
        self.stops.iter().map(tail).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of at most `n` bytes that end at characters.
    fn feed(stops: &[&str], text: &str, n: usize) -> (String, Option<String>) {
        let mut s = StopStrings::new(stops);
        let (mut out, mut piece) = (String::new(), String::new());
        for c in text.chars() {
            piece.push(c);
            if piece.len() >= n {
                out += &s.push(&std::mem::take(&mut piece));
            }
        }
        out += &s.push(&piece);
        out += &s.finish();
        (out, s.found().map(str::to_owned))
    }

    #[test]
    fn any_split_gives_the_same_text() {
        for (stops, text, want, found) in [
            (&["END"][..], "abc END def", "abc ", Some("END")),
            (&["END"], "abc EN def", "abc EN def", None),
            (&["END"], "abc EN", "abc EN", None),
            (&["\n\n", "x"], "a\nb\n\nx", "a\nb", Some("\n\n")),
            (&["aab"], "aaab", "a", Some("aab")),
            (&["aab", "aaa"], "aaab", "", Some("aaa")),
            (&["é"], "caf\u{e8}\u{e9}!", "caf\u{e8}", Some("\u{e9}")),
            (&["日本"], "今日本日", "今", Some("日本")),
            (&[""], "abc", "abc", None),
            (&[], "abc", "abc", None),
        ] {
            for n in 1..=text.len() {
                let got = feed(stops, text, n);
                let want = (want.to_owned(), found.map(str::to_owned));
                assert_eq!(got, want, "{stops:?} in {text:?} by {n}");
            }
        }
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut s = StopStrings::new(&["</stop>"]);
        assert_eq!(s.push("one <b"), "one <b");
        assert_eq!(s.push(" two </"), " two ");
        assert_eq!(s.push("st"), "");
        assert_eq!(s.push("rong>"), "</strong>");
    }
}
