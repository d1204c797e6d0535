//! Pods: their place in the mesh, and what the Services in front of them say they serve.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::CompileOptions;
use crate::config::compile::clusters::Clusters;
use crate::config::compile::gateways::{Selections, Targets};
use crate::config::compile::located::{Located, LocatedPods};
use crate::config::compile::routes::Binding;
use crate::config::compile::services::{Services, pod_id};
use crate::config::compile::sight::Sights;
use crate::config::compile::{Report, membership, topology};
use crate::config::object::sidecar::Ingress;
use crate::model::{AppAddress, InboundPort, Pod, Protocol, SharedMap};

/// What Pods have in common with others: the Gateways that select them, and what they see.
pub(super) struct Groups<'a, 'g> {
    pub(super) gateways: &'g mut Selections<'a>,
    pub(super) sights: &'g mut Sights<'a>,
    pub(super) bindings: &'g [Binding<'a>],
}

/// Every Pod that runs and has an address, oldest first.
pub(super) fn pods<'a>(
    located: &LocatedPods<'a>,
    services: &Services<'a>,
    clusters: &mut Clusters<'a>,
    groups: &mut Groups<'a, '_>,
    options: &CompileOptions,
    report: &mut Report,
) -> Vec<Arc<Pod>> {
    let mut served = served_ports(located.list.len(), services, clusters);
    let targets = targets(located, services, groups.gateways);
    let pods = located.list.iter().enumerate().map(|(index, located)| {
        let object = located.object;
        let namespace = &object.id.namespace;
        let place = Place {
            view: clusters.selected_view(namespace, &located.labels),
            outlook: groups.sights.of(namespace, &object.labels, groups.bindings),
            gateway: groups
                .gateways
                .of(&object.labels, namespace, targets.get(&index)),
        };
        let served = std::mem::take(&mut served[index]);
        let listeners = groups.sights.ingress(namespace, &object.labels);
        let inbound = inbound(listeners, served);
        Arc::new(pod(located, place, inbound, options, report))
    });
    pods.collect()
}

/// What a Pod has in common with others, each as a place in a list of the snapshot's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) view: Option<usize>,
    pub(super) outlook: Option<usize>,
    pub(super) gateway: usize,
}

/// One Pod, with what it serves.
pub(super) fn pod(
    located: &Located<'_>,
    place: Place,
    inbound: BTreeMap<u16, InboundPort>,
    options: &CompileOptions,
    report: &mut Report,
) -> Pod {
    let object = located.object;
    let Place {
        view,
        outlook,
        gateway,
    } = place;
    Pod {
        id: pod_id(object),
        uid: object.uid.clone(),
        labels: Arc::clone(&located.labels),
        addresses: located.pod.addresses.clone(),
        ready: located.pod.ready && !object.terminating,
        local: membership::local(located, options, report),
        locality: located.locality.clone(),
        node: located.pod.node.clone(),
        view,
        outlook,
        gateway,
        inbound,
        topology: topology::read(object, options.topology, report),
    }
}

/// The Pod that has an address; one of this node where several claim it, else the oldest.
pub(super) fn by_address(pods: &[Arc<Pod>]) -> SharedMap<IpAddr, Arc<Pod>> {
    let mut owners = SharedMap::with_capacity(pods.len());
    let (here, elsewhere): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| pod.local.is_some());
    for pod in here.into_iter().chain(elsewhere) {
        for address in &pod.addresses {
            owners.get_or_insert_with(*address, || Arc::clone(pod));
        }
    }
    owners
}

/// What each Pod serves, by container port; the Pods in the order of their list. The oldest Service decides where
/// several stand in front of one.
pub(super) fn served_ports<'a>(
    count: usize,
    services: &Services<'a>,
    clusters: &mut Clusters<'a>,
) -> Vec<BTreeMap<u16, InboundPort>> {
    let mut served = vec![BTreeMap::new(); count];
    for service in &services.list {
        for (port, backends) in service.model.ports.iter().zip(&service.backends) {
            if port.protocol == Protocol::Udp {
                continue;
            }
            let manner = clusters.inbound(service, port.number);
            for backend in backends {
                if let Some(pod) = backend.pod {
                    let number = backend.endpoint.address.port();
                    served[pod].entry(number).or_insert_with(|| InboundPort {
                        protocol: port.protocol,
                        service: Arc::clone(&service.model.host),
                        pool: Arc::clone(&manner.pool),
                        http: manner.http,
                        app: AppAddress::Dialled,
                    });
                }
            }
        }
    }
    served
}

/// Where their Services lead those Pods that Gateways select, each by its place.
fn targets<'s>(
    located: &LocatedPods<'_>,
    services: &'s Services<'_>,
    gateways: &Selections<'_>,
) -> HashMap<usize, Targets<'s>> {
    let pods = located.list.iter().enumerate();
    let mut targets: HashMap<usize, Targets<'s>> = pods
        .filter(|(_, located)| gateways.mean(&located.object.labels))
        .map(|(index, _)| (index, Targets::new()))
        .collect();
    if targets.is_empty() {
        return targets;
    }
    for service in &services.list {
        for (port, backends) in service.model.ports.iter().zip(&service.backends) {
            for backend in backends {
                if let Some(targets) = backend.pod.and_then(|pod| targets.get_mut(&pod)) {
                    let led = (&*service.model.host, backend.endpoint.address.port());
                    let known = targets.entry(port.number).or_insert(led);
                    *known = led.min(*known);
                }
            }
        }
    }
    targets
}

/// What a Pod serves, of what its Services say and its Sidecar lists.
pub(super) fn inbound(
    listeners: &[Ingress],
    served: BTreeMap<u16, InboundPort>,
) -> BTreeMap<u16, InboundPort> {
    match listeners {
        [] => served,
        listeners => only(listeners, &served),
    }
}

/// What a Pod serves where a Sidecar lists it: that, and nothing else. The Service in front of a port stays the same.
fn only(listeners: &[Ingress], served: &BTreeMap<u16, InboundPort>) -> BTreeMap<u16, InboundPort> {
    let listeners = listeners.iter().map(|listener| {
        let known = served
            .get(&listener.port)
            .or_else(|| served.values().next());
        let port = InboundPort {
            protocol: listener.protocol,
            service: known.map_or_else(Arc::default, |known| Arc::clone(&known.service)),
            pool: known.map_or_else(Arc::default, |known| Arc::clone(&known.pool)),
            http: known.map(|known| known.http).unwrap_or_default(),
            app: listener.app,
        };
        (listener.port, port)
    });
    listeners.collect()
}
