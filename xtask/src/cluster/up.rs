//! Brings a cluster up, or what of it is down. Whatever is there already is left as it is.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    files, image,
    layout::{Layout, NODE},
    part::Part,
    process,
};
use crate::screen::Screen;

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts every part and waits until the node takes pods.
pub fn run(screen: Screen, folder: &Path, programs: &Path) -> Result<Layout> {
    let layout = Layout::of(folder, programs)?;
    files::write(&layout)?;
    bridge(&layout).context("cannot make the bridge of the pods")?;
    groups(&layout)?;
    screen.note("Starting containerd and etcd");
    Part::Mounts.start(&layout)?;
    wait(&layout, Part::Mounts, "has no mount namespace", || {
        !Part::Mounts.processes(&layout).is_empty()
    })?;
    Part::Etcd.start(&layout)?;
    Part::Containerd.start(&layout)?;
    wait(&layout, Part::Containerd, "does not answer", || {
        succeeds(
            Command::new("ctr")
                .arg("--address")
                .arg(layout.socket())
                .arg("version"),
        )
    })?;
    image::import_pause(&layout).context("cannot make the image of a pod's first process")?;
    screen.note("Starting the API server");
    Part::ApiServer.start(&layout)?;
    wait(&layout, Part::ApiServer, "is not ready", || {
        api_ready(&layout)
    })?;
    screen.note("Starting the kubelet, the scheduler and the controllers");
    for part in [Part::ControllerManager, Part::Scheduler, Part::Kubelet] {
        part.start(&layout)?;
    }
    wait(&layout, Part::Kubelet, "has no node that is ready", || {
        node_ready(&layout)
    })?;
    // Pods that come before it has made the account are refused.
    wait(
        &layout,
        Part::ControllerManager,
        "makes no service accounts",
        || succeeds(kubectl(&layout).args(["get", "serviceaccount", "default"])),
    )?;
    Ok(layout)
}

/// Starts one part and waits until it does its work.
pub fn start(layout: &Layout, part: Part) -> Result<()> {
    part.start(layout)?;
    match part {
        Part::ApiServer => wait(layout, part, "is not ready", || api_ready(layout)),
        Part::Kubelet => wait(layout, part, "has no node that is ready", || {
            node_ready(layout)
        }),
        _ => wait(layout, part, "does not run", || {
            !part.processes(layout).is_empty()
        }),
    }
}

fn api_ready(layout: &Layout) -> bool {
    succeeds(kubectl(layout).args(["get", "--raw", "/readyz"]))
}

fn node_ready(layout: &Layout) -> bool {
    // What the API server says of the node may be of before.
    let kubelet = (layout.node_v4(), layout.ports.kubelet);
    if TcpStream::connect(kubelet).is_err() {
        return false;
    }
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    kubectl(layout)
        .args(["get", "node", NODE, "--output", ready])
        .output()
        .is_ok_and(|output| output.stdout == b"True")
}

/// `kubectl` for this cluster, and no other.
pub fn kubectl(layout: &Layout) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(layout.kubeconfig());
    command.arg("--request-timeout=5s");
    command
}

/// Asks until it is so. A part that has ended will not get there.
fn wait(layout: &Layout, part: Part, lacking: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        let settled = started.elapsed() > Duration::from_secs(3);
        let ended = settled && part.processes(layout).is_empty();
        if ended || started.elapsed() > PATIENCE {
            let log = part.log(layout);
            let what = if ended { "has ended" } else { lacking };
            bail!(
                "{} {what}; the end of {}:\n{}",
                part.program(),
                log.display(),
                mesh_tests::tail(&log, 20)
            );
        }
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The bridge has the node's addresses before anything listens there.
fn bridge(layout: &Layout) -> Result<()> {
    let bridge = layout.bridge();
    if has_link(&bridge) {
        return Ok(());
    }
    let (v4, v6) = (layout.pods_v4().1, layout.pods_v6().1);
    for arguments in [
        format!("link add {bridge} type bridge stp_state 0 forward_delay 0"),
        format!("address add {v4} dev {bridge}"),
        format!("address add {v6} dev {bridge} nodad"),
        format!("link set {bridge} up"),
        // Where it is down already, as in a namespace that is new, nothing else of this works.
        "link set lo up".to_owned(),
    ] {
        let output = Command::new("ip")
            .args(arguments.split(' '))
            .output()
            .context("cannot start `ip`: install iproute2")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("ip {arguments}: {}", why.trim());
        }
    }
    Ok(())
}

/// Whether this network namespace has an interface; `/sys` may be of another one.
pub fn has_link(name: &str) -> bool {
    succeeds(Command::new("ip").args(["link", "show", "dev", name]))
}

/// The kubelet wants the group to be there, in every hierarchy.
fn groups(layout: &Layout) -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(layout.group().trim_start_matches('/'));
        fs::create_dir_all(&group).with_context(|| format!("cannot create {}", group.display()))?;
        // A set of processors begins empty, and then nothing may run in it.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read_to_string(hierarchy.join(file)) {
                fs::write(group.join(file), all.trim())
                    .with_context(|| format!("cannot write {file} of {}", group.display()))?;
            }
        }
    }
    Ok(())
}

/// Where control groups are: one hierarchy in the second version, many in the first.
pub fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_path_buf()];
    }
    process::folders_in(root)
}
