//! The mesh's route tables: one per Service port, and a private one per port whose protocol nobody declared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::CompileOptions;
use crate::config::compile::routes::{Binding, Place, default_route};
use crate::config::compile::services::{Registered, Services};
use crate::config::compile::sight::Sight;
use crate::config::object::name::{GatewayName, covers};
use crate::model::{Protocol, RouteTable, VirtualHost};

type Tables = BTreeMap<u16, RouteTable>;
type Undeclared = HashMap<Arc<str>, BTreeMap<u16, Arc<VirtualHost>>>;

/// Makes them all.
pub(super) fn tables(
    bindings: &[Binding<'_>],
    services: &Services<'_>,
    sight: &Sight<'_>,
    options: &CompileOptions,
) -> (Tables, Undeclared) {
    let mesh = Mesh::new(bindings, services, sight, options);
    let mut at_port: BTreeMap<u16, Vec<(&Registered<'_>, Protocol)>> = BTreeMap::new();
    for service in &services.list {
        for port in &service.model.ports {
            let http = matches!(
                port.protocol,
                Protocol::Http | Protocol::Http2 | Protocol::Auto
            );
            if http && sight.sees_port(service, port.number) {
                let found = at_port.entry(port.number).or_default();
                found.push((service, port.protocol));
            }
        }
    }
    let (mut tables, mut undeclared) = (Tables::new(), Undeclared::new());
    for (port, found) in at_port {
        let hosts: Vec<(&Registered<'_>, Arc<VirtualHost>)> = found
            .iter()
            .map(|(service, _)| (*service, mesh.service(&service.model.host, port)))
            .collect();
        for ((service, host), (_, protocol)) in hosts.iter().zip(&found) {
            if *protocol == Protocol::Auto {
                let ports = undeclared
                    .entry(Arc::clone(&service.model.host))
                    .or_default();
                ports.insert(port, Arc::clone(host));
            }
        }
        // A port that only undeclared ones have is not listened on as a whole.
        if found
            .iter()
            .any(|(_, protocol)| *protocol != Protocol::Auto)
        {
            tables.insert(port, mesh.table(&hosts, port));
        }
    }
    (tables, undeclared)
}

/// The VirtualServices of the mesh, by the hosts that they are for.
struct Mesh<'a> {
    bindings: Vec<&'a Binding<'a>>,
    exact: HashMap<&'a str, Vec<usize>>,
    /// `*.x` and its VirtualService, the longest first.
    wildcards: Vec<(&'a Arc<str>, usize)>,
    services: &'a Services<'a>,
    sight: &'a Sight<'a>,
    /// How names of Services end: `.svc.cluster.local`.
    suffix: String,
}

impl<'a> Mesh<'a> {
    fn new(
        bindings: &'a [Binding<'a>],
        services: &'a Services<'a>,
        sight: &'a Sight<'a>,
        options: &CompileOptions,
    ) -> Self {
        let bindings: Vec<&Binding<'_>> = bindings
            .iter()
            .filter(|binding| binding.applies_to(&GatewayName::Mesh) && sight.sees_rules(binding))
            .collect();
        let mut exact: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut wildcards = Vec::new();
        for (index, binding) in bindings.iter().enumerate() {
            for host in &binding.service.hosts {
                if host.starts_with('*') {
                    wildcards.push((host, index));
                } else {
                    exact.entry(host).or_default().push(index);
                }
            }
        }
        wildcards.sort_by_key(|(host, _)| std::cmp::Reverse(host.len()));
        Self {
            bindings,
            exact,
            wildcards,
            services,
            sight,
            suffix: format!(".svc.{}", options.cluster_domain),
        }
    }

    /// The virtual host of a Service: the VirtualServices for it, the most specific first, and at last its own route.
    fn service(&self, host: &Arc<str>, port: u16) -> Arc<VirtualHost> {
        let exact = self.exact.get(&**host).into_iter().flatten().copied();
        let wildcards = self
            .wildcards
            .iter()
            .filter(|(wildcard, _)| covers(wildcard, host))
            .map(|(_, index)| *index);
        let own = VirtualHost {
            name: Arc::clone(host),
            routes: vec![default_route(host, port)].into(),
            https_redirect: false,
            next: None,
        };
        self.chain(host, exact.chain(wildcards), port, Some(own))
            .expect("a chain ends in what it was given for its end, or earlier in something for everyone")
    }

    /// Each stands in for the one before it, where that one does not concern the client.
    fn chain(
        &self,
        host: &Arc<str>,
        candidates: impl Iterator<Item = usize>,
        port: u16,
        last: Option<VirtualHost>,
    ) -> Option<Arc<VirtualHost>> {
        let place = Place {
            gateway: &GatewayName::Mesh,
            port,
        };
        let mut hosts = Vec::new();
        let mut for_everyone = false;
        for index in candidates {
            let routes = self.bindings[index].routes(&place, self.services);
            if routes.is_empty() {
                continue;
            }
            for_everyone = routes.iter().any(|route| route.when.client.takes_anyone());
            hosts.push(VirtualHost {
                name: Arc::clone(host),
                routes: routes.into(),
                https_redirect: false,
                next: None,
            });
            if for_everyone {
                break;
            }
        }
        if !for_everyone {
            hosts.extend(last);
        }
        hosts.into_iter().rev().fold(None, |next, host| {
            Some(Arc::new(VirtualHost { next, ..host }))
        })
    }

    fn table(&self, hosts: &[(&Registered<'_>, Arc<VirtualHost>)], port: u16) -> RouteTable {
        let mut table = RouteTable::default();
        let literals = self.literals(hosts, port);
        // Names that were written come before the short forms that are derived from others.
        for (name, host) in &literals {
            add(&mut table, name, host);
        }
        for (service, host) in hosts {
            add(&mut table, &service.model.host, host);
            if service.is_headless() {
                add(
                    &mut table,
                    &format!("*.{}", service.model.host).into(),
                    host,
                );
            }
        }
        self.add_aliases(&mut table, hosts);
        for (name, host) in &literals {
            self.add_short_names(&mut table, name, host, false);
        }
        for (service, host) in hosts {
            self.add_short_names(&mut table, &service.model.host, host, service.is_headless());
            for address in &service.model.addresses {
                let name = match address {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                };
                add(&mut table, &name.into(), host);
            }
        }
        table
    }

    /// The hosts of VirtualServices that no Service on this port has. They exist on port 80, and wherever one of the
    /// VirtualService's other hosts is a Service.
    fn literals(
        &self,
        hosts: &[(&Registered<'_>, Arc<VirtualHost>)],
        port: u16,
    ) -> Vec<(Arc<str>, Arc<VirtualHost>)> {
        let known = |name: &str| {
            hosts
                .iter()
                .any(|(service, _)| covers(name, &service.model.host))
        };
        let mut candidates: BTreeMap<&Arc<str>, Vec<usize>> = BTreeMap::new();
        for (index, binding) in self.bindings.iter().enumerate() {
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                binding.service.hosts.iter().partition(|host| known(host));
            if port == 80 || !here.is_empty() {
                for host in elsewhere {
                    candidates.entry(host).or_default().push(index);
                }
            }
        }
        candidates
            .into_iter()
            .filter_map(|(host, indices)| {
                let chain = self.chain(host, indices.into_iter(), port, None)?;
                Some((Arc::clone(host), chain))
            })
            .collect()
    }

    /// The names of ExternalName Services mean what they stand for.
    fn add_aliases(&self, table: &mut RouteTable, hosts: &[(&Registered<'_>, Arc<VirtualHost>)]) {
        for (name, alias) in &self.services.aliases {
            let seen = self
                .sight
                .sees_alias(&alias.export, &alias.object.id.namespace);
            let Some(service) = self.services.get(name).filter(|_| seen) else {
                continue;
            };
            let found = hosts
                .iter()
                .find(|(other, _)| other.model.host == service.model.host);
            if let Some((_, host)) = found {
                add(table, name, host);
                self.add_short_names(table, name, host, false);
            }
        }
    }

    /// `s.ns`, `s.ns.svc`, the full name with a dot at its end, and `s` for clients of `ns`.
    fn add_short_names(
        &self,
        table: &mut RouteTable,
        full: &Arc<str>,
        host: &Arc<VirtualHost>,
        headless: bool,
    ) {
        let Some(service) = full.strip_suffix(&self.suffix) else {
            return;
        };
        let Some((name, namespace)) = service
            .split_once('.')
            .filter(|(name, _)| !name.starts_with('*'))
        else {
            return;
        };
        let mut names = BTreeSet::from([
            service.to_owned(),
            format!("{service}.svc"),
            format!("{full}."),
        ]);
        if headless {
            names.extend(names.clone().iter().map(|name| format!("*.{name}")));
        }
        for name in names {
            add(table, &name.into(), host);
        }
        let local = table.local.entry(namespace.into()).or_default();
        add(local, &name.into(), host);
        if headless {
            add(local, &format!("*.{name}").into(), host);
        }
    }
}

/// Adds a domain, unless it is taken: the first one keeps it.
pub(super) fn add(table: &mut RouteTable, name: &Arc<str>, host: &Arc<VirtualHost>) {
    match name.strip_prefix('*') {
        None => {
            table
                .exact
                .entry(Arc::clone(name))
                .or_insert_with(|| Arc::clone(host));
        }
        Some("") => {
            table.any.get_or_insert_with(|| Arc::clone(host));
        }
        Some(suffix) => {
            table.suffixes.insert(suffix.into(), host);
        }
    }
}
