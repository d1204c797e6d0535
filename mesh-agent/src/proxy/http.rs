//! HTTP connections: requests come in on one side, are decided over one by one with the newest world, and go out on
//! connections of our own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use crate::proxy::connection::Connection;
use crate::proxy::detect::First;
use crate::proxy::http::body::Body;
use crate::proxy::http::decide::{Taken, Verdict};
use crate::proxy::http::finish::Given;
use crate::proxy::http::forward::Outgoing;
use crate::proxy::http::request::Arrived;
use crate::proxy::record::{Flag, Hop, Record};
use crate::proxy::respond::{self, Asker, Failure};
use crate::proxy::stream::{Activity, Busy, Stream, Timed};
use crate::proxy::upstream::pool::LocalExecutor;
use crate::route::Reply;

pub use crate::proxy::http::path::normalize as plain_path;

pub(super) mod ahead;
mod attempt;
pub(super) mod body;
mod cors;
mod date;
mod decide;
mod edit;
mod exchange;
mod finish;
pub(super) mod forward;
pub(super) mod gate;
pub(super) mod headers;
mod idle;
mod mirror;
mod obtain;
mod path;
mod request;
mod retry;
mod rewrite;
pub(super) mod slots;
pub(super) mod spare;
pub(super) mod texts;
mod timeout;
pub(super) mod timers;
mod upgrade;
pub(super) mod upload;

/// The head of a message of HTTP/1.1 takes no more than this; beyond it a request is answered with a 431.
pub(super) const HEAD_LIMIT: usize = 64 * 1024;

/// How much of a body of HTTP/1.1 is read, or kept to be written, at once where it comes fast: the more it is, the fewer
/// times both sides are woken.
pub(super) const PIECE: usize = 256 * 1024;

/// Serves the requests of a connection until it ends or is drained.
pub(super) async fn serve(connection: Rc<Connection>, client: Stream, first: First) {
    if connection.site.may_be_local() {
        client.permit_fast_path();
    }
    // What is no HTTP at all gets HTTP's own answer to that.
    let result = match first {
        First::Http2 => Box::pin(serve_http2(&connection, client)).await,
        First::Http1 | First::Http10 | First::Other | First::Nothing => {
            idle::serve_http1(&connection, client).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = &error as &dyn std::error::Error, peer = %connection.peer, "a client's connection ended badly");
    }
}

async fn serve_http2(connection: &Rc<Connection>, client: Stream) -> hyper::Result<()> {
    let activity = Arc::<Activity>::default();
    let idle = connection.site.worker.settings.idle_timeout;
    let io = TokioIo::new(Timed::new(client, Arc::clone(&activity), None, idle));
    let serving = Rc::clone(connection);
    let service =
        service_fn(move |request| answer(Rc::clone(&serving), Arc::clone(&activity), request));
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(60 * 1024)
        .max_local_error_reset_streams(256)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    match connection.hop {
        // Strangers get little memory each.
        Hop::Gateway => builder
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024),
        Hop::Outbound | Hop::Inbound => builder.adaptive_window(true),
    };
    let mut server = pin!(builder.serve_connection(io, service));
    tokio::select! {
        biased;
        result = server.as_mut() => return result,
        () = connection.site.drained() => {}
    }
    server.as_mut().graceful_shutdown();
    server.await
}

/// Answers one request.
pub(super) async fn answer(
    connection: Rc<Connection>,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let busy = activity.begin(!request.body().is_end_stream());
    let mut record = Record::request(&connection.site.worker.counters, connection.hop);
    let asker = Asker::of(&request, connection.hop);
    let version = request.version();
    request::describe(&connection, &request, &mut record);
    let mut response = match Arrived::admit(&connection, request, asker, &activity, &mut record) {
        Ok(arrived) => follow(&connection, arrived, record, busy).await,
        Err(failure) => fail(&failure, asker, record),
    };
    if version < Version::HTTP_2 {
        // To a client of HTTP/1.0 hyper would say that the connection stays, whatever we say.
        *response.version_mut() = version;
        if response.status().canonical_reason().is_none() {
            let unknown = ReasonPhrase::from_static(b"Unknown");
            response.extensions_mut().insert(unknown);
        }
        if connection.site.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
    }
    Ok(response)
}

/// Does what is decided over a request.
async fn follow(
    connection: &Rc<Connection>,
    mut arrived: Arrived,
    mut record: Record,
    busy: Busy,
) -> Response<Body> {
    let asker = arrived.asker;
    let upgrade = arrived.upgrade.as_deref();
    let forbidden = upgrade.is_some_and(|(upgrade, _)| !upgrade.is_allowed());
    let requests = &connection.site.worker.requests;
    let mut outgoing = match decide::decide(connection, &arrived) {
        Verdict::App(_) | Verdict::Passthrough | Verdict::Routed(_) if forbidden => {
            return fail(&Failure::Upgrade, asker, record);
        }
        Verdict::App(protocol) => {
            let outgoing = Outgoing::to_app(connection, arrived, protocol, &mut record);
            outgoing.map(|outgoing| requests.hold(outgoing))
        }
        Verdict::Passthrough => {
            let outgoing = Outgoing::passthrough(connection, arrived, &mut record);
            outgoing.map(|outgoing| requests.hold(outgoing))
        }
        Verdict::Reply(reply) => return refuse(&reply, asker, record),
        Verdict::Routed(routed) => {
            if let Some(delay) = routed.delay {
                record.flag(Flag::Delayed);
                tokio::time::sleep(delay).await;
                arrived.started = Instant::now();
            }
            match decide::take_route(connection, arrived, routed, &mut record) {
                Taken::Sent(outgoing) => Ok(outgoing),
                Taken::Answered(response) => return answered(response, record),
                Taken::Failed(failure, finish) => {
                    failure.note(&mut record);
                    let given = Given {
                        flags: record.flags(),
                        ..Given::default()
                    };
                    let response = respond::failure(&failure, false, asker, |headers| {
                        finish.edit(headers, connection, given);
                    });
                    return answered(response, record);
                }
            }
        }
    };
    match &mut outgoing {
        Ok(outgoing) => outgoing.exchange(connection, record, busy).await,
        Err(failure) => fail(failure, asker, record),
    }
}

/// Answers a request that came to no route.
fn fail(failure: &Failure, asker: Asker, mut record: Record) -> Response<Body> {
    failure.note(&mut record);
    answered(respond::failure(failure, false, asker, |_| {}), record)
}

fn refuse(reply: &Reply, asker: Asker, record: Record) -> Response<Body> {
    match reply {
        Reply::NoRoute => fail(&Failure::NoRoute, asker, record),
        Reply::Refused => answered(
            respond::direct(StatusCode::BAD_GATEWAY, Bytes::new(), asker, |_| {}),
            record,
        ),
        Reply::Https(location) => answered(
            respond::redirect(StatusCode::MOVED_PERMANENTLY, location, asker, |_| {}),
            record,
        ),
    }
}

/// Writes down an answer of our own, all of which is there.
fn answered(response: Response<Body>, mut record: Record) -> Response<Body> {
    record.status(response.status());
    record.complete();
    response
}

/// A future that is polled from behind a pointer, where it would make its owner large.
pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;
