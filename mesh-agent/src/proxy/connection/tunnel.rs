//! What comes before a connection that is relayed through a proxy: the proxy is asked for its destination (`tunnel`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::model::Tunnel;
use crate::proxy::stream::{PEEK_LIMIT, Stream};
use crate::proxy::upstream::ConnectError;

/// Behind the head of an answer.
const END: &[u8] = b"\r\n\r\n";

/// Asks the proxy at `address`. What comes behind its answer is already the destination's.
pub(super) async fn dig(
    mut stream: Stream,
    tunnel: &Tunnel,
    address: SocketAddr,
    limit: Duration,
) -> Result<Stream, ConnectError> {
    let asked = timeout(limit, ask(&mut stream, &tunnel.target)).await;
    match asked {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(source)) => Err(ConnectError::Refused { address, source }),
        Err(_) => Err(ConnectError::Timeout { address }),
    }
}

async fn ask(stream: &mut Stream, target: &str) -> io::Result<()> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let length = loop {
        let seen = stream.seen();
        if let Some(end) = memmem::find(seen, END) {
            break end + END.len();
        }
        if seen.len() > PEEK_LIMIT {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        if stream.look().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let mut head = vec![0; length];
    stream.read_exact(&mut head).await?;
    // As with Envoy: nothing but 200 opens it.
    let status = head
        .strip_prefix(b"HTTP/1.")
        .and_then(|line| line.get(1..6));
    match matches!(status, Some(b" 200 " | b" 200\r")) {
        true => Ok(()),
        false => Err(io::Error::other("the proxy opens no tunnel")),
    }
}
