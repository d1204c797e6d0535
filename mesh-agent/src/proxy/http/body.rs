//! Bodies on their way through: streamed frame by frame, counted, and never ended cleanly where the other side did not
//! end cleanly.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::proxy::record::{Flag, Received, Record};
use crate::proxy::stream::Busy;
use crate::proxy::upstream::pool::Lease;

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
    deadline: Option<Pin<Box<Sleep>>>,
    record: Record,
    _busy: Busy,
}

/// A request's body on its way from the client to the server.
#[derive(Clone, Debug)]
pub(in crate::proxy) enum RequestBody {
    /// None.
    Empty,
    /// Shared with the request, which wants to know how far it came.
    Streaming(Rc<Upload>),
}

/// The state of a request's body.
#[derive(Debug)]
pub(in crate::proxy) struct Upload {
    incoming: RefCell<Incoming>,
    hint: SizeHint,
    bytes: Rc<Cell<u64>>,
    begun: Cell<bool>,
    progress: Cell<Progress>,
    ended_at: Cell<Option<Instant>>,
    waiting: RefCell<Option<Waker>>,
    gate: Option<(Arc<Gate>, RefCell<Pin<Box<Sleep>>>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Running,
    Done,
    Failed,
}

/// Holds a body back until the server has said `100 Continue` (the client is told so by the first read of its body).
#[derive(Debug, Default)]
pub(in crate::proxy) struct Gate(Mutex<(GateState, Option<Waker>)>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Shut,
    Open,
    /// The server has answered in full; nobody wants the body.
    Barred,
}

/// A server that does not know `Expect` gets the body after this while, as RFC 9110 advises clients.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

impl Body {
    /// The body of a server's response.
    pub(in crate::proxy) fn upstream(
        incoming: Incoming,
        lease: Lease,
        upload: RequestBody,
        deadline: Option<Pin<Box<Sleep>>>,
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
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.record.flag(Flag::Timeout);
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        }
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.record.sent += data.len() as u64;
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

impl RequestBody {
    /// Wraps a client's body. With `gate` it waits for the server's word.
    pub(in crate::proxy) fn new(incoming: Incoming, gate: Option<Arc<Gate>>) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Streaming(Rc::new(Upload {
            hint: incoming.size_hint(),
            incoming: RefCell::new(incoming),
            bytes: Rc::default(),
            begun: Cell::new(false),
            progress: Cell::new(Progress::Running),
            ended_at: Cell::new(None),
            waiting: RefCell::default(),
            gate: gate.map(|gate| (gate, RefCell::new(Box::pin(sleep(CONTINUE_WAIT))))),
        }))
    }

    /// Whether a server can have seen none of it, so that it may be sent to another one.
    pub(in crate::proxy) fn untouched(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(upload) => !upload.begun.get(),
        }
    }

    /// Whether all of it went out.
    pub(in crate::proxy) fn is_done(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(upload) => upload.progress.get() == Progress::Done,
        }
    }

    /// Whether the client broke it off.
    pub(in crate::proxy) fn has_failed(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Streaming(upload) => upload.progress.get() == Progress::Failed,
        }
    }

    /// How much of it there was, for the record.
    pub(in crate::proxy) fn received(&self) -> Received {
        match self {
            Self::Empty => Received::Known(0),
            Self::Streaming(upload) => Received::Counting(Rc::clone(&upload.bytes)),
        }
    }

    /// Waits for its end, whichever it is.
    pub(in crate::proxy) async fn ended(&self) {
        let Self::Streaming(upload) = self else {
            return;
        };
        poll_fn(|cx| match upload.progress.get() {
            Progress::Running => {
                upload.waiting.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
            Progress::Done | Progress::Failed => Poll::Ready(()),
        })
        .await;
    }

    /// When it ended, which for no body is when the request began. A body that still runs ends now, as far as the
    /// response is concerned.
    pub(in crate::proxy) fn ended_at(&self, began: Instant) -> Instant {
        match self {
            Self::Empty => began,
            Self::Streaming(upload) => upload.ended_at.get().unwrap_or_else(Instant::now),
        }
    }

    /// The exchange is over: a body that is still being held back is not wanted.
    fn bar(&self) {
        if let Self::Streaming(upload) = self
            && let Some((gate, _)) = &upload.gate
        {
            gate.set(GateState::Barred);
        }
    }
}

impl Upload {
    fn end(&self, progress: Progress) {
        self.progress.set(progress);
        self.ended_at.set(Some(Instant::now()));
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    fn poll_gate(&self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some((gate, timer)) = &self.gate else {
            return Poll::Ready(Ok(()));
        };
        match gate.poll(cx) {
            GateState::Open => Poll::Ready(Ok(())),
            GateState::Barred => Poll::Ready(Err(BodyError::Unwanted)),
            GateState::Shut => {
                ready!(timer.borrow_mut().as_mut().poll(cx));
                gate.open();
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        ready!(self.poll_gate(cx))?;
        self.begun.set(true);
        let mut incoming = self.incoming.borrow_mut();
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                }
                // A reader that knows the length does not ask for the end.
                if incoming.is_end_stream() {
                    self.end(Progress::Done);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.end(Progress::Failed);
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            None => {
                self.end(Progress::Done);
                Poll::Ready(None)
            }
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &*self {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(upload) => upload.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(upload) => upload.incoming.borrow().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(upload) => upload.hint.clone(),
        }
    }
}

impl Gate {
    /// Lets the body through.
    pub(in crate::proxy) fn open(&self) {
        self.set(GateState::Open);
    }

    fn set(&self, state: GateState) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0 == GateState::Shut {
            inner.0 = state;
        }
        if let Some(waker) = inner.1.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> GateState {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0 == GateState::Shut {
            inner.1 = Some(cx.waker().clone());
        }
        inner.0
    }
}
