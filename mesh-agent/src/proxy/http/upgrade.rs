//! Connections that cease to be HTTP: WebSocket and whatever else client and server agree on.

use std::net::SocketAddr;
use std::rc::Rc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::proxy::connection::Connection;
use crate::proxy::http::ahead::Heard;
use crate::proxy::record::{Flag, Record};
use crate::proxy::stream::{Stream, Timed};
use crate::proxy::tcp::Tunnel;
use crate::proxy::upstream::lease::Lease;

/// Relays between both sides once each has left HTTP. `peer` is who the log says the client is; `lease` counts as a load on the server until the end, which comes
/// at `limit` at the latest: the route's timeout holds for all that its request became.
pub(super) fn spawn(
    connection: &Rc<Connection>,
    peer: SocketAddr,
    (client, server): (OnUpgrade, OnUpgrade),
    lease: Lease,
    limit: Option<Instant>,
) {
    let site = Rc::clone(&connection.site);
    let mut record = Record::relay(&site.worker.counters, connection.hop);
    if let Some(line) = record.line() {
        line.peer = Some(peer);
        line.destination = Some(connection.destination);
        line.upstream = Some(lease.address());
        line.protocol = "upgraded";
    }
    let idle = site.worker.settings.idle_timeout;
    let (serving, pipes) = (Rc::clone(&site), Rc::clone(&site.worker.pipes));
    site.spawn(async move {
        // Ends with the tunnel: draining waits for it.
        let _serving = serving;
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let client = stream_of::<Timed>(client, Timed::into_inner);
                let server = stream_of::<Heard>(server, Heard::into_inner);
                if let (Some(client), Some(server)) = (client, server) {
                    Tunnel::new(client, server, &pipes, idle, record)
                        .until(limit, Flag::Timeout)
                        .run()
                        .await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a change of protocol was agreed on and did not come about");
            }
        }
        drop(lease);
    });
}

/// The stream below HTTP, with what HTTP had read too far.
fn stream_of<I>(upgraded: Upgraded, into_stream: fn(I) -> Stream) -> Option<Stream>
where
    TokioIo<I>: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let parts = upgraded.downcast::<TokioIo<I>>().ok()?;
    let mut stream = into_stream(parts.io.into_inner());
    stream.unread(&parts.read_buf);
    Some(stream)
}
