//! Pods that join and leave while connections are open.

use super::{Act, OUTSIDE_80, ROW, Row};
use crate::flows::enrolment;

/// In the order of the matrix.
pub(super) const ROWS: &[Row] = &[
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
        none: "out-left=open in-left=open out=0 in=0",
        mesh: "out-left=cut in-left=cut out=2 in=2",
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
