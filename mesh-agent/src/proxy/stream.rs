//! The byte streams that the proxy carries: a TCP connection, a pipe within the process for a pod that calls itself, and
//! TLS over either. A stream can be looked into before anybody reads from it.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsStream;

/// How much of a stream is looked at before it is given up as unreadable.
pub(super) const PEEK_LIMIT: usize = 64 * 1024;

/// A connection, with the bytes that were looked at and are still to be read.
#[derive(Debug)]
pub(super) struct Stream {
    seen: BytesMut,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Local(DuplexStream),
    /// What is read ends in an error unless the peer has said that it ends: an end of TCP alone may be anybody's doing.
    Tls(Box<TlsStream<Stream>>),
}

impl Stream {
    /// A TCP connection.
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self {
            seen: BytesMut::new(),
            kind: Kind::Tcp(stream),
        }
    }

    /// Both ends of a pipe within the process.
    pub(super) fn pipe(capacity: usize) -> (Self, Self) {
        let (one, other) = tokio::io::duplex(capacity);
        let local = |end| Self {
            seen: BytesMut::new(),
            kind: Kind::Local(end),
        };
        (local(one), local(other))
    }

    /// A connection whose handshake is over.
    pub(super) fn tls(stream: impl Into<TlsStream<Self>>) -> Self {
        Self {
            seen: BytesMut::new(),
            kind: Kind::Tls(Box::new(stream.into())),
        }
    }

    /// What was looked at and not read yet.
    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Waits for more bytes and shows them, without reading them away. 0 is the end of the stream. Safe to cancel.
    pub(super) async fn look(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_look(cx)).await
    }

    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::<u8>::uninit(); 4096];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(self.kind.poll_read(cx, &mut buf))?;
        self.seen.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Puts back bytes that somebody read too far.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let rest = std::mem::replace(&mut self.seen, BytesMut::from(bytes));
            self.seen.extend_from_slice(&rest);
        }
    }

    /// Makes closing this stream a reset, so that the peer cannot take it for a proper end.
    pub(super) fn reset_on_close(&self) {
        match &self.kind {
            Kind::Tcp(stream) => {
                if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%error, "a connection will be closed where it should have been reset");
                }
            }
            Kind::Tls(stream) => stream.get_ref().0.reset_on_close(),
            Kind::Local(_) => {}
        }
    }

    /// Whether what was written may still be here, and has to be flushed for it to be on its way.
    pub(super) fn holds_back(&self) -> bool {
        match &self.kind {
            Kind::Tls(_) => true,
            Kind::Tcp(_) | Kind::Local(_) => false,
        }
    }
}

impl Kind {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return self.kind.poll_read(cx, buf);
        }
        let n = self.seen.len().min(buf.remaining());
        buf.put_slice(&self.seen[..n]);
        self.seen.advance(n);
        if self.seen.is_empty() {
            // Gives the memory back: the connection may live for hours.
            self.seen = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Local(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Kind::Local(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Tcp(stream) => stream.is_write_vectored(),
            Kind::Local(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Local(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What an HTTP server connection is doing, shared between the connection's stream and its requests.
#[derive(Debug, Default)]
pub(super) struct Activity {
    in_flight: AtomicU32,
    head_begun: AtomicBool,
}

/// A request in flight: while one is held, neither time-out of [`Timed`] runs.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Activity {
    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.head_begun.store(false, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's stream with two time-outs that hyper does not tell apart: the head of a request must be complete soon
/// after its first byte, and a connection without requests may stay much longer. (hyper's own header time-out runs
/// on idle connections too, and would close a client's keep-alive connection under its hands.)
#[derive(Debug)]
pub(super) struct Timed {
    stream: Stream,
    activity: Arc<Activity>,
    head_limit: Option<Duration>,
    idle_limit: Duration,
    head_timer: Option<Pin<Box<Sleep>>>,
    idle_timer: Option<Pin<Box<Sleep>>>,
    /// When something last arrived or a read was last waited for with a request in flight.
    last: Instant,
}

impl Timed {
    /// Without `head_limit` only idleness counts: HTTP/2 has much to say between two requests.
    pub(super) fn new(
        stream: Stream,
        activity: Arc<Activity>,
        head_limit: Option<Duration>,
        idle_limit: Duration,
    ) -> Self {
        Self {
            stream,
            activity,
            head_limit,
            idle_limit,
            head_timer: None,
            idle_timer: None,
            last: Instant::now(),
        }
    }

    /// The stream below, without the time-outs.
    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }

    fn check_timers(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.activity.idle() {
            self.last = Instant::now();
            return Poll::Pending;
        }
        if let Some(limit) = self.head_limit
            && self.activity.head_begun.load(Ordering::Relaxed)
        {
            let timer = self
                .head_timer
                .get_or_insert_with(|| Box::pin(sleep(limit)));
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(timed_out("the head of a request did not arrive in time"));
        }
        self.head_timer = None;
        let (last, limit) = (self.last, self.idle_limit);
        let timer = self
            .idle_timer
            .get_or_insert_with(|| Box::pin(sleep(limit)));
        // The timer is moved only when it fires, not with every request.
        while timer.as_mut().poll(cx).is_ready() {
            if last.elapsed() >= limit {
                return Poll::Ready(timed_out("no request for too long"));
            }
            timer.as_mut().reset(last + limit);
        }
        Poll::Pending
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                if buf.filled().len() > before && self.activity.idle() {
                    self.activity.head_begun.store(true, Ordering::Relaxed);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.check_timers(cx).map(Err),
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
