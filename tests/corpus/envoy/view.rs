//! What one proxy sees of a case: which VirtualServices, DestinationRules and Gateways are for it.

use serde_json::Value;

use super::super::case::{Family, From};
use super::super::scenery::{self, GATEWAY, GATEWAY_LABELS, PODS, SERVICES, Storefront};

/// Whose proxy it is, and the port that clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub from: From,
    pub port: u16,
    pub kind: Kind,
    pub family: Family,
}

/// What the listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Http,
    Tcp,
    Tls,
}

/// The objects of a case, as one proxy sees them.
pub struct View<'a> {
    /// Sets its clusters apart from other cases'.
    pub prefix: &'a str,
    pub place: Place,
    pub manifests: &'a [Value],
    /// `gatewayTopology`.
    pub topology: &'a Value,
}

impl View<'_> {
    pub fn gateway(&self) -> bool {
        self.place.from == From::Gateway
    }

    pub fn namespace(&self) -> &'static str {
        match self.place.from {
            From::Client => "default",
            From::Guest => "other",
            From::Gateway => "istio-system",
        }
    }

    fn labels(&self) -> &'static [(&'static str, &'static str)] {
        let name = match self.place.from {
            From::Client => "client",
            From::Guest => "guest",
            From::Gateway => return GATEWAY_LABELS,
        };
        PODS.iter()
            .find(|pod| pod.name == name)
            .map_or(&[], |pod| pod.labels)
    }

    /// Names of the Gateways that this proxy is, or `mesh`.
    pub fn own_names(&self) -> Vec<String> {
        if self.gateway() {
            self.gateways()
                .map(full_name)
                .chain([GATEWAY.to_owned()])
                .collect()
        } else {
            vec!["mesh".to_owned()]
        }
    }

    pub fn gateways(&self) -> impl Iterator<Item = &Value> {
        static STANDING: std::sync::OnceLock<Vec<Value>> = std::sync::OnceLock::new();
        let standing = STANDING.get_or_init(|| scenery::objects(Family::Ipv4, |_| None));
        let kind = |object: &&Value| object["kind"] == "Gateway";
        standing.iter().chain(self.manifests).filter(kind)
    }

    /// Those that this proxy may see, oldest first, ties by name.
    pub fn virtual_services(&self) -> impl Iterator<Item = &Value> {
        let own = self.own_names();
        let mut all: Vec<&Value> = self
            .manifests
            .iter()
            .filter(|object| {
                object["kind"] == "VirtualService" && !array(&object["spec"]["hosts"]).is_empty()
            })
            .filter(|object| self.exported(object))
            .filter(|object| {
                names_of_gateways(object)
                    .iter()
                    .any(|name| own.contains(name))
            })
            .collect();
        all.sort_by_key(|object| {
            let metadata = &object["metadata"];
            (
                metadata["creationTimestamp"].to_string(),
                metadata["name"].to_string(),
            )
        });
        all.into_iter()
    }

    fn exported(&self, object: &Value) -> bool {
        let to = array(&object["spec"]["exportTo"]);
        to.is_empty()
            || to.iter().any(|to| match to.as_str().unwrap_or_default() {
                "*" => true,
                "." => object["metadata"]["namespace"] == self.namespace(),
                name => name == self.namespace(),
            })
    }

    pub fn bound_to<'a>(&'a self, gateway: &'a str) -> impl Iterator<Item = &'a Value> {
        self.virtual_services()
            .filter(move |vs| names_of_gateways(vs).iter().any(|name| name == gateway))
    }

    /// The most specific, then oldest, that speaks of a host.
    pub fn virtual_service(&self, fqdn: &str) -> Option<&Value> {
        let mut best: Option<(usize, &Value)> = None;
        for candidate in self.virtual_services() {
            for host in hosts_of(candidate) {
                let rank = if host == fqdn { usize::MAX } else { host.len() };
                if covers(&host, fqdn) && best.is_none_or(|(known, _)| rank > known) {
                    best = Some((rank, candidate));
                }
            }
        }
        best.map(|(_, found)| found)
    }

    /// As HTTP has it: `gateways` of a match stands in the place of the client's conditions.
    pub fn concerned_by(&self, condition: &Value) -> bool {
        let port = &condition["port"];
        if !port.is_null() && *port != self.place.port {
            return false;
        }
        if !array(&condition["gateways"]).is_empty() {
            return self.reached(condition);
        }
        self.described_by(condition)
    }

    /// As TCP and TLS have it: everything must hold.
    pub fn strictly_concerned_by(&self, condition: &Value) -> bool {
        let port = &condition["port"];
        (port.is_null() || *port == self.place.port)
            && (array(&condition["gateways"]).is_empty() || self.reached(condition))
            && self.described_by(condition)
    }

    fn reached(&self, condition: &Value) -> bool {
        let own = self.own_names();
        let listed = array(&condition["gateways"]);
        listed
            .iter()
            .filter_map(Value::as_str)
            .any(|name| own.iter().any(|own| own == name))
    }

    fn described_by(&self, condition: &Value) -> bool {
        let namespace = condition["sourceNamespace"].as_str();
        namespace.is_none_or(|name| name == self.namespace())
            && map(&condition["sourceLabels"]).iter().all(|(key, value)| {
                let value = value.as_str().unwrap_or_default();
                self.labels().contains(&(key.as_str(), value))
            })
    }

    /// The Service that a stream is for, where no rule says: the one that has its port, `c` before others.
    pub fn dialled(&self) -> Option<&'static Storefront> {
        let has = |service: &&Storefront| service.port(self.place.port).is_some();
        SERVICES
            .iter()
            .filter(has)
            .max_by_key(|service| service.name == "b")
    }

    /// The name of a cluster here.
    pub fn cluster(&self, service: &Storefront, port: u16, subset: &str) -> String {
        self.cluster_of(&service.fqdn(), port, subset)
    }

    /// The same by host, which may be nobody's.
    pub fn cluster_of(&self, host: &str, port: u16, subset: &str) -> String {
        format!("{}|outbound|{port}|{subset}|{host}", self.prefix)
    }

    /// The DestinationRule that this client sees for a Service.
    pub fn rule(&self, service: &Storefront) -> Option<&Value> {
        let fqdn = service.fqdn();
        [self.namespace(), service.namespace, "istio-system"]
            .iter()
            .find_map(|namespace| {
                self.manifests
                    .iter()
                    .filter(|object| {
                        let host = object["spec"]["host"].as_str().unwrap_or_default();
                        object["kind"] == "DestinationRule"
                            && object["metadata"]["namespace"] == *namespace
                            && covers(&full_host(host, object), &fqdn)
                    })
                    .max_by_key(|object| object["spec"]["host"].as_str().map_or(0, str::len))
            })
    }
}

impl Storefront {
    pub fn port(&self, number: u16) -> Option<&'static (&'static str, u16, u16)> {
        self.ports.iter().find(|(_, port, _)| *port == number)
    }

    /// Every name that a client of `namespace` may use.
    pub fn domains(&self, namespace: &str) -> Vec<String> {
        let (name, own) = (self.name, self.namespace);
        let mut domains = vec![
            self.fqdn(),
            format!("{}.", self.fqdn()),
            format!("{name}.{own}.svc"),
            format!("{name}.{own}"),
        ];
        if namespace == own {
            domains.push(name.to_owned());
        }
        domains.extend(self.ip(Family::Ipv4).map(|ip| ip.to_string()));
        domains.extend(self.ip(Family::Ipv6).map(|ip| format!("[{ip}]")));
        domains
    }
}

pub fn full_name(object: &Value) -> String {
    let part = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

fn names_of_gateways(virtual_service: &Value) -> Vec<String> {
    let listed = array(&virtual_service["spec"]["gateways"]);
    if listed.is_empty() {
        return vec!["mesh".to_owned()];
    }
    let namespace = virtual_service["metadata"]["namespace"].as_str();
    let own = namespace.unwrap_or_default();
    let full = |name: &str| match name.split_once('/') {
        Some((".", name)) => format!("{own}/{name}"),
        Some(_) => name.to_owned(),
        None if name == "mesh" => name.to_owned(),
        None => format!("{own}/{name}"),
    };
    listed.iter().filter_map(Value::as_str).map(full).collect()
}

/// What a VirtualService is for.
pub fn hosts_of(virtual_service: &Value) -> Vec<String> {
    let hosts = array(&virtual_service["spec"]["hosts"]);
    hosts
        .iter()
        .filter_map(Value::as_str)
        .map(|host| full_host(host, virtual_service))
        .collect()
}

/// A name without a dot is a Service next to the object.
pub fn full_host(host: &str, object: &Value) -> String {
    if host.contains('.') || host == "*" {
        return host.to_ascii_lowercase();
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    format!("{host}.{namespace}.svc.cluster.local").to_ascii_lowercase()
}

/// Whether a host, with or without a wildcard, covers another.
pub fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.trim_start_matches('*').ends_with(suffix),
        None => pattern == host,
    }
}

/// An array, or none.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The entries of an object, or none.
pub fn map(value: &Value) -> Vec<(&String, &Value)> {
    value
        .as_object()
        .map(|map| map.iter().collect())
        .unwrap_or_default()
}
