//! The byte streams that the proxy carries: a TCP connection, a pipe within the process to a pod of this node, and TLS
//! over either. A stream can be looked into before anybody reads from it.

use std::future::poll_fn;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::proxy::stream::pipe::Pipe;
use crate::sys::pipe::Pipe as KernelPipe;
use crate::sys::socket;

pub(super) use crate::proxy::stream::timed::{Activity, Busy, Heads, Timed};

mod head;
mod pipe;
mod timed;

/// How much of a stream is looked at before it is given up as unreadable.
pub(super) const PEEK_LIMIT: usize = 64 * 1024;

/// What is put together to be written in one piece.
const SMALL: usize = 1024;

/// How long a client that is refused gets to read why, and how much it may still have to say meanwhile.
pub(super) const LAST_WORDS: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);

/// A connection, with the bytes that were looked at and are still to be read.
#[derive(Debug)]
pub(super) struct Stream {
    seen: BytesMut,
    kind: Kind,
    /// Whether the other end may hand bytes over without TCP.
    handed: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Local(Pipe),
    /// What is read ends in an error unless the peer has said that it ends: an end of TCP alone may be anybody's doing.
    Tls(Box<TlsStream<Stream>>),
}

impl Stream {
    /// A TCP connection.
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self {
            handed: !socket::splice_sees(&stream),
            seen: BytesMut::new(),
            kind: Kind::Tcp(stream),
        }
    }

    /// Both ends of a pipe within the process.
    pub(super) fn pipe(capacity: usize) -> (Self, Self) {
        let (one, other) = pipe::pipe(capacity);
        let local = |end| Self {
            seen: BytesMut::new(),
            handed: false,
            kind: Kind::Local(end),
        };
        (local(one), local(other))
    }

    /// A connection whose handshake is over.
    pub(super) fn tls(stream: impl Into<TlsStream<Self>>) -> Self {
        Self {
            seen: BytesMut::new(),
            handed: false,
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
        ready!(self.poll_next(cx, &mut buf))?;
        self.seen.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Reads what has not been looked at.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(stream) if self.handed => poll_handed(stream, cx, buf),
            Kind::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Local(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
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
            Kind::Local(pipe) => pipe.reset_on_close(),
        }
    }

    /// Says that HTTP is spoken here, which can take a short way within the node.
    pub(super) fn permit_fast_path(&self) {
        if let Kind::Tcp(stream) = &self.kind
            && let Err(error) = socket::permit_fast_path(stream)
        {
            tracing::debug!(%error, "a connection goes by TCP");
        }
    }

    /// Whether it is TCP and nothing else, of which nothing has been read ahead.
    pub(super) fn is_bare(&self) -> bool {
        self.seen.is_empty() && matches!(self.kind, Kind::Tcp(_))
    }

    /// Whether a pipe would get to see all that comes, as far as the kernel is concerned.
    pub(super) fn is_seen_by_splice(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_)) && !self.handed
    }

    /// Moves what has come into an empty pipe. 0 where that cannot be done, for whatever reason: a read tells.
    pub(super) fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut KernelPipe,
    ) -> Poll<io::Result<usize>> {
        let Kind::Tcp(stream) = &self.kind else {
            return Poll::Ready(Ok(0));
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_io(Interest::READABLE, || pipe.fill(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled),
            }
        }
    }

    /// Sends what is in a pipe, as much as is taken. For TCP alone.
    pub(super) fn poll_drain(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut KernelPipe,
    ) -> Poll<io::Result<usize>> {
        let Kind::Tcp(stream) = &self.kind else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || pipe.drain(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                drained => return Poll::Ready(drained),
            }
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

/// Reads where bytes may have been handed over. tokio takes a read that does not fill the buffer for the last one until there
/// is news; here it may have come to the end of what was handed over alone, while more waits that came by TCP.
fn poll_handed(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let space = buf.initialize_unfilled();
        match stream.try_io(Interest::READABLE, || (&*SockRef::from(stream)).read(space)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => {
                buf.advance(read?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Writes parts to a socket. The kernel takes one piece in less time than several, and most messages are small enough for
/// being put together to cost next to nothing.
fn write_parts(
    stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    parts: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = parts {
        return stream.poll_write(cx, only);
    }
    let mut space = [MaybeUninit::<u8>::uninit(); SMALL];
    let mut whole = ReadBuf::uninit(&mut space);
    for part in parts {
        if part.len() > whole.remaining() {
            return stream.poll_write_vectored(cx, parts);
        }
        whole.put_slice(part);
    }
    stream.poll_write(cx, whole.filled())
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return self.poll_next(cx, buf);
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
            Kind::Tcp(stream) => write_parts(Pin::new(stream), cx, bufs),
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
