//! The flows, as data. The numbers are those of the design's matrix.
//!
//! What a row expects is written as `key=value` words, first what is the same everywhere, then what differs with and
//! without a mesh, then what one mode does differently; every line of `unlike` has its reason among the allowed
//! differences. `ok` stands for `connect=ok echo=intact end=fin`; `only` forgets the words before; `a|b` accepts either,
//! and `*` anything.
//!
//! | fact | meaning |
//! | --- | --- |
//! | `connect` | `ok`, or the error that the app's `connect` gave |
//! | `peer`, `own` | the app's getpeername and getsockname |
//! | `who` | which server answered |
//! | `local` | where the connection arrived, as that server sees it: the original destination |
//! | `seen` | the client's address, as that server sees it |
//! | `end` | how the client saw the connection end |
//! | `out`, `in` | connections that the agent accepted from, and for, its pods |

mod inbound;
mod life;
mod outbound;
mod sockets;
mod streams;

use std::io;

use anyhow::Result;
use socket2::Socket;

use super::Facts;
use super::scene::Scene;
use crate::agent::Mode;

/// One flow.
#[derive(Debug)]
pub struct Row {
    /// Its number in the matrix.
    pub number: u8,
    /// In a few words.
    pub title: &'static str,
    /// Annotations of both pods.
    pub annotations: &'static [(&'static str, &'static str)],
    /// Whether both pods are in the mesh from the start.
    pub enrolled: bool,
    /// What is done.
    pub act: Act,
    /// Facts that hold with and without a mesh.
    pub same: &'static str,
    /// Facts without a mesh.
    pub none: &'static str,
    /// Facts with a mesh.
    pub mesh: &'static str,
    /// Facts of single modes, after all others.
    pub unlike: &'static [(&'static [Mode], &'static str)],
}

/// What is done in a row.
#[derive(Debug)]
pub enum Act {
    /// A connection to an echo server.
    Call(Call),
    /// The same; the agent does not run until the app has asked for its addresses.
    Held(Call),
    /// A connection to an echo server, and how long it lasted.
    Timed(Call),
    /// A connection with one HTTP request for this host.
    Http(Call, &'static str),
    /// Something longer; it returns its own facts.
    Do(fn(&Scene) -> Result<Facts>),
}

/// A connection.
#[derive(Debug)]
pub struct Call {
    /// Who opens it.
    pub from: Place,
    /// As which user and group; root where missing.
    pub owner: Option<(u32, u32)>,
    /// Where to, by name or literally.
    pub to: &'static str,
    /// Whether an IPv4 address is dialled from an IPv6 socket.
    pub mapped: bool,
    /// What is done to the socket before it connects.
    pub prepare: fn(&Socket) -> io::Result<()>,
}

/// Where a flow starts.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The pod that mostly calls.
    Client,
    /// The machine beyond the node.
    Outside,
    /// The node.
    Node,
}

const IPTABLES: &[Mode] = &[Mode::IptablesNft, Mode::IptablesLegacy];
const EBPF: &[Mode] = &[Mode::Ebpf];

const ROW: Row = Row {
    number: 0,
    title: "",
    annotations: &[],
    enrolled: true,
    act: Act::Call(CALL),
    same: "",
    none: "out=0 in=0",
    mesh: "out=1 in=0",
    unlike: &[],
};

/// From the client, with nothing particular.
pub const CALL: Call = Call {
    from: Place::Client,
    owner: None,
    to: "",
    mapped: false,
    prepare: |_| Ok(()),
};

const fn call(to: &'static str) -> Act {
    Act::Call(Call { to, ..CALL })
}

const fn call_from(from: Place, to: &'static str) -> Act {
    Act::Call(Call { from, to, ..CALL })
}

const fn call_as(uid: u32, gid: u32, to: &'static str) -> Act {
    Act::Call(Call {
        owner: Some((uid, gid)),
        to,
        ..CALL
    })
}

const fn held(from: Place, to: &'static str) -> Act {
    Act::Held(Call { from, to, ..CALL })
}

const fn prepared(to: &'static str, prepare: fn(&Socket) -> io::Result<()>) -> Act {
    Act::Call(Call {
        to,
        prepare,
        ..CALL
    })
}

const OUTSIDE_80: &str = "ok peer=external:80 own=client who=outside local=external:80 seen=client";
const NO_ROUTE: &str = "only connect=EHOSTUNREACH out=0 in=0";
const UNSEEN: &str = "out=0 in=0";

const EXCLUDE_OUT_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const INCLUDE_OUT_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
const EXCLUDE_OUT_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
const INCLUDE_OUT_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
const INCLUDE_IN_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
const EXCLUDE_INTERFACES: &str = "traffic.sidecar.istio.io/excludeInterfaces";

/// Every flow.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [
        outbound::ROWS,
        inbound::ROWS,
        streams::ROWS,
        sockets::ROWS,
        life::ROWS,
    ]
    .into_iter()
    .flatten()
}
