//! Which web pages may ask: without CORS only those of this machine, so that a page that made its
//! name point here (DNS rebinding) gets nothing.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Whether a request comes from a page of another machine. Requests without an origin come from
/// programs, and origins that are neither web pages nor opaque are programs with a browser inside.
pub(crate) fn is_foreign(headers: &HeaderMap) -> bool {
    headers.get_all(header::ORIGIN).into_iter().any(|o| o.to_str().map_or(true, is_foreign_origin))
}

fn is_foreign_origin(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return true };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return false;
    }
    let host = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
        None => rest.split_once(':').map_or(rest, |(host, _)| host),
    };
    !is_loopback(host)
}

fn is_loopback(host: &str) -> bool {
    let is_address = || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    host.eq_ignore_ascii_case("localhost") || is_address()
}

/// Lets pages of every origin ask, as the C engine says it. `asked` are the request's headers.
pub(crate) fn allow(asked: &HeaderMap, headers: &mut HeaderMap) {
    let name = HeaderName::from_static;
    let private = name("access-control-request-private-network");
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "*"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if asked.contains_key(private) {
        let allowed = name("access-control-allow-private-network");
        headers.insert(allowed, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_machines_are_foreign() {
        for (origin, want) in [
            ("http://localhost", false),
            ("http://LOCALHOST:3000", false),
            ("https://127.0.0.1:8000", false),
            ("http://127.9.9.9", false),
            ("http://[::1]:8080", false),
            ("vscode-webview://abc", false),
            ("null", true),
            ("", true),
            ("https://example.com", true),
            ("http://localhost.example.com", true),
            ("http://127.0.0.1.example.com", true),
            ("http://192.168.1.2:8000", true),
            ("http://[::1", true),
            ("HTTP://example.com", true),
        ] {
            let headers = HeaderMap::from_iter([(header::ORIGIN, origin.parse().unwrap())]);
            assert_eq!(is_foreign(&headers), want, "{origin}");
        }
        assert!(!is_foreign(&HeaderMap::new()));
    }
}
