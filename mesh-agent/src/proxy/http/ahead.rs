//! Informational responses: `100 Continue` opens the way for the body, the others are handed to the client ahead of the
//! response, as far as HTTP/1.1 goes on both sides.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use http::{HeaderMap, Request, StatusCode};

use crate::proxy::http::gate::Gate;
use crate::proxy::http::headers;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::stream::Activity;

/// What a server says ahead of its response.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The client's connection.
    activity: Arc<Activity>,
    said: Arc<Mutex<Said>>,
}

/// What waits to be handed on.
#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    total: usize,
    exchange: Option<Waker>,
}

/// A server may go on for ever; this much of it is handed on.
const MOST: usize = 16 * 1024;

impl Ahead {
    /// What is said ahead goes to a client's connection of HTTP/1.1.
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        Self {
            activity: Arc::clone(activity),
            said: Arc::default(),
        }
    }

    /// Listens for what the server says to a request.
    pub(super) fn listen(
        ahead: Option<&Self>,
        gate: Option<&Arc<Gate>>,
        request: &mut Request<RequestBody>,
    ) {
        let said = ahead.map(|ahead| Arc::clone(&ahead.said));
        let gate = gate.map(Arc::clone);
        if said.is_none() && gate.is_none() {
            return;
        }
        hyper::ext::on_informational(request, move |response| {
            match (response.status(), &gate, &said) {
                (StatusCode::CONTINUE, Some(gate), _) => gate.open(),
                (StatusCode::CONTINUE, None, _) | (_, _, None) => {}
                (_, _, Some(said)) => {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.hear(response.status(), response.headers());
                }
            }
        });
    }

    /// Hands on what has been said so far, and comes back when there is more.
    pub(super) fn pass(&self, cx: &mut Context<'_>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if !said.bytes.is_empty() {
            self.activity.say_ahead(&said.bytes);
            said.bytes.clear();
        }
        said.exchange = Some(cx.waker().clone());
    }
}

impl Said {
    fn hear(&mut self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        headers::strip_informational(&mut headers);
        let reason = status.canonical_reason().unwrap_or_default();
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
        headers::write(&headers, &mut bytes);
        self.total += bytes.len();
        if self.total <= MOST {
            self.bytes.append(&mut bytes);
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.wake();
        }
    }
}
