//! A Sidecar: which destinations the pods of a namespace know, and what becomes of the others.

use std::sync::Arc;

use crate::config::OutboundTrafficPolicy;
use crate::config::crd::sidecar::{
    Egress as WrittenEgress, Ingress as WrittenIngress, OutboundTrafficPolicy as WrittenPolicy,
    SidecarPort, SidecarSpec,
};
use crate::config::crd::virtual_service::Destination;
use crate::config::object::destination_rule::{Pool, read_pool};
use crate::config::object::{self, Context, name, service};
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::{AppAddress, Labels, Protocol};

/// A Sidecar.
#[derive(Debug, PartialEq)]
pub struct Sidecar {
    /// The labels of its pods; `None` is all pods of the namespace.
    pub selector: Option<Labels>,
    /// What they know; `None`, as with nothing written, is everything.
    pub egress: Option<Vec<Egress>>,
    /// What they serve; empty, as with nothing written, is what their Services say.
    pub ingress: Vec<Ingress>,
    /// What becomes of what they do not know; `None` is what the mesh says.
    pub unknown: Option<OutboundPolicy>,
    /// `inboundConnectionPool`: towards their apps, in place of what DestinationRules say.
    pub pool: Option<Pool>,
}

impl Sidecar {
    /// The pool towards an app on a port, where it says one.
    pub fn pool(&self, port: u16) -> Option<&Pool> {
        let own = self.ingress.iter().find(|listed| listed.port == port);
        own.and_then(|listed| listed.pool.as_ref())
            .or(self.pool.as_ref())
    }
}

/// One of `ingress[]`.
#[derive(Debug, PartialEq)]
pub struct Ingress {
    /// The port that clients dial.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// `defaultEndpoint`.
    pub app: AppAddress,
    /// `connectionPool`: towards the app, in place of the Sidecar's.
    pub pool: Option<Pool>,
}

/// One of `egress[]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Egress {
    /// The port that it is for; `None` is every port without an entry of its own.
    pub port: Option<u16>,
    /// The hosts.
    pub hosts: Vec<EgressHost>,
}

/// `namespace/host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressHost {
    /// The namespace.
    pub namespace: EgressNamespace,
    /// A name, `*.name` or `*`.
    pub host: Arc<str>,
}

/// The namespace of an egress host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressNamespace {
    /// `*`.
    Any,
    /// `.`: the pod's own, which for a Sidecar of the root namespace is not its own.
    Own,
    /// By name.
    Named(Arc<str>),
}

/// `outboundTrafficPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundPolicy {
    /// `ALLOW_ANY`.
    AllowAny,
    /// `REGISTRY_ONLY`.
    RegistryOnly,
    /// `egressProxy`.
    Through {
        /// The Service, fully qualified.
        host: Arc<str>,
        /// Its subset.
        subset: Option<Arc<str>>,
        /// Its port.
        port: u16,
    },
}

impl Sidecar {
    /// Reads `spec`.
    pub fn read(spec: SidecarSpec, context: &Context<'_>, problems: &mut Problems) -> Self {
        let SidecarSpec {
            workload_selector,
            ingress,
            egress,
            outbound_traffic_policy,
            inbound_connection_pool,
        } = spec;
        let path = Path::of("spec");
        if workload_selector
            .as_ref()
            .is_some_and(|selector| selector.labels.is_empty())
        {
            problems.warning(
                &path.key("workloadSelector"),
                "a selector without labels selects all Pods of the namespace",
                "add labels, or leave it out",
            );
        }
        Self {
            pool: inbound_connection_pool
                .map(|pool| read_pool(pool, &path.key("inboundConnectionPool"), problems)),
            selector: workload_selector
                .map(|selector| object::labels(&selector.labels))
                .filter(|labels| !labels.is_empty()),
            egress: (!egress.is_empty())
                .then(|| read_egress(egress, &path.key("egress"), problems)),
            ingress: read_ingress(ingress, &path.key("ingress"), problems),
            unknown: outbound_traffic_policy.and_then(|policy| {
                let path = path.key("outboundTrafficPolicy");
                read_policy(policy, context, &path, problems)
            }),
        }
    }
}

impl EgressHost {
    /// Whether a pod of namespace `own` means `host` of `namespace` by it.
    pub fn imports(&self, own: &str, namespace: &str, host: &str) -> bool {
        let there = match &self.namespace {
            EgressNamespace::Any => true,
            EgressNamespace::Own => own == namespace,
            EgressNamespace::Named(name) => **name == *namespace,
        };
        there && name::intersection(&self.host, host).is_some()
    }
}

fn read_ingress(
    written: Vec<WrittenIngress>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Ingress> {
    let mut ingress: Vec<Ingress> = Vec::new();
    for (index, entry) in written.into_iter().enumerate() {
        let path = path.index(index);
        let WrittenIngress {
            port,
            bind,
            capture_mode,
            default_endpoint,
            tls,
            connection_pool,
        } = entry;
        if !bind.is_empty() || capture_mode.as_deref() == Some("NONE") || tls.is_some() {
            let field = if tls.is_some() { "tls" } else { "bind" };
            problems.left_out(
                &path.key(field),
                "a listener of its own is not supported yet",
                "the port is served as its pods' addresses are",
            );
        }
        let pool =
            connection_pool.map(|pool| read_pool(pool, &path.key("connectionPool"), problems));
        let SidecarPort {
            number, protocol, ..
        } = port.unwrap_or_default();
        let port = path.key("port");
        let Some(number) = object::port_number(number, &port.key("number"), problems) else {
            continue;
        };
        if ingress.iter().any(|other| other.port == number) {
            let message = format!("two entries are for port {number}");
            problems.error(&port.key("number"), message, "keep one of them");
        }
        let declared = service::by_name(&protocol);
        if declared.is_none() {
            problems.error(
                &port.key("protocol"),
                format!("\"{protocol}\" is no protocol"),
                "write HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS",
            );
        }
        ingress.push(Ingress {
            port: number,
            protocol: declared.unwrap_or(Protocol::Auto),
            app: read_endpoint(&default_endpoint, &path.key("defaultEndpoint"), problems),
            pool,
        });
    }
    ingress
}

fn read_endpoint(text: &str, path: &Path, problems: &mut Problems) -> AppAddress {
    if text.is_empty() {
        return AppAddress::Dialled;
    }
    if text.starts_with("unix://") {
        problems.unsupported_part(
            path,
            "a Unix socket",
            "what comes in goes to the port that was dialled",
        );
        return AppAddress::Dialled;
    }
    let parts = text.rsplit_once(':');
    let port = parts.and_then(|(_, port)| port.parse().ok().filter(|port| *port > 0));
    match (parts.map(|(host, _)| host), port) {
        (Some("127.0.0.1" | "[::1]"), Some(port)) => AppAddress::Loopback(port),
        (Some("0.0.0.0" | "[::]"), Some(port)) => AppAddress::Pod(port),
        (_, _) => {
            problems.error(
                path,
                format!("\"{text}\" is no endpoint"),
                "write 127.0.0.1:PORT for the loopback address, or 0.0.0.0:PORT for the pod's own",
            );
            AppAddress::Dialled
        }
    }
}

fn read_egress(written: Vec<WrittenEgress>, path: &Path, problems: &mut Problems) -> Vec<Egress> {
    let mut egress: Vec<Egress> = Vec::new();
    for (index, entry) in written.into_iter().enumerate() {
        let path = path.index(index);
        let WrittenEgress {
            port,
            bind,
            capture_mode,
            hosts,
        } = entry;
        let own_listener = !bind.is_empty() || capture_mode.as_deref() == Some("NONE");
        if own_listener {
            problems.left_out(
                &path.key("bind"),
                "a listener of its own is not supported yet",
                "the hosts of this entry count as known on its port",
            );
        }
        let port = match port {
            None => None,
            Some(port) => {
                let number =
                    object::port_number(port.number, &path.key("port").key("number"), problems);
                match number {
                    Some(number) => Some(number),
                    None => continue,
                }
            }
        };
        if egress.iter().any(|other| other.port == port) {
            problems.error(
                &path,
                match port {
                    Some(port) => format!("two entries are for port {port}"),
                    None => "two entries are for every port".to_owned(),
                },
                "put their hosts into one",
            );
        }
        egress.push(Egress {
            port,
            hosts: read_hosts(&hosts, &path.key("hosts"), problems),
        });
    }
    egress
}

fn read_hosts(written: &[String], path: &Path, problems: &mut Problems) -> Vec<EgressHost> {
    if written.is_empty() {
        problems.error(path, "an egress entry needs hosts", "write \"*/*\" for all");
    }
    let mut hosts = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let path = path.index(index);
        // Istio's webhook warns of it, and so the Sidecar works.
        if written[..index].contains(text) {
            let message = format!("\"{text}\" stands here twice");
            problems.warning(&path, message, "remove one");
        } else if let Some(wider) = written.iter().find(|wider| is_whole(wider, text)) {
            let message = format!("\"{wider}\", which stands here too, has \"{text}\" already");
            problems.warning(&path, message, "remove one");
        }
        let parts = text.split_once('/');
        let Some((namespace, host)) = parts.filter(|(namespace, host)| {
            let known = matches!(*namespace, "*" | "." | "~") || name::is_label(namespace);
            known && name::is_host(host)
        }) else {
            problems.error(
                &path,
                format!("\"{text}\" is not namespace/host"),
                "write for example \"./*\", \"prod/*.example.com\" or \"~/*\"",
            );
            continue;
        };
        let namespace = match namespace {
            "*" => EgressNamespace::Any,
            // None at all.
            "~" => continue,
            "." => EgressNamespace::Own,
            other => EgressNamespace::Named(other.into()),
        };
        hosts.push(EgressHost {
            namespace,
            host: host.to_ascii_lowercase().into(),
        });
    }
    hosts
}

/// Whether one of two hosts is all of the namespace that the other one is in.
fn is_whole(wider: &str, text: &str) -> bool {
    let namespace = text.split_once('/').map(|(namespace, _)| namespace);
    match wider.strip_suffix("/*") {
        _ if wider == text => false,
        Some("*") => true,
        whole => whole.is_some() && whole == namespace,
    }
}

fn read_policy(
    policy: WrittenPolicy,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<OutboundPolicy> {
    let WrittenPolicy { mode, egress_proxy } = policy;
    if let Some(destination) = egress_proxy {
        let path = path.key("egressProxy");
        return read_egress_proxy(destination, context, &path, problems);
    }
    // Proto's first value: a policy without a mode refuses.
    let mode = mode.as_deref().unwrap_or("REGISTRY_ONLY");
    let mode = read_mode(mode, "is no mode", &path.key("mode"), problems)?;
    Some(match mode {
        OutboundTrafficPolicy::AllowAny => OutboundPolicy::AllowAny,
        OutboundTrafficPolicy::RegistryOnly => OutboundPolicy::RegistryOnly,
    })
}

/// The `mode` of an `outboundTrafficPolicy`, of a Sidecar or of the mesh; `refusal` is said of any other word.
pub(super) fn read_mode(
    mode: &str,
    refusal: &str,
    path: &Path,
    problems: &mut Problems,
) -> Option<OutboundTrafficPolicy> {
    match mode {
        "REGISTRY_ONLY" => Some(OutboundTrafficPolicy::RegistryOnly),
        "ALLOW_ANY" => Some(OutboundTrafficPolicy::AllowAny),
        "ALLOW_ANY_DYNAMIC_DNS" => {
            problems.code(Code::Mesh0001).warning(
                path,
                "ALLOW_ANY_DYNAMIC_DNS is ALLOW_ANY here: what nobody knows goes to the address that the client dialled",
                "write ALLOW_ANY",
            );
            Some(OutboundTrafficPolicy::AllowAny)
        }
        other => {
            let remedy = "write ALLOW_ANY or REGISTRY_ONLY";
            problems.error(path, format!("\"{other}\" {refusal}"), remedy);
            None
        }
    }
}

fn read_egress_proxy(
    destination: Destination,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<OutboundPolicy> {
    let Destination { host, subset, port } = destination;
    if !name::is_host(&host) || host.contains('*') {
        problems.error(
            &path.key("host"),
            format!("\"{host}\" is no host"),
            "name a Service",
        );
        return None;
    }
    let number = port.and_then(|port| port.number);
    let port = object::port_number(number, &path.key("port").key("number"), problems)?;
    Some(OutboundPolicy::Through {
        host: name::qualify(&host, context.namespace, &context.options.cluster_domain),
        subset: (!subset.is_empty()).then(|| subset.into()),
        port,
    })
}
