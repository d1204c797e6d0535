//! Request bodies on their way from the client to the server: held back where the server is to speak first, sent again
//! where a try came to nothing, and copied for mirrors.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::proxy::http::body::BodyError;
use crate::proxy::http::gate::{Gate, Held};
use crate::proxy::http::headers;
use crate::proxy::http::upload::copy::{Copy, Source};
use crate::proxy::http::upload::kept::Kept;
use crate::proxy::record::Received;

pub(super) mod copy;
mod kept;

/// A request's body on its way from the client to the server.
#[derive(Debug)]
pub(in crate::proxy) enum RequestBody {
    /// None.
    Empty,
    /// Shared with the request, which wants to know how far it came.
    Streaming(Reader),
    /// What a mirror gets of it.
    Copy(Copy),
}

/// The body as one try sends it. The beginning of another try ends it.
#[derive(Debug)]
pub(in crate::proxy) struct Reader {
    upload: Rc<Upload>,
    turn: u32,
}

/// The state of a request's body.
#[derive(Debug)]
struct Upload {
    incoming: RefCell<Incoming>,
    hint: SizeHint,
    bytes: Rc<Cell<u64>>,
    begun: Cell<bool>,
    kept: RefCell<Kept>,
    copies: RefCell<Vec<Source>>,
    progress: Cell<Progress>,
    ended_at: Cell<Option<Instant>>,
    /// Which try sends it.
    turn: Cell<u32>,
    /// The task that sends it.
    reader: RefCell<Option<Waker>>,
    /// The task that waits for its end.
    waiting: RefCell<Option<Waker>>,
    held: RefCell<Option<Held>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Running,
    Done,
    Failed,
}

/// So much of a request is kept until its response begins, as Envoy buffers it.
const KEEP: usize = 1024 * 1024;

impl RequestBody {
    /// Wraps a client's body. With `gate` it waits for the server's word.
    pub(in crate::proxy) fn new(incoming: Incoming, gate: Option<Arc<Gate>>) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Streaming(Reader {
            upload: Rc::new(Upload {
                hint: incoming.size_hint(),
                incoming: RefCell::new(incoming),
                bytes: Rc::default(),
                begun: Cell::new(false),
                kept: RefCell::new(Kept::nothing()),
                copies: RefCell::default(),
                progress: Cell::new(Progress::Running),
                ended_at: Cell::new(None),
                turn: Cell::new(0),
                reader: RefCell::default(),
                waiting: RefCell::default(),
                held: RefCell::new(gate.map(Held::new)),
            }),
            turn: 0,
        })
    }

    fn upload(&self) -> Option<&Upload> {
        match self {
            Self::Empty | Self::Copy(_) => None,
            Self::Streaming(reader) => Some(&reader.upload),
        }
    }

    /// The body for a try, which has it from now on, and from its beginning.
    pub(in crate::proxy) fn for_try(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Copy(copy) => Self::Copy(copy.clone()),
            Self::Streaming(reader) => {
                let upload = &reader.upload;
                let turn = upload.turn.get() + 1;
                upload.turn.set(turn);
                upload.kept.borrow_mut().rewind();
                // Whoever still sends it for an earlier try finds out.
                if let Some(earlier) = upload.reader.take() {
                    earlier.wake();
                }
                Self::Streaming(Reader {
                    upload: Rc::clone(upload),
                    turn,
                })
            }
        }
    }

    /// The same body, for who only looks on.
    pub(in crate::proxy) fn watch(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Copy(copy) => Self::Copy(copy.clone()),
            Self::Streaming(reader) => Self::Streaming(Reader {
                upload: Rc::clone(&reader.upload),
                turn: 0,
            }),
        }
    }

    /// A copy for a mirror, to be taken before anything was sent.
    pub(in crate::proxy) fn copy(&self) -> Self {
        match self {
            Self::Empty | Self::Copy(_) => Self::Empty,
            Self::Streaming(reader) => {
                let (source, copy) = copy::copy(reader.upload.hint);
                reader.upload.copies.borrow_mut().push(source);
                Self::Copy(copy)
            }
        }
    }

    /// Keeps the beginning, so that it can be sent to another server.
    pub(in crate::proxy) fn keep(&self) {
        if let Some(upload) = self.upload()
            && !upload.begun.get()
        {
            upload.kept.borrow_mut().begin(KEEP);
        }
    }

    /// Keeps it no longer: what a server answers goes to the client.
    pub(in crate::proxy) fn release(&self) {
        if let Some(upload) = self.upload() {
            upload.kept.borrow_mut().release();
        }
    }

    /// Whether it can be sent from its beginning.
    pub(in crate::proxy) fn can_repeat(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Copy(_) => false,
            Self::Streaming(Reader { upload, .. }) => {
                upload.kept.borrow().is_whole() || !upload.begun.get()
            }
        }
    }

    /// Whether all of it went out.
    pub(in crate::proxy) fn is_done(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Copy(copy) => copy.is_done(),
            Self::Streaming(Reader { upload, .. }) => {
                upload.progress.get() == Progress::Done && upload.kept.borrow().all_sent()
            }
        }
    }

    /// Whether all of it has come from the client, wherever it is by now.
    pub(in crate::proxy) fn has_come(&self) -> bool {
        self.upload()
            .is_none_or(|upload| upload.progress.get() == Progress::Done)
    }

    /// Whether the client broke it off.
    pub(in crate::proxy) fn has_failed(&self) -> bool {
        self.upload()
            .is_some_and(|upload| upload.progress.get() == Progress::Failed)
    }

    /// How much of it there was, for the record.
    pub(in crate::proxy) fn received(&self) -> Received {
        match self.upload() {
            None => Received::Known(0),
            Some(upload) => Received::Counting(Rc::clone(&upload.bytes)),
        }
    }

    /// Ready at its end, whichever it is, with the time of it; `None` where there was no body at all. One task may
    /// wait.
    pub(in crate::proxy) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        let upload = match self {
            Self::Empty => return Poll::Ready(None),
            Self::Copy(copy) => return copy.poll_ended(cx).map(|()| Some(Instant::now())),
            Self::Streaming(reader) => &reader.upload,
        };
        match upload.progress.get() {
            Progress::Running => {
                upload.waiting.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
            Progress::Done | Progress::Failed => Poll::Ready(upload.ended_at.get()),
        }
    }

    /// How long ago it ended; nothing where it has not.
    pub(in crate::proxy) fn since_end(&self, began: Instant) -> std::time::Duration {
        match self.upload() {
            None => began.elapsed(),
            Some(upload) => upload
                .ended_at
                .get()
                .map(|ended| ended.elapsed())
                .unwrap_or_default(),
        }
    }

    /// The exchange is over: a body that is still being held back is not wanted.
    pub(in crate::proxy) fn bar(&self) {
        if let Some(upload) = self.upload()
            && let Some(held) = &*upload.held.borrow()
        {
            held.bar();
        }
    }
}

impl Upload {
    fn end(&self, progress: Progress) {
        self.progress.set(progress);
        self.ended_at.set(Some(Instant::now()));
        for copy in self.copies.take() {
            if progress == Progress::Done {
                copy.end();
            }
        }
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(held) = &mut *self.held.borrow_mut() {
            ready!(held.poll(cx)).map_err(|_| BodyError::Unwanted)?;
        }
        self.begun.set(true);
        if let Some(frame) = self.kept.borrow_mut().again() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.progress.get() {
            Progress::Running => {}
            // A body that is sent again comes to its end twice.
            Progress::Done => return Poll::Ready(None),
            Progress::Failed => return Poll::Ready(Some(Err(BodyError::Unwanted))),
        }
        let mut incoming = self.incoming.borrow_mut();
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                }
                self.kept.borrow_mut().keep(&frame);
                self.copies.borrow_mut().retain(|copy| copy.push(&frame));
                // A reader that knows the length does not ask for the end, and one that has trailers neither.
                if incoming.is_end_stream() || frame.is_trailers() {
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

impl Reader {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.turn != self.upload.turn.get() {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        let polled = self.upload.poll(cx);
        if polled.is_pending() {
            self.upload.reader.replace(Some(cx.waker().clone()));
        }
        polled
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(reader) => reader.poll(cx),
            Self::Copy(copy) => Pin::new(copy).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(Reader { upload, turn }) => {
                *turn == upload.turn.get()
                    && upload.kept.borrow().all_sent()
                    && (upload.progress.get() == Progress::Done
                        || upload.incoming.borrow().is_end_stream())
            }
            Self::Copy(copy) => copy.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(reader) => reader.upload.hint,
            Self::Copy(copy) => copy.size_hint(),
        }
    }
}
