//! Links, addresses and routes of the world, by the `ip` command.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::pod::{Interface, Pod};
use super::{NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6};

/// The address of the pod with this link number, where it did not choose.
pub(super) fn pod_v4(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 97, high, low)
}

/// The same for IPv6.
pub(super) fn pod_v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, number)
}

/// Loopback, the bridge, and no way to the Services.
pub(super) fn set_up_node(node: &Pod) -> Result<()> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        bail!(
            "this kernel runs without IPv6, which the tests need; start it without ipv6.disable=1"
        );
    }
    quiet_ipv6(node)?;
    sysctl(node, "ipv4/ip_forward", "1")?;
    sysctl(node, "ipv6/conf/all/forwarding", "1")?;
    ip(
        node,
        &format!(
            "link set lo up
             {}
             route add unreachable 10.96.0.0/16
             route add unreachable fd96::/112",
            bridge("mesh0", NODE_V4, NODE_V6)
        ),
    )
}

/// The machine outside: one hop behind the node, not on its bridge.
pub(super) fn join_outside(node: &Pod, outside: &Pod) -> Result<()> {
    quiet_ipv6(outside)?;
    sysctl(outside, "ipv4/ip_forward", "1")?;
    sysctl(outside, "ipv6/conf/all/forwarding", "1")?;
    let holder = outside.holder_pid();
    ip(
        node,
        &format!(
            "link add outside0 type veth peer name eth0 netns {holder}
             addr add 198.51.100.1/30 dev outside0
             addr add fd98::1/126 dev outside0 nodad
             link set outside0 up"
        ),
    )?;
    ip(
        outside,
        &format!(
            "link set lo up
             addr add 198.51.100.2/30 dev eth0
             addr add fd98::2/126 dev eth0 nodad
             link set eth0 up
             addr add {OUTSIDE_V4}/32 dev lo
             addr add {OUTSIDE_V6}/128 dev lo
             route add blackhole 203.0.113.66/32
             route add blackhole 2001:db8::66/128
             route add 10.97.0.0/16 via 198.51.100.1
             route add 10.99.0.0/16 via 198.51.100.1
             route add fd97::/64 via fd98::1
             route add fd99::/64 via fd98::1"
        ),
    )?;
    ip(
        node,
        "route add default via 198.51.100.2
         route add default via fd98::2",
    )
}

/// Gives the pod its `eth0`.
pub(super) fn join_bridge(node: &Pod, pod: &Pod) -> Result<()> {
    quiet_ipv6(pod)?;
    let (link, holder) = (&pod.link, pod.holder_pid());
    ip(
        node,
        &format!(
            "link add {link} type veth peer name eth0 netns {holder}
             link set {link} master mesh0 up"
        ),
    )?;
    let (v4, v6) = (pod.ipv4, pod.ipv6);
    ip(
        pod,
        &format!(
            "link set lo up
             addr add {v4}/16 dev eth0
             addr add {v6}/64 dev eth0 nodad
             link set eth0 up
             route add default via {NODE_V4}
             route add default via {NODE_V6}"
        ),
    )
}

/// The bridge that second interfaces hang on.
pub(super) fn add_second_bridge(node: &Pod) -> Result<()> {
    ip(node, &bridge("mesh1", SECOND_V4, SECOND_V6)).context("adding the second bridge")
}

const SECOND_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const SECOND_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);

/// Gives the pod one more interface.
pub(super) fn join_second_bridge(
    node: &Pod,
    pod: &Pod,
    interface: &Interface,
    number: u16,
) -> Result<()> {
    let (name, holder) = (&interface.name, pod.holder_pid());
    ip(
        node,
        &format!(
            "link add veth{number} type veth peer name {name} netns {holder}
             link set veth{number} master mesh1 up"
        ),
    )?;
    let (v4, v6) = (interface.ipv4, interface.ipv6);
    ip(
        pod,
        &format!(
            "addr add {v4}/16 dev {name}
             addr add {v6}/64 dev {name} nodad
             link set {name} up"
        ),
    )
}

/// Takes a pod's link away, and what the node remembers of its addresses.
pub(super) fn unlink(node: &Pod, pod: &Pod) -> Result<()> {
    let (link, v4, v6) = (&pod.link, pod.ipv4, pod.ipv6);
    ip(
        node,
        &format!(
            "link delete {link}
             neigh flush to {v4}
             neigh flush to {v6}"
        ),
    )
}

/// One more address, alone in its network.
pub(super) fn add_address(pod: &Pod, interface: &str, address: IpAddr) -> Result<()> {
    match address {
        IpAddr::V4(v4) => ip(pod, &format!("addr add {v4}/32 dev {interface}")),
        IpAddr::V6(v6) => ip(pod, &format!("addr add {v6}/128 dev {interface} nodad")),
    }
}

fn bridge(name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> String {
    format!(
        "link add {name} type bridge stp_state 0 forward_delay 0
         addr add {v4}/16 dev {name}
         addr add {v6}/64 dev {name} nodad
         link set {name} up"
    )
}

/// No waiting for duplicate addresses, and none that nobody asked for.
fn quiet_ipv6(pod: &Pod) -> Result<()> {
    for scope in ["all", "default"] {
        sysctl(pod, &format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        sysctl(pod, &format!("ipv6/conf/{scope}/accept_ra"), "0")?;
        sysctl(pod, &format!("ipv6/conf/{scope}/router_solicitations"), "0")?;
    }
    Ok(())
}

/// Sets `net/KEY` in the pod's namespace.
fn sysctl(pod: &Pod, key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(key);
    pod.run(|| std::fs::write(&path, value))?
        .with_context(|| format!("writing {value} to {}", path.display()))
}

/// Runs the lines as one `ip -batch` inside the pod.
fn ip(pod: &Pod, lines: &str) -> Result<()> {
    let mut child = pod
        .command("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting `ip`; install it with: apt-get install iproute2")?;
    let mut input = child.stdin.take().context("the input of `ip`")?;
    for line in lines.lines() {
        writeln!(input, "{}", line.trim()).context("writing to `ip`")?;
    }
    drop(input);
    let output = child.wait_with_output().context("waiting for `ip`")?;
    if !output.status.success() {
        bail!(
            "`ip` failed in {}: {}\nwhile running:\n{lines}",
            pod.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
