//! Formats of strings, as patterns over the text itself; the schema compiler has its own for JSON.

/// The formats that the schema compiler knows, with their patterns.
const FORMATS: [(&str, &str); 10] = [
    ("date", DATE),
    ("time", TIME),
    ("date-time", DATE_TIME),
    ("duration", DURATION),
    ("email", EMAIL),
    ("hostname", HOSTNAME),
    ("ipv4", IPV4),
    ("ipv6", IPV6),
    ("uuid", "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    ("uri", "[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+"),
];

macro_rules! date {
    () => {
        concat!(
            "[0-9]{4}-(",
            "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|",
            "(0[469]|11)-(0[1-9]|[12][0-9]|30)|",
            "02-(0[1-9]|1[0-9]|2[0-8]))|",
            // The 29th of February, in its years.
            "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29",
        )
    };
}
macro_rules! time {
    () => {
        concat!(
            r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?",
            "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
        )
    };
}
/// A group of an address; with arguments, so many of them, each with this behind it.
macro_rules! group {
    () => {
        "[0-9A-Fa-f]{1,4}"
    };
    ($behind:literal, $times:literal) => {
        concat!("([0-9A-Fa-f]{1,4}", $behind, ")", $times)
    };
}
/// One group of an address, and so many more.
macro_rules! groups {
    ($times:literal) => {
        concat!("[0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{1,4})", $times)
    };
}
macro_rules! label {
    () => {
        "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    };
}

const DATE: &str = date!();
const TIME: &str = time!();
const DATE_TIME: &str = concat!("(", date!(), ")T", time!());
const DURATION: &str = concat!(
    "P([0-9]+W|[0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)|",
    "P([0-9]+D)?T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)",
);
const EMAIL: &str =
    concat!(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@", "(", label!(), r"\.)+[A-Za-z]{2,63}",);
const HOSTNAME: &str = concat!(label!(), r"(\.", label!(), ")*");
const IPV4: &str = concat!(
    r"((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}",
    "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])",
);
/// Eight groups, or fewer on both sides of `::`.
const IPV6: &str = concat!(
    group!(":", "{7}"),
    group!(),
    "|(",
    groups!("{0,6}"),
    ")?::|(",
    groups!("{0,5}"),
    ")?::",
    group!(),
    "|(",
    groups!("{0,4}"),
    ")?::",
    groups!("{1}"),
    "|(",
    groups!("{0,3}"),
    ")?::",
    groups!("{2}"),
    "|(",
    groups!("{0,2}"),
    ")?::",
    groups!("{3}"),
    "|(",
    groups!("{0,1}"),
    ")?::",
    groups!("{4}"),
    "|(",
    group!(),
    ")?::",
    groups!("{5}"),
    "|::",
    groups!("{6}"),
);

/// The pattern of a format's text; `None` when the schema compiler does not know it either.
pub(super) fn pattern(format: &str) -> Option<&'static str> {
    FORMATS.iter().find(|(name, _)| *name == format).map(|(_, pattern)| *pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llguidance::derivre::Regex;

    #[test]
    fn formats_match_their_texts_only() {
        for (format, good, bad) in [
            (
                "date",
                vec!["2024-02-28", "1999-12-31"],
                vec!["2024-02-30", "2024-13-01", "24-01-01"],
            ),
            (
                "time",
                vec!["23:59:59Z", "00:00:00.5+01:00"],
                vec!["24:00:00Z", "12:00:00", "12:00Z"],
            ),
            ("date-time", vec!["2024-01-31T00:00:00Z"], vec!["2024-01-31", "2024-01-31 00:00:00Z"]),
            ("duration", vec!["P1D", "PT5M", "P1Y2M", "P3W", "P1DT2H"], vec!["P", "PT", "1D"]),
            ("email", vec!["a.b+c@x.example"], vec!["a@b", "@x.example", "a b@x.example"]),
            ("hostname", vec!["localhost", "a-b.example"], vec!["-a", "a.", "a_b"]),
            ("ipv4", vec!["127.0.0.1", "255.255.255.255"], vec!["256.0.0.1", "1.2.3"]),
            (
                "ipv6",
                vec!["::", "::1", "2001:db8::1", "1:2:3:4:5:6:7:8"],
                vec!["1:2", ":::", "g::1"],
            ),
            ("uuid", vec!["123e4567-e89b-12d3-a456-426614174000"], vec!["123e4567"]),
            ("uri", vec!["https://example.com/a?b=c#d", "urn:x:y"], vec!["//x", "a b:c"]),
        ] {
            let mut regex = Regex::new(pattern(format).unwrap()).unwrap();
            for text in good {
                assert!(regex.is_match(text), "{format} {text}");
            }
            for text in bad {
                assert!(!regex.is_match(text), "{format} {text}");
            }
        }
        assert_eq!(pattern("color"), None);
    }
}
