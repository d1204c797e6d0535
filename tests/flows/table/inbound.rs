//! What is opened to the pod.

use super::{
    Act, CALL, Call, EXCLUDE_INTERFACES, INCLUDE_IN_PORTS, Place, ROW, Row, UNSEEN, call_from, held,
};
use crate::flows::untouched;

/// In the order of the matrix.
pub(super) const ROWS: &[Row] = &[
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
];
