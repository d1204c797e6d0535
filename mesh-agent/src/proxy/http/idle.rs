//! A client's connection of HTTP/1.1, which is in one of two states: hyper serves its requests, or it rests. One that rests
//! costs little more than its socket, for nearly all connections that clients keep for later do nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::proxy::connection::Connection;
use crate::proxy::http::{Boxed, HEAD_LIMIT, PIECE, answer, request};
use crate::proxy::site;
use crate::proxy::stream::{Activity, Heads, Stream, Timed};

/// How hyper's part came to its end.
enum Served {
    /// With the connection.
    Over(hyper::Result<()>),
    /// Nothing has been asked since then, and nothing is under way.
    Resting(Stream, Instant),
}

/// Serves requests, and rests in between, until the connection ends or is drained.
pub(super) async fn serve_http1(
    connection: &Rc<Connection>,
    mut client: Stream,
) -> hyper::Result<()> {
    loop {
        let since = match requests(connection, client).await {
            Served::Over(result) => return result,
            Served::Resting(stream, since) => {
                client = stream;
                connection.site.worker.has_rested();
                since
            }
        };
        if !rest(connection, &mut client, since).await {
            return Ok(());
        }
    }
}

/// Waits for the next request. `false` where there will be none.
async fn rest(connection: &Connection, client: &mut Stream, since: Instant) -> bool {
    if !client.seen().is_empty() {
        return true;
    }
    let limit = connection.site.worker.settings.idle_timeout;
    let looked = tokio::select! {
        biased;
        looked = timeout_at(since + limit, client.look()) => looked,
        () = connection.site.farewell() => Ok(Ok(0)),
    };
    match looked {
        Ok(Ok(0)) => {
            // Whoever is gone need not be told.
            let _ = client.shutdown().await;
            false
        }
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, peer = %connection.peer, "a client's connection ended badly");
            false
        }
        Err(_) => {
            tracing::debug!(peer = %connection.peer, "no request for too long");
            false
        }
    }
}

/// Serves requests until the connection ends, is drained, or nothing has come for a while. Boxed, so that it takes no room
/// in a connection that rests.
fn requests(connection: &Rc<Connection>, client: Stream) -> Boxed<Served> {
    let connection = Rc::clone(connection);
    let settings = &connection.site.worker.settings;
    let activity = Arc::<Activity>::default();
    let heads = Heads {
        limit: settings.header_timeout,
        hop: connection.hop,
    };
    let io = TokioIo::new(Timed::new(
        client,
        Arc::clone(&activity),
        Some(heads),
        settings.idle_timeout,
    ));
    let (serving, asked) = (Rc::clone(&connection), Arc::clone(&activity));
    let service =
        service_fn(move |request| answer(Rc::clone(&serving), Arc::clone(&asked), request));
    let mut server = http1::Builder::new()
        .timer(TokioTimer::new())
        // `Timed` knows idle connections from slow ones.
        .header_read_timeout(None)
        .half_close(true)
        .max_buf_size(PIECE)
        .max_header_size(HEAD_LIMIT)
        .max_headers(request::MOST_HEADERS)
        .serve_connection(io, service)
        .with_upgrades();
    Box::pin(async move {
        let at_rest = poll_fn(|cx| match Pin::new(&mut server).poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if activity.is_at_rest() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            biased;
            result = at_rest => match result {
                Some(result) => return Served::Over(result),
                None => return match server.into_parts() {
                    Some(parts) => {
                        let (mut stream, since) = parts.io.into_inner().into_rest();
                        stream.unread(&parts.read_buf);
                        Served::Resting(stream, since)
                    }
                    // It is somebody else's by now.
                    None => Served::Over(Ok(())),
                },
            },
            () = connection.site.drained() => {}
        }
        // From here on every answer says `connection: close`, and who stays silent is closed after a moment.
        if let Ok(result) = timeout(site::FAREWELL, Pin::new(&mut server)).await {
            return Served::Over(result);
        }
        Pin::new(&mut server).graceful_shutdown();
        Served::Over(server.await)
    })
}
