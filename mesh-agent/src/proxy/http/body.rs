//! Response bodies on their way through: streamed frame by frame, counted, and never ended cleanly where the server
//! did not end cleanly.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::proxy::http::headers;
use crate::proxy::http::timeout::Deadline;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::record::{Flag, Record};
use crate::proxy::stream::Busy;
use crate::proxy::upstream::lease::Lease;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum BodyError {
    /// The side that sends it failed.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// The route's timeout.
    #[error("the route's timeout ran out before the body ended")]
    Timeout,
    /// The server answered without wanting the body.
    #[error("the body is no longer wanted")]
    Unwanted,
}

/// A response's body.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every body is the large one, and a box would cost an allocation per request"
)]
pub(in crate::proxy) enum Body {
    /// None.
    Empty,
    /// An answer of our own.
    Text(Option<Bytes>),
    /// What a server sends.
    Upstream(Download),
}

/// A response's body on its way from the server to the client, with all that must stay alive until it is over.
#[derive(Debug)]
pub(in crate::proxy) struct Download {
    incoming: Incoming,
    lease: Option<Lease>,
    upload: RequestBody,
    deadline: Deadline,
    record: Record,
    _busy: Busy,
}

impl Body {
    /// The body of a server's response.
    pub(in crate::proxy) fn upstream(
        incoming: Incoming,
        lease: Lease,
        upload: RequestBody,
        deadline: Deadline,
        record: Record,
        busy: Busy,
    ) -> Self {
        Self::Upstream(Download {
            incoming,
            lease: Some(lease),
            upload,
            deadline,
            record,
            _busy: busy,
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Upstream(download) => download.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_none(),
            Self::Upstream(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Upstream(download) => download.incoming.size_hint(),
        }
    }
}

impl Download {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.deadline.poll(cx, &self.upload).is_ready() {
            self.record.flag(Flag::Timeout);
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        }
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    self.record.sent += data.len() as u64;
                }
                // A reader that has the trailers does not ask for the end.
                if frame.is_trailers() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.record.flag(Flag::UpstreamClosed);
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    /// The whole response went by: the connection can serve again, if the request went by whole as well.
    fn finish(&mut self) {
        self.record.complete();
        if let Some(lease) = self.lease.take()
            && self.upload.is_done()
        {
            lease.give_back();
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // A reader that knows the length does not ask for the end.
        if self.incoming.is_end_stream() {
            self.finish();
        }
        self.upload.bar();
    }
}
