//! Network namespaces for the tests of the rules, and iptables inside them.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_agent::intercept::iptables::apply::clean;
use mesh_agent::intercept::iptables::command::Backend;
use mesh_agent::intercept::iptables::options::Options;
use mesh_agent::netns::NetNs;
use nix::sched::{CloneFlags, unshare};

/// The pod's addresses in a [`Pair`].
pub const POD4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The same.
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// The other side's.
pub const PEER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The same.
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

/// The programs of a backend.
pub struct Tools {
    /// Which.
    pub backend: Backend,
    /// Changes rules.
    pub iptables4: &'static str,
    /// The same for IPv6.
    pub iptables6: &'static str,
    /// Shows rules.
    pub save4: &'static str,
    /// The same for IPv6.
    pub save6: &'static str,
}

/// Both backends.
pub const TOOLS: [Tools; 2] = [
    Tools {
        backend: Backend::Nft,
        iptables4: "iptables-nft",
        iptables6: "ip6tables-nft",
        save4: "iptables-nft-save",
        save6: "ip6tables-nft-save",
    },
    Tools {
        backend: Backend::Legacy,
        iptables4: "iptables-legacy",
        iptables6: "ip6tables-legacy",
        save4: "iptables-legacy-save",
        save6: "ip6tables-legacy-save",
    },
];

impl Tools {
    /// All rules of IPv4.
    pub fn save4(&self, netns: &NetNs) -> Result<String> {
        run(netns, self.save4, &[])
    }

    /// All rules of IPv6.
    pub fn save6(&self, netns: &NetNs) -> Result<String> {
        run(netns, self.save6, &[])
    }

    /// No rule and no chain but the kernel's.
    pub fn expect_empty(&self, netns: &NetNs) -> Result<()> {
        for saved in [self.save4(netns)?, self.save6(netns)?] {
            let left: Vec<&str> = saved
                .lines()
                .filter(|l| l.starts_with("-A") || (l.starts_with(':') && l.contains(" - ")))
                .collect();
            ensure!(left.is_empty(), "{} left behind: {left:#?}", self.backend);
        }
        Ok(())
    }
}

/// A namespace that is gone when this is dropped, and the agent's note of it too.
pub struct Scratch {
    netns: NetNs,
    path: PathBuf,
    open: File,
}

impl Scratch {
    /// The namespace as a file, to hand on.
    pub fn file(&self) -> Result<File> {
        Ok(self.open.try_clone()?)
    }

    /// Where other processes find it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for Scratch {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.netns
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = clean(&self.netns, &Options::default()) {
            eprintln!("cleaning a namespace: {e}");
        }
    }
}

/// A new namespace, with its loopback device up.
pub fn with_lo() -> Result<Scratch> {
    // A thread of its own, which never comes back from there.
    let (netns, open) = thread::spawn(|| -> Result<(NetNs, File)> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok((NetNs::current()?, File::open("/proc/thread-self/ns/net")?))
    })
    .join()
    .map_err(|_| anyhow::anyhow!("panicked"))??;
    let path = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
    let scratch = Scratch {
        netns,
        path: path.into(),
        open,
    };
    run(&scratch, "ip", &["link", "set", "lo", "up"])?;
    Ok(scratch)
}

/// A pod and its only neighbour.
pub struct Pair {
    /// The pod.
    pub pod: Scratch,
    /// The neighbour, which is also the pod's way to everywhere.
    pub peer: Scratch,
}

/// Two new namespaces, joined by a cable.
pub fn pair() -> Result<Pair> {
    let (pod, peer) = (with_lo()?, with_lo()?);
    // The cable is made in the pod; its other end moves.
    run(
        &pod,
        "ip",
        &[
            "link", "add", "eth0", "type", "veth", "peer", "name", "eth1",
        ],
    )?;
    let there = peer.path().to_string_lossy();
    run(&pod, "ip", &["link", "set", "eth1", "netns", &there])?;
    for (netns, device, v4, v6) in [(&pod, "eth0", POD4, POD6), (&peer, "eth1", PEER4, PEER6)] {
        run(
            netns,
            "ip",
            &["addr", "add", &format!("{v4}/24"), "dev", device],
        )?;
        run(
            netns,
            "ip",
            &[
                "-6",
                "addr",
                "add",
                &format!("{v6}/64"),
                "dev",
                device,
                "nodad",
            ],
        )?;
        run(netns, "ip", &["link", "set", device, "up"])?;
    }
    run(
        &pod,
        "ip",
        &["route", "add", "default", "via", &PEER4.to_string()],
    )?;
    run(
        &pod,
        "ip",
        &["-6", "route", "add", "default", "via", &PEER6.to_string()],
    )?;
    Ok(Pair { pod, peer })
}

/// What a namespace is like, beside rules: policy routing, loopback addresses, the sysctl.
pub fn surroundings(netns: &NetNs) -> Result<String> {
    let mut all = Vec::new();
    for arguments in [
        &["rule"][..],
        &["-6", "rule"],
        // Other devices' routes come and go by themselves, with their link-local addresses.
        &["route", "show", "table", "all", "dev", "lo"],
        &["-6", "route", "show", "table", "all", "dev", "lo"],
        &["-o", "addr", "show", "dev", "lo"],
    ] {
        all.push(run(netns, "ip", arguments)?);
    }
    all.push(sysctl(netns, "net/netfilter/nf_conntrack_tcp_loose", None)?);
    Ok(all.join("\n"))
}

/// Reads a sysctl, or writes it first.
pub fn sysctl(netns: &NetNs, name: &str, value: Option<&str>) -> Result<String> {
    let path = Path::new("/proc/sys").join(name);
    let value = netns.run(|| {
        if let Some(value) = value {
            std::fs::write(&path, value)?;
        }
        std::fs::read_to_string(&path)
    })??;
    Ok(value.trim().to_owned())
}

/// Runs a program inside a namespace, and gives its output.
pub fn run(netns: &NetNs, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        // Not the machine's lock file.
        .env("XTABLES_LOCKFILE", "/dev/null");
    let output = netns
        .run(|| command.output())?
        .with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
