//! What a route does to a response, whoever gives it: a server, or the proxy itself.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::SET_COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use tokio::time::Instant;

use crate::model::{Cluster, HeaderEdits, Route, RouteAction};
use crate::proxy::connection::Connection;
use crate::proxy::http::cors;
use crate::proxy::http::edit::{self, Asked, Facts};
use crate::proxy::http::headers::RequestFacts;
use crate::proxy::record::Flags;

/// What is kept of a request until its response is here.
pub(super) struct Finish {
    pub(super) route: Arc<Route>,
    /// Which of the route's destinations the request was drawn for.
    pub(super) destination: usize,
    /// Where it goes.
    pub(super) cluster: Option<Arc<Cluster>>,
    /// `origin`, where the response is to say that it is allowed.
    pub(super) origin: Option<HeaderValue>,
    /// `set-cookie` of cookies that the balancer wants the client to have.
    pub(super) cookies: Vec<HeaderValue>,
    /// The request as it was sent, where the response's headers name something of it.
    pub(super) asked: Option<Box<Parts>>,
    pub(super) version: Version,
    /// Who asked, and for which scheme.
    pub(super) facts: RequestFacts,
    pub(super) began: Instant,
}

/// What a response is of, as far as its headers may say so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    /// The server that gave it, or was asked last.
    pub(super) endpoint: Option<SocketAddr>,
    /// None where the proxy gives it.
    pub(super) status: Option<StatusCode>,
    pub(super) flags: Flags,
}

impl Finish {
    /// Edits the headers of a response.
    pub(super) fn edit(&self, headers: &mut HeaderMap, connection: &Connection, given: Given) {
        if let Some(edits) = self.edits()
            && !edits.is_empty()
        {
            let facts = Facts {
                connection,
                client: self.facts.client(connection),
                version: self.version,
                began: self.began,
                route: &self.route.name,
                cluster: self.cluster.as_ref().map(|cluster| &cluster.key),
                endpoint: given.endpoint,
                request: self
                    .asked
                    .as_deref()
                    .map(|head| Asked::sent(head, self.facts.scheme)),
                status: given.status,
                flags: given.flags,
            };
            edit::edit_response(headers, edits, &facts);
        }
        if let Some(origin) = &self.origin
            && let Some(policy) = &self.route.cors
        {
            cors::allow(headers, policy, origin);
        }
    }

    /// Gives the client its cookies, with a response that a server gave.
    pub(super) fn give_cookies(&self, headers: &mut HeaderMap) {
        for cookie in &self.cookies {
            headers.append(SET_COOKIE, cookie.clone());
        }
    }

    /// Keeps what is needed of the request, as it is about to be sent.
    pub(super) fn keep(&mut self, head: &Parts) {
        if self.edits().is_some_and(edit::names_request) {
            self.asked = Some(Box::new(head.clone()));
        }
    }

    fn edits(&self) -> Option<&HeaderEdits> {
        match &self.route.action {
            RouteAction::Forward(forward) => {
                let destination = forward.destinations.get(self.destination)?;
                Some(&destination.response_headers)
            }
            RouteAction::Redirect(redirect) => Some(&redirect.response_headers),
            RouteAction::Respond(respond) => Some(&respond.response_headers),
        }
    }
}
