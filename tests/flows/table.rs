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

use std::io;

use anyhow::Result;
use socket2::Socket;

use super::scene::Scene;
use super::{Facts, enrolment, far_end, many, sockets, streams, untouched};
use crate::agent::Mode;
use crate::manifests::SOURCE;

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

/// Every flow, in the order of the matrix.
pub const ROWS: &[Row] = &[
    Row {
        number: 1,
        title: "app to an external address",
        act: call("external:80"),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 2,
        title: "app to a Service",
        act: call("vip:9000"),
        same: "ok peer=vip:9000 own=client who=outside local=remote:9000 seen=client",
        none: NO_ROUTE,
        ..ROW
    },
    Row {
        number: 2,
        title: "app to a Service over IPv6",
        act: call("vip6:9000"),
        // The Service's endpoint is the pod's first address, whatever the family of the client.
        same: "ok peer=vip6:9000 own=client6 who=outside local=remote:9000 seen=client",
        none: "only connect=ENETUNREACH out=0 in=0",
        ..ROW
    },
    Row {
        number: 2,
        title: "app to a Service with HTTP",
        act: Act::Http(
            Call {
                to: "vip:80",
                ..CALL
            },
            "remote-svc",
        ),
        same: "connect=ok peer=vip:80 own=client status=200 who=outside seen=client \
               server=envoy timed=true request=GET+/hello?a=b+HTTP/1.1 host=remote-svc",
        none: NO_ROUTE,
        ..ROW
    },
    Row {
        number: 3,
        title: "app to a pod of another node",
        act: call("remote:9000"),
        same: "ok peer=remote:9000 own=client who=outside local=remote:9000 seen=client",
        ..ROW
    },
    Row {
        number: 3,
        title: "app to a pod of another node by its headless Service",
        act: call("remote:443"),
        same: "ok peer=remote:443 own=client who=outside local=remote:443 seen=client",
        ..ROW
    },
    Row {
        number: 3,
        title: "app to a pod of another node by its headless Service with HTTP",
        act: Act::Http(
            Call {
                to: "remote:8080",
                ..CALL
            },
            "remote-headless:8080",
        ),
        same: "connect=ok peer=remote:8080 own=client status=200 who=outside seen=client \
               request=GET+/hello?a=b+HTTP/1.1 host=remote-headless:8080",
        none: "server=mesh-test timed=false out=0 in=0",
        mesh: "server=envoy timed=true out=1 in=0",
        ..ROW
    },
    Row {
        number: 4,
        title: "app to another meshed pod of this node",
        act: call("app:9000"),
        same: "ok peer=app:9000 own=client who=app local=app:9000 seen=client",
        mesh: "out=1 in=1 seen=127.0.0.6",
        ..ROW
    },
    Row {
        number: 4,
        title: "app to another meshed pod of this node over IPv6",
        act: call("app6:9000"),
        same: "ok peer=app6:9000 own=client6 who=app local=app6:9000 seen=client6",
        mesh: "out=1 in=1 seen=::6",
        ..ROW
    },
    Row {
        number: 4,
        title: "app to another meshed pod of this node through its Service",
        act: call("app-vip:9000"),
        same: "ok peer=app-vip:9000 own=client who=app local=app:9000 seen=127.0.0.6",
        none: NO_ROUTE,
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 4,
        title: "app to another meshed pod of this node with its address preserved",
        annotations: &[(SOURCE, "preserve")],
        act: call("app:9000"),
        same: "ok peer=app:9000 own=client who=app local=app:9000 seen=client",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 5,
        title: "app to its own pod address",
        act: call("client:9000"),
        same: "ok peer=client:9000 own=client who=client local=client:9000 seen=client",
        mesh: UNSEEN,
        ..ROW
    },
    // Neither comes by 15006: in both modes the proxy hands the connection to its inbound side within the process.
    Row {
        number: 6,
        title: "app to its own Service",
        act: Act::Do(streams::own_service),
        same: "ok peer=self-vip:9000 own=client who=client local=client:9000 seen=127.0.0.6",
        none: NO_ROUTE,
        mesh: "out=1 in=0 inbound-side=1",
        ..ROW
    },
    Row {
        number: 6,
        title: "app to its own Service with its address preserved",
        annotations: &[(SOURCE, "preserve")],
        act: Act::Do(streams::own_service),
        same: "ok peer=self-vip:9000 own=client who=client local=client:9000 seen=client",
        none: NO_ROUTE,
        mesh: "out=1 in=0 inbound-side=1",
        ..ROW
    },
    Row {
        number: 7,
        title: "app to 127.0.0.1",
        act: call("127.0.0.1:9000"),
        same: "ok peer=127.0.0.1:9000 own=127.0.0.1 who=client local=127.0.0.1:9000 seen=127.0.0.1",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 8,
        title: "app to 127.0.0.2",
        act: call("127.0.0.2:9000"),
        same: "ok peer=127.0.0.2:9000 own=127.0.0.1 who=client local=127.0.0.2:9000 seen=127.0.0.1",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 9,
        title: "app to IPv6 loopback",
        act: call("[::1]:9000"),
        same: "ok peer=::1:9000 own=::1 who=client local=::1:9000 seen=::1",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 10,
        title: "app to its own IPv6 address",
        act: call("client6:9000"),
        same: "ok peer=client6:9000 own=client6 who=client local=client6:9000 seen=client6",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 11,
        title: "app to an external IPv6 address",
        act: call("external6:80"),
        same: "ok peer=external6:80 own=client6 who=outside local=external6:80 seen=client6",
        ..ROW
    },
    Row {
        number: 12,
        title: "IPv6 socket to a mapped IPv4 address",
        act: Act::Call(Call {
            to: "external:80",
            mapped: true,
            ..CALL
        }),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 12,
        title: "IPv6 socket to its own mapped IPv4 address",
        act: Act::Call(Call {
            to: "client:9000",
            mapped: true,
            ..CALL
        }),
        same: "ok peer=client:9000 own=client who=client local=client:9000 seen=client",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 13,
        title: "dual stack listener from IPv4",
        act: call_from(Place::Outside, "app:9000"),
        same: "ok peer=app:9000 own=outside-link who=app local=app:9000 seen=outside-link",
        mesh: "out=0 in=1 seen=127.0.0.6",
        ..ROW
    },
    Row {
        number: 13,
        title: "dual stack listener from IPv6",
        act: call_from(Place::Outside, "app6:9000"),
        same: "ok peer=app6:9000 own=outside-link6 who=app local=app6:9000 seen=outside-link6",
        mesh: "out=0 in=1 seen=::6",
        ..ROW
    },
    Row {
        number: 14,
        title: "user 1337 to an external address",
        act: call_as(1337, 1000, "external:80"),
        same: OUTSIDE_80,
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 14,
        title: "user 1337 to an external IPv6 address",
        act: call_as(1337, 1000, "external6:80"),
        same: "ok peer=external6:80 own=client6 who=outside local=external6:80 seen=client6",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 14,
        title: "any other user to an external address",
        act: call_as(1000, 1000, "external:80"),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 15,
        title: "group 1337 to an external address",
        act: call_as(1000, 1337, "external:80"),
        same: OUTSIDE_80,
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 16,
        title: "user 1337 to its own pod address",
        act: call_as(1337, 1337, "client:9000"),
        same: "ok peer=client:9000 own=client who=client local=client:9000 seen=client",
        mesh: UNSEEN,
        unlike: &[(IPTABLES, "in=1 seen=127.0.0.6")],
        ..ROW
    },
    Row {
        number: 17,
        title: "user 1337 to its own pod address on 15008",
        act: call_as(1337, 1337, "client:15008"),
        same: "ok peer=client:15008 own=client who=client local=client:15008 seen=client",
        mesh: UNSEEN,
        unlike: &[(IPTABLES, "in=1 seen=127.0.0.6")],
        ..ROW
    },
    Row {
        number: 18,
        title: "from 127.0.0.6 to its own pod address",
        act: prepared("client:9000", sockets::bind_sidecar),
        same: "ok peer=client:9000 own=127.0.0.6 who=client local=client:9000 seen=127.0.0.6",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 19,
        title: "excluded outbound port",
        annotations: &[(EXCLUDE_OUT_PORTS, "3306,6379")],
        act: call("external:3306"),
        same: "ok peer=external:3306 own=client who=outside local=external:3306 seen=client",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 19,
        title: "outbound port beside the excluded ones",
        annotations: &[(EXCLUDE_OUT_PORTS, "3306,6379")],
        act: call("external:80"),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 19,
        title: "excluded outbound port over IPv6",
        annotations: &[(EXCLUDE_OUT_PORTS, "3306,6379")],
        act: call("external6:3306"),
        same: "ok peer=external6:3306 own=client6 who=outside local=external6:3306 seen=client6",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 19,
        title: "excluded outbound port on a socket that was steered before",
        annotations: &[(EXCLUDE_OUT_PORTS, "3306,6379")],
        act: Act::Do(sockets::used_twice),
        same: "ok peer=external:3306 own=client who=outside local=external:3306 seen=client",
        ..ROW
    },
    Row {
        number: 20,
        title: "excluded outbound range",
        annotations: &[(EXCLUDE_OUT_RANGES, "203.0.113.0/24,2001:db8::/32")],
        act: call("external:80"),
        same: OUTSIDE_80,
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 20,
        title: "excluded outbound range over IPv6",
        annotations: &[(EXCLUDE_OUT_RANGES, "203.0.113.0/24,2001:db8::/32")],
        act: call("external6:80"),
        same: "ok peer=external6:80 own=client6 who=outside local=external6:80 seen=client6",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 20,
        title: "outside the included ranges",
        annotations: &[(INCLUDE_OUT_RANGES, "10.0.0.0/8")],
        act: call("external:80"),
        same: OUTSIDE_80,
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 20,
        title: "inside the included ranges",
        annotations: &[(INCLUDE_OUT_RANGES, "10.0.0.0/8")],
        act: call("remote:9000"),
        same: "ok peer=remote:9000 own=client who=outside local=remote:9000 seen=client",
        ..ROW
    },
    Row {
        number: 21,
        title: "included outbound port",
        annotations: &[(INCLUDE_OUT_RANGES, ""), (INCLUDE_OUT_PORTS, "80,443")],
        act: call("external:443"),
        same: "ok peer=external:443 own=client who=outside local=external:443 seen=client",
        ..ROW
    },
    Row {
        number: 21,
        title: "outbound port beside the included ones",
        annotations: &[(INCLUDE_OUT_RANGES, ""), (INCLUDE_OUT_PORTS, "80,443")],
        act: call("external:81"),
        same: "ok peer=external:81 own=client who=outside local=external:81 seen=client",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 22,
        title: "from another machine to an app port",
        act: call_from(Place::Outside, "app:9001"),
        same: "ok peer=app:9001 own=outside-link who=app local=app:9001 seen=outside-link",
        mesh: "out=0 in=1 seen=127.0.0.6",
        ..ROW
    },
    Row {
        number: 22,
        title: "from another machine to an app port with HTTP",
        act: Act::Http(
            Call {
                from: Place::Outside,
                to: "app:8080",
                ..CALL
            },
            "test.example",
        ),
        same: "connect=ok peer=app:8080 own=outside-link status=200 who=app \
               request=GET+/hello?a=b+HTTP/1.1 host=test.example",
        none: "seen=outside-link server=mesh-test timed=false out=0 in=0",
        mesh: "seen=127.0.0.6 server=istio-envoy timed=true out=0 in=1",
        ..ROW
    },
    Row {
        number: 23,
        title: "inbound to the proxy's own ports",
        act: Act::Do(untouched::reserved_ports),
        same: "15008=app,direct 15090=app,direct 15021=app,direct 15020=app,direct",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 23,
        title: "inbound to the proxy's own ports where nobody listens",
        act: Act::Do(untouched::reserved_ports_closed),
        same: "15008=ECONNREFUSED 15090=ECONNREFUSED 15021=ECONNREFUSED 15020=ECONNREFUSED",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 24,
        title: "inbound to a port where no app listens",
        act: call_from(Place::Outside, "app:9009"),
        none: "connect=ECONNREFUSED out=0 in=0",
        // The reset may come before the app can ask for the names of a connection, or before `connect` returns.
        mesh: "connect=ok peer=* own=* end=closed out=0 in=1",
        ..ROW
    },
    Row {
        number: 24,
        title: "inbound to a port where no app listens with a slow agent",
        act: held(Place::Outside, "app:9009"),
        none: "connect=ECONNREFUSED out=0 in=0",
        mesh: "connect=ok peer=app:9009 own=outside-link end=closed out=0 in=1",
        ..ROW
    },
    Row {
        number: 24,
        title: "inbound to a port where no app listens over IPv6 with a slow agent",
        act: held(Place::Outside, "app6:9009"),
        none: "connect=ECONNREFUSED out=0 in=0",
        mesh: "connect=ok peer=app6:9009 own=outside-link6 end=closed out=0 in=1",
        ..ROW
    },
    Row {
        number: 25,
        title: "inbound beside the included ports",
        annotations: &[(INCLUDE_IN_PORTS, "9000")],
        act: call_from(Place::Outside, "app:9001"),
        same: "ok peer=app:9001 own=outside-link who=app local=app:9001 seen=outside-link",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 25,
        title: "inbound to an included port",
        annotations: &[(INCLUDE_IN_PORTS, "9000")],
        act: call_from(Place::Outside, "app:9000"),
        same: "ok peer=app:9000 own=outside-link who=app local=app:9000 seen=outside-link",
        mesh: "out=0 in=1 seen=127.0.0.6",
        ..ROW
    },
    Row {
        number: 26,
        title: "inbound from an excluded interface",
        annotations: &[(EXCLUDE_INTERFACES, "net1")],
        act: call_from(Place::Node, "app-net1:9000"),
        same: "ok peer=app-net1:9000 own=10.99.0.1 who=app local=app-net1:9000 seen=10.99.0.1",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 26,
        title: "inbound beside the excluded interface",
        annotations: &[(EXCLUDE_INTERFACES, "net1")],
        act: call_from(Place::Node, "app:9000"),
        same: "ok peer=app:9000 own=node who=app local=app:9000 seen=node",
        mesh: "out=0 in=1 seen=127.0.0.6",
        ..ROW
    },
    Row {
        number: 29,
        title: "UDP and ICMP",
        act: Act::Do(untouched::udp_and_icmp),
        same: "udp-out4=client udp-out6=client6 udp-in4=outside-link udp-in6=outside-link6 \
               icmp-out4=echoed icmp-out6=echoed icmp-in4=echoed icmp-in6=echoed",
        mesh: UNSEEN,
        ..ROW
    },
    Row {
        number: 33,
        title: "server speaks first",
        act: Act::Do(streams::banner),
        same: "undeclared=banner inbound=banner declared=banner",
        none: "declared=EHOSTUNREACH out=0 in=0",
        mesh: "out=2 in=1",
        ..ROW
    },
    Row {
        number: 34,
        title: "half close by the client",
        act: Act::Do(streams::client_half_close),
        same: "out-bytes=10485760 out-end=fin in-bytes=10485760 in-end=fin",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 35,
        title: "half close by the server",
        act: Act::Do(streams::server_half_close),
        same: "out-server=10485760,fin out-client=fin in-server=10485760,fin in-client=fin",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 36,
        title: "client resets",
        act: Act::Do(streams::client_reset),
        same: "out-server=rst in-server=rst",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 37,
        title: "server resets",
        act: Act::Do(streams::server_reset),
        same: "out-client=ECONNRESET in-client=ECONNRESET",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 38,
        title: "destination refuses",
        act: call("external:9"),
        none: "connect=ECONNREFUSED out=0 in=0",
        mesh: "connect=ok peer=* own=* end=closed out=1 in=0",
        ..ROW
    },
    Row {
        number: 38,
        title: "destination refuses with a slow agent",
        act: held(Place::Client, "external:9"),
        none: "connect=ECONNREFUSED out=0 in=0",
        mesh: "connect=ok peer=external:9 own=client end=closed out=1 in=0",
        ..ROW
    },
    Row {
        number: 38,
        title: "destination refuses over IPv6 with a slow agent",
        act: held(Place::Client, "external6:9"),
        none: "connect=ECONNREFUSED out=0 in=0",
        mesh: "connect=ok peer=external6:9 own=client6 end=closed out=1 in=0",
        ..ROW
    },
    Row {
        number: 39,
        title: "destination is a black hole",
        act: Act::Timed(Call {
            to: "hole:80",
            ..CALL
        }),
        none: "connect=timeout took=* out=0 in=0",
        mesh: "connect=ok peer=hole:80 own=client end=closed took=10s out=1 in=0",
        ..ROW
    },
    Row {
        number: 41,
        title: "non-blocking connect",
        act: Act::Do(sockets::non_blocking),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 41,
        title: "TCP_FASTOPEN_CONNECT",
        act: prepared("external:80", sockets::fast_open_connect),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 41,
        title: "MSG_FASTOPEN",
        act: Act::Do(sockets::fast_open_send),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 41,
        title: "MSG_FASTOPEN with a cookie",
        enrolled: false,
        act: Act::Do(sockets::fast_open_again),
        same: "ok peer=external:7413 own=client who=outside local=external:7413 seen=client early=true",
        mesh: "out=2 in=0",
        ..ROW
    },
    Row {
        number: 41,
        title: "TCP_DEFER_ACCEPT at the server",
        act: Act::Do(sockets::deferred_accept),
        same: "ok peer=app:9010 own=outside-link who=app local=app:9010 seen=outside-link",
        mesh: "out=0 in=1 seen=127.0.0.6",
        ..ROW
    },
    Row {
        number: 42,
        title: "MPTCP socket",
        act: Act::Do(sockets::multipath),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 43,
        title: "app binds its source address and port",
        act: Act::Do(far_end::bound_source),
        same: "ok peer=external:80 own=client who=outside local=external:80 seen=client port=kept",
        mesh: "port-at-agent=kept out=1 in=0",
        ..ROW
    },
    Row {
        number: 44,
        title: "app binds 127.0.0.1 and connects out",
        act: prepared("external:80", sockets::bind_loopback),
        none: "connect=EINVAL out=0 in=0",
        unlike: &[
            (IPTABLES, "only connect=EINVAL out=0 in=0"),
            (
                EBPF,
                "ok peer=external:80 own=127.0.0.1 who=outside local=external:80 seen=client",
            ),
        ],
        ..ROW
    },
    Row {
        number: 45,
        title: "app binds to a device",
        act: prepared("external:80", sockets::bind_device),
        same: OUTSIDE_80,
        unlike: &[(IPTABLES, "only connect=timeout out=0 in=0")],
        ..ROW
    },
    Row {
        number: 46,
        title: "app marks its socket",
        act: Act::Do(sockets::marked),
        same: "ok peer=external:80 own=client who=outside local=external:80 seen=client mark=0xe0000001",
        ..ROW
    },
    Row {
        number: 47,
        title: "names that the app and ss see",
        act: Act::Do(sockets::listed_by_ss),
        same: "ok peer=vip:9000 own=client who=outside local=remote:9000 seen=client ss=client,vip:9000",
        none: NO_ROUTE,
        ..ROW
    },
    // How the agent itself learns the original destination: `asked` is SO_ORIGINAL_DST, `named` is getsockname.
    Row {
        number: 48,
        title: "original destination on the agent's socket",
        act: Act::Do(far_end::original_destination),
        same: OUTSIDE_80,
        unlike: &[
            (IPTABLES, "asked=external:80 named=redirected"),
            (EBPF, "asked=refused named=external:80"),
        ],
        ..ROW
    },
    Row {
        number: 49,
        title: "many connections to one destination",
        act: Act::Do(many::at_once_and_in_sequence),
        same: "parallel=2000",
        none: "sequence=* failure=* out=0 in=0",
        mesh: "sequence=50000 out=52000 in=0",
        ..ROW
    },
    Row {
        number: 49,
        title: "many connections to one destination over IPv6",
        act: Act::Do(many::in_sequence6),
        same: "sequence=15000",
        mesh: "out=15000 in=0",
        ..ROW
    },
    Row {
        number: 50,
        title: "one source port to two destinations",
        act: Act::Do(far_end::shared_source_port),
        same: "first=external:80,kept first-echo=1 second=external-b:80,kept second-echo=1",
        mesh: "out=2 in=0",
        // Conntrack gives the second another source port where it can; otherwise its packets are dropped.
        unlike: &[(
            IPTABLES,
            "second=external-b:80,moved|timeout second-echo=1|(nothing) out=2|1",
        )],
        ..ROW
    },
    Row {
        number: 51,
        title: "bulk both ways",
        act: Act::Do(streams::bulk),
        same: "out-stream=equal in-stream=equal",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 52,
        title: "connections open before enrolment",
        enrolled: false,
        act: Act::Do(enrolment::open_before),
        same: "out-old=intact in-old=intact out-new=intact in-new=intact",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 53,
        title: "connections open at withdrawal",
        act: Act::Do(enrolment::open_at_withdrawal),
        same: "out-old=intact in-old=intact out-new=intact in-new=intact",
        mesh: "out=1 in=1",
        ..ROW
    },
    Row {
        number: 54,
        title: "enrolment under load",
        enrolled: false,
        act: Act::Do(enrolment::under_load),
        same: "out-failed=0 in-failed=0 out-direct=some in-direct=some enough=true",
        none: "out-captured=none in-captured=none out=0 in=0",
        mesh: "out-captured=some in-captured=some out=* in=*",
        ..ROW
    },
    Row {
        number: 58,
        title: "socket made before enrolment and connected after",
        enrolled: false,
        act: Act::Do(enrolment::made_before),
        same: OUTSIDE_80,
        ..ROW
    },
    Row {
        number: 64,
        title: "pod recreated with the same address",
        act: Act::Do(enrolment::recreated),
        same: "before=ok \
               out-connect=ok out-echo=intact out-end=fin out-peer=external:80 out-own=client \
               out-who=outside out-local=external:80 out-seen=client \
               in-connect=ok in-echo=intact in-end=fin in-peer=client:9000 in-own=outside-link \
               in-who=second-client in-local=client:9000",
        none: "out-captured=0 in-captured=0 in-seen=outside-link out=0 in=0",
        mesh: "out-captured=1 in-captured=1 in-seen=127.0.0.6 out=* in=*",
        ..ROW
    },
];
