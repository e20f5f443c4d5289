//! Asks a running server for its context length.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// Longer is not waited for.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The context length that a server at this address names; `None` if it does not answer, or not
/// without encryption.
pub(super) fn context(url: &str, key: Option<&str>) -> Option<u32> {
    let rest = url.strip_prefix("http://")?;
    let (host, prefix) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let name =
        if host.rsplit(']').next()?.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address = name.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let slash = if prefix.is_empty() { "" } else { "/" };
    let key = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    let head = format!(
        "GET {slash}{prefix}/v1/models HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n{key}\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut text = String::new();
    stream.take(1 << 20).read_to_string(&mut text).ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    let models: Value = serde_json::from_str(body).ok()?;
    u32::try_from(models["data"][0]["context_length"].as_u64()?).ok()
}
