//! The mesh's route tables: one per Service port, and a private one per port whose protocol nobody declared.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::CompileOptions;
use crate::config::compile::hosts::{HostIndex, suffixes};
use crate::config::compile::routes::{Audience, Binding, Place, default_route};
use crate::config::compile::services::{Registered, Services};
use crate::config::compile::sight::Sight;
use crate::config::object::name::GatewayName;
use crate::model::{ClientMatch, Protocol, Route, RouteMatch, RouteTable, SharedMap, VirtualHost};

type Tables = BTreeMap<u16, Arc<RouteTable>>;
type Undeclared = SharedMap<Arc<str>, BTreeMap<u16, Arc<VirtualHost>>>;

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
    let (mut tables, mut undeclared) = (Tables::new(), Undeclared::default());
    for (port, found) in at_port {
        let port = Port::new(&mesh, port, found.iter().map(|(service, _)| *service));
        for ((service, host), (_, protocol)) in port.services.iter().zip(&found) {
            if *protocol == Protocol::Auto {
                let owner = Arc::clone(&service.model.host);
                let ports = undeclared.get_or_insert_with(owner, BTreeMap::new);
                ports.insert(port.number, Arc::clone(host));
            }
        }
        // A port that only undeclared ones have is not listened on as a whole.
        if found
            .iter()
            .any(|(_, protocol)| *protocol != Protocol::Auto)
        {
            tables.insert(port.number, Arc::new(port.table()));
        }
    }
    (tables, undeclared)
}

/// The VirtualServices of the mesh, by the hosts that they are for.
struct Mesh<'a> {
    bindings: Vec<&'a Binding<'a>>,
    index: HostIndex<'a, usize>,
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
        let mut index = HostIndex::default();
        for (number, binding) in bindings.iter().enumerate() {
            for host in &binding.service.hosts {
                index.insert(host, number);
            }
        }
        Self {
            bindings,
            index,
            services,
            sight,
            suffix: format!(".svc.{}", options.cluster_domain),
        }
    }
}

/// One port of the mesh.
struct Port<'m> {
    mesh: &'m Mesh<'m>,
    number: u16,
    /// The Services that have it, oldest first, with what they do with requests.
    services: Vec<(&'m Registered<'m>, Arc<VirtualHost>)>,
    /// The routes of each VirtualService here, once they are asked for: one with a wildcard may be for many Services.
    routes: Vec<OnceCell<Vec<Arc<Route>>>>,
}

impl<'m> Port<'m> {
    fn new(
        mesh: &'m Mesh<'m>,
        number: u16,
        services: impl Iterator<Item = &'m Registered<'m>>,
    ) -> Self {
        let mut port = Self {
            mesh,
            number,
            services: Vec::new(),
            routes: mesh.bindings.iter().map(|_| OnceCell::new()).collect(),
        };
        port.services = services
            .map(|service| (service, port.service(&service.model.host)))
            .collect();
        port
    }

    fn routes(&self, binding: usize) -> &[Arc<Route>] {
        self.routes[binding].get_or_init(|| {
            let place = Place {
                gateway: &GatewayName::Mesh,
                port: self.number,
                tls: false,
            };
            self.mesh.bindings[binding].routes(&place, self.mesh.services)
        })
    }

    /// The virtual host of a Service: the VirtualServices that name it, else the first with the longest wildcard for it,
    /// and at last its own route. Clients that see a VirtualService that names it more closely get no other, even where
    /// none of its rules concerns them.
    fn service(&self, host: &Arc<str>) -> Arc<VirtualHost> {
        let index = &self.mesh.index;
        let mut chain = Chain::new(host);
        let mut wildcards = index.wildcards(host).flatten().copied().peekable();
        let own = default_route(host, self.number, &self.mesh.services.retry);
        let mut seen: Audience = Some(Vec::new());
        for binding in index.exact(host) {
            if chain.push(self.routes(*binding).to_vec()) {
                return chain.finish();
            }
            seen = match (seen, &self.mesh.bindings[*binding].exported_to) {
                (Some(seen), Some(more)) => Some([seen.as_slice(), more].concat()),
                (None, _) | (_, None) => None,
            };
        }
        let named = seen.as_ref().is_none_or(|seen| !seen.is_empty());
        if named && wildcards.peek().is_some() && chain.push(vec![only_for(&own, &seen)]) {
            return chain.finish();
        }
        for binding in wildcards {
            let seen = &self.mesh.bindings[binding].exported_to;
            if chain.push(self.routes(binding).to_vec()) || chain.push(vec![only_for(&own, seen)]) {
                return chain.finish();
            }
        }
        chain.push(vec![own]);
        chain.finish()
    }

    /// The virtual host of a name that no Service has; `None` where every rule is for something else.
    fn literal(&self, host: &Arc<str>, bindings: &[usize]) -> Option<Arc<VirtualHost>> {
        let mut chain = Chain::new(host);
        for binding in bindings {
            if chain.push(self.routes(*binding).to_vec()) {
                break;
            }
        }
        (!chain.hosts.is_empty()).then(|| chain.finish())
    }

    fn table(&self) -> RouteTable {
        let mut table = RouteTable::default();
        // Names that were written come before the short forms that are derived from others.
        for (name, host) in self.literals() {
            match name.parse() {
                Ok(address) => add(&mut table, &in_host(address).into(), &host),
                Err(_) => add(&mut table, &name, &host),
            }
        }
        for (service, host) in &self.services {
            let name = &service.model.host;
            add(&mut table, name, host);
            if service.is_headless() {
                add(&mut table, &format!("*.{name}").into(), host);
            }
        }
        self.add_aliases(&mut table);
        for (service, host) in &self.services {
            let model = &service.model;
            self.add_short_names(&mut table, &model.host, host, service.is_headless());
            for address in &model.addresses {
                add(&mut table, &in_host(*address).into(), host);
            }
        }
        table
    }

    /// The hosts of VirtualServices that no Service on this port has. They exist on port 80, and wherever one of the
    /// VirtualService's other hosts is a Service.
    fn literals(&self) -> Vec<(Arc<str>, Arc<VirtualHost>)> {
        let known = KnownHosts::of(
            self.services
                .iter()
                .map(|(service, _)| &*service.model.host),
        );
        let mut candidates: BTreeMap<&Arc<str>, Vec<usize>> = BTreeMap::new();
        for (number, binding) in self.mesh.bindings.iter().enumerate() {
            let hosts = &binding.service.hosts;
            if self.number != 80 && !hosts.iter().any(|host| known.has(host)) {
                continue;
            }
            for host in hosts.iter().filter(|host| !known.has(host)) {
                candidates.entry(host).or_default().push(number);
            }
        }
        candidates
            .into_iter()
            .filter_map(|(host, bindings)| Some((Arc::clone(host), self.literal(host, &bindings)?)))
            .collect()
    }

    /// The names of ExternalName Services mean what they stand for.
    fn add_aliases(&self, table: &mut RouteTable) {
        let Mesh {
            services, sight, ..
        } = self.mesh;
        if services.aliases.is_empty() {
            return;
        }
        let here: HashMap<&str, &Arc<VirtualHost>> = self
            .services
            .iter()
            .map(|(service, host)| (&*service.model.host, host))
            .collect();
        for (name, alias) in &services.aliases {
            let seen = sight.sees_alias(&alias.export, &alias.object.id.namespace);
            let service = services.get(name).filter(|_| seen);
            let found = service.and_then(|service| here.get(&*service.model.host));
            if let Some(host) = found {
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
        let Some(service) = full.strip_suffix(&self.mesh.suffix) else {
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
        let local = table
            .local
            .get_or_insert_with(namespace.into(), Arc::default);
        let local = Arc::make_mut(local);
        add(local, &name.into(), host);
        if headless {
            add(local, &format!("*.{name}").into(), host);
        }
    }
}

/// Virtual hosts of which each stands in for the one before it, where that one does not concern the client.
struct Chain<'h> {
    name: &'h Arc<str>,
    hosts: Vec<VirtualHost>,
}

impl<'h> Chain<'h> {
    fn new(name: &'h Arc<str>) -> Self {
        Self {
            name,
            hosts: Vec::new(),
        }
    }

    /// Whether the chain ends here, because some route is for everyone.
    fn push(&mut self, routes: Vec<Arc<Route>>) -> bool {
        if routes.is_empty() {
            return false;
        }
        let everyone = routes.iter().any(|route| route.when.client.takes_anyone());
        self.hosts.push(VirtualHost {
            name: Arc::clone(self.name),
            routes: routes.into(),
            https_redirect: false,
            next: None,
        });
        everyone
    }

    fn finish(self) -> Arc<VirtualHost> {
        let hosts = self.hosts.into_iter().rev();
        hosts
            .fold(None, |next, host| {
                Some(Arc::new(VirtualHost { next, ..host }))
            })
            .expect("a chain has at least one host before it is finished")
    }
}

/// The same route for an audience.
fn only_for(route: &Arc<Route>, audience: &Audience) -> Arc<Route> {
    if audience.is_none() {
        return Arc::clone(route);
    }
    Arc::new(Route {
        when: RouteMatch {
            client: ClientMatch {
                exported_to: audience.clone(),
                ..route.when.client.clone()
            },
            ..route.when.clone()
        },
        ..Route::clone(route)
    })
}

/// An address as a Host header has it.
fn in_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Which hosts are Services'.
struct KnownHosts<'a> {
    exact: HashSet<&'a str>,
    /// Everything that one of them ends in, from a dot on.
    endings: HashSet<&'a str>,
}

impl<'a> KnownHosts<'a> {
    fn of(hosts: impl Iterator<Item = &'a str>) -> Self {
        let exact: HashSet<&str> = hosts.collect();
        let endings = exact.iter().flat_map(|host| suffixes(host)).collect();
        Self { exact, endings }
    }

    /// Whether a host is one, or a wildcard that covers one.
    fn has(&self, host: &str) -> bool {
        match host.strip_prefix('*') {
            None => self.exact.contains(host),
            Some("") => !self.exact.is_empty(),
            Some(suffix) => self.endings.contains(suffix),
        }
    }
}

/// Adds a domain, unless it is taken: the first one keeps it.
pub(super) fn add(table: &mut RouteTable, name: &Arc<str>, host: &Arc<VirtualHost>) {
    match name.strip_prefix('*') {
        None => {
            table
                .exact
                .get_or_insert_with(Arc::clone(name), || Arc::clone(host));
        }
        Some("") => {
            table.any.get_or_insert_with(|| Arc::clone(host));
        }
        Some(suffix) => {
            table.suffixes.insert(suffix.into(), host);
        }
    }
}

#[cfg(test)]
mod tests;
