//! Apps that do something particular with their sockets, and what they see of them.

use super::{Act, EBPF, IPTABLES, NO_ROUTE, OUTSIDE_80, ROW, Row, prepared};
use crate::flows::{far_end, many, sockets};

/// In the order of the matrix.
pub(super) const ROWS: &[Row] = &[
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
];
