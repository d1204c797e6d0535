//! What the pod opens: to Services, other pods, itself and the world; with users, ports and ranges that are let go.

use super::{
    Act, CALL, Call, EXCLUDE_OUT_PORTS, EXCLUDE_OUT_RANGES, INCLUDE_OUT_PORTS, INCLUDE_OUT_RANGES,
    IPTABLES, NO_ROUTE, OUTSIDE_80, Place, ROW, Row, UNSEEN, call, call_as, call_from, prepared,
};
use crate::flows::{sockets, streams};
use crate::manifests::SOURCE;

/// In the order of the matrix.
pub(super) const ROWS: &[Row] = &[
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
];
