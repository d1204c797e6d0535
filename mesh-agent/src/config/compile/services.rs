//! Services and the endpoints behind their ports.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::compile::entries;
use crate::config::compile::located::LocatedPods;
use crate::config::compile::sight::Sight;
use crate::config::object::endpoint_slice::{Endpoint as Listed, SERVICE_LABEL};
use crate::config::object::name::{ExportTo, service_host};
use crate::config::object::service::{Distribution, Port, Target};
use crate::config::object::{self, EndpointSlice, Kind, Object, Service};
use crate::config::problem::Problems;
use crate::config::{CompileOptions, Inputs};
use crate::model::{self, Endpoint, Labels, NamedEndpoint, PodId, SharedMap};

/// As on Kubernetes' Services: the namespaces whose pods see one, separated by commas.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// How many ExternalName Services may stand for one another.
const MAX_ALIASES: usize = 8;

/// A Service's own word on which endpoints it prefers, from before there was a field for it.
pub(super) const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// The label of a Pod that is to get no more requests.
const DRAINING: &str = "istio.io/draining";

/// Every Service, oldest first.
pub(super) struct Services<'a> {
    pub(super) list: Vec<Registered<'a>>,
    by_host: HashMap<Arc<str>, usize>,
    /// Services of type ExternalName: the names that they stand for.
    pub(super) aliases: BTreeMap<Arc<str>, Alias<'a>>,
}

/// A Service, or a host of a ServiceEntry, with what stands behind it.
pub(super) struct Registered<'a> {
    pub(super) model: Arc<model::Service>,
    /// Where it was written.
    pub(super) object: &'a Object,
    /// How its endpoints are found.
    pub(super) found: Found,
    /// `internalTrafficPolicy: Local`.
    pub(super) node_local: bool,
    /// Whose clients see it.
    pub(super) export: ExportTo,
    /// The ranges of addresses that lead to it.
    pub(super) ranges: Vec<IpNet>,
    /// Which endpoints it prefers.
    pub(super) distribution: Distribution,
    /// `subjectAltNames` of a ServiceEntry: names of its servers' certificates.
    pub(super) vouched: &'a [Arc<str>],
    /// Per port of the Service, in its order.
    pub(super) backends: Vec<Vec<Backend>>,
    /// Likewise, what is to be looked up for it.
    pub(super) names: Vec<Vec<NamedEndpoint>>,
}

/// A Service of type ExternalName.
pub(super) struct Alias<'a> {
    pub(super) object: &'a Object,
    /// The name that it stands for.
    pub(super) target: Arc<str>,
    pub(super) export: ExportTo,
}

/// How the endpoints of a Service are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// They are known.
    Listed,
    /// They are known, and clients dial them: the Service has no address on purpose.
    Headless,
    /// Clients dial them, and nobody knows which there are.
    Dialled,
    /// Their names are looked up.
    Named {
        /// Whether every address of a name is an endpoint.
        every_address: bool,
    },
}

/// One endpoint of a port.
pub(super) struct Backend {
    pub(super) endpoint: Endpoint,
    pub(super) state: State,
    /// The Pod behind it, by its place in the list; `None` where it is not known.
    pub(super) pod: Option<usize>,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It does.
    Ready,
    /// It does not, and may.
    Unready,
    /// It does not, and will not.
    Leaving,
}

impl<'a> Services<'a> {
    pub(super) fn gather(
        inputs: &'a Inputs,
        pods: &LocatedPods<'a>,
        options: &CompileOptions,
    ) -> Self {
        let slices = slices_by_service(inputs);
        let mut list: Vec<Registered<'a>> = Vec::new();
        let mut aliases = BTreeMap::new();
        for (object, service) in inputs.services() {
            let host = service_host(
                &object.id.name,
                &object.id.namespace,
                &options.cluster_domain,
            );
            match &service.external {
                Some(target) => {
                    let alias = Alias {
                        object,
                        target: Arc::clone(target),
                        export: exported(object),
                    };
                    aliases.insert(host, alias);
                }
                None => {
                    let found = slices.get(&(&*object.id.namespace, &*object.id.name));
                    let found = found.map(Vec::as_slice);
                    list.push(register(object, service, host, found, pods));
                }
            }
        }
        for (object, entry) in inputs.service_entries() {
            let hosts = entry.hosts.iter();
            list.extend(hosts.map(|host| entries::register(object, entry, host, pods)));
        }
        let mut by_host = HashMap::with_capacity(list.len());
        for (index, service) in list.iter().enumerate() {
            // Kubernetes' Services come first, then the older ServiceEntry.
            by_host
                .entry(Arc::clone(&service.model.host))
                .or_insert(index);
        }
        Self {
            list,
            by_host,
            aliases,
        }
    }

    /// The Service of a name; of the names of ExternalName Services, what they stand for.
    pub(super) fn get(&self, host: &str) -> Option<&Registered<'a>> {
        let mut host = host;
        // A circle of names stands for nothing.
        for _ in 0..MAX_ALIASES {
            if let Some(index) = self.by_host.get(host) {
                return Some(&self.list[*index]);
            }
            host = &self.aliases.get(host)?.target;
        }
        None
    }

    pub(super) fn models(&self) -> SharedMap<Arc<str>, Arc<model::Service>> {
        // Of two with one name the first stays.
        self.list
            .iter()
            .rev()
            .map(|service| (Arc::clone(&service.model.host), Arc::clone(&service.model)))
            .collect()
    }

    /// Who owns an address: a cluster IP before a Pod of a headless Service, the older Service before the younger.
    pub(super) fn addresses(&self, sight: &Sight<'_>) -> SharedMap<IpAddr, Arc<model::Service>> {
        let seen = || self.list.iter().filter(|service| sight.sees(service));
        let mut owners = SharedMap::default();
        for service in seen() {
            for address in &service.model.addresses {
                owners.get_or_insert_with(*address, || Arc::clone(&service.model));
            }
        }
        for service in seen().filter(|service| service.is_headless()) {
            for backend in service.backends.iter().flatten() {
                let address = backend.endpoint.address.ip();
                owners.get_or_insert_with(address, || Arc::clone(&service.model));
            }
        }
        owners
    }
}

impl Registered<'_> {
    /// Whether Kubernetes knows it.
    pub(super) fn is_kubernetes(&self) -> bool {
        self.object.id.kind == Kind::Service
    }

    /// Whether it has no address on purpose: clients dial its Pods.
    pub(super) fn is_headless(&self) -> bool {
        self.found == Found::Headless
    }
}

/// Whether `labels` has all of `wanted`.
pub(super) fn has_labels(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn pod_id(object: &Object) -> PodId {
    PodId {
        namespace: Arc::clone(&object.id.namespace),
        name: Arc::clone(&object.id.name),
    }
}

type SlicesByService<'a> = HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

fn slices_by_service(inputs: &Inputs) -> SlicesByService<'_> {
    let mut slices = SlicesByService::new();
    for (object, slice) in inputs.endpoint_slices() {
        if let Some(service) = object.labels.get(SERVICE_LABEL) {
            let key = (&*object.id.namespace, &**service);
            slices.entry(key).or_default().push(slice);
        }
    }
    slices
}

fn register<'a>(
    object: &'a Object,
    service: &'a Service,
    host: Arc<str>,
    slices: Option<&[&'a EndpointSlice]>,
    pods: &LocatedPods<'a>,
) -> Registered<'a> {
    let backends = service.ports.iter().map(|port| match slices {
        Some(slices) => from_slices(service, port, slices, pods),
        None => from_selector(object, service, port, pods),
    });
    let ports = service.ports.iter().map(|port| model::ServicePort {
        number: port.number,
        name: Arc::clone(&port.name),
        protocol: port.protocol,
    });
    let annotated = || {
        let written = object.annotations.get(DISTRIBUTION)?;
        Distribution::of_annotation(written)
    };
    Registered {
        model: Arc::new(model::Service {
            host,
            namespace: Arc::clone(&object.id.namespace),
            name: Arc::clone(&object.id.name),
            addresses: service.addresses.clone(),
            ports: ports.collect(),
        }),
        vouched: &[],
        distribution: match service.distribution {
            Distribution::Any => annotated().unwrap_or_default(),
            field => field,
        },
        object,
        found: match service.headless {
            true => Found::Headless,
            false => Found::Listed,
        },
        node_local: service.node_local,
        export: exported(object),
        ranges: Vec::new(),
        names: vec![Vec::new(); service.ports.len()],
        backends: backends.collect(),
    }
}

/// Who sees a Service, by its annotation.
pub(super) fn exported(object: &Object) -> ExportTo {
    let written = object.annotations.get(EXPORT_TO);
    let names: Vec<String> = written
        .into_iter()
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    ExportTo::read(
        &names,
        &object::annotation(EXPORT_TO),
        &mut Problems::default(),
    )
}

fn from_selector<'a>(
    object: &'a Object,
    service: &'a Service,
    port: &'a Port,
    pods: &LocatedPods<'a>,
) -> Vec<Backend> {
    let Some(selector) = &service.selector else {
        return Vec::new();
    };
    let selected = pods.selected(&object.id.namespace, selector);
    selected
        .filter_map(|index| {
            let pod = pods.list[index].pod;
            let number = match &port.target {
                Target::Number(number) => *number,
                Target::Name(name) => pod.ports.iter().find(|(other, _)| other == name)?.1,
            };
            let address = SocketAddr::new(address_for(service, &pod.addresses)?, number);
            let terminating = pods.list[index].object.terminating;
            // What publishes those that are not ready publishes those that terminate as well.
            let ready = pod.ready && !terminating || service.publish_not_ready;
            Some(of_pod(index, address, ready, terminating && !ready, pods))
        })
        .chain(from_workloads(object, selector, port, pods))
        .collect()
}

/// The WorkloadEntries that a Service selects. They have no named container ports; the Service's port counts then.
fn from_workloads<'a>(
    object: &'a Object,
    selector: &'a Labels,
    port: &'a Port,
    pods: &LocatedPods<'a>,
) -> impl Iterator<Item = Backend> {
    let target = match &port.target {
        Target::Number(number) => *number,
        Target::Name(_) => port.number,
    };
    pods.workloads(&object.id.namespace, selector)
        .filter_map(move |entry| entries::workload(entry, &port.name, target))
}

/// One address of a pod, of the family that the Service has first.
fn address_for(service: &Service, addresses: &[IpAddr]) -> Option<IpAddr> {
    let same = addresses
        .iter()
        .find(|address| service.ipv4_first == Some(address.is_ipv4()));
    same.or(addresses.first()).copied()
}

pub(super) fn of_pod(
    index: usize,
    address: SocketAddr,
    ready: bool,
    leaving: bool,
    pods: &LocatedPods<'_>,
) -> Backend {
    let located = &pods.list[index];
    let drained = |value: &Arc<str>| !value.is_empty();
    let state = if leaving || located.labels.get(DRAINING).is_some_and(drained) {
        State::Leaving
    } else if ready {
        State::Ready
    } else {
        State::Unready
    };
    Backend {
        endpoint: Endpoint {
            address,
            pod: Some(pod_id(located.object)),
            labels: Some(Arc::clone(&located.labels)),
            locality: located.locality.clone(),
            node: located.pod.node.clone(),
            weight: 1,
        },
        state,
        pod: Some(index),
    }
}

fn from_slices<'a>(
    service: &Service,
    port: &Port,
    slices: &[&'a EndpointSlice],
    pods: &LocatedPods<'a>,
) -> Vec<Backend> {
    // A Service of two families has slices of both, which name each pod twice: it is one endpoint all the same.
    let mut endpoints: Vec<(&Listed, u16)> = slices
        .iter()
        .filter_map(|slice| {
            let (_, number) = slice.ports.iter().find(|(name, _)| *name == port.name)?;
            Some(slice.endpoints.iter().map(|endpoint| (endpoint, *number)))
        })
        .flatten()
        .collect();
    if let Some(ipv4) = service.ipv4_first {
        endpoints.sort_by_key(|(endpoint, _)| endpoint.address.is_ipv4() != ipv4);
    }
    let mut seen_pods: HashSet<(&str, &str)> = HashSet::new();
    let mut seen_addresses = HashSet::new();
    let mut backends = Vec::with_capacity(endpoints.len());
    let found = endpoints.into_iter().filter_map(|(endpoint, number)| {
        let named = endpoint.pod.as_ref();
        let index = match named {
            Some(id) => pods.named(id),
            None => pods.at(endpoint.address),
        };
        let id = index.map(|index| &pods.list[index].object.id);
        let name = match (named, id) {
            (Some(id), _) => Some((&*id.namespace, &*id.name)),
            (None, Some(id)) => Some((&*id.namespace, &*id.name)),
            (None, None) => None,
        };
        let address = SocketAddr::new(endpoint.address, number);
        let again = name.is_some_and(|name| !seen_pods.insert(name));
        if again || !seen_addresses.insert(address) {
            return None;
        }
        // Kubernetes has what terminates ready only where the Service publishes what is not.
        let leaving = endpoint.terminating && !(endpoint.ready && service.publish_not_ready);
        Some(match index {
            Some(index) => {
                let backend = of_pod(index, address, endpoint.ready, leaving, pods);
                match pods.list[index].pod.partial {
                    true => placed(backend, index, endpoint, pods),
                    false => backend,
                }
            }
            None => of_stranger(endpoint, address, leaving, pods),
        })
    });
    backends.extend(found);
    backends
}

/// A Pod of which only the metadata is known, where the slice says it is.
fn placed(
    mut backend: Backend,
    index: usize,
    endpoint: &Listed,
    pods: &LocatedPods<'_>,
) -> Backend {
    let place = &mut backend.endpoint;
    if place.locality.is_none() {
        place.locality = pods.place(endpoint.node.as_deref(), endpoint.zone.as_ref());
    }
    place.node = endpoint.node.clone();
    let labels = &pods.list[index].object.labels;
    place.labels = Some(pods.labels(labels, place.locality.as_deref(), place.node.as_ref()));
    backend
}

/// An endpoint of which nothing is known but what the slice says.
fn of_stranger(
    endpoint: &Listed,
    address: SocketAddr,
    leaving: bool,
    pods: &LocatedPods<'_>,
) -> Backend {
    Backend {
        endpoint: Endpoint {
            address,
            pod: endpoint.pod.clone(),
            labels: None,
            locality: pods.place(endpoint.node.as_deref(), endpoint.zone.as_ref()),
            node: endpoint.node.clone(),
            weight: 1,
        },
        state: match (leaving, endpoint.ready) {
            (true, _) => State::Leaving,
            (false, true) => State::Ready,
            (false, false) => State::Unready,
        },
        pod: None,
    }
}

#[cfg(test)]
mod tests;
