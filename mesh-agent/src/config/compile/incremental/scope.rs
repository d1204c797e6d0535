//! What a change may make different in the world: asked for every changed object, as it was among the old objects and as
//! it is among the new ones. Too much here costs time, too little is a wrong world.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::compile::incremental::index::{self, Index, Key, hosts, selector};
use crate::config::compile::services::{exported, has_labels};
use crate::config::object::endpoint_slice::SERVICE_LABEL;
use crate::config::object::name::{GatewayName, service_host};
use crate::config::object::workload_entry::{Address, WorkloadEntry};
use crate::config::object::{Body, Kind, Object, ObjectId, Service, VirtualService};
use crate::config::{CompileOptions, Inputs, Membership, document};
use crate::model::Labels;

/// What is to be made again.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Services by host: themselves, and their clusters.
    pub(super) clusters: BTreeSet<Arc<str>>,
    /// Hosts, of Services or not: how requests and connections to them are routed.
    pub(super) routes: BTreeSet<Arc<str>>,
    /// Who owns an address.
    pub(super) owners: BTreeSet<IpAddr>,
    /// Pods.
    pub(super) pods: BTreeSet<ObjectId>,
    /// Which Pod has an address.
    pub(super) pod_addresses: BTreeSet<IpAddr>,
    /// Names in the route tables that no host of `routes` has any more.
    pub(super) names: BTreeSet<Name>,
    /// Ports that have a route table now.
    pub(super) new_ports: BTreeSet<u16>,
    /// Ports that have none any more.
    pub(super) gone_ports: BTreeSet<u16>,
}

/// A name in a route table: of the clients of one namespace, or of all.
pub(super) type Name = (Option<Arc<str>>, Arc<str>);

/// What two versions of an object have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Of a Service: where a VirtualService that names no port sends to.
    pub(super) port: bool,
    /// Of a Pod: its addresses, and whether it has them before others.
    pub(super) place: bool,
}

/// The change may concern everything, or as good as: the whole world is to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Everything;

/// The objects among which a change is looked at.
#[derive(Clone, Copy)]
pub(super) struct View<'v> {
    pub(super) index: &'v Index,
    pub(super) inputs: &'v Inputs,
    pub(super) options: &'v CompileOptions,
}

impl Scope {
    /// Adds what one version of a changed object touches.
    pub(super) fn touch(
        &mut self,
        object: &Arc<Object>,
        kept: Kept,
        view: View<'_>,
    ) -> Result<(), Everything> {
        match &object.body {
            Body::Pod(_) => self.touch_pod(object, kept, view),
            Body::EndpointSlice(_) => self.touch_slice(object, view),
            Body::Service(service) => self.touch_service(object, service, kept, view)?,
            Body::VirtualService(service) => self.touch_rules(object, service, view)?,
            Body::DestinationRule(rule) => {
                // A wildcard may be for every Service there is; what the others are for depends on who asks.
                let wide = rule.host.starts_with('*');
                if wide || rule.selector.is_some() || rule.names_secret() {
                    return Err(Everything);
                }
                for service in view.index.hosted(&rule.host, view.options) {
                    self.clusters.insert(Arc::clone(&rule.host));
                    self.add_pods(view.behind(service));
                }
            }
            Body::Node(_)
            | Body::Gateway(_)
            | Body::ServiceEntry(_)
            | Body::WorkloadEntry(_)
            | Body::Sidecar(_)
            | Body::Secret(_) => return Err(Everything),
            // Its Pods may be in the mesh by it.
            Body::Namespace => {
                if matches!(view.options.membership, Membership::Asked { .. }) {
                    self.add_pods(view.pods_here(&object.id.name));
                }
            }
            // These are looked at for what is wrong with them, and for nothing else.
            Body::WorkloadPolicy(_) => {}
        }
        Ok(())
    }

    fn touch_pod(&mut self, object: &Arc<Object>, kept: Kept, view: View<'_>) {
        let Body::Pod(pod) = &object.body else {
            return;
        };
        self.pods.insert(object.id.clone());
        self.pod_addresses.extend(&pod.addresses);
        for service in view.in_front(object) {
            self.add_service(&service, view);
            // Which of the endpoints are the same one, and therefore left out, goes by the Pods that are known.
            if !kept.place && !view.slices(&service).is_empty() {
                self.add_pods(view.behind(&service));
            }
        }
    }

    fn touch_slice(&mut self, object: &Object, view: View<'_>) {
        let Some(name) = object.labels.get(SERVICE_LABEL) else {
            return;
        };
        let domain = &view.options.cluster_domain;
        let host = service_host(name, &object.id.namespace, domain);
        for service in view.index.hosted(&host, view.options) {
            self.add_service(service, view);
            self.add_pods(view.behind(service));
        }
    }

    fn touch_service(
        &mut self,
        object: &Arc<Object>,
        service: &Service,
        kept: Kept,
        view: View<'_>,
    ) -> Result<(), Everything> {
        if service.external.is_some() || !exported(object).public {
            return Err(Everything);
        }
        self.add_service(object, view);
        self.add_pods(view.behind(object));
        self.owners.extend(&service.addresses);
        for host in hosts(object, view.options) {
            // Whether a wildcard is a name of its own on a port depends on whether the port has a Service for it.
            if view.index.covered(&host) {
                return Err(Everything);
            }
            self.names.extend(names(&host, object, view.options));
            for routing in view.index.get(Key::Routes(&host)) {
                // Its other hosts are names on the ports of this one.
                if let Body::VirtualService(rules) = &routing.body {
                    self.add_literals(rules)?;
                }
            }
            if !kept.port {
                for name in view.aliases(&host).iter().chain([&host]) {
                    for sending in view.index.get(Key::Sends(name)) {
                        if let Body::VirtualService(rules) = &sending.body {
                            self.touch_rules(sending, rules, view)?;
                        }
                    }
                }
            }
            self.routes.insert(host);
        }
        Ok(())
    }

    /// A VirtualService: its own hosts, and those of the ones that delegate to it.
    fn touch_rules(
        &mut self,
        object: &Object,
        rules: &VirtualService,
        view: View<'_>,
    ) -> Result<(), Everything> {
        let id = &object.id;
        let delegating = view.index.get(Key::Delegates(&id.namespace, &id.name));
        let delegating = delegating.iter().filter_map(|object| match &object.body {
            Body::VirtualService(rules) => Some(rules),
            _ => None,
        });
        for rules in delegating.chain([rules]) {
            self.add_hosts(rules)?;
        }
        Ok(())
    }

    fn add_hosts(&mut self, rules: &VirtualService) -> Result<(), Everything> {
        let wide = rules.hosts.iter().any(|host| host.starts_with('*'));
        let addressed = index::is_addressed(rules);
        let beyond = rules.gateways.iter().any(|name| *name != GatewayName::Mesh);
        if !rules.hosts.is_empty() && (wide || beyond || addressed) {
            return Err(Everything);
        }
        self.routes.extend(rules.hosts.iter().cloned());
        Ok(())
    }

    /// What a VirtualService gives names to in the mesh, whatever it is bound to beside.
    fn add_literals(&mut self, rules: &VirtualService) -> Result<(), Everything> {
        if !rules.gateways.contains(&GatewayName::Mesh) {
            return Ok(());
        }
        let wide = rules.hosts.iter().any(|host| host.starts_with('*'));
        if wide || index::is_addressed(rules) {
            return Err(Everything);
        }
        self.routes.extend(rules.hosts.iter().cloned());
        Ok(())
    }

    /// The clusters of a Service or ServiceEntry, and the addresses of its endpoints, should clients dial them.
    fn add_service(&mut self, object: &Arc<Object>, view: View<'_>) {
        self.clusters.extend(hosts(object, view.options));
        let Body::Service(service) = &object.body else {
            return;
        };
        if service.headless {
            self.owners.extend(view.addresses_behind(object));
        }
    }

    fn add_pods(&mut self, pods: impl IntoIterator<Item = Arc<Object>>) {
        for pod in pods {
            if let Body::Pod(body) = &pod.body {
                self.pods.insert(pod.id.clone());
                self.pod_addresses.extend(&body.addresses);
            }
        }
    }
}

impl<'v> View<'v> {
    /// The Services and ServiceEntries that a Pod may stand behind.
    pub(super) fn in_front(self, pod: &Object) -> Vec<Arc<Object>> {
        let Body::Pod(body) = &pod.body else {
            return Vec::new();
        };
        let namespace = &*pod.id.namespace;
        let mut found = self.selecting(namespace, &pod.labels);
        let named = self.index.get(Key::Names(namespace, &pod.id.name)).iter();
        let listed = body.addresses.iter();
        let listed = listed.flat_map(|address| self.index.get(Key::Lists(*address)));
        for slice in named.chain(listed) {
            found.extend(self.of_slice(slice));
        }
        found
    }

    /// The namespace of an object, where anything is known of it.
    pub(super) fn namespace_of(self, object: &Object) -> Option<Arc<Object>> {
        let id = document::id_of(Kind::Namespace, "", &object.id.namespace);
        self.inputs.get(&id).cloned()
    }

    /// The Pods of a namespace that are known in full: those of this node, in Kubernetes.
    fn pods_here(self, namespace: &'v str) -> impl Iterator<Item = Arc<Object>> {
        let pods = self.inputs.of_namespace(Kind::Pod, namespace);
        let here = pods.filter(|object| matches!(&object.body, Body::Pod(pod) if !pod.partial));
        here.cloned()
    }

    /// The Services and ServiceEntries of a namespace that select some labels.
    pub(super) fn selecting(self, namespace: &str, labels: &Labels) -> Vec<Arc<Object>> {
        let mut found = Vec::new();
        for (name, value) in labels {
            let selecting = self.index.get(Key::Selects(namespace, name, value)).iter();
            let selecting = selecting.filter(|object| {
                let selects = |wanted| has_labels(labels, wanted);
                selector(object).is_some_and(selects) && *object.id.namespace == *namespace
            });
            found.extend(selecting.cloned());
        }
        found
    }

    /// The WorkloadEntries that have an address.
    pub(super) fn workloads(self) -> impl Iterator<Item = (&'v Object, &'v WorkloadEntry, IpAddr)> {
        let objects = self.inputs.of_kind(Kind::WorkloadEntry);
        objects.filter_map(|object| match &object.body {
            Body::WorkloadEntry(entry) => match entry.address {
                Address::Ip(address) => Some((&**object, entry, address)),
                Address::Name(_) => None,
            },
            _ => None,
        })
    }

    /// The Service of an EndpointSlice.
    pub(super) fn of_slice(self, slice: &Object) -> Option<Arc<Object>> {
        let name = slice.labels.get(SERVICE_LABEL)?;
        let id = ObjectId {
            kind: Kind::Service,
            namespace: Arc::clone(&slice.id.namespace),
            name: Arc::clone(name),
        };
        self.inputs.get(&id).cloned()
    }

    /// The EndpointSlices of a Service.
    pub(super) fn slices(self, service: &Object) -> &'v [Arc<Object>] {
        let id = &service.id;
        match service.body {
            Body::Service(_) => self.index.get(Key::Behind(&id.namespace, &id.name)),
            _ => &[],
        }
    }

    /// The Pods that may stand behind a Service or ServiceEntry.
    pub(super) fn behind(self, service: &Object) -> Vec<Arc<Object>> {
        let mut pods: Vec<Arc<Object>> = Vec::new();
        for endpoint in self.endpoints(service) {
            let at = self.index.get(Key::At(endpoint.address)).iter().cloned();
            pods.extend(at);
            if let Some(pod) = &endpoint.pod {
                let id = ObjectId {
                    kind: Kind::Pod,
                    namespace: Arc::clone(&pod.namespace),
                    name: Arc::clone(&pod.name),
                };
                pods.extend(self.inputs.get(&id).cloned());
            }
        }
        let Some(selector) = selector(service) else {
            return pods;
        };
        let namespace = &*service.id.namespace;
        let labelled = selector.iter().map(|(name, value)| {
            let labelled = Key::Labelled(namespace, name, value);
            self.index.get(labelled)
        });
        let fewest = labelled.min_by_key(|pods| pods.len()).unwrap_or_default();
        let selected = fewest.iter().filter(|pod| {
            pod.id.namespace == service.id.namespace && has_labels(&pod.labels, selector)
        });
        pods.extend(selected.cloned());
        pods
    }

    /// Every address that an endpoint of a Service may have.
    pub(super) fn addresses_behind(self, service: &Object) -> BTreeSet<IpAddr> {
        let listed = self.endpoints(service).map(|endpoint| endpoint.address);
        let mut addresses: BTreeSet<IpAddr> = listed.collect();
        for pod in self.behind(service) {
            if let Body::Pod(pod) = &pod.body {
                addresses.extend(&pod.addresses);
            }
        }
        let workloads = self.workloads().filter(|(object, entry, _)| {
            let selects = |wanted| has_labels(&entry.labels, wanted);
            object.id.namespace == service.id.namespace && selector(service).is_some_and(selects)
        });
        addresses.extend(workloads.map(|(_, _, address)| address));
        addresses
    }

    /// The names of ExternalName Services that stand for a host, also by way of others.
    pub(super) fn aliases(self, host: &Arc<str>) -> BTreeSet<Arc<str>> {
        let mut known = BTreeSet::new();
        let mut next = vec![Arc::clone(host)];
        while let Some(name) = next.pop() {
            for alias in self.index.get(Key::StandsFor(&name)) {
                let found = hosts(alias, self.options).into_iter();
                next.extend(found.filter(|host| known.insert(Arc::clone(host))));
            }
        }
        known
    }

    fn endpoints(
        self,
        service: &Object,
    ) -> impl Iterator<Item = &'v crate::config::object::endpoint_slice::Endpoint> {
        let bodies = self.slices(service).iter().map(|slice| &slice.body);
        bodies.flat_map(|body| match body {
            Body::EndpointSlice(slice) => slice.endpoints.as_slice(),
            _ => &[],
        })
    }
}

/// The names by which the route tables know a Service or ServiceEntry of this host.
pub(super) fn names(host: &Arc<str>, object: &Object, options: &CompileOptions) -> Vec<Name> {
    let (headless, addresses): (bool, Vec<IpAddr>) = match &object.body {
        Body::Service(service) => (service.headless, service.addresses.clone()),
        Body::ServiceEntry(entry) => (false, entry.addresses.iter().map(IpNet::addr).collect()),
        _ => (false, Vec::new()),
    };
    let mut names = all_names(host, headless, options);
    names.extend(addresses.iter().map(|address| {
        let written = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        (None, written.into())
    }));
    names
}

/// The names by which they know a host, be it a Service or not; of a headless one, what may stand before them too.
pub(super) fn all_names(host: &Arc<str>, headless: bool, options: &CompileOptions) -> Vec<Name> {
    let mut names: Vec<Name> = vec![(None, Arc::clone(host))];
    let short = host.strip_suffix(&format!(".svc.{}", options.cluster_domain));
    if let Some((name, namespace)) = short.and_then(|short| short.split_once('.')) {
        names.push((None, format!("{name}.{namespace}").into()));
        names.push((None, format!("{name}.{namespace}.svc").into()));
        names.push((None, format!("{host}.").into()));
        names.push((Some(namespace.into()), name.into()));
    }
    if headless {
        let wide = names
            .iter()
            .map(|(of, name)| (of.clone(), format!("*.{name}").into()));
        names.extend(wide.collect::<Vec<Name>>());
    }
    names
}
