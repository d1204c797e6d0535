//! The fast path: both ends of a connection within the node, one of them or both the proxy's, hand their bytes to each
//! other without TCP. What is pure about it: who meets whom, and which bytes may take the short way.
//!
//! The kernel's socket maps hand a sent message straight to the other socket's queue. That queue has no limit, nor does
//! a reader take from it in any order with what comes by TCP: it always reads the queue first. Hence three rules, which [`way`]
//! keeps:
//!
//! - A direction that goes by TCP comes back to the queue only when everything that was sent has been read: a later byte
//!   would overtake an earlier one.
//! - What has been sent and not been read stays within [`WINDOW`]. A reader that is slower makes the direction go by TCP,
//!   whose windows hold the sender back.
//! - What the application reads is handed over only in HTTP, where nobody asks for more than there is (`MSG_WAITALL` ends
//!   early on such a socket) or moves it with `splice`, which does not see the queue. What the proxy reads may always be.

use crate::abi::{
    AGENT_MARK, Address, CAPTURE_MARK, FAST_MARK, MARK_MASK, PRESERVE_MARK, PROXY_MARK,
};

/// How many bytes may wait in a queue that nobody reads from.
pub const WINDOW: u64 = 256 * 1024;

/// What both ends of a connection know of its handshake, as the end that connected sees it. Equal addresses and ports
/// occur in several network namespaces at once; both initial sequence numbers, which the kernel draws, do not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The address of the end that connected.
    pub active: Address,
    /// The address of the end that accepted.
    pub passive: Address,
    /// Their ports in host order: the active end's in the upper half.
    pub ports: u32,
    /// The first byte that the active end sends.
    pub active_sequence: u32,
    /// The first byte that the passive end sends.
    pub passive_sequence: u32,
}

/// The end that connected, as the other one finds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The network namespace that the other end must be in, 0 where it may be in any.
    pub namespace: u64,
    /// Which pair.
    pub pair: u32,
    /// The pair's generation.
    pub generation: u32,
}

/// What a socket knows of itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Which pair.
    pub pair: u32,
    /// The pair's generation when the socket joined it.
    pub generation: u32,
    /// 0 for the end that connected, 1 for the one that accepted.
    pub side: u32,
    /// A sum of `LEG_*`.
    pub flags: u32,
}

/// What this end sends is read by an application that may not be bothered with it unless it speaks HTTP: the end says so by
/// its `SO_PRIORITY`.
pub const LEG_ASKS: u32 = 1;

/// A connection on the fast path. Either end writes what is its own while its socket is locked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// How much each side has sent, by either way; what is just being sent is in `pending`.
    pub sent: [u64; 2],
    /// How much of the send under way has been seen, part by part.
    pub pending: [u64; 2],
    /// Which thread it is that sends.
    pub thread: [u32; 2],
    /// Not 0 while the kernel may send a message without asking: it does so after one that TCP has taken only in part.
    pub blind: [u32; 2],
    /// How much each side has read, from either way.
    pub read: [u64; 2],
    /// Not 0 while a side sends by TCP; one of `PLAIN_*`.
    pub plain: [u32; 2],
    /// Not 0 while messages can be handed over.
    pub ready: u32,
    /// How often the pair has been used.
    pub generation: u32,
    /// What the two ends find each other by.
    pub handshake: Handshake,
    /// Which side is an application's; [`NOBODY`] where both are the agent's.
    pub application: u32,
}

/// [`Pair::application`]: neither side.
pub const NOBODY: u32 = 2;

/// [`Pair::plain`]: until all that was sent has been read.
pub const PLAIN_FOR_NOW: u32 = 1;
/// [`Pair::plain`]: the side has said that it sends no more, or is gone; or two threads of it have sent at once, so that
/// nobody knows how much.
pub const PLAIN_FOR_GOOD: u32 = 2;

/// What is counted; also the index of a counter in `MESH_TALLY`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Bytes handed over.
    RedirectedBytes,
    /// Bytes of the fast path's connections that went by TCP.
    PlainBytes,
    /// Connections both of whose ends are on the fast path.
    Joined,
    /// Pairs whose ends are both gone.
    Ended,
    /// Connections that found no free pair.
    Full,
    /// Directions that went over to TCP because their reader was slow.
    Slow,
}

const _: () = {
    assert!(size_of::<Handshake>() == 44);
    assert!(size_of::<Waiting>() == 16);
    assert!(size_of::<Leg>() == 16);
    assert!(size_of::<Pair>() == 128);
};

impl Tally {
    /// All, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::RedirectedBytes,
        Self::PlainBytes,
        Self::Joined,
        Self::Ended,
        Self::Full,
        Self::Slow,
    ];

    /// As metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RedirectedBytes => "redirected_bytes",
            Self::PlainBytes => "plain_bytes",
            Self::Joined => "joined",
            Self::Ended => "ended",
            Self::Full => "full",
            Self::Slow => "slow",
        }
    }
}

/// Whether the kernel may send the next message without asking, once a send has come to its end: `seen` bytes of it were
/// seen, and the sender was told `count`.
#[inline(always)]
pub fn is_blind(before: bool, seen: u64, count: i64) -> bool {
    if seen == 0 && count <= 0 {
        return before;
    }
    seen != count.max(0) as u64
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is handed to the other end.
    Redirect,
    /// It goes by TCP, and what follows as well, until all has been read.
    Plain,
    /// Likewise, because the reader is slow.
    Slow,
}

impl Pair {
    /// Whether the application still has to read something of what the proxy has sent it. The kernel lets go of what waits in
    /// a queue together with the map.
    pub fn is_awaited(&self) -> bool {
        if self.application == NOBODY {
            return false;
        }
        let application = usize::from(self.application != 0);
        self.ready != 0
            && self.plain[1 - application] == 0
            && self.sent[1 - application] != self.read[application]
    }
}

/// Which side of a connection is an application's, by the mark of the end that connects: 0 or 1, [`NOBODY`] where both are the
/// agent's, and `None` where the connection does not take the fast path. `applications` says whether those may that have
/// an application at one end: a socket in a map is not quite what an application is used to.
#[inline(always)]
pub fn application(mark: u32, applications: bool) -> Option<u32> {
    let owner = mark & MARK_MASK;
    if owner == PROXY_MARK || owner == PRESERVE_MARK {
        if mark & AGENT_MARK != 0 {
            Some(NOBODY)
        } else if mark & FAST_MARK != 0 && applications {
            Some(1)
        } else {
            None
        }
    } else if mark & CAPTURE_MARK != 0 && applications {
        Some(0)
    } else {
        None
    }
}

/// Whether the end that accepts, whose mark this is, is the one that was meant.
#[inline(always)]
pub fn is_meant(application: u32, mark: u32) -> bool {
    application != NOBODY || mark & AGENT_MARK != 0
}

/// What is known when a message is about to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Both ends are there.
    pub ready: bool,
    /// The reader may be handed something.
    pub permitted: bool,
    /// Something may have been sent that nobody has seen.
    pub blind: bool,
    /// What the direction's last message came to: 0, or one of `PLAIN_*`.
    pub plain: u32,
    /// What was sent before, with what the same send has already been seen to send.
    pub sent: u64,
    /// What was read of it. It may be a moment old.
    pub read: u64,
    /// How long the message is.
    pub size: u64,
}

/// Which way a message takes.
#[inline(always)]
pub fn way(sending: &Sending) -> Way {
    if !sending.ready || !sending.permitted || sending.plain == PLAIN_FOR_GOOD {
        return Way::Plain;
    }
    let unread = sending.sent.wrapping_sub(sending.read);
    if sending.plain != 0 && (unread != 0 || sending.blind) {
        return Way::Plain;
    }
    if unread.saturating_add(sending.size) > WINDOW {
        return Way::Slow;
    }
    Way::Redirect
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Sending = Sending {
        ready: true,
        permitted: true,
        blind: false,
        plain: 0,
        sent: 1000,
        read: 1000,
        size: 100,
    };

    #[test]
    fn messages_take_the_short_way_only_where_it_is_safe() {
        for (sending, expected, why) in [
            (
                READY,
                Way::Redirect,
                "both ends are there and nothing is unread",
            ),
            (
                Sending {
                    ready: false,
                    ..READY
                },
                Way::Plain,
                "nobody is there to take it",
            ),
            (
                Sending {
                    permitted: false,
                    ..READY
                },
                Way::Plain,
                "the reader may not like it",
            ),
            (
                Sending { read: 900, ..READY },
                Way::Redirect,
                "a little is unread",
            ),
            (
                Sending {
                    read: 900,
                    plain: PLAIN_FOR_NOW,
                    ..READY
                },
                Way::Plain,
                "it would overtake what went by TCP",
            ),
            (
                Sending {
                    plain: PLAIN_FOR_NOW,
                    ..READY
                },
                Way::Redirect,
                "all that went by TCP is read",
            ),
            (
                Sending {
                    plain: PLAIN_FOR_GOOD,
                    ..READY
                },
                Way::Plain,
                "the side is gone",
            ),
            (
                Sending {
                    size: WINDOW,
                    ..READY
                },
                Way::Redirect,
                "just enough",
            ),
            (
                Sending {
                    size: WINDOW + 1,
                    ..READY
                },
                Way::Slow,
                "too much at once",
            ),
            (
                Sending {
                    sent: WINDOW,
                    read: 0,
                    size: 1,
                    ..READY
                },
                Way::Slow,
                "nobody reads",
            ),
            (
                Sending {
                    sent: u64::MAX,
                    read: 5,
                    ..READY
                },
                Way::Slow,
                "counts that make no sense",
            ),
            (
                Sending {
                    sent: 5,
                    read: 6,
                    ..READY
                },
                Way::Slow,
                "more was read than sent",
            ),
        ] {
            assert_eq!(way(&sending), expected, "{why}: {sending:?}");
        }
    }

    #[test]
    fn sockets_of_applications_take_part_only_where_they_may() {
        for (mark, without, with, why) in [
            (0, None, None, "a connection that nobody steers"),
            (CAPTURE_MARK, None, Some(0), "an application to the agent"),
            (CAPTURE_MARK | 1, None, Some(0), "with a mark of its own"),
            (
                CAPTURE_MARK | AGENT_MARK,
                None,
                Some(0),
                "with one that says nothing here",
            ),
            (PROXY_MARK, None, None, "the agent to somewhere"),
            (
                PROXY_MARK | FAST_MARK,
                None,
                Some(1),
                "the agent to an application",
            ),
            (
                PRESERVE_MARK | FAST_MARK,
                None,
                Some(1),
                "in its client's name",
            ),
            (
                PROXY_MARK | AGENT_MARK,
                Some(NOBODY),
                Some(NOBODY),
                "the agent to itself",
            ),
        ] {
            assert_eq!(application(mark, false), without, "{why}");
            assert_eq!(application(mark, true), with, "{why}");
        }
        for (side, mark, meant, why) in [
            (NOBODY, AGENT_MARK, true, "the agent accepts"),
            (NOBODY, 0, false, "an application that is not steered"),
            (NOBODY, PROXY_MARK, false, "with its client's mark"),
            (0, 0, true, "the agent accepts what an application opens"),
            (1, 0, true, "an application accepts"),
        ] {
            assert_eq!(is_meant(side, mark), meant, "{why}");
        }
    }

    #[test]
    fn a_send_in_part_makes_the_next_one_blind() {
        for (before, seen, count, expected, why) in [
            (false, 100, 100, false, "all of it was seen and taken"),
            (false, 100, 60, true, "only a part was taken"),
            (false, 100, -11, true, "nothing was taken"),
            (true, 0, -11, true, "nothing was sent"),
            (false, 0, -11, false, "nothing was sent"),
            (true, 0, 5, true, "it was not seen"),
            (true, 50, 100, true, "its first part was not seen"),
            (true, 5, 5, false, "it was seen again"),
        ] {
            assert_eq!(is_blind(before, seen, count), expected, "{why}");
        }
    }
}
