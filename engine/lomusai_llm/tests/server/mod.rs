//! A server that says what a test tells it to, byte by byte.
#![allow(dead_code, reason = "each test uses its part")]

use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

type Wrap = Box<dyn Fn(tokio::net::TcpStream) -> Pin<Box<dyn Future<Output = Option<Box<dyn Socket>>> + Send>> + Send>;

/// One connection of a client.
pub(crate) struct Connection(pub(crate) Box<dyn Socket>);

/// A request as it came.
pub(crate) struct Request {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Serves each connection with `handler` on a port of its own, and gives the port.
pub(crate) async fn serve<F, Fut>(handler: F) -> u16
where
    F: Fn(Connection) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    serve_wrapped(Box::new(|socket| Box::pin(async move { Some(Box::new(socket) as Box<dyn Socket>) })), handler).await
}

/// The same, with something around each socket, such as TLS.
pub(crate) async fn serve_wrapped<F, Fut>(wrap: Wrap, handler: F) -> u16
where
    F: Fn(Connection) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Some(socket) = wrap(socket).await {
                tokio::spawn(handler(Connection(socket)));
            }
        }
    });
    port
}

/// Answers every request with these bytes, and closes.
pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> u16 {
    let answer = answer.into();
    serve(move |mut connection| {
        let answer = answer.clone();
        async move {
            connection.request().await;
            connection.send(&answer).await;
        }
    })
    .await
}

/// A response with a length.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// The head of a stream that ends with the connection.
pub(crate) const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

impl Connection {
    /// The next request; `None` once the client is gone.
    pub(crate) async fn next_request(&mut self) -> Option<Request> {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let body = bytes.split_off(end + 4);
                break String::from_utf8(std::mem::replace(&mut bytes, body)).unwrap();
            }
            if self.0.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let mut request = Request { head, body: serde_json::Value::Null };
        let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        while bytes.len() < length {
            self.0.read_buf(&mut bytes).await.unwrap();
        }
        request.body = serde_json::from_slice(&bytes).unwrap_or_default();
        Some(request)
    }

    pub(crate) async fn request(&mut self) -> Request {
        self.next_request().await.expect("a request")
    }

    /// Writes bytes at once. A client that is gone does not matter.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref()).await;
        let _ = self.0.flush().await;
    }

    /// Writes bytes at once; `false` where the client is gone.
    pub(crate) async fn sent(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Waits until the client has closed the connection.
    pub(crate) async fn closed(&mut self) {
        let mut rest = [0; 64];
        while self.0.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    }
}
