//! HTTP connections: requests come in on one side, are decided over one by one with the newest world, and go out on
//! connections of our own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HOST};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::proxy::connection::Connection;
use crate::proxy::detect::First;
use crate::proxy::http::body::Body;
use crate::proxy::http::forward::Outgoing;
use crate::proxy::http::upload::{Gate, RequestBody};
use crate::proxy::record::{Hop, Record};
use crate::proxy::respond::{self, Failure};
use crate::proxy::site;
use crate::proxy::stream::{Activity, Stream, Timed};
use crate::proxy::upstream::pool::LocalExecutor;

pub(super) mod body;
mod forward;
mod headers;
mod path;
mod rewrite;
mod upgrade;
pub(super) mod upload;

/// hyper's ends of a client's connection.
type ClientIo = TokioIo<Timed>;

/// What the proxy needs of a request before it can be decided over.
struct Admitted {
    authority: Authority,
    /// The path in its plain form, without query.
    path: String,
}

/// The head of a request takes no more than this; beyond it is a 431.
const HEAD_LIMIT: usize = 64 * 1024;

/// Serves the requests of a connection until it ends or is drained.
pub(super) async fn serve(connection: Rc<Connection>, client: Stream, first: First) {
    let settings = &connection.site.worker.settings;
    let activity = Arc::<Activity>::default();
    let http2 = first == First::Http2;
    let io = TokioIo::new(Timed::new(
        client,
        Arc::clone(&activity),
        (!http2).then_some(settings.header_timeout),
        settings.idle_timeout,
    ));
    // What is no HTTP at all gets HTTP's own answer to that.
    let result = match http2 {
        true => serve_http2(&connection, io, activity).await,
        false => serve_http1(&connection, io, activity).await,
    };
    if let Err(error) = result {
        tracing::debug!(error = &error as &dyn std::error::Error, peer = %connection.peer, "a client's connection ended badly");
    }
}

async fn serve_http1(
    connection: &Rc<Connection>,
    io: ClientIo,
    activity: Arc<Activity>,
) -> hyper::Result<()> {
    let serving = Rc::clone(connection);
    let service =
        service_fn(move |request| answer(Rc::clone(&serving), Arc::clone(&activity), request));
    let mut server = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // `Timed` knows idle connections from slow ones.
            .header_read_timeout(None)
            .half_close(true)
            .max_buf_size(HEAD_LIMIT)
            .max_headers(100)
            .serve_connection(io, service)
            .with_upgrades()
    );
    tokio::select! {
        biased;
        result = server.as_mut() => return result,
        () = connection.site.drained() => {}
    }
    // From here on every answer says `connection: close`, and who stays silent is closed after a moment.
    if let Ok(result) = tokio::time::timeout(site::FAREWELL, server.as_mut()).await {
        return result;
    }
    server.as_mut().graceful_shutdown();
    server.await
}

async fn serve_http2(
    connection: &Rc<Connection>,
    io: ClientIo,
    activity: Arc<Activity>,
) -> hyper::Result<()> {
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
async fn answer(
    connection: Rc<Connection>,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let busy = activity.begin();
    let mut record = Record::request(&connection.site.worker.counters, connection.hop);
    let grpc = respond::is_grpc(request.headers());
    let version = request.version();
    let mut response = match prepare(&connection, request, &mut record) {
        Ok(outgoing) => match outgoing.exchange(&connection).await {
            Ok(exchanged) => exchanged.into_response(&connection, record, busy),
            Err(failure) => refuse(&failure, &connection, record, grpc),
        },
        Err(failure) => refuse(&failure, &connection, record, grpc),
    };
    if version < Version::HTTP_2 {
        *response.version_mut() = Version::HTTP_11;
        if connection.site.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
    }
    Ok(response)
}

fn refuse(
    failure: &Failure,
    connection: &Connection,
    mut record: Record,
    grpc: bool,
) -> Response<Body> {
    let response = respond::reply(failure, connection.hop, grpc);
    record.status(response.status());
    record.flag(failure.flag());
    record.complete();
    response
}

/// Admits a request, edits its headers, and decides over it.
fn prepare(
    connection: &Rc<Connection>,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Outgoing, Failure> {
    describe(connection, &request, record);
    let Admitted { authority, path } = admit(&request)?;
    let upgrade = wanted_upgrade(&mut request);
    let (mut head, incoming) = request.into_parts();
    let worker = &connection.site.worker;
    let facts =
        headers::receive_request(&mut head.headers, connection.hop, connection.peer, || {
            worker.request_id()
        });
    if head.version == Version::HTTP_2 {
        headers::join_cookies(&mut head.headers);
    }
    let gate = head
        .headers
        .get(EXPECT)
        .filter(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        .filter(|_| head.version == Version::HTTP_11)
        .map(|_| Arc::<Gate>::default());
    let body = RequestBody::new(incoming, gate.clone());
    record.received = body.received();
    if let Some(line) = record.line()
        && let Some(id) = head.headers.get(headers::REQUEST_ID)
    {
        line.request_id = String::from_utf8_lossy(id.as_bytes()).into_owned();
    }
    Outgoing::decide(
        connection, head, body, gate, upgrade, facts, authority, &path, record,
    )
}

/// Whether a request is fit to be sent on, and in the name of which host.
fn admit(request: &Request<Incoming>) -> Result<Admitted, Failure> {
    if request.version() < Version::HTTP_11 {
        return Err(Failure::OldVersion);
    }
    if request.method() == Method::CONNECT {
        return Err(Failure::Connected);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Failure::BadRequest),
        (host, _) => host,
    };
    // An absolute target outweighs the Host header (RFC 9112, 3.2.2).
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Failure::BadRequest)?
        }
        (None, None) => return Err(Failure::BadRequest),
    };
    if authority.as_str().contains('@') {
        return Err(Failure::BadRequest);
    }
    let path = request.uri().path();
    let path = match path.is_empty() {
        true => "/",
        false => path,
    };
    let path = path::normalize(path).ok_or(Failure::BadRequest)?;
    Ok(Admitted {
        authority,
        path: path.into_owned(),
    })
}

/// A wish to change the protocol, with the way to get at the connection once it is granted.
fn wanted_upgrade(request: &mut Request<Incoming>) -> Option<(HeaderValue, OnUpgrade)> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let protocol = headers::wanted_upgrade(request.headers())?;
    Some((protocol, hyper::upgrade::on(request)))
}

fn describe(connection: &Connection, request: &Request<Incoming>, record: &mut Record) {
    let Some(line) = record.line() else {
        return;
    };
    line.peer = Some(connection.peer);
    line.destination = Some(connection.destination);
    line.method = request.method().to_string();
    line.path = request
        .uri()
        .path_and_query()
        .map_or_else(|| "/".to_owned(), ToString::to_string);
    line.authority = match (request.uri().authority(), request.headers().get(HOST)) {
        (Some(authority), _) => authority.to_string(),
        (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        (None, None) => String::new(),
    };
    line.protocol = match request.version() {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
}

/// A future that is polled from behind a pointer, where it would make its owner large.
type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;
