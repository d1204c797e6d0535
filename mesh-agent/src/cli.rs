//! The command line: flags and environment, and what they must be before anything starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cni;
use crate::config::kube::Watched;
use crate::config::source::Origin;
use crate::config::{Code, CompileOptions, Membership, OutboundTrafficPolicy, UnknownFields};
use crate::log::{self, LogFormat};
use crate::model::{CapturePolicy, FailPolicy, SourceMode, Topology};

pub mod iptables;

/// A service mesh without sidecars: one agent per node takes over the TCP traffic of the pods around it and routes
/// their HTTP as Istio's own YAML says.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mesh-agent run --manifests ./manifests                     the pods that the manifests place on this machine
  mesh-agent run --manifests ./manifests --mode iptables     without eBPF
  mesh-agent gateway --manifests ./manifests --pod istio-system/istio-ingressgateway
  mesh-agent analyze --manifests ./manifests                 what is wrong with these manifests
  mesh-agent analyze --explain IST0109                       what a code means
  mesh-agent explain --manifests ./manifests --from default/client -H 'user: bob' http://reviews:9080/
                                                             which rule takes a request, and why
  mesh-agent inject -f deploy.yaml | kubectl apply -f -       a workload into the mesh
  mesh-agent status                                          what a running agent does, and why
  mesh-agent iptables print                                  the nat chains, without applying them

Exit codes: 0 done, 1 failed, 2 wrong usage or invalid manifests.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Be the agent of this node: enrol its pods and carry their traffic, until SIGTERM or Ctrl-C
    Run(RunArgs),
    /// Be an ingress gateway, without privileges, inside the gateway's own pod
    Gateway(GatewayArgs),
    /// Print, apply or remove the nat chains of one network namespace, as istio-iptables does
    #[command(subcommand)]
    Iptables(iptables::IptablesCommand),
    /// Say what is wrong with a directory of manifests, and what to do; exits with 2 on errors, 0 on warnings alone
    Analyze(AnalyzeArgs),
    /// Say what becomes of a request, step by step: which listener, host and rule, and why; where it goes, and how
    Explain(ExplainArgs),
    /// Ask, in the manifests of workloads, for their pods to be in the mesh: `mesh-agent inject -f x.yaml | kubectl apply
    /// -f -`; the rest of the text stays as it is
    Inject(InjectArgs),
    /// Show the mode, the pods and the rejected objects of a running agent
    Status(ClientArgs),
    /// Print the configuration in force in a running agent, as JSON
    Config(ClientArgs),
    /// Show the log filter of a running agent, or set it: `mesh-agent log debug`, `mesh-agent log info,access=info`
    Log(LogArgs),
}

/// `mesh-agent run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What agent and gateway share.
    #[command(flatten)]
    pub process: ProcessArgs,

    /// How connections are steered; `auto` takes eBPF where a probe at start succeeds, else iptables, and says why
    #[arg(long, value_enum, default_value_t = ModeChoice::Auto, env = "MESH_AGENT_MODE")]
    pub mode: ModeChoice,

    /// The name of this node, for logs and status [default: the host name]
    #[arg(long, env = "NODE_NAME")]
    pub node: Option<String>,

    /// With --kubernetes, enrol the pods that Istio would give a sidecar too: by `istio-injection`, `istio.io/rev` and
    /// `sidecar.istio.io/inject`. Without it `mesh-agent.io/enrol: "true"` alone counts, on a namespace or a pod
    #[arg(long, verbatim_doc_comment)]
    pub istio_injection: bool,

    /// With --kubernetes, whether what is wrong with objects is said on them: a condition in the status of Istio's, and an
    /// Event. Of all agents one does it
    #[arg(long, value_enum, default_value_t = Switch::On, verbatim_doc_comment)]
    pub write_status: Switch,

    /// The node's directory of CNI configurations, /etc/cni/net.d as the agent sees it. With --cni-bin-dir, the agent puts
    /// itself at the end of the node's chain of plugins, so that no pod begins before it is in the mesh, and takes itself out
    /// again when it ends
    #[arg(long, value_name = "DIR", requires_all = ["kubernetes", "cni_bin_dir"], verbatim_doc_comment)]
    pub cni_net_dir: Option<PathBuf>,

    /// The node's directory of CNI plugins, /opt/cni/bin as the agent sees it
    #[arg(long, value_name = "DIR", requires = "cni_net_dir")]
    pub cni_bin_dir: Option<PathBuf>,

    /// Where the plugin asks the agent: the same path for the agent and for the node
    #[arg(long, value_name = "SOCKET", default_value = cni::SOCKET)]
    pub cni_socket: PathBuf,

    /// The client address that applications see: 127.0.0.6 as with a sidecar, or the client's own. A pod's annotation
    /// `mesh-agent.io/source` wins
    #[arg(long, value_enum, default_value_t = SourceChoice::Sidecar, verbatim_doc_comment)]
    pub source: SourceChoice,

    /// What becomes of a pod's new connections while no agent runs after a crash: refused as with a dead sidecar,
    /// open (outside the mesh), or held until one is back. The iptables mode can only refuse. A pod's annotation
    /// `mesh-agent.io/on-agent-loss` wins
    #[arg(long, value_enum, default_value_t = FailChoice::Refuse, verbatim_doc_comment)]
    pub on_agent_loss: FailChoice,

    /// Which connections within the node go without TCP, in the eBPF mode (Linux 6.3). A pod's annotation
    /// `mesh-agent.io/fast-path: off` takes the pod out
    #[arg(long, value_enum, default_value_t = FastPathChoice::Off, env = "MESH_AGENT_FAST_PATH", verbatim_doc_comment)]
    pub fast_path: FastPathChoice,

    /// Whether what one pod of this node says to another passes the proxy once, for both of them, and comes to the server's
    /// pod from within: rules of the kernel between the two pods do not see it. Off: twice, over the pods' network
    /// [default: on; off with --kubernetes, where a NetworkPolicy may forbid what one pod says to another]
    #[arg(long, value_enum, env = "MESH_AGENT_ONE_HOP", verbatim_doc_comment)]
    pub one_hop: Option<Switch>,

    /// The port, inside each pod, for the connections that the pod opens
    #[arg(long, default_value_t = 15001, value_name = "PORT")]
    pub outbound_port: u16,

    /// The port, inside each pod, for the connections to the pod
    #[arg(long, default_value_t = 15006, value_name = "PORT")]
    pub inbound_port: u16,

    /// Which chains the iptables mode writes: as Istio's documentation lists them, or as its current release does
    #[arg(long, value_enum, default_value_t = iptables::ProfileFlag::Listed)]
    pub iptables_profile: iptables::ProfileFlag,

    /// Which iptables the iptables mode uses; `auto` follows the rules that are already there
    #[arg(long, value_enum, default_value_t = iptables::BackendFlag::Auto)]
    pub iptables_backend: iptables::BackendFlag,

    /// Where the eBPF mode pins its links, which is what makes `--on-agent-loss` work; a bpffs is mounted there if
    /// none is [default: /sys/fs/bpf/mesh-agent, or /run/mesh-agent/bpf where no bpffs is mounted]
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub bpffs: Option<PathBuf>,
}

/// `mesh-agent gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// What agent and gateway share.
    #[command(flatten)]
    pub process: ProcessArgs,

    /// The gateway's own pod, NAMESPACE/NAME: its labels say which Gateways it serves
    #[arg(long, value_name = "NAMESPACE/NAME", env = "POD")]
    pub pod: String,

    /// The address to listen on [default: all, IPv6 and IPv4]
    #[arg(long, value_name = "IP")]
    pub bind: Option<std::net::IpAddr>,

    /// How many proxies stand before it and tell the truth in x-forwarded-for and x-forwarded-proto. The annotation
    /// `proxy.istio.io/config` of its pod wins (`gatewayTopology.numTrustedProxies`)
    #[arg(long, default_value_t = 0, value_name = "N", verbatim_doc_comment)]
    pub trusted_proxies: u32,

    /// How long, in seconds, connections are still taken once the gateway is told to end, and says that it is not ready any
    /// more: until load balancers and nodes have heard. --drain begins after that [default: 0; 5 with --kubernetes]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, verbatim_doc_comment)]
    pub keep_accepting: Option<Duration>,
}

impl GatewayArgs {
    /// `--keep-accepting`.
    pub fn keep_accepting(&self) -> Duration {
        let usual = match self.process.kubernetes {
            true => Duration::from_secs(5),
            false => Duration::ZERO,
        };
        self.keep_accepting.unwrap_or(usual)
    }
}

/// What agent and gateway share.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// The directory of manifests: Services, Pods, EndpointSlices and Istio's kinds. It is watched; an edit is live at
    /// once, a broken one leaves the last good state in force
    #[arg(
        long,
        value_name = "DIR",
        env = "MESH_AGENT_MANIFESTS",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    pub manifests: Option<PathBuf>,

    /// Watch Kubernetes' API server instead: the one that a Pod's service account leads to, or a kubeconfig
    #[arg(long, env = "MESH_AGENT_KUBERNETES")]
    pub kubernetes: bool,

    /// Where to save what the API server says, so that a start without it has a world. For its owner alone: of a gateway
    /// it holds the keys of Secrets [default: /var/lib/mesh-agent for an agent, nowhere for a gateway]
    #[arg(
        long,
        value_name = "DIR",
        requires = "kubernetes",
        verbatim_doc_comment
    )]
    pub state_dir: Option<PathBuf>,

    /// How they are understood.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// Administration: /status, /ready, /stats, /config_dump, /clusters, /logging. Keep it on loopback
    #[arg(
        long,
        default_value = "127.0.0.1:15000",
        value_name = "ADDRESS",
        value_parser = listen_address,
        env = "MESH_AGENT_ADMIN"
    )]
    pub admin: SocketAddr,

    /// Readiness for probes: /healthz/ready
    #[arg(long, default_value = "127.0.0.1:15021", value_name = "ADDRESS", value_parser = listen_address)]
    pub health: SocketAddr,

    /// Prometheus: /metrics and /stats/prometheus
    #[arg(long, default_value = "127.0.0.1:15020", value_name = "ADDRESS", value_parser = listen_address)]
    pub metrics: SocketAddr,

    /// Prometheus where Envoy has it: /stats/prometheus
    #[arg(long, default_value = "127.0.0.1:15090", value_name = "ADDRESS", value_parser = listen_address)]
    pub envoy_metrics: SocketAddr,

    /// Threads that carry traffic [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// How long connections may go on, in seconds, when their pod leaves the mesh or the process ends
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub drain: Duration,

    /// What is logged, for example `debug`, or `info,access=info` for an access log
    #[arg(
        long,
        default_value = "info",
        value_name = "FILTER",
        value_parser = log::check,
        env = "MESH_AGENT_LOG"
    )]
    pub log: String,

    /// How it is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl ProcessArgs {
    /// Where the world comes from; `watched` is for an API server.
    pub fn origin(&self, watched: Watched) -> Origin {
        match &self.manifests {
            Some(directory) => Origin::Directory(directory.clone()),
            None => Origin::Kubernetes(watched),
        }
    }
}

/// How manifests are understood: what Istio has in its mesh configuration.
#[derive(Debug, Args)]
pub struct MeshArgs {
    /// What an unknown field in one of Istio's objects does: reject the object, or warn and apply the rest
    #[arg(long, value_enum, default_value_t = UnknownFieldsChoice::Reject)]
    pub unknown_fields: UnknownFieldsChoice,

    /// What becomes of connections and requests to destinations that no Service and no ServiceEntry knows, where no
    /// Sidecar says otherwise
    #[arg(long, value_enum, default_value_t = OutboundTrafficChoice::AllowAny)]
    pub outbound_traffic_policy: OutboundTrafficChoice,

    /// The end of every Service's name
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// The namespace whose DestinationRules and Sidecars hold for all who have none of their own
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
}

/// `--fast-path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FastPathChoice {
    /// None
    Off,
    /// Those between two pods of the mesh, from the agent to the agent: applications see no difference
    Agents,
    /// Also those from and to applications, whose sockets then are not quite what they are without: see the README
    Applications,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

/// `--outbound-traffic-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutboundTrafficChoice {
    /// They go where the client meant them to go
    AllowAny,
    /// They are refused: 502 for requests, a closed connection for the rest
    RegistryOnly,
}

impl MeshArgs {
    /// The options, with this steering for Pods that say nothing.
    pub fn options(&self, capture: CapturePolicy) -> CompileOptions {
        let Self {
            unknown_fields,
            outbound_traffic_policy,
            cluster_domain,
            root_namespace,
        } = self;
        CompileOptions {
            cluster_domain: cluster_domain.as_str().into(),
            root_namespace: root_namespace.as_str().into(),
            unknown_fields: (*unknown_fields).into(),
            outbound_traffic_policy: match outbound_traffic_policy {
                OutboundTrafficChoice::AllowAny => OutboundTrafficPolicy::AllowAny,
                OutboundTrafficChoice::RegistryOnly => OutboundTrafficPolicy::RegistryOnly,
            },
            capture,
            topology: Topology::default(),
            membership: Membership::default(),
        }
    }
}

/// `mesh-agent analyze`.
#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// The directory of manifests
    #[arg(long, value_name = "DIR", required_unless_present = "explain")]
    pub manifests: Option<PathBuf>,

    /// How they are understood.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// How the findings are printed. JSON is an object with `findings` (severity, code, file, line, column, end_line,
    /// end_column, object, field, message, remedy, related) and `summary` (files, objects, errors, warnings, infos)
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,

    /// Say what a code means, such as IST0101, and analyze nothing
    #[arg(long, value_name = "CODE", value_parser = code, conflicts_with = "manifests")]
    pub explain: Option<Code>,
}

/// `mesh-agent inject`.
#[derive(Debug, Args)]
pub struct InjectArgs {
    /// The file with the manifests; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub filename: PathBuf,
}

/// `mesh-agent explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The directory of manifests
    #[arg(long, value_name = "DIR", env = "MESH_AGENT_MANIFESTS")]
    pub manifests: PathBuf,

    /// How they are understood.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// The pod that asks; `default` is its namespace where none is written
    #[arg(
        long,
        value_name = "NAMESPACE/POD",
        required_unless_present = "gateway"
    )]
    pub from: Option<String>,

    /// The gateway that is asked: its pod, or a Gateway. The port of the URL is then the one that the Gateway names
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "from")]
    pub gateway: Option<String>,

    /// The method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    pub method: String,

    /// A header, such as -H 'x-user: bob'; as often as there are any
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,

    /// The address that the pod dials [default: that of the Service which the URL names]
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<SocketAddr>,

    /// How it is told. The fields of the JSON are listed in the documentation of the module `explain`
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,

    /// What is asked for: http://, https:// (TLS that the client begins) or tcp://; http:// may be left out
    pub url: String,
}

/// The commands that ask a running agent.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// Where the agent's administration listens
    #[arg(
        long,
        default_value = "127.0.0.1:15000",
        value_name = "ADDRESS",
        env = "MESH_AGENT_ADMIN"
    )]
    pub admin: SocketAddr,

    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// `mesh-agent log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Where the agent's administration listens
    #[arg(
        long,
        default_value = "127.0.0.1:15000",
        value_name = "ADDRESS",
        env = "MESH_AGENT_ADMIN"
    )]
    pub admin: SocketAddr,

    /// The new filter; none shows the one in force
    #[arg(value_parser = log::check)]
    pub filter: Option<String>,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeChoice {
    /// eBPF where it works, else iptables.
    Auto,
    /// eBPF, or fail.
    Ebpf,
    /// iptables, or fail.
    Iptables,
}

/// `--source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceChoice {
    /// 127.0.0.6 or ::6.
    Sidecar,
    /// The true client.
    Preserve,
}

/// `--on-agent-loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailChoice {
    /// Connection refused.
    Refuse,
    /// Outside the mesh.
    Open,
    /// Wait for an agent.
    Hold,
}

/// `--unknown-fields`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownFieldsChoice {
    /// The object is rejected.
    Reject,
    /// The rest is applied.
    Warn,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl From<SourceChoice> for SourceMode {
    fn from(choice: SourceChoice) -> Self {
        match choice {
            SourceChoice::Sidecar => Self::Sidecar,
            SourceChoice::Preserve => Self::Preserve,
        }
    }
}

impl From<UnknownFieldsChoice> for UnknownFields {
    fn from(choice: UnknownFieldsChoice) -> Self {
        match choice {
            UnknownFieldsChoice::Reject => Self::Reject,
            UnknownFieldsChoice::Warn => Self::Warn,
        }
    }
}

impl From<FailChoice> for FailPolicy {
    fn from(choice: FailChoice) -> Self {
        match choice {
            FailChoice::Refuse => Self::Refuse,
            FailChoice::Open => Self::Open,
            FailChoice::Hold => Self::Hold,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// An address to listen at. A manifest that writes `$(HOST_IP):15020` cannot put an address of IPv6 in brackets, so it may do
/// without.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let bare = || {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    let address = text.parse().ok().or_else(bare);
    address.ok_or_else(|| "it is not IP:PORT, such as 127.0.0.1:15000 or [::1]:15000".to_owned())
}

fn code(text: &str) -> Result<Code, String> {
    Code::of(text).ok_or_else(|| "there is no such code".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_of_ipv6_may_do_without_brackets() {
        let check = |text: &str, expected: Option<&str>| {
            let expected = expected.map(|address| address.parse().expect("an address"));
            assert_eq!(listen_address(text).ok(), expected, "{text}");
        };
        check("127.0.0.1:15020", Some("127.0.0.1:15020"));
        check("[fd00::7]:15020", Some("[fd00::7]:15020"));
        check("fd00::7:15020", Some("[fd00::7]:15020"));
        check(":::15020", Some("[::]:15020"));
        check("15020", None);
        check("localhost:15020", None);
        check("fd00::7:", None);
        check("10.0.0.1:70000", None);
    }
}
