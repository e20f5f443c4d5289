//! A client over a socket, so simple that nothing of the wire is hidden.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection and what was read of it.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) seen: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), seen: Vec::new() }
    }

    /// Connects with little room for what is not read.
    pub(crate) async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self { stream: socket.connect(address).await.unwrap(), seen: Vec::new() }
    }

    /// Connects and sends a request.
    pub(crate) async fn post(address: SocketAddr, path: &str, body: &Value) -> Self {
        let mut client = Self::connect(address).await;
        client.send(path, body).await;
        client
    }

    pub(crate) async fn send(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.write(head.as_bytes()).await;
        self.write(body.as_bytes()).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads until the text holds `wanted`.
    pub(crate) async fn until(&mut self, wanted: &str) -> String {
        let mut looked = 0;
        loop {
            let unseen = &self.seen[looked..];
            if unseen.windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
                return self.text();
            }
            looked = self.seen.len().saturating_sub(wanted.len());
            self.seen.reserve(65_536);
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.seen)).await;
            let n = read.unwrap_or_else(|_| panic!("no {wanted:?} in {}", self.tail())).unwrap();
            assert!(n > 0, "closed before {wanted:?}: {}", self.tail());
        }
    }

    /// Reads until the connection is closed, however that happens.
    pub(crate) async fn rest(&mut self) -> String {
        loop {
            self.seen.reserve(65_536);
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.seen)).await;
            let read = read.unwrap_or_else(|_| panic!("still open: {}", self.tail()));
            if read.unwrap_or(0) == 0 {
                return self.text();
            }
        }
    }

    /// The end of the text, for messages.
    fn tail(&self) -> String {
        String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(2000)..]).into_owned()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}
