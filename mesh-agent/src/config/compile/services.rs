//! Services and the endpoints behind their ports.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::compile::entries;
use crate::config::compile::sight::Sight;
use crate::config::object::endpoint_slice::SERVICE_LABEL;
use crate::config::object::name::{ExportTo, service_host};
use crate::config::object::service::{Port, Target};
use crate::config::object::{self, EndpointSlice, Kind, Object, Pod, Service, WorkloadEntry};
use crate::config::problem::Problems;
use crate::config::{CompileOptions, Inputs};
use crate::model::{self, Endpoint, Labels, NamedEndpoint, PodId};

/// As on Kubernetes' Services: the namespaces whose pods see one, separated by commas.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// How many ExternalName Services may stand for one another.
const MAX_ALIASES: usize = 8;

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
    /// It has no address on purpose: clients dial its Pods.
    pub(super) headless: bool,
    /// Whose clients see it.
    pub(super) export: ExportTo,
    /// The ranges of addresses that lead to it.
    pub(super) ranges: Vec<IpNet>,
    /// Per port of the Service, in its order.
    pub(super) backends: Vec<Vec<Backend<'a>>>,
    /// Likewise, what is to be looked up for it, with its labels.
    pub(super) names: Vec<Vec<(NamedEndpoint, Option<&'a Labels>)>>,
}

/// A Service of type ExternalName.
pub(super) struct Alias<'a> {
    pub(super) object: &'a Object,
    /// The name that it stands for, as written.
    pub(super) target: Arc<str>,
    pub(super) export: ExportTo,
}

/// How the endpoints of a Service are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// They are known.
    Listed,
    /// Clients dial them.
    Dialled,
    /// Their names are looked up.
    Named {
        /// Whether every address of a name is an endpoint.
        every_address: bool,
    },
}

/// One endpoint of a port, ready or not.
pub(super) struct Backend<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) labels: Option<&'a Labels>,
    pub(super) ready: bool,
}

type FoundPod<'a> = (&'a Object, &'a Pod);

/// Pods and WorkloadEntries by what Services, ServiceEntries and EndpointSlices look them up by.
pub(super) struct PodIndex<'a> {
    by_id: HashMap<PodId, FoundPod<'a>>,
    /// By namespace, and a label's key and value.
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<FoundPod<'a>>>,
    by_address: HashMap<IpAddr, &'a Object>,
    workloads: Vec<(&'a Object, &'a WorkloadEntry)>,
}

impl<'a> Services<'a> {
    pub(super) fn gather(inputs: &'a Inputs, options: &CompileOptions) -> Self {
        let pods = PodIndex::gather(inputs);
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
                    list.push(register(object, service, host, found, &pods));
                }
            }
        }
        for (object, entry) in inputs.service_entries() {
            let hosts = entry.hosts.iter();
            list.extend(hosts.map(|host| entries::register(object, entry, host, &pods)));
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

    pub(super) fn models(&self) -> HashMap<Arc<str>, Arc<model::Service>> {
        // Of two with one name the first stays.
        self.list
            .iter()
            .rev()
            .map(|service| (Arc::clone(&service.model.host), Arc::clone(&service.model)))
            .collect()
    }

    /// Who owns an address: a cluster IP before a Pod of a headless Service, the older Service before the younger.
    pub(super) fn addresses(&self, sight: &Sight<'_>) -> HashMap<IpAddr, Arc<model::Service>> {
        let seen = || self.list.iter().filter(|service| sight.sees(service));
        let mut owners = HashMap::new();
        for service in seen() {
            for address in &service.model.addresses {
                owners
                    .entry(*address)
                    .or_insert_with(|| Arc::clone(&service.model));
            }
        }
        for service in seen().filter(|service| service.headless) {
            for backend in service.backends.iter().flatten() {
                owners
                    .entry(backend.endpoint.address.ip())
                    .or_insert_with(|| Arc::clone(&service.model));
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
}

impl<'a> PodIndex<'a> {
    fn gather(inputs: &'a Inputs) -> Self {
        let mut index = Self {
            by_id: HashMap::new(),
            by_label: HashMap::new(),
            by_address: HashMap::new(),
            workloads: inputs.workload_entries(),
        };
        for (object, pod) in inputs.pods() {
            if pod.ended || pod.addresses.is_empty() {
                continue;
            }
            let namespace = &*object.id.namespace;
            for (key, value) in &object.labels {
                let pods = index.by_label.entry((namespace, key, value)).or_default();
                pods.push((object, pod));
            }
            for address in &pod.addresses {
                index.by_address.insert(*address, object);
            }
            index.by_id.insert(pod_id(object), (object, pod));
        }
        index
    }

    /// The WorkloadEntries of `namespace` that have all these labels.
    pub(super) fn workloads(
        &self,
        namespace: &'a str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a Object, &'a WorkloadEntry)> {
        self.workloads
            .iter()
            .copied()
            .filter(move |(object, entry)| {
                *object.id.namespace == *namespace && has_labels(&entry.labels, selector)
            })
    }

    /// The Pods of `namespace` that have all these labels.
    pub(super) fn selected(
        &self,
        namespace: &'a str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = FoundPod<'a>> {
        let first = selector.first_key_value();
        let candidates =
            first.and_then(|(key, value)| self.by_label.get(&(namespace, &**key, &**value)));
        candidates
            .into_iter()
            .flatten()
            .copied()
            .filter(move |(object, _)| has_labels(&object.labels, selector))
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
    pods: &PodIndex<'a>,
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
    Registered {
        model: Arc::new(model::Service {
            host,
            namespace: Arc::clone(&object.id.namespace),
            name: Arc::clone(&object.id.name),
            addresses: service.addresses.clone(),
            ports: ports.collect(),
        }),
        object,
        found: Found::Listed,
        headless: service.headless,
        export: exported(object),
        ranges: Vec::new(),
        names: vec![Vec::new(); service.ports.len()],
        backends: backends.collect(),
    }
}

/// Who sees a Service, by its annotation.
fn exported(object: &Object) -> ExportTo {
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
    pods: &PodIndex<'a>,
) -> Vec<Backend<'a>> {
    let Some(selector) = &service.selector else {
        return Vec::new();
    };
    let selected = pods.selected(&object.id.namespace, selector);
    selected
        .filter_map(|(pod_object, pod)| {
            let number = match &port.target {
                Target::Number(number) => *number,
                Target::Name(name) => pod.ports.iter().find(|(other, _)| other == name)?.1,
            };
            Some(Backend {
                endpoint: Endpoint {
                    address: SocketAddr::new(address_for(service, &pod.addresses)?, number),
                    pod: Some(pod_id(pod_object)),
                    labels: None,
                    locality: None,
                    weight: 1,
                },
                labels: Some(&pod_object.labels),
                ready: (pod.ready || service.publish_not_ready) && !pod_object.terminating,
            })
        })
        .chain(from_workloads(object, selector, port, pods))
        .collect()
}

/// The WorkloadEntries that a Service selects. They have no named container ports; the Service's port counts then.
fn from_workloads<'a>(
    object: &'a Object,
    selector: &'a Labels,
    port: &'a Port,
    pods: &PodIndex<'a>,
) -> impl Iterator<Item = Backend<'a>> {
    let target = match &port.target {
        Target::Number(number) => *number,
        Target::Name(_) => port.number,
    };
    pods.workloads(&object.id.namespace, selector)
        .filter_map(move |(_, entry)| entries::workload(entry, &port.name, target))
}

/// One address of a pod, of the family that the Service has first.
fn address_for(service: &Service, addresses: &[IpAddr]) -> Option<IpAddr> {
    let wanted = service.addresses.first();
    let same = addresses
        .iter()
        .find(|address| wanted.is_some_and(|wanted| wanted.is_ipv4() == address.is_ipv4()));
    same.or(addresses.first()).copied()
}

fn from_slices<'a>(
    service: &Service,
    port: &Port,
    slices: &[&'a EndpointSlice],
    pods: &PodIndex<'a>,
) -> Vec<Backend<'a>> {
    // A Service of two families has slices of both, which name each pod twice: it is one endpoint all the same.
    let mut endpoints: Vec<_> = slices
        .iter()
        .filter_map(|slice| {
            let (_, number) = slice.ports.iter().find(|(name, _)| *name == port.name)?;
            Some(slice.endpoints.iter().map(|endpoint| (endpoint, *number)))
        })
        .flatten()
        .collect();
    if let Some(first) = service.addresses.first() {
        endpoints.sort_by_key(|(endpoint, _)| endpoint.address.is_ipv4() != first.is_ipv4());
    }
    let mut seen_pods = HashSet::new();
    let mut seen_addresses = HashSet::new();
    endpoints
        .into_iter()
        .filter_map(|(endpoint, number)| {
            let by_address = || {
                pods.by_address
                    .get(&endpoint.address)
                    .map(|object| pod_id(object))
            };
            let pod = endpoint.pod.clone().or_else(by_address);
            let address = SocketAddr::new(endpoint.address, number);
            let again = pod
                .as_ref()
                .is_some_and(|pod| !seen_pods.insert(pod.clone()));
            if again || !seen_addresses.insert(address) {
                return None;
            }
            let labels = pod.as_ref().and_then(|pod| pods.by_id.get(pod));
            Some(Backend {
                labels: labels.map(|(object, _)| &object.labels),
                endpoint: Endpoint {
                    address,
                    pod,
                    labels: None,
                    locality: None,
                    weight: 1,
                },
                ready: endpoint.ready,
            })
        })
        .collect()
}
