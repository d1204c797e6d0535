//! Asks [`crate::route`] what becomes of a request, and does of it what needs no server: faults, CORS, redirects and
//! direct responses, in this order.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Response};

use crate::model::{Protocol, RouteAction};
use crate::proxy::connection::{Connection, Scope};
use crate::proxy::http::body::Body;
use crate::proxy::http::cors;
use crate::proxy::http::finish::{Finish, Given};
use crate::proxy::http::forward::Outgoing;
use crate::proxy::http::request::Arrived;
use crate::proxy::http::slots::Slot;
use crate::proxy::record::{Hop, Record};
use crate::proxy::respond::{self, Failure};
use crate::route::{self, Act, CorsVerdict, Decision, Reply, Routed};

/// What becomes of a request.
pub(super) enum Verdict {
    /// A route took it.
    Routed(Routed),
    /// It goes where the connection was headed.
    Passthrough,
    /// It goes to the pod's application.
    App(Protocol),
    /// It goes nowhere.
    Reply(Reply),
}

/// What became of a request that a route took.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and a box would cost an allocation"
)]
pub(super) enum Taken {
    /// It is on its way.
    Sent(Slot<Outgoing>),
    /// It was answered here, as the route wants it.
    Answered(Response<Body>),
    /// It cannot be sent, or is not to be.
    Failed(Failure, Finish),
}

/// Decides over a request.
pub(super) fn decide(connection: &Connection, arrived: &Arrived) -> Verdict {
    let scope = match &connection.scope {
        Scope::Routed(scope) => scope,
        Scope::App(protocol) => return Verdict::App(*protocol),
        Scope::Relayed => return Verdict::Passthrough,
    };
    let request = request(connection, arrived);
    match connection.site.decide(scope, &request) {
        Decision::Routed(routed) => Verdict::Routed(routed),
        // A gateway has no original destination to pass anything to.
        Decision::Passthrough if connection.hop == Hop::Gateway => Verdict::Reply(Reply::NoRoute),
        Decision::Passthrough => Verdict::Passthrough,
        Decision::Reply(reply) => Verdict::Reply(reply),
    }
}

/// What is known of a request before anything was done to it.
pub(super) fn request<'a>(connection: &Connection, arrived: &'a Arrived) -> route::Request<'a> {
    let head = &arrived.head;
    route::Request {
        authority: arrived.authority.as_str(),
        path: arrived.path(),
        query: head.uri.query(),
        method: head.method.as_str(),
        scheme: arrived.facts.scheme.as_str(),
        headers: &head.headers,
        source: arrived.facts.client(connection).ip(),
    }
}

/// Does what a route says, after its delay.
pub(super) fn take_route(
    connection: &Rc<Connection>,
    arrived: Arrived,
    routed: Routed,
    record: &mut Record,
) -> Taken {
    let Routed {
        route,
        delay: _,
        abort,
        cors,
        act,
    } = routed;
    if let Some(line) = record.line() {
        line.route = Some(Arc::clone(&route.name));
    }
    let mut finish = Finish {
        route,
        destination: match &act {
            Act::Forward(forwarding) => forwarding.destination,
            Act::Redirect(_) | Act::Respond | Act::NoCluster(_) => 0,
        },
        cluster: match &act {
            Act::Forward(forwarding) => Some(Arc::clone(&forwarding.cluster)),
            Act::Redirect(_) | Act::Respond | Act::NoCluster(_) => None,
        },
        origin: None,
        cookies: Vec::new(),
        asked: None,
        version: arrived.head.version,
        facts: arrived.facts,
        began: arrived.began,
    };
    finish.keep(&arrived.head);
    if let Some(abort) = abort {
        return Taken::Failed(Failure::Aborted(abort), finish);
    }
    let origin = || arrived.head.headers.get(http::header::ORIGIN);
    match cors {
        CorsVerdict::Silent => {}
        CorsVerdict::Preflight { allowed } => {
            let headers = match (&finish.route.cors, origin()) {
                (Some(policy), Some(origin)) if allowed => cors::preflight(policy, origin),
                _ => HeaderMap::new(),
            };
            return Taken::Answered(respond::preflight(arrived.asker, headers));
        }
        CorsVerdict::Allowed => finish.origin = origin().cloned(),
    }
    let given = Given {
        flags: record.flags(),
        ..Given::default()
    };
    let edit = |headers: &mut HeaderMap| finish.edit(headers, connection, given);
    match (act, &finish.route.action) {
        (Act::Forward(forwarding), _) => {
            match Outgoing::forward(connection, arrived, forwarding, &mut finish, record) {
                Ok(outgoing) => {
                    let requests = &connection.site.worker.requests;
                    Taken::Sent(requests.hold(outgoing.finished_by(finish)))
                }
                Err(failure) => Taken::Failed(failure, finish),
            }
        }
        (Act::Redirect(location), RouteAction::Redirect(redirect)) => {
            let status = redirect.status;
            Taken::Answered(respond::redirect(status, &location, arrived.asker, edit))
        }
        (Act::Respond, RouteAction::Respond(direct)) => {
            let (status, body) = (direct.status, direct.body.clone());
            Taken::Answered(respond::direct(status, body, arrived.asker, edit))
        }
        (Act::NoCluster(key), _) => {
            if let Some(line) = record.line() {
                line.cluster = key.to_string();
            }
            Taken::Failed(Failure::NoCluster, finish)
        }
        // Never decided: what is done is what the route says.
        (Act::Redirect(_) | Act::Respond, _) => Taken::Failed(Failure::NoRoute, finish),
    }
}
