//! Relays bytes both ways, and the ways in which a connection can end: an end of one direction is handed on as such,
//! a reset as a reset. What comes in small pieces is copied; a direction that moves much at once goes through a pipe, whose
//! bytes this process never sees.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use crate::proxy::record::{Flag, Received, Record};
use crate::proxy::stream::Stream;
use crate::proxy::tcp::pipes::Lent;

pub(super) use crate::proxy::tcp::pipes::Pipes;

mod pipes;
#[cfg(test)]
mod tests;

/// How much is read at once. One buffer serves all connections of a worker, so that an idle one holds none.
const CHUNK: usize = 128 * 1024;

/// A direction that moves so much in one go takes a pipe; and one that gets less out of a read gives it back: small pieces
/// are better joined by copying them than sent on one by one.
const MUCH: usize = 64 * 1024;
const LITTLE: usize = 16 * 1024;

/// Bytes that were carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Carried {
    /// From the client.
    received: u64,
    /// To the client.
    sent: u64,
}

/// Why a relay ended before both sides had said so.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    /// Reading from the client, or writing to it, failed.
    #[error("the client's connection broke")]
    Client(#[source] io::Error),
    /// Likewise with the server.
    #[error("the server's connection broke")]
    Server(#[source] io::Error),
    /// Nothing moved for the whole idle time-out.
    #[error("nothing was said for too long")]
    Idle,
    /// The time for all of it is over.
    #[error("it took too long")]
    Limit(Flag),
}

thread_local! {
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Two streams being relayed. Where the relay is dropped before its time, or fails, both sides get a reset.
struct Relay {
    client: Stream,
    server: Stream,
    up: Direction,
    down: Direction,
    pipes: Rc<Pipes>,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    last: Instant,
    finished: bool,
}

/// A relay with its record, which is written however the relay ends.
pub(super) struct Tunnel {
    relay: Relay,
    limit: Option<(Instant, Flag)>,
    record: Record,
}

/// One direction: bytes that could not be written yet, and how far it has come.
#[derive(Debug, Default)]
struct Direction {
    pending: Bytes,
    state: State,
    total: u64,
    /// Something was written to a stream that may hold it back.
    unflushed: bool,
    /// What the bytes go through while there are many.
    pipe: Option<Lent>,
    /// How much has been read since the reader was last waited for.
    moved: usize,
    /// There was much to read, and so there may well be again.
    much: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Bytes flow.
    #[default]
    Open,
    /// The reader saw the end; what is pending goes out, then the end.
    Ending,
    /// The end was handed on.
    Ended,
}

/// Which side failed.
enum Side {
    Reader(io::Error),
    Writer(io::Error),
}

impl Tunnel {
    pub(super) fn new(
        client: Stream,
        server: Stream,
        pipes: &Rc<Pipes>,
        idle: Duration,
        record: Record,
    ) -> Self {
        Self {
            relay: Relay::new(client, server, Rc::clone(pipes), idle),
            limit: None,
            record,
        }
    }

    /// Breaks it off at that time, which counts as `flag`.
    pub(super) fn until(mut self, limit: Option<Instant>, flag: Flag) -> Self {
        self.limit = limit.map(|limit| (limit, flag));
        self
    }

    pub(super) async fn run(mut self) {
        let relayed = match self.limit {
            None => self.relay.run().await,
            Some((limit, flag)) => match timeout_at(limit, self.relay.run()).await {
                Ok(relayed) => relayed,
                Err(_) => Err(RelayError::Limit(flag)),
            },
        };
        match relayed {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a relay broke off"
                );
                self.record.flag(match error {
                    RelayError::Client(_) => Flag::ClientClosed,
                    RelayError::Server(_) => Flag::UpstreamClosed,
                    RelayError::Idle => Flag::Idle,
                    RelayError::Limit(flag) => flag,
                });
            }
        }
        self.record.complete();
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let carried = self.relay.carried();
        self.record.sent = carried.sent;
        self.record.received = Received::Known(carried.received);
    }
}

impl Relay {
    fn new(client: Stream, server: Stream, pipes: Rc<Pipes>, idle: Duration) -> Self {
        // Neither end takes a pipe where one of them may be handed bytes without TCP.
        let splices = pipes.any() && client.is_seen_by_splice() && server.is_seen_by_splice();
        let pipes = if splices { pipes } else { Rc::default() };
        Self {
            client,
            server,
            up: Direction::default(),
            down: Direction::default(),
            pipes,
            idle,
            timer: Box::pin(sleep(idle)),
            last: Instant::now(),
            finished: false,
        }
    }

    /// Carries on until both directions have ended.
    async fn run(&mut self) -> Result<(), RelayError> {
        poll_fn(|cx| self.poll(cx)).await?;
        self.finished = true;
        Ok(())
    }

    fn carried(&self) -> Carried {
        Carried {
            received: self.up.total,
            sent: self.down.total,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let before = self.carried();
        let up = self
            .up
            .poll(cx, &mut self.client, &mut self.server, &self.pipes);
        let up = up.map_err(|side| match side {
            Side::Reader(error) => RelayError::Client(error),
            Side::Writer(error) => RelayError::Server(error),
        })?;
        let down = self
            .down
            .poll(cx, &mut self.server, &mut self.client, &self.pipes);
        let down = down.map_err(|side| match side {
            Side::Reader(error) => RelayError::Server(error),
            Side::Writer(error) => RelayError::Client(error),
        })?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if self.carried() != before {
            self.last = Instant::now();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.last.elapsed() >= self.idle {
                return Poll::Ready(Err(RelayError::Idle));
            }
            self.timer.as_mut().reset(self.last + self.idle);
        }
        Poll::Pending
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.finished {
            self.client.reset_on_close();
            self.server.reset_on_close();
        }
    }
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        pipes: &Rc<Pipes>,
    ) -> Poll<Result<(), Side>> {
        // A fast pair must not keep the other connections of the worker waiting.
        for _ in 0..16 {
            while !self.pending.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))
                    .map_err(Side::Writer)?;
                self.wrote(n)?;
                self.unflushed = to.holds_back();
                self.pending.advance(n);
            }
            while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
                let n = ready!(to.poll_drain(cx, pipe)).map_err(Side::Writer)?;
                self.wrote(n)?;
            }
            if !self.much {
                self.pipe = None;
            }
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        Ok(()) => {}
                        // It is gone already, which is as good an end as ours.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        Err(error) => return Poll::Ready(Err(Side::Writer(error))),
                    }
                    self.state = State::Ended;
                }
                State::Open => {
                    if self.take(cx, from, to, pipes)?.is_pending() {
                        self.rest();
                        self.flush(cx, to)?;
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// There is nothing to read for now: the pipe is for others meanwhile.
    fn rest(&mut self) {
        self.much = self.moved >= MUCH;
        self.moved = 0;
        self.pipe = None;
    }

    /// Takes what there is: into a pipe where there is much, else by copying.
    fn take(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        pipes: &Rc<Pipes>,
    ) -> Result<Poll<()>, Side> {
        if self.pipe.is_none()
            && (self.much || self.moved >= MUCH)
            && from.is_bare()
            && to.is_bare()
        {
            self.pipe = pipes.lend();
        }
        let Some(pipe) = &mut self.pipe else {
            return self.move_some(cx, from, to);
        };
        match from.poll_fill(cx, pipe) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(error)) => Err(Side::Reader(error)),
            // What it is that a pipe cannot take, a read will tell.
            Poll::Ready(Ok(0)) => {
                self.much = false;
                self.move_some(cx, from, to)
            }
            Poll::Ready(Ok(taken)) => {
                self.moved += taken;
                self.much = taken >= LITTLE;
                Ok(Poll::Ready(()))
            }
        }
    }

    /// Reads into the worker's buffer and writes at once; only what the other side does not take is kept.
    fn move_some(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Result<Poll<()>, Side> {
        SPACE.with_borrow_mut(|space| {
            let mut buf = ReadBuf::new(space);
            match Pin::new(from).poll_read(cx, &mut buf) {
                Poll::Ready(result) => result.map_err(Side::Reader)?,
                Poll::Pending => return Ok(Poll::Pending),
            }
            let mut rest = buf.filled();
            self.moved += rest.len();
            if rest.is_empty() {
                self.state = State::Ending;
                return Ok(Poll::Ready(()));
            }
            while !rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(n)) => {
                        self.wrote(n)?;
                        self.unflushed = to.holds_back();
                        rest = &rest[n..];
                    }
                    Poll::Ready(Err(error)) => return Err(Side::Writer(error)),
                    Poll::Pending => {
                        self.pending = Bytes::copy_from_slice(rest);
                        return Ok(Poll::Pending);
                    }
                }
            }
            Ok(Poll::Ready(()))
        })
    }

    /// While there is nothing to carry, what TLS has taken and not sent is sent.
    fn flush(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Result<(), Side> {
        if self.unflushed
            && let Poll::Ready(result) = Pin::new(to).poll_flush(cx)
        {
            result.map_err(Side::Writer)?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn wrote(&mut self, n: usize) -> Result<(), Side> {
        self.total += n as u64;
        if n == 0 {
            return Err(Side::Writer(io::ErrorKind::WriteZero.into()));
        }
        Ok(())
    }
}
