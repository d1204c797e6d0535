//! Services and the endpoints behind their ports.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::object::endpoint_slice::SERVICE_LABEL;
use crate::config::object::name::service_host;
use crate::config::object::service::{Port, Target};
use crate::config::object::{EndpointSlice, Object, Pod, Service};
use crate::config::{CompileOptions, Inputs};
use crate::model::{self, Endpoint, Labels, PodId, Protocol};

/// Every Service, oldest first.
pub(super) struct Services<'a> {
    pub(super) list: Vec<Registered<'a>>,
    by_host: HashMap<Arc<str>, usize>,
}

/// A Service with what stands behind it.
pub(super) struct Registered<'a> {
    pub(super) model: Arc<model::Service>,
    pub(super) service: &'a Service,
    /// Per port of the Service, in its order.
    pub(super) backends: Vec<Vec<Backend<'a>>>,
}

/// One endpoint of a port, ready or not.
pub(super) struct Backend<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) labels: Option<&'a Labels>,
    pub(super) ready: bool,
}

type Found<'a> = (&'a Object, &'a Pod);

/// Pods by what Services and EndpointSlices look them up by.
struct PodIndex<'a> {
    by_id: HashMap<PodId, Found<'a>>,
    /// By namespace, and a label's key and value.
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<Found<'a>>>,
    by_address: HashMap<IpAddr, &'a Object>,
}

impl<'a> Services<'a> {
    pub(super) fn gather(inputs: &'a Inputs, options: &CompileOptions) -> Self {
        let pods = PodIndex::gather(inputs);
        let slices = slices_by_service(inputs);
        let list: Vec<Registered<'a>> = inputs
            .services()
            .into_iter()
            .map(|(object, service)| {
                let host = service_host(
                    &object.id.name,
                    &object.id.namespace,
                    &options.cluster_domain,
                );
                let found = slices.get(&(&*object.id.namespace, &*object.id.name));
                register(object, service, host, found.map(Vec::as_slice), &pods)
            })
            .collect();
        let by_host = list
            .iter()
            .enumerate()
            .map(|(index, service)| (Arc::clone(&service.model.host), index))
            .collect();
        Self { list, by_host }
    }

    pub(super) fn get(&self, host: &str) -> Option<&Registered<'a>> {
        self.by_host.get(host).map(|index| &self.list[*index])
    }

    pub(super) fn models(&self) -> HashMap<Arc<str>, Arc<model::Service>> {
        self.list
            .iter()
            .map(|service| (Arc::clone(&service.model.host), Arc::clone(&service.model)))
            .collect()
    }

    /// Who owns an address: a cluster IP before a Pod of a headless Service, the older Service before the younger.
    pub(super) fn addresses(&self) -> HashMap<IpAddr, Arc<model::Service>> {
        let mut owners = HashMap::new();
        for service in &self.list {
            for address in &service.model.addresses {
                owners
                    .entry(*address)
                    .or_insert_with(|| Arc::clone(&service.model));
            }
        }
        for service in self.list.iter().filter(|service| service.service.headless) {
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
    /// The port that `number` names, where it is one of TCP.
    pub(super) fn has_port(&self, number: u16) -> bool {
        self.model
            .ports
            .iter()
            .any(|port| port.number == number && port.protocol != Protocol::Udp)
    }
}

impl<'a> PodIndex<'a> {
    fn gather(inputs: &'a Inputs) -> Self {
        let mut index = Self {
            by_id: HashMap::new(),
            by_label: HashMap::new(),
            by_address: HashMap::new(),
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

    /// The Pods of `namespace` that have all these labels.
    fn selected(
        &self,
        namespace: &'a str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = Found<'a>> {
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
        service,
        backends: backends.collect(),
    }
}

fn from_selector<'a>(
    object: &'a Object,
    service: &'a Service,
    port: &Port,
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
                    node: None,
                    weight: 1,
                },
                labels: Some(&pod_object.labels),
                ready: (pod.ready || service.publish_not_ready) && !pod_object.terminating,
            })
        })
        .collect()
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
                    node: None,
                    weight: 1,
                },
                ready: endpoint.ready,
            })
        })
        .collect()
}
