//! The exchange of a request for a response: how often it is tried, how long that may take, and what is made of the end.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::sleep;

use crate::proxy::connection::Connection;
use crate::proxy::http::attempt::Failed;
use crate::proxy::http::body::Body;
use crate::proxy::http::finish::Given;
use crate::proxy::http::forward::{Goal, Outgoing};
use crate::proxy::http::headers;
use crate::proxy::http::retry::{Outcome, grpc_status};
use crate::proxy::http::texts::Texts;
use crate::proxy::http::timeout::Deadline;
use crate::proxy::http::upgrade;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::record::{Flag, Hop, Record};
use crate::proxy::respond::{self, Failure};
use crate::proxy::stream::Busy;
use crate::proxy::upstream::circuit::Permit;
use crate::proxy::upstream::health;
use crate::proxy::upstream::lease::Lease;

/// How far a request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Tries so far.
    attempts: u32,
    /// Which server the last of them goes to.
    pub(super) endpoint: Option<SocketAddr>,
    /// Which servers the next one avoids.
    pub(super) tried: Vec<SocketAddr>,
    /// Whether a server has the request and has not answered.
    pub(super) under_way: bool,
    /// Leave for a try that is not the first.
    retry: Option<Permit>,
    /// What the end of the tries was due to, besides their failure.
    ended_by: Option<Flag>,
}

impl Progress {
    /// Whether nothing was tried before.
    pub(super) fn is_first(&self) -> bool {
        self.attempts <= 1
    }
}

impl Outgoing {
    /// Sends the request until there is a response, or the route's timeout, and makes of it what the client is to see.
    pub(super) async fn exchange(
        &mut self,
        connection: &Rc<Connection>,
        mut record: Record,
        busy: Busy,
    ) -> Response<Body> {
        for copy in std::mem::take(&mut self.copies) {
            copy.mirror(connection);
        }
        let mut deadline = Deadline::after(
            self.timeouts.whole,
            self.started,
            &connection.site.worker.timers,
        );
        let body = self.body.watch();
        let sent = {
            let mut sending = pin!(self.send(connection));
            poll_fn(|cx| {
                if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                    return Poll::Ready(sent);
                }
                deadline.poll(cx, &body).map(|()| Err(Failure::Timeout))
            })
            .await
        };
        if self.progress.under_way {
            // The route's timeout is the server's.
            self.report(health::Outcome::TimedOut { connected: true });
        }
        if let Some(line) = record.line() {
            line.upstream = self.progress.endpoint;
            line.attempts = self.progress.attempts;
        }
        if let Some(flag) = self.progress.ended_by {
            record.flag(flag);
        }
        match sent {
            Ok((response, lease)) => {
                self.respond(connection, response, lease, deadline, record, busy)
            }
            Err(failure) => self.fail(connection, &failure, record),
        }
    }

    /// Sends the request until there is a response or no more hope.
    pub(super) async fn send(
        &mut self,
        connection: &Rc<Connection>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        loop {
            self.progress.attempts += 1;
            self.number_try(&connection.site.worker.texts);
            let result = self.attempt(connection).await;
            self.judge_server(&result);
            let wanted = self.tries.want(match &result {
                Ok((response, _)) => Outcome::Answered {
                    status: response.status(),
                    headers: response.headers(),
                },
                Err(Failed { failure, begun }) => Outcome::Failed {
                    failure,
                    begun: *begun,
                },
            });
            match (result, wanted && self.may_try_again()) {
                (Ok((response, lease)), true) => self.discard(&response, lease),
                (Ok((response, mut lease)), false) => {
                    self.body.release();
                    lease.hold(self.progress.retry.take());
                    return Ok((response, lease));
                }
                (Err(_), true) => {}
                (Err(failed), false) => return Err(failed.failure),
            }
            if self.tries.avoid_previous() || self.tries.avoid_previous_priorities() {
                self.progress.tried.extend(self.progress.endpoint);
            }
            let worker = &connection.site.worker;
            worker.counters.retries.add(1);
            sleep(worker.back_off(self.progress.attempts, self.tries.backoff())).await;
        }
    }

    /// Says in the request which try it is, and how long the server has for it.
    fn number_try(&mut self, texts: &Texts) {
        self.take_back_head();
        let attempts = self.progress.attempts;
        if attempts > 1
            && let Goal::Cluster(_) = self.goal
            && let Some(head) = &mut self.head
        {
            headers::set_attempt(&mut head.headers, attempts, texts);
            let elapsed = self.body.since_end(self.started);
            self.timeouts.tell(&mut head.headers, elapsed, texts);
        }
    }

    /// Nobody wants the response: its connection is kept where it is at its end, and ended otherwise.
    fn discard(&self, response: &Response<Incoming>, lease: Lease) {
        if http_body::Body::is_end_stream(response.body()) && self.body.is_done() {
            lease.give_back();
        }
    }

    /// Whether a try that calls for another one gets it.
    fn may_try_again(&mut self) -> bool {
        if !self.has_head() || !self.body.can_repeat() {
            return false;
        }
        let progress = &mut self.progress;
        progress.ended_by = None;
        if !self.tries.allow(progress.attempts) {
            progress.ended_by = Some(Flag::RetriesExhausted);
            return false;
        }
        progress.retry = None;
        match self.retry_permit() {
            Ok(permit) => self.progress.retry = permit,
            Err(_) => {
                self.progress.ended_by = Some(Flag::Overflow);
                return false;
            }
        }
        true
    }

    /// Tells on the server, for outlier detection.
    fn judge_server(&self, result: &Result<(Response<Incoming>, Lease), Failed>) {
        self.report(match result {
            Ok((response, _)) => {
                let grpc = self.is_grpc().then(|| grpc_status(response.headers()));
                let status = grpc.flatten().map(respond::http_status_of_grpc);
                health::Outcome::Answered(status.unwrap_or(response.status()))
            }
            Err(failed) => match failed.failure {
                Failure::Connect { cause: None } => health::Outcome::TimedOut { connected: false },
                Failure::Connect { .. } => health::Outcome::Failed { connected: false },
                Failure::Timeout => health::Outcome::TimedOut { connected: true },
                Failure::Closed | Failure::Reset { .. } | Failure::UpstreamProtocol => {
                    health::Outcome::Failed { connected: true }
                }
                Failure::NoRoute
                | Failure::NoCluster
                | Failure::NoEndpoint
                | Failure::Aborted(_)
                | Failure::Overflow
                | Failure::ClientClosed
                | Failure::BadRequest
                | Failure::NoHost
                | Failure::NotSecure
                | Failure::Upgrade
                | Failure::HeadTooLarge
                | Failure::Encoding
                | Failure::OldVersion
                | Failure::Connected => return,
            },
        });
    }

    pub(super) fn report(&self, outcome: health::Outcome) {
        if let (Some(known), Some(endpoint)) = (&self.known, self.progress.endpoint) {
            known.report(endpoint, outcome);
        }
    }

    /// Makes a server's response what the client is to see.
    fn respond(
        &mut self,
        connection: &Rc<Connection>,
        mut response: Response<Incoming>,
        lease: Lease,
        deadline: Deadline,
        mut record: Record,
        busy: Busy,
    ) -> Response<Body> {
        record.status(response.status());
        let switched = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| headers::wanted_upgrade(response.headers()))
            .flatten();
        let server_side = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        head.extensions.clear();
        // An answer ahead of the request's end is the last on its connection, and has no service time.
        let whole = self.body.has_come() && self.upgrade.is_none();
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let texts = &connection.site.worker.texts;
        headers::receive_response(&mut head.headers, whole.then_some(elapsed), texts);
        if let Some(finish) = &self.finish {
            finish.give_cookies(&mut head.headers);
            let given = Given {
                endpoint: self.progress.endpoint,
                status: Some(head.status),
                flags: record.flags(),
            };
            finish.edit(&mut head.headers, connection, given);
        }
        let operation = match connection.hop {
            Hop::Inbound => connection.site.operation(connection.destination.port()),
            Hop::Outbound | Hop::Gateway => None,
        };
        let hop = connection.hop;
        headers::send_response(&mut head.headers, hop, self.facts, operation.as_deref());
        if let (Some(upgrade), Some(asked)) = (switched, self.upgrade.take()) {
            let (_, client_side) = *asked;
            headers::set_upgrade(&mut head.headers, upgrade);
            record.complete();
            let limit = self.timeouts.whole.map(|whole| self.started + whole);
            let peer = self.facts.client(connection);
            upgrade::spawn(connection, peer, (client_side, server_side), lease, limit);
            return Response::from_parts(head, Body::Empty);
        }
        if !whole && self.asker.is_http1() {
            headers::set_close(&mut head.headers);
        }
        let upload = std::mem::replace(&mut self.body, RequestBody::Empty);
        let body = Body::upstream(incoming, lease, upload, deadline, record, busy);
        Response::from_parts(head, body)
    }

    /// Answers in the place of a server.
    fn fail(
        &self,
        connection: &Connection,
        failure: &Failure,
        mut record: Record,
    ) -> Response<Body> {
        failure.note(&mut record);
        self.body.bar();
        let given = Given {
            endpoint: self.progress.endpoint,
            status: None,
            flags: record.flags(),
        };
        let retried = self.progress.attempts > 1;
        let asker = self
            .asker
            .after(self.body.has_come() && self.upgrade.is_none());
        let response = respond::failure(failure, retried, asker, |headers| {
            if let Some(finish) = &self.finish {
                finish.edit(headers, connection, given);
            }
        });
        record.status(response.status());
        record.complete();
        response
    }
}
