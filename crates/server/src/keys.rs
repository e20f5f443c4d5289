//! The keys that clients must show, compared in constant time.

use std::fmt;

use axum::http::{HeaderMap, header};
use subtle::{Choice, ConstantTimeEq};

/// API keys; none lets everyone in.
#[derive(Clone, Default)]
pub struct Keys(Vec<String>);

/// Keys are never printed.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// These keys, without empty ones and without space around them.
    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Self {
        let keys = keys.into_iter().map(|key| key.as_ref().trim().to_owned());
        Self(keys.filter(|key| !key.is_empty()).collect())
    }

    /// These keys and others.
    #[must_use]
    pub fn and<S: AsRef<str>>(mut self, keys: impl IntoIterator<Item = S>) -> Self {
        self.0.extend(Self::new(keys).0);
        self
    }

    /// Whether everyone is let in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request shows one of the keys, as a bearer token or as `x-api-key`.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        if self.is_empty() {
            return true;
        }
        let bearer = headers.get_all(header::AUTHORIZATION).into_iter();
        let bearer = bearer.filter_map(|value| bearer_token(value.as_bytes()));
        let plain = headers.get_all("x-api-key").into_iter().map(axum::http::HeaderValue::as_bytes);
        bearer.chain(plain).any(|shown| self.has(shown))
    }

    /// Looks at all keys, whichever is equal.
    fn has(&self, shown: &[u8]) -> bool {
        let equal = |key: &String| key.as_bytes().ct_eq(shown);
        self.0.iter().fold(Choice::from(0), |found, key| found | equal(key)).into()
    }
}

fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(keys: &[&str], name: &'static str, value: &str) -> bool {
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(name),
            value.parse().unwrap(),
        )]);
        Keys::new(keys).admit(&headers)
    }

    #[test]
    fn one_of_the_keys_opens() {
        for (name, value, want) in [
            ("authorization", "Bearer two", true),
            ("authorization", "bearer  one ", true),
            ("x-api-key", "two", true),
            ("x-api-key", "tw", false),
            ("x-api-key", "twoo", false),
            ("x-api-key", "", false),
            ("authorization", "two", false),
            ("authorization", "Basic two", false),
            ("authorization", "Bearer", false),
            ("cookie", "two", false),
        ] {
            assert_eq!(admits(&["one", " two\n", ""], name, value), want, "{name}: {value}");
        }
        assert!(admits(&[], "cookie", "x"));
        assert!(admits(&["", " "], "cookie", "x"));
        assert_eq!(format!("{:?}", Keys::new(["secret"])), "Keys(1)");
    }
}
