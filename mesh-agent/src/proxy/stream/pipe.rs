//! A connection within the process: what one end writes the other reads, and each can end it as TCP lets it: with an end
//! of its own direction, with the end of both, or with a reset.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end.
#[derive(Debug)]
pub(super) struct Pipe {
    incoming: Arc<Mutex<Lane>>,
    outgoing: Arc<Mutex<Lane>>,
    reset: AtomicBool,
}

/// One direction. (One thread has both ends, but hyper asks for more.)
#[derive(Debug, Default)]
struct Lane {
    bytes: Vec<u8>,
    /// How much of `bytes` was read.
    read: usize,
    capacity: usize,
    end: End,
    /// Nobody will read any more.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Whether more will be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Ended,
    Reset,
}

/// So much room is kept for the next message; an idle connection does not hold more.
const KEPT: usize = 4096;

/// Both ends of a connection that holds `capacity` bytes in each direction.
pub(super) fn pipe(capacity: usize) -> (Pipe, Pipe) {
    let lane = || {
        Arc::new(Mutex::new(Lane {
            capacity,
            ..Lane::default()
        }))
    };
    let (there, back) = (lane(), lane());
    let end = |incoming: &Arc<Mutex<Lane>>, outgoing: &Arc<Mutex<Lane>>| Pipe {
        incoming: Arc::clone(incoming),
        outgoing: Arc::clone(outgoing),
        reset: AtomicBool::new(false),
    };
    (end(&back, &there), end(&there, &back))
}

impl Pipe {
    /// Makes closing this end a reset.
    pub(super) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        lock(&self.incoming).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.outgoing).poll_write(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.outgoing).poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).finish(End::Ended);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    /// As TCP: who closes before everything was read has the other end told that something is lost.
    fn drop(&mut self) {
        let unread = lock(&self.incoming).close();
        let end = match unread || *self.reset.get_mut() {
            true => End::Reset,
            false => End::Ended,
        };
        lock(&self.outgoing).finish(end);
    }
}

impl Lane {
    fn poll_read(&mut self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let unread = &self.bytes[self.read..];
        if unread.is_empty() {
            return match self.end {
                End::Ended => Poll::Ready(Ok(())),
                End::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                End::Open => {
                    remember(&mut self.reader, cx);
                    Poll::Pending
                }
            };
        }
        let n = unread.len().min(buf.remaining());
        buf.put_slice(&unread[..n]);
        self.read += n;
        if self.read == self.bytes.len() {
            self.read = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        }
        wake(&mut self.writer);
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.deaf || self.end != End::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = self.capacity - (self.bytes.len() - self.read);
        if room == 0 {
            remember(&mut self.writer, cx);
            return Poll::Pending;
        }
        let wanted = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(room);
        if self.read > 0 && self.bytes.len() + wanted > self.bytes.capacity() {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.reserve(wanted);
        let mut left = wanted;
        for buf in bufs {
            let n = buf.len().min(left);
            self.bytes.extend_from_slice(&buf[..n]);
            left -= n;
        }
        wake(&mut self.reader);
        Poll::Ready(Ok(wanted))
    }

    /// Nothing more will be written.
    fn finish(&mut self, end: End) {
        if self.end == End::Open || end == End::Reset {
            self.end = end;
        }
        wake(&mut self.reader);
    }

    /// Nobody will read any more. Whether there was something left to read.
    fn close(&mut self) -> bool {
        let unread = self.read < self.bytes.len();
        self.deaf = true;
        self.bytes = Vec::new();
        self.read = 0;
        wake(&mut self.writer);
        unread
    }
}

fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn carries_more_than_it_holds_and_keeps_its_order() {
        let (mut near, mut far) = pipe(100);
        let sent: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = sent.clone();
        let write = async move {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(rest.len() / 2);
                let written = near
                    .write_vectored(&[io::IoSlice::new(head), io::IoSlice::new(tail)])
                    .await
                    .unwrap();
                assert!(written <= 100);
                rest = &rest[written..];
            }
            near.shutdown().await.unwrap();
            // The other direction goes on.
            assert_eq!(near.read_u8().await.unwrap(), 7);
        };
        let read = async move {
            let (mut got, mut space) = (Vec::new(), [0; 33]);
            loop {
                match far.read(&mut space).await.unwrap() {
                    0 => break,
                    n => got.extend_from_slice(&space[..n]),
                }
            }
            assert!(got == expected);
            far.write_all(&[7]).await.unwrap();
        };
        tokio::join!(write, read);
    }

    /// What the other end reads, and the error that follows it, when one has written `bytes` and goes; with something
    /// unread if `unread`, by a reset if `reset`.
    #[track_caller]
    fn check(bytes: &[u8], unread: bool, reset: bool, expected: Result<(), io::ErrorKind>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = pipe(1024);
            near.write_all(bytes).await.unwrap();
            if unread {
                far.write_all(b"never read").await.unwrap();
            }
            if reset {
                near.reset_on_close();
            }
            drop(near);
            let mut got = Vec::new();
            let end = far.read_to_end(&mut got).await;
            assert_eq!(got, bytes);
            assert_eq!(end.map(|_| ()).map_err(|error| error.kind()), expected);
            let written = far.write(b"x").await;
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn ends_as_tcp_does() {
        let reset = Err(io::ErrorKind::ConnectionReset);
        for bytes in [&b""[..], b"the last words"] {
            check(bytes, false, false, Ok(()));
            check(bytes, true, false, reset);
            check(bytes, false, true, reset);
        }
    }

    #[tokio::test]
    async fn a_writer_that_waits_learns_that_nobody_reads() {
        let (mut near, far) = pipe(4);
        near.write_all(b"full").await.unwrap();
        let (written, ()) = tokio::join!(near.write(b"more"), async { drop(far) });
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut rest = Vec::new();
        let end = near.read_to_end(&mut rest).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
