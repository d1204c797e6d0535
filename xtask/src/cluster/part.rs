//! The parts of a cluster, and how each is started.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::unistd::Pid;

use super::{
    layout::{Layout, NODE, PRIVATE, SERVICES},
    process,
};
use crate::workspace;

/// A process that runs for as long as the cluster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Holds the mount namespace of the next two
    Mounts,
    /// Runs containers
    Containerd,
    /// Runs pods
    Kubelet,
    /// Keeps what the API server knows
    Etcd,
    /// What all others talk to
    ApiServer,
    /// Makes Pods of Deployments and EndpointSlices of Services
    ControllerManager,
    /// Gives Pods to the node
    Scheduler,
}

impl Part {
    /// The name of its executable file, by which its process is known.
    pub fn program(self) -> &'static str {
        match self {
            Self::Mounts => "sleep",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    /// Its processes: one, or none.
    pub fn processes(self, layout: &Layout) -> Vec<Pid> {
        process::of(&layout.folder, self.program())
    }

    /// Where what it says goes.
    pub fn log(self, layout: &Layout) -> std::path::PathBuf {
        layout.path(&format!("{}.log", self.program()))
    }

    /// Starts it, if it does not run.
    pub fn start(self, layout: &Layout) -> Result<()> {
        if !self.processes(layout).is_empty() {
            return Ok(());
        }
        let inside = self.command(layout)?;
        // A session of its own: it outlives us, and no terminal ends it.
        let mut command = Command::new("setsid");
        command.arg(inside.get_program()).args(inside.get_args());
        let log = self.log(layout);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command
            .current_dir(&layout.folder)
            .env(process::MARK, &layout.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot copy the handle of a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program()))?;
        Ok(())
    }

    fn command(self, layout: &Layout) -> Result<Command> {
        Ok(match self {
            Self::Mounts => mounts(layout),
            Self::Containerd => {
                let mut command = among_mounts(layout, Path::new("containerd"))?;
                command.arg("--config").arg(layout.path("containerd.toml"));
                command
            }
            Self::Kubelet => kubelet(layout)?,
            Self::Etcd => etcd(layout),
            Self::ApiServer => api_server(layout),
            Self::ControllerManager => controller_manager(layout),
            Self::Scheduler => {
                let mut command = kubernetes(layout, self);
                command.arg(format!("--secure-port={}", layout.ports.scheduler));
                command.args(["--port=0", "--bind-address=127.0.0.1"]);
                command
            }
        })
    }
}

/// A mount namespace that shows the cluster's own folders in the places of the host's, and hides all mounts of pods from
/// the host. In it mounts are shared, as Kubernetes demands.
fn mounts(layout: &Layout) -> Command {
    let mut script = String::from("set -e; mount --make-rshared /; ");
    for place in PRIVATE {
        script += &format!("mkdir -p {place} \"$0{place}\"; mount --bind \"$0{place}\" {place}; ");
    }
    script += "exec sleep infinity";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
    command.arg(script).arg(layout.path("private"));
    command
}

fn among_mounts(layout: &Layout, program: &Path) -> Result<Command> {
    let holder = Part::Mounts.processes(layout);
    let holder = holder.first().context("the mount namespace is not there")?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{holder}/ns/mnt"));
    command.arg("--").arg(program);
    Ok(command)
}

/// A program of Kubernetes that talks to the API server.
fn kubernetes(layout: &Layout, part: Part) -> Command {
    let mut command = Command::new(layout.programs.join(part.program()));
    command.arg("--kubeconfig").arg(layout.kubeconfig());
    command.arg("--feature-gates=IPv6DualStack=true");
    // Who is alone needs no election, and would end when the API server is away.
    command.arg("--leader-elect=false");
    command
}

fn kubelet(layout: &Layout) -> Result<Command> {
    let mut command = among_mounts(layout, &layout.programs.join("kubelet"))?;
    let set = |name: &str, place: &str| format!("--{name}={}", layout.path(place).display());
    command.arg(set("kubeconfig", "kubeconfig"));
    command.arg(set("config", "kubelet.yaml"));
    command.arg(set("root-dir", "kubelet"));
    command.arg(set("cert-dir", "kubelet-certificates"));
    command.arg("--container-runtime=remote");
    command.arg(format!(
        "--container-runtime-endpoint=unix://{}",
        layout.socket().display()
    ));
    command.arg(format!("--hostname-override={NODE}"));
    command.arg(format!("--node-ip={}", layout.node_v4()));
    Ok(command)
}

fn etcd(layout: &Layout) -> Command {
    let mut command = Command::new("etcd");
    let url = |port: u16| format!("https://127.0.0.1:{port}");
    let (clients, peers) = (url(layout.ports.etcd), url(layout.ports.etcd_peer));
    command.args([
        "--name=cluster",
        "--client-cert-auth",
        "--peer-client-cert-auth",
    ]);
    command.arg(format!("--data-dir={}", layout.path("etcd").display()));
    for role in ["", "peer-"] {
        for (flag, file) in [
            ("trusted-ca-file", "identity.crt"),
            ("cert-file", "identity.crt"),
            ("key-file", "identity.key"),
        ] {
            command.arg(format!("--{role}{flag}={}", layout.path(file).display()));
        }
    }
    command.arg(format!("--listen-client-urls={clients}"));
    command.arg(format!("--advertise-client-urls={clients}"));
    command.arg(format!("--listen-peer-urls={peers}"));
    command.arg(format!("--initial-advertise-peer-urls={peers}"));
    command.arg(format!("--initial-cluster=cluster={peers}"));
    command
}

fn api_server(layout: &Layout) -> Command {
    let mut command = Command::new(layout.programs.join("kube-apiserver"));
    for (flag, file) in [
        ("etcd-cafile", "identity.crt"),
        ("etcd-certfile", "identity.crt"),
        ("etcd-keyfile", "identity.key"),
        ("kubelet-client-certificate", "identity.crt"),
        ("kubelet-client-key", "identity.key"),
        ("service-account-key-file", "identity.key"),
        ("service-account-signing-key-file", "identity.key"),
        ("token-auth-file", "tokens.csv"),
        ("cert-dir", "certificates"),
    ] {
        command.arg(format!("--{flag}={}", layout.path(file).display()));
    }
    command.args([
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--feature-gates=IPv6DualStack=true",
    ]);
    command.arg(format!("--service-cluster-ip-range={SERVICES}"));
    command.arg(format!(
        "--etcd-servers=https://127.0.0.1:{}",
        layout.ports.etcd
    ));
    command.arg(format!("--bind-address={}", layout.node_v4()));
    command.arg(format!("--advertise-address={}", layout.node_v4()));
    command.arg(format!("--secure-port={}", layout.ports.api));
    command
}

fn controller_manager(layout: &Layout) -> Command {
    let mut command = kubernetes(layout, Part::ControllerManager);
    for (flag, file) in [
        ("service-account-private-key-file", "identity.key"),
        ("root-ca-file", "certificates/apiserver.crt"),
    ] {
        command.arg(format!("--{flag}={}", layout.path(file).display()));
    }
    command.arg(format!("--secure-port={}", layout.ports.controllers));
    command.args(["--port=0", "--bind-address=127.0.0.1"]);
    command
}

/// The programs that Debian's packages have, and the packages.
const NEEDED: [(&str, &str); 7] = [
    ("busybox", "busybox-static"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("etcd", "etcd-server"),
    ("kubectl", "kubernetes-client"),
    ("openssl", "openssl"),
    ("runc", "runc"),
];

/// Where Debian puts the plugins that give pods their network.
pub const PACKAGED_PLUGINS: &str = "/usr/lib/cni";

/// The packages whose programs this machine lacks. Programs that are there from elsewhere will do.
pub fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|(program, _)| workspace::find_program(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if !Path::new(PACKAGED_PLUGINS).join("bridge").exists() {
        missing.push("containernetworking-plugins");
    }
    missing.dedup();
    missing
}
