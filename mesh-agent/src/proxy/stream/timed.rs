//! A client's stream as an HTTP server connection needs it: with time-outs that hyper does not know, and with what it
//! keeps to itself, for better and for worse.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::proxy::record::Hop;
use crate::proxy::respond::{self, Failure};
use crate::proxy::stream::head::{HeadScan, Oddity};
use crate::proxy::stream::{LAST_WORDS, Stream};

/// What an HTTP server connection is doing, shared between the connection's stream and its requests.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Activity {
    in_flight: AtomicU32,
    head_begun: AtomicBool,
    /// The head that has just arrived says more than once how long its body is.
    ambiguous: AtomicBool,
    /// Something that was written may not be on its way yet.
    unflushed: AtomicBool,
    /// A request has come whose response has not gone out yet.
    owing: AtomicBool,
    /// The last request may have more of a body to come.
    has_body: AtomicBool,
    /// Nothing has happened for a while.
    quiet: AtomicBool,
    /// What is to be said between two responses, or in the place of one.
    aside: Mutex<Vec<u8>>,
    has_aside: AtomicBool,
}

/// How long a connection without a request is kept as it is. A client that has more to ask comes sooner, as a rule; the
/// longer one goes on, the more rarely it is looked at, up to the second of these.
const QUIET: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A request in flight: while one is held, neither time-out of [`Timed`] runs.
#[derive(Debug)]
pub(in crate::proxy) struct Busy(Arc<Activity>);

impl Activity {
    /// A request's head is complete; `has_body` says whether something follows it.
    pub(in crate::proxy) fn begin(self: &Arc<Self>, has_body: bool) -> Busy {
        self.has_body.store(has_body, Ordering::Relaxed);
        self.head_begun.store(false, Ordering::Relaxed);
        self.owing.store(true, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Whether the head that has just arrived says more than once how long its body is.
    pub(in crate::proxy) fn is_ambiguous(&self) -> bool {
        self.ambiguous.load(Ordering::Relaxed)
    }

    /// Whether the connection has been between two requests for a while, and nothing of the last one is left: what serves
    /// it can be made anew when the next one comes.
    pub(in crate::proxy) fn is_at_rest(&self) -> bool {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        is(&self.quiet)
            && self.idle()
            && !is(&self.head_begun)
            && !is(&self.has_body)
            && !is(&self.owing)
            && !is(&self.unflushed)
            && !is(&self.has_aside)
    }

    /// Says something ahead of the response that comes next: an informational one. Not where the response before is still
    /// on its way.
    pub(in crate::proxy) fn say_ahead(&self, bytes: &[u8]) {
        if !self.unflushed.load(Ordering::Relaxed) {
            self.say(bytes);
        }
    }

    fn say(&self, bytes: &[u8]) {
        self.aside().extend_from_slice(bytes);
        self.has_aside.store(true, Ordering::Relaxed);
    }

    fn aside(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What is done about the heads of HTTP/1.1.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Heads {
    /// How long one may take from its first byte.
    pub(in crate::proxy) limit: Duration,
    /// In whose name those are refused that are none.
    pub(in crate::proxy) hop: Hop,
}

/// A client's stream with two time-outs that hyper does not tell apart: the head of a request must be complete soon
/// after its first byte, and a connection without requests may stay much longer. (hyper's own header time-out runs
/// on idle connections too, and would close a client's keep-alive connection under its hands.)
///
/// What hyper cannot read it refuses without asking anybody. Nothing else is written while no response is owed, and so its
/// answer can be told, and gives way to one like all others of the proxy.
#[derive(Debug)]
pub(in crate::proxy) struct Timed {
    stream: Stream,
    activity: Arc<Activity>,
    /// None where there are no heads to be read.
    heads: Option<Heads>,
    idle_limit: Duration,
    /// After how long without a request nothing more is expected soon.
    quiet_limit: Duration,
    head_timer: Option<Pin<Box<Sleep>>>,
    idle_timer: Option<Pin<Box<Sleep>>>,
    /// When something last arrived or a read was last waited for with a request in flight.
    last: Instant,
    scan: HeadScan,
    /// The last answer was given in hyper's place: what hyper has to say does not matter any more.
    refused: bool,
    /// Since the end was told to a client that was refused: how much longer it may go on, and how much it may say.
    last_words: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Timed {
    /// Without `heads` only idleness counts: HTTP/2 has much to say between two requests.
    pub(in crate::proxy) fn new(
        stream: Stream,
        activity: Arc<Activity>,
        heads: Option<Heads>,
        idle_limit: Duration,
    ) -> Self {
        Self {
            stream,
            activity,
            heads,
            idle_limit,
            quiet_limit: match heads {
                Some(_) => QUIET.0.min(idle_limit),
                None => idle_limit,
            },
            head_timer: None,
            idle_timer: None,
            last: Instant::now(),
            scan: HeadScan::new(),
            refused: false,
            last_words: None,
        }
    }

    /// The stream below, without the time-outs.
    pub(in crate::proxy) fn into_inner(self) -> Stream {
        self.stream
    }

    /// Likewise, with when a request was last seen.
    pub(in crate::proxy) fn into_rest(self) -> (Stream, Instant) {
        (self.stream, self.last)
    }

    /// Looks at bytes that have arrived between two requests.
    fn look_at_head(&mut self, bytes: &[u8]) {
        if self.heads.is_none() {
            return;
        }
        if !self.activity.head_begun.load(Ordering::Relaxed) {
            self.scan = HeadScan::new();
        }
        self.scan.feed(bytes);
        let ambiguous = self.scan.oddity() == Some(Oddity::Ambiguous);
        self.activity.ambiguous.store(ambiguous, Ordering::Relaxed);
    }

    /// Answers in hyper's place, where what it is about to write is nobody's but its own; likewise a client whose version
    /// of HTTP hyper would answer in.
    fn refuse(&mut self, written: &[u8]) {
        let Some(heads) = self.heads else {
            return;
        };
        let oddity = self.scan.oddity();
        let owing = self.activity.owing.load(Ordering::Relaxed);
        if self.refused || owing && oddity != Some(Oddity::Version) {
            return;
        }
        let failure = match oddity {
            Some(Oddity::Version) => Failure::OldVersion,
            _ if !written.starts_with(b"HTTP/1.1 400 ") => Failure::HeadTooLarge,
            Some(Oddity::Encoding) => Failure::Encoding,
            Some(Oddity::Ambiguous) | None => Failure::BadRequest,
        };
        let mut lines = written.split(|byte| *byte == b'\n');
        let date = lines.find_map(|line| line.strip_prefix(b"date: "));
        let date = date.unwrap_or_default().trim_ascii();
        let answer = respond::unread(&failure, heads.hop, date);
        self.activity.say(&answer);
        self.refused = true;
    }

    /// Writes what is to be said ahead of the next response.
    fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.activity.has_aside.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut aside = self.activity.aside();
        while !aside.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &aside))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            aside.drain(..n);
        }
        self.activity.has_aside.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Lets a client that was refused read why: closing with something of it unread would be a reset, which overtakes
    /// the answer.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (patience, most) = LAST_WORDS;
        let (timer, left) = self
            .last_words
            .get_or_insert_with(|| (Box::pin(sleep(patience)), most));
        let mut space = [0; 4096];
        while *left > 0 && timer.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut space);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
            if ready!(read).is_err() || buf.filled().is_empty() {
                break;
            }
            *left = left.saturating_sub(buf.filled().len());
        }
        Poll::Ready(())
    }

    fn check_timers(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.activity.idle() {
            self.last = Instant::now();
            return Poll::Pending;
        }
        if let Some(Heads { limit, .. }) = self.heads
            && self.activity.head_begun.load(Ordering::Relaxed)
        {
            let timer = self
                .head_timer
                .get_or_insert_with(|| Box::pin(sleep(limit)));
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(timed_out("the head of a request did not arrive in time"));
        }
        self.head_timer = None;
        let (last, soon, limit) = (self.last, self.quiet_limit, self.idle_limit);
        let timer = self.idle_timer.get_or_insert_with(|| Box::pin(sleep(soon)));
        // The timer is moved only when it fires, not with every request.
        while timer.as_mut().poll(cx).is_ready() {
            let quiet = last.elapsed();
            if quiet >= limit {
                return Poll::Ready(timed_out("no request for too long"));
            }
            if quiet >= soon {
                self.activity.quiet.store(true, Ordering::Relaxed);
                timer.as_mut().reset(last + limit);
            } else {
                self.quiet_limit = (soon * 2).min(QUIET.1).min(limit);
                timer.as_mut().reset(last + self.quiet_limit);
            }
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
                self.activity.quiet.store(false, Ordering::Relaxed);
                if buf.filled().len() > before && self.activity.idle() {
                    self.look_at_head(&buf.filled()[before..]);
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
        self.refuse(buf);
        ready!(self.poll_aside(cx))?;
        if self.refused {
            return Poll::Ready(Ok(buf.len()));
        }
        self.activity.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.refuse(bufs.first().map_or(&[], |first| first));
        ready!(self.poll_aside(cx))?;
        if self.refused {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        self.activity.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this when it has nothing more to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_aside(cx))?;
        self.activity.unflushed.store(false, Ordering::Relaxed);
        if self.activity.idle() {
            self.activity.owing.store(false, Ordering::Relaxed);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last_words.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.refused {
            ready!(self.poll_last_words(cx));
        }
        Poll::Ready(Ok(()))
    }
}
