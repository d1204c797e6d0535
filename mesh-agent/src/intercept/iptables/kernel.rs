//! What the chains need of a namespace beside rules: a sysctl, an address, and for TPROXY a policy route.

use std::fs;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::thread;

use netlink_packet_route::route::{RouteScope, RouteType};
use netlink_packet_route::rule::RuleAction;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::intercept::InterceptError;
use crate::netns::NetNs;

/// Whether connection tracking takes up connections that it has not seen from the start.
const TCP_LOOSE: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";

/// The loopback device is the first of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Where the proxy connects to its pod's applications from, in IPv6. Loopback is one address there, not a network.
const SIDECAR6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Just before the main table. With a number of its own, the rule cannot be added twice.
const TPROXY_PRIORITY: u32 = 32764;

/// The value of the sysctl, or `None` where the kernel has not loaded connection tracking yet.
pub fn tcp_loose(netns: &NetNs) -> io::Result<Option<String>> {
    match netns.run(|| fs::read_to_string(TCP_LOOSE))? {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets the sysctl.
pub fn set_tcp_loose(netns: &NetNs, value: &str) -> io::Result<()> {
    netns.run(|| fs::write(TCP_LOOSE, value))?
}

/// Whether the namespace has IPv6 at all.
pub fn has_ipv6(netns: &NetNs) -> io::Result<bool> {
    netns.run(|| Path::new("/proc/sys/net/ipv6/conf/lo").exists())
}

/// Gives the loopback device the address `::6`. Says whether it lacked it.
pub fn add_sidecar_address(netns: &NetNs) -> Result<bool, InterceptError> {
    ask(
        netns,
        "adding ::6 to the loopback device",
        async |netlink| {
            let address = netlink.address();
            fresh(
                address
                    .add(LOOPBACK_INDEX, SIDECAR6.into(), 128)
                    .execute()
                    .await,
            )
        },
    )
}

/// Takes it away again.
pub fn remove_sidecar_address(netns: &NetNs) -> Result<bool, InterceptError> {
    ask(
        netns,
        "removing ::6 from the loopback device",
        async |netlink| {
            let mut request = netlink.address().add(LOOPBACK_INDEX, SIDECAR6.into(), 128);
            let message = request.message_mut().clone();
            gone(netlink.address().del(message).execute().await)
        },
    )
}

/// Routes packets with this mark to the pod itself, whatever their destination. Says whether anything was missing.
pub fn add_tproxy_route(
    netns: &NetNs,
    mark: u32,
    table: u32,
    ipv6: bool,
) -> Result<bool, InterceptError> {
    ask(
        netns,
        "adding the policy route for TPROXY",
        async |netlink| {
            let rule = |netlink: &Handle| {
                netlink
                    .rule()
                    .add()
                    .fw_mark(mark)
                    .table_id(table)
                    .priority(TPROXY_PRIORITY)
                    .action(RuleAction::ToTable)
            };
            let mut added = fresh(rule(&netlink).v4().execute().await)?;
            added |= fresh(netlink.route().add(local_route4(table)).execute().await)?;
            if ipv6 {
                added |= fresh(rule(&netlink).v6().execute().await)?;
                added |= fresh(netlink.route().add(local_route6(table)).execute().await)?;
            }
            Ok(added)
        },
    )
}

/// Takes it away again.
pub fn remove_tproxy_route(netns: &NetNs, mark: u32, table: u32) -> Result<bool, InterceptError> {
    ask(
        netns,
        "removing the policy route for TPROXY",
        async |netlink| {
            let rule = || {
                netlink
                    .rule()
                    .add()
                    .fw_mark(mark)
                    .table_id(table)
                    .priority(TPROXY_PRIORITY)
                    .action(RuleAction::ToTable)
            };
            let (mut rule4, mut rule6) = (rule().v4(), rule().v6());
            let mut removed = false;
            for rule in [rule4.message_mut().clone(), rule6.message_mut().clone()] {
                removed |= gone(netlink.rule().del(rule).execute().await)?;
            }
            for route in [local_route4(table), local_route6(table)] {
                removed |= gone(netlink.route().del(route).execute().await)?;
            }
            Ok(removed)
        },
    )
}

fn local_route4(table: u32) -> netlink_packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .table_id(table)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .output_interface(LOOPBACK_INDEX)
        .build()
}

fn local_route6(table: u32) -> netlink_packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .table_id(table)
        .kind(RouteType::Local)
        .output_interface(LOOPBACK_INDEX)
        .build()
}

/// Runs netlink requests inside the namespace, to their end. They have a thread to themselves: the caller may be
/// inside an async runtime, where waiting for another one is forbidden.
fn ask<T: Send, F: Future<Output = Result<T, rtnetlink::Error>>>(
    netns: &NetNs,
    step: &str,
    requests: impl FnOnce(Handle) -> F + Send,
) -> Result<T, InterceptError> {
    let work = || -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        // The socket belongs to the namespace that it is made in; the rest may happen anywhere.
        let guard = runtime.enter();
        let (connection, handle, _) = netns.run(rtnetlink::new_connection)??;
        drop(guard);
        runtime.spawn(connection);
        Ok(runtime.block_on(requests(handle))?)
    };
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|_| Err("the netlink thread panicked".into()))
    })
    .map_err(|e| InterceptError::step(step, e))
}

/// Whether a request created what it asked for; `false` where it was there.
fn fresh(result: Result<(), rtnetlink::Error>) -> Result<bool, rtnetlink::Error> {
    unless(result, &[libc::EEXIST])
}

/// Whether a request deleted what it asked for; `false` where there was nothing.
fn gone(result: Result<(), rtnetlink::Error>) -> Result<bool, rtnetlink::Error> {
    unless(
        result,
        &[
            libc::ENOENT,
            libc::ESRCH,
            libc::EADDRNOTAVAIL,
            // A kernel without the family.
            libc::EAFNOSUPPORT,
            libc::EOPNOTSUPP,
        ],
    )
}

fn unless(
    result: Result<(), rtnetlink::Error>,
    expected: &[i32],
) -> Result<bool, rtnetlink::Error> {
    match result {
        Ok(()) => Ok(true),
        Err(rtnetlink::Error::NetlinkError(e))
            if e.code.is_some_and(|code| expected.contains(&-code.get())) =>
        {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}
