//! Everything that an agent may leave behind in its pods and on its node.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_tests::Pod;

use crate::agent::Mode;
use crate::flows::scene::Scene;

/// Sysctls of a pod that the modes may touch.
const SYSCTLS: &[&str] = &[
    "ipv4/tcp_fwmark_accept",
    "ipv4/fwmark_reflect",
    "ipv6/fwmark_reflect",
    "ipv4/tcp_tw_reuse",
    "ipv4/tcp_migrate_req",
    "ipv4/tcp_l3mdev_accept",
    "ipv4/ip_nonlocal_bind",
    "ipv4/ip_forward",
    "ipv4/conf/all/route_localnet",
    "ipv4/conf/eth0/route_localnet",
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/eth0/rp_filter",
    "ipv4/conf/lo/rp_filter",
    "ipv4/conf/all/accept_local",
    "ipv4/conf/eth0/accept_local",
    "ipv4/conf/all/src_valid_mark",
    "ipv6/conf/all/forwarding",
    "netfilter/nf_conntrack_tcp_loose",
    "netfilter/nf_conntrack_tcp_be_liberal",
];

/// One line for each thing there is.
pub type Traces = BTreeSet<String>;

/// What there is now.
pub fn of(scene: &Scene) -> Result<Traces> {
    let mut traces = Traces::new();
    for pod in [&scene.client, &scene.app, scene.world.node()] {
        in_namespace(pod, &mut traces)?;
    }
    pins(Path::new("/sys/fs/bpf"), &mut traces)?;
    Ok(traces)
}

/// What is there and was not, and what was and is not.
pub fn difference(before: &Traces, after: &Traces) -> Vec<String> {
    let new = after.difference(before).map(|line| format!("+ {line}"));
    let lost = before.difference(after).map(|line| format!("- {line}"));
    new.chain(lost).collect()
}

/// Whether a trace is such as agents of this mode leave, and of no other.
pub fn is_of(mode: Mode, line: &str) -> bool {
    match mode {
        Mode::None => false,
        Mode::IptablesNft => line.contains("tables-nft-save: "),
        Mode::IptablesLegacy => line.contains("tables-legacy-save: "),
        // The rule that delivers what the connect hook has marked.
        Mode::Ebpf => line.starts_with("pin /sys/fs/bpf/mesh-agent") || line.contains("rule: 100:"),
    }
}

fn in_namespace(pod: &Pod, traces: &mut Traces) -> Result<()> {
    for program in [
        "iptables-nft-save",
        "ip6tables-nft-save",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
    ] {
        // Rules and chains; empty tables stay when they were once used, and do nothing. A chain of the kernel's own
        // has a policy, others a dash.
        for line in lines(pod, program, &[])? {
            if line.starts_with('-') || (line.starts_with(':') && line.contains(" - ")) {
                traces.insert(format!("{}: {program}: {line}", pod.name));
            }
        }
    }
    for arguments in [
        &["-4", "rule"][..],
        &["-6", "rule"],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["-brief", "address"],
    ] {
        for line in lines(pod, "ip", arguments)? {
            // Learnt from traffic, not set up by anyone.
            if !line.contains("cache") {
                traces.insert(format!("{}: ip {}: {line}", pod.name, arguments.join(" ")));
            }
        }
    }
    for line in lines(pod, "ss", &["-Hlntu"])? {
        let columns: Vec<&str> = line.split_whitespace().collect();
        if let [protocol, _, _, _, local, ..] = columns[..] {
            traces.insert(format!("{}: listens on {protocol} {local}", pod.name));
        }
    }
    for key in SYSCTLS {
        let path = Path::new("/proc/sys/net").join(key);
        if let Ok(value) = pod.run(|| fs::read_to_string(&path))? {
            traces.insert(format!("{}: {key} = {}", pod.name, value.trim()));
        }
    }
    Ok(())
}

/// What a program prints inside the pod. A program that is not installed has set nothing up either.
fn lines(pod: &Pod, program: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let output = match pod.command(program).args(arguments).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("starting {program}")),
    };
    ensure!(
        output.status.success(),
        "{program} in {}: {}",
        pod.name,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

fn pins(directory: &Path, traces: &mut Traces) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        traces.insert(format!("pin {}", path.display()));
        if path.is_dir() {
            pins(&path, traces)?;
        }
    }
    Ok(())
}
