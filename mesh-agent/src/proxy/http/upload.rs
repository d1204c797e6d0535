//! Request bodies on their way from the client to the server: held back where the server is to speak first, and sent
//! a second time where a server refused to look at them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::proxy::http::body::BodyError;
use crate::proxy::record::Received;

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
    kept: RefCell<Kept>,
    progress: Cell<Progress>,
    ended_at: Cell<Option<Instant>>,
    waiting: RefCell<Option<Waker>>,
    gate: Option<Held>,
}

/// What was sent, for the case that the server refuses to look at it.
#[derive(Debug)]
struct Kept {
    frames: Vec<Piece>,
    /// The next of them to be sent again.
    next: usize,
    /// How much more may be kept; `None` where nothing is.
    room: Option<usize>,
}

/// A frame that can be sent twice.
#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Why a body is held back, and for how long at most.
#[derive(Debug)]
struct Held {
    gate: Arc<Gate>,
    timer: RefCell<Pin<Box<Sleep>>>,
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

/// So much of a request is kept until its response begins.
const KEEP: usize = 64 * 1024;

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
            kept: RefCell::new(Kept {
                frames: Vec::new(),
                next: 0,
                room: None,
            }),
            progress: Cell::new(Progress::Running),
            ended_at: Cell::new(None),
            waiting: RefCell::default(),
            gate: gate.map(|gate| Held {
                gate,
                timer: RefCell::new(Box::pin(sleep(CONTINUE_WAIT))),
            }),
        }))
    }

    /// Keeps the beginning, so that it can be sent to another server.
    pub(in crate::proxy) fn keep(&self) {
        if let Self::Streaming(upload) = self {
            upload.kept.borrow_mut().room = Some(KEEP);
        }
    }

    /// Keeps it no longer: a server has begun to answer.
    pub(in crate::proxy) fn release(&self) {
        if let Self::Streaming(upload) = self {
            let mut kept = upload.kept.borrow_mut();
            kept.room = None;
            // What was to be sent again and is not sent yet is still needed.
            if kept.next >= kept.frames.len() {
                kept.frames = Vec::new();
                kept.next = 0;
            }
        }
    }

    /// Whether it can be sent from its beginning; if so, that is what happens next.
    pub(in crate::proxy) fn rewind(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(upload) => {
                let mut kept = upload.kept.borrow_mut();
                kept.next = 0;
                kept.room.is_some() || !upload.begun.get()
            }
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
    pub(in crate::proxy) fn bar(&self) {
        if let Self::Streaming(upload) = self
            && let Some(held) = &upload.gate
        {
            held.gate.set(GateState::Barred);
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
        let Some(Held { gate, timer }) = &self.gate else {
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
        if let Some(frame) = self.kept.borrow_mut().again() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let mut incoming = self.incoming.borrow_mut();
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                }
                self.kept.borrow_mut().keep(&frame);
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

impl Kept {
    /// The next frame to be sent again.
    fn again(&mut self) -> Option<Frame<Bytes>> {
        let piece = self.frames.get(self.next)?.clone();
        self.next += 1;
        if self.room.is_none() && self.next == self.frames.len() {
            self.frames = Vec::new();
            self.next = 0;
        }
        Some(match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(room) = self.room else {
            return;
        };
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        let size = frame.data_ref().map_or(0, Bytes::len);
        match room.checked_sub(size) {
            Some(room) => {
                self.room = Some(room);
                self.frames.push(piece);
                self.next = self.frames.len();
            }
            // Too much: this request can be sent only once.
            None => {
                self.room = None;
                self.frames = Vec::new();
                self.next = 0;
            }
        }
    }

    fn all_sent(&self) -> bool {
        self.next >= self.frames.len()
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
            Self::Streaming(upload) => {
                upload.kept.borrow().all_sent() && upload.incoming.borrow().is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(upload) => upload.hint,
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
