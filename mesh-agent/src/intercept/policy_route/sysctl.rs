//! Kernel parameters of a namespace: what they are set to while the pod is enrolled, and back to afterwards.

use std::collections::BTreeMap;
use std::io;

use crate::netns::NetNs;

/// Values from before, by path below `/proc/sys/net`.
pub(super) type Values = BTreeMap<String, String>;

/// A parameter, and what it is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    /// Below `/proc/sys/net`.
    pub(super) path: &'static str,
    value: &'static str,
    /// The only value that gives way: any other is somebody's choice. `None`: all do.
    instead_of: Option<&'static str>,
}

/// The proxy opens a second connection for each of the app's, with the same addresses, and the two never share a port.
/// Where the client closes first, both ports stay taken for the minute of TIME_WAIT, so that an app in the mesh would run
/// out of them at half its usual rate. This lets new connections have such ports after a second, as the kernel by itself
/// does on the loopback device alone (`2`); timestamps keep the old and the new apart.
pub(super) const REUSE_PORTS: Parameter = Parameter {
    path: "ipv4/tcp_tw_reuse",
    value: "1",
    instead_of: Some("2"),
};

/// The accepted socket of an app takes the mark of its client's connection, and so does a reset where nothing listens;
/// otherwise the answers to a connection with a foreign address would leave the pod.
pub(super) const PRESERVE: [Parameter; 2] = [
    Parameter::on("ipv4/tcp_fwmark_accept"),
    Parameter::on("ipv4/fwmark_reflect"),
];

/// The same where the namespace has IPv6.
pub(super) const PRESERVE6: [Parameter; 1] = [Parameter::on("ipv6/fwmark_reflect")];

impl Parameter {
    const fn on(path: &'static str) -> Self {
        Self {
            path,
            value: "1",
            instead_of: None,
        }
    }

    /// Sets it, keeping the value that it has in `before` unless there is an older one. Says whether it had to be.
    pub(super) fn set(self, netns: &NetNs, before: &mut Values) -> io::Result<bool> {
        let old = netns.sysctl(self.path)?;
        if old == self.value || self.instead_of.is_some_and(|value| value != old) {
            return Ok(false);
        }
        netns.set_sysctl(self.path, self.value)?;
        before.entry(self.path.to_owned()).or_insert(old);
        Ok(true)
    }
}

/// Puts every value back.
pub(super) fn restore(netns: &NetNs, before: &Values) -> io::Result<()> {
    for (path, value) in before {
        netns.set_sysctl(path, value)?;
    }
    Ok(())
}
