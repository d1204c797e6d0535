//! What is not TCP, how bytes flow, and how connections end.

use super::{Act, CALL, Call, Place, ROW, Row, UNSEEN, call, held};
use crate::flows::{streams, untouched};

/// In the order of the matrix.
pub(super) const ROWS: &[Row] = &[
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
        number: 51,
        title: "bulk both ways",
        act: Act::Do(streams::bulk),
        same: "out-stream=equal in-stream=equal",
        mesh: "out=1 in=1",
        ..ROW
    },
];
