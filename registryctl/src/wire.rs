//! [`Wire`]: the protocol at a port, probed with the first bytes of HTTP/2.

use crate::entry::foreign;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// The timeout of one connection or answer of a server; that of etcd is `--timeout`.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The protocol at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wire {
    Http2,
    /// The name has no address.
    Unresolved(String),
    /// No connection, with the error.
    Unreachable(String),
    /// It requires TLS.
    Tls,
    /// The TLS handshake failed, with the error.
    TlsFailed(String),
    /// It was dialled with TLS, and answers in plaintext.
    Plaintext,
    Http1,
    /// It accepts connections and sends nothing: it hangs, is stopped, or its backlog is full.
    Silent,
    /// It closes each connection without sending anything.
    Closed,
    /// Something else.
    Other,
}

/// HTTP/2's connection preface with empty SETTINGS, RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Types of TLS records, RFC 8446 section 5.1.
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;

/// A ClientHello of TLS 1.2 with one cipher suite: a server answers it with a handshake or an alert.
fn client_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; one suite (ECDHE, RSA, AES 128); no compression.
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let length = hello.len() as u8;
    let mut record = vec![HANDSHAKE, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

// === impl Wire ===

impl Wire {
    /// Probes within the limit.
    pub(crate) async fn probe(host: &str, port: u16, limit: Duration) -> Self {
        let addrs: Vec<_> = match timeout(limit, lookup_host((host, port))).await {
            Ok(Ok(addrs)) => addrs.collect(),
            Ok(Err(error)) => return Self::Unresolved(foreign(error.to_string())),
            Err(_) => return Self::Unresolved("no answer about the name in time".to_owned()),
        };
        match Self::answer(&addrs, PREFACE, limit).await {
            // Some servers close a connection that does not begin as TLS.
            Self::Closed => match Self::answer(&addrs, &client_hello(), limit).await {
                Self::Tls => Self::Tls,
                _ => Self::Closed,
            },
            other => other,
        }
    }

    async fn answer(addrs: &[SocketAddr], question: &[u8], limit: Duration) -> Self {
        let mut stream = match timeout(limit, TcpStream::connect(addrs)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Self::Unreachable(foreign(error.to_string())),
            Err(_) => return Self::Unreachable("no connection in time".to_owned()),
        };
        let asked = async {
            stream.write_all(question).await?;
            let mut answer = vec![0; 512];
            let mut length = 0;
            while length < 9 {
                match stream.read(&mut answer[length..]).await? {
                    0 => break,
                    more => length += more,
                }
            }
            answer.truncate(length);
            Ok::<_, io::Error>(answer)
        };
        match timeout(limit, asked).await {
            Ok(Ok(answer)) => Self::of(&answer),
            Ok(Err(_)) => Self::Closed,
            Err(_) => Self::Silent,
        }
    }

    fn of(answer: &[u8]) -> Self {
        let is_text = |text: &[u8]| answer.windows(text.len()).any(|part| part == text);
        match answer {
            [] => Self::Closed,
            [ALERT | HANDSHAKE, 3, ..] => Self::Tls,
            // The first frame of a server is SETTINGS.
            [_, _, _, 4, ..] => Self::Http2,
            // Go's TLS server, when the client does not use TLS.
            _ if answer.starts_with(b"HTTP/") && is_text(b"HTTPS server") => Self::Tls,
            _ if answer.starts_with(b"HTTP/") => Self::Http1,
            _ => Self::Other,
        }
    }

    /// The end of a sentence that begins with the address.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Http2 => "answers in HTTP/2".to_owned(),
            Self::Unresolved(reason) => format!("cannot be resolved: {reason}"),
            Self::Unreachable(reason) => format!("cannot be connected to: {reason}"),
            Self::Tls => "wants TLS".to_owned(),
            Self::TlsFailed(reason) => format!("wants TLS, and the handshake fails: {reason}"),
            Self::Plaintext => "answers without TLS".to_owned(),
            Self::Http1 => "speaks HTTP/1, not HTTP/2".to_owned(),
            Self::Silent => "accepts the connection and does not answer".to_owned(),
            Self::Closed => "closes the connection without an answer".to_owned(),
            Self::Other => "does not speak HTTP/2".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn the_first_bytes_show_the_protocol() {
        for (answer, expected) in [
            (&b"\0\0\x12\x04\0\0\0\0\0"[..], Wire::Http2),
            (b"\x15\x03\x03\0\x02\x02\x46", Wire::Tls),
            (
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
                Wire::Tls,
            ),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Wire::Http1),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Wire::Other),
            (b"", Wire::Closed),
        ] {
            assert_eq!(Wire::of(answer), expected, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_listener_that_nobody_serves_is_silent() {
        let listener = TcpListener::bind(test_support::ports::free_addr())
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Duration::from_millis(50);
        assert_eq!(Wire::probe("127.0.0.1", port, limit).await, Wire::Silent);
        drop(listener);
        let closed = Wire::probe("127.0.0.1", port, Duration::from_secs(5)).await;
        assert!(matches!(closed, Wire::Unreachable(_)), "{closed:?}");
    }
}
