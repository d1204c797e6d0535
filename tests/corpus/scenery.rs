//! The small world that all cases share: its pods, its Services, and who asks. Nothing here knows whether an agent or an
//! Envoy stands in the middle.
//!
//! | Service | pods | ports |
//! | --- | --- | --- |
//! | `a` | `a` | 80 `http` |
//! | `b` | `b-v1`, `b-v2` (label `version`) | 80 `http`, 443 `https`, 9000 `tcp`, 9443 `tls` |
//! | `c` | `c` | 80 `http`, 8080 `http-admin`, 82 `http2`, 83 `grpc`, 84 undeclared, 85 `http` where HTTP/2 is spoken, 86 undeclared where none is, 87 undeclared where HTTP/2 is, 443 `https`, 9000 `tcp`, 9443 `tls` |
//! | `d` | `d`, the only one with an agent before it | 80 `http` |
//! | `empty` | none | 80 `http`, 83 `grpc` |
//! | `down` | `a`, on a port where nobody listens | 80 `http`, 9000 `tcp` |
//! | `unready` | `u`, not ready | 80 `http` |
//! | `headless` | `h`, no cluster IP | 80 `http` |
//! | `secure` | `s`; every port of its pods is one of TLS | 80 `http`, 81 `http` for clients with a certificate, 82 `http2`, 443 `https`, 9000 `tcp` |
//! | `a.other` | `o`, in namespace `other` | 80 `http` |
//! | `x.other` | `o` | 80 `http`, 8080 `http-admin` |
//!
//! Who asks: `client` of namespace `default` with the labels `app: client`, `version: v1`; `guest` of namespace `other`;
//! and `gateway`: a machine outside, through the ingress gateway. The machine outside is also a server, `outside`.
//!
//! Every pod and every Service has an address of each family, written alike: host 12 is 10.97.1.12 and fd97::1:12. The
//! family of a case is the one that is dialled, and the one that Services have first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_tests::{OUTSIDE_V4, OUTSIDE_V6};
use serde_json::{Value, json};

use super::case::{Family, From};
use super::keys::keys;
use super::request::{Request, without_port};

/// A pod of the world.
#[derive(Debug)]
pub struct Backdrop {
    pub name: &'static str,
    pub namespace: &'static str,
    /// The last part of its addresses, in 10.97.1.0/24 and fd97::1:0/112.
    pub host: u8,
    pub labels: &'static [(&'static str, &'static str)],
    pub ready: bool,
    /// Whether the agent serves it.
    pub enrol: bool,
}

/// A Service of the world.
#[derive(Debug)]
pub struct Storefront {
    pub name: &'static str,
    pub namespace: &'static str,
    /// The last part of its addresses, in 10.96.1.0/24 and fd96::/112; 0 for a headless one.
    pub host: u8,
    /// The label `app` of its pods.
    pub app: &'static str,
    /// Name, port, target port.
    pub ports: &'static [(&'static str, u16, u16)],
}

/// Where plain HTTP is served in each pod.
pub const HTTP: u16 = 8080;
/// A second plain HTTP server.
pub const ADMIN: u16 = 8081;
/// HTTP/2 alone.
pub const HTTP2: u16 = 8082;
/// A line, answered by a line.
pub const TCP: u16 = 9000;
/// Whatever begins like TLS, answered by a line.
pub const TLS: u16 = 9443;
/// HTTP in TLS, by ALPN; clients may show a certificate.
pub const SECURE: u16 = 8443;
/// The same; clients must show one.
pub const SECURE_MUTUAL: u16 = 8444;
/// A line in TLS, answered by a line.
pub const SECURE_TCP: u16 = 9444;
/// Nobody listens here.
pub const NOBODY: u16 = 8099;

const fn pod(
    name: &'static str,
    namespace: &'static str,
    host: u8,
    labels: &'static [(&'static str, &'static str)],
) -> Backdrop {
    Backdrop {
        name,
        namespace,
        host,
        labels,
        ready: true,
        enrol: false,
    }
}

/// All pods.
pub const PODS: &[Backdrop] = &[
    Backdrop {
        enrol: true,
        ..pod(
            "client",
            "default",
            1,
            &[("app", "client"), ("version", "v1")],
        )
    },
    Backdrop {
        enrol: true,
        ..pod("guest", "other", 2, &[("app", "guest")])
    },
    pod("a", "default", 11, &[("app", "a")]),
    pod("b-v1", "default", 12, &[("app", "b"), ("version", "v1")]),
    pod("b-v2", "default", 13, &[("app", "b"), ("version", "v2")]),
    pod("c", "default", 14, &[("app", "c")]),
    Backdrop {
        enrol: true,
        ..pod("d", "default", 15, &[("app", "d")])
    },
    Backdrop {
        ready: false,
        ..pod("u", "default", 16, &[("app", "u")])
    },
    pod("h", "default", 17, &[("app", "h")]),
    pod("s", "default", 19, &[("app", "s")]),
    pod("o", "other", 18, &[("app", "o")]),
    pod(GATEWAY_POD, GATEWAY_NAMESPACE, 20, GATEWAY_LABELS),
];

/// The pod of the ingress gateway.
pub const GATEWAY_POD: &str = "ingress";
/// Its namespace.
pub const GATEWAY_NAMESPACE: &str = "istio-system";
/// Its labels.
pub const GATEWAY_LABELS: &[(&str, &str)] = &[("app", "ingress"), ("istio", "ingressgateway")];
/// The Gateway that every world has: port 80, every host.
pub const GATEWAY: &str = "istio-system/gw";

/// All Services.
pub const SERVICES: &[Storefront] = &[
    service("a", "default", 1, "a", &[("http", 80, HTTP)]),
    service(
        "b",
        "default",
        2,
        "b",
        &[
            ("http", 80, HTTP),
            ("https", 443, SECURE),
            ("tcp", 9000, TCP),
            ("tls", 9443, TLS),
        ],
    ),
    service(
        "c",
        "default",
        3,
        "c",
        &[
            ("http", 80, HTTP),
            ("http-admin", 8080, ADMIN),
            ("http2", 82, HTTP2),
            ("grpc", 83, HTTP2),
            ("web", 84, HTTP),
            ("http-two", 85, HTTP2),
            ("db", 86, TCP),
            ("any-two", 87, HTTP2),
            ("https", 443, SECURE),
            ("tcp", 9000, TCP),
            ("tls", 9443, TLS),
        ],
    ),
    service("d", "default", 4, "d", &[("http", 80, HTTP)]),
    service(
        "empty",
        "default",
        5,
        "nobody",
        &[("http", 80, HTTP), ("grpc", 83, HTTP2)],
    ),
    service(
        "down",
        "default",
        6,
        "a",
        &[("http", 80, NOBODY), ("tcp", 9000, NOBODY)],
    ),
    service("unready", "default", 7, "u", &[("http", 80, HTTP)]),
    service("headless", "default", 0, "h", &[("http", 80, 80)]),
    service(
        "secure",
        "default",
        10,
        "s",
        &[
            ("http", 80, SECURE),
            ("http-mutual", 81, SECURE_MUTUAL),
            ("http2", 82, SECURE),
            ("https", 443, SECURE),
            ("tcp", 9000, SECURE_TCP),
        ],
    ),
    service("a", "other", 8, "o", &[("http", 80, HTTP)]),
    service(
        "x",
        "other",
        9,
        "o",
        &[("http", 80, HTTP), ("http-admin", 8080, ADMIN)],
    ),
    service(
        "ingress",
        GATEWAY_NAMESPACE,
        20,
        "ingress",
        &[
            ("http", 80, 8080),
            ("http-more", 8081, 8081),
            ("https", 443, 8443),
            ("tcp", 9000, 9000),
            ("tls", 9443, 9443),
        ],
    ),
];

const fn service(
    name: &'static str,
    namespace: &'static str,
    host: u8,
    app: &'static str,
    ports: &'static [(&'static str, u16, u16)],
) -> Storefront {
    Storefront {
        name,
        namespace,
        host,
        app,
        ports,
    }
}

impl Backdrop {
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 97, 1, self.host)
    }

    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 1, digits(self.host))
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => self.ipv4().into(),
            Family::Ipv6 => self.ipv6().into(),
        }
    }

    /// As the API server would tell of it; `netns` makes it one of this node.
    pub fn object(&self, netns: Option<&str>) -> Value {
        let mut labels: serde_json::Map<String, Value> = self
            .labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let enrol = if self.enrol { "true" } else { "false" };
        labels.insert("mesh-agent.io/enrol".to_owned(), json!(enrol));
        let annotations =
            netns.map_or_else(|| json!({}), |path| json!({"mesh-agent.io/netns": path}));
        let ready = if self.ready { "True" } else { "False" };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "labels": labels,
                "annotations": annotations,
            },
            "spec": {"nodeName": "node1", "containers": [{"name": "app", "image": "app"}]},
            "status": {
                "phase": "Running",
                "podIP": self.ipv4(),
                "podIPs": [{"ip": self.ipv4()}, {"ip": self.ipv6()}],
                "conditions": [{"type": "Ready", "status": ready}],
            },
        })
    }
}

impl Storefront {
    /// Its cluster IP of a family.
    pub fn ip(&self, family: Family) -> Option<IpAddr> {
        let ip = match family {
            Family::Ipv4 => Ipv4Addr::new(10, 96, 1, self.host).into(),
            Family::Ipv6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, digits(self.host)).into(),
        };
        (self.host > 0).then_some(ip)
    }

    /// Its full name.
    pub fn fqdn(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// The pods behind it, ready or not.
    pub fn pods(&self) -> impl Iterator<Item = &'static Backdrop> {
        let app = self.app;
        PODS.iter()
            .filter(move |pod| pod.labels.contains(&("app", app)))
    }

    /// As the API server would tell of it; `first` is the family that it has first.
    pub fn object(&self, first: Family) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, port, target)| {
                json!({"name": name, "protocol": "TCP", "port": port, "targetPort": target})
            })
            .collect();
        let families = match first {
            Family::Ipv4 => [Family::Ipv4, Family::Ipv6],
            Family::Ipv6 => [Family::Ipv6, Family::Ipv4],
        };
        let mut ips: Vec<String> = families
            .iter()
            .filter_map(|family| self.ip(*family))
            .map(|ip| ip.to_string())
            .collect();
        if ips.is_empty() {
            ips.push("None".to_owned());
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "clusterIP": ips[0], "clusterIPs": ips, "selector": {"app": self.app}, "ports": ports,
                "ipFamilyPolicy": "RequireDualStack", "ipFamilies": families.map(Family::name),
            },
        })
    }
}

/// Everything that is there before any case of a family.
pub fn objects(family: Family, netns: impl Fn(&Backdrop) -> Option<String>) -> Vec<Value> {
    let pods = PODS.iter().map(|pod| pod.object(netns(pod).as_deref()));
    let services = SERVICES.iter().map(|service| service.object(family));
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "gw", "namespace": GATEWAY_NAMESPACE},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
        },
    });
    pods.chain(services)
        .chain([gateway])
        .chain(keys().secrets())
        .collect()
}

/// So that the last part of an IPv6 address reads like that of the IPv4 one.
fn digits(host: u8) -> u16 {
    let host = u16::from(host);
    host / 100 * 0x100 + host / 10 % 10 * 0x10 + host % 10
}

/// The Service that a name means, as a client of `namespace` would write it.
fn named(name: &str, namespace: &str) -> Option<&'static Storefront> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = name.strip_suffix(".svc.cluster.local").unwrap_or(name);
    let name = name.strip_suffix(".svc").unwrap_or(name);
    let (name, namespace) = name.split_once('.').unwrap_or((name, namespace));
    SERVICES
        .iter()
        .find(|service| service.name == name && service.namespace == namespace)
}

/// Where someone in the mesh connects to for a request: what it says, or where its Host resolves to.
pub fn target(request: &Request, from: From) -> IpAddr {
    let name = request.dial.as_deref().unwrap_or(request.host());
    let name = without_port(name).to_ascii_lowercase();
    if name == "outside" {
        return match request.family {
            Family::Ipv4 => OUTSIDE_V4.into(),
            Family::Ipv6 => OUTSIDE_V6.into(),
        };
    }
    if let Ok(ip) = name.trim_matches(['[', ']']).parse() {
        return ip;
    }
    if let Some(pod) = PODS
        .iter()
        .find(|pod| Some(pod.name) == name.strip_prefix("pod "))
    {
        return pod.ip(request.family);
    }
    let namespace = if from == From::Guest {
        "other"
    } else {
        "default"
    };
    named(&name, namespace)
        .and_then(|service| service.ip(request.family))
        .or_else(|| SERVICES[0].ip(request.family))
        .unwrap_or(OUTSIDE_V4.into())
}
