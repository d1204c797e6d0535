//! Copies of requests for mirrors: sent and forgotten. Whatever becomes of one, its original does not notice.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http_body::Body;

use crate::proxy::connection::Connection;
use crate::proxy::http::forward::Outgoing;
use crate::proxy::http::timeout::Deadline;

/// How long a mirror may take over a request whose route says nothing.
const LIMIT: Duration = Duration::from_secs(60);

impl Outgoing {
    /// Sends a copy on its way, unless too many of them are.
    pub(super) fn mirror(self, connection: &Rc<Connection>) {
        let Some(leave) = connection.site.mirror() else {
            tracing::debug!(
                "too many copies of requests are on their way to mirrors; this one is not sent"
            );
            return;
        };
        let site = Rc::clone(&connection.site);
        let connection = Rc::clone(connection);
        site.spawn(async move {
            let _leave = leave;
            tokio::select! {
                () = self.mirrored(&connection) => {}
                // Nobody is to wait for a mirror when all else is over.
                () = connection.site.farewell() => {}
            }
        });
    }

    async fn mirrored(mut self, connection: &Rc<Connection>) {
        let limit = self.timeouts.whole.unwrap_or(LIMIT);
        let mut deadline =
            Deadline::after(Some(limit), self.started, &connection.site.worker.timers);
        let body = self.body.watch();
        let mut sending = pin!(self.send_and_drop(connection));
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => deadline.poll(cx, &body),
        })
        .await;
    }

    /// Reads the response to its end, so that the connection can serve again.
    async fn send_and_drop(&mut self, connection: &Rc<Connection>) {
        let (response, lease) = match self.send(connection).await {
            Ok(answered) => answered,
            Err(failure) => {
                tracing::debug!(?failure, "a mirror did not get its copy of a request");
                return;
            }
        };
        let mut incoming = response.into_body();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            if frame.is_err() {
                return;
            }
        }
        if self.body.is_done() {
            lease.give_back();
        }
    }
}
