//! Clusters: the ports of Services, whole and by subset.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::compile::rules::{Merged, SubsetRules};
use crate::config::compile::services::{Found, Registered, Services, has_labels};
use crate::model::{
    Cluster, ClusterKey, ClusterView, Discovery, Labels, NamedEndpoint, Protocol, TrafficPolicy,
};

type Views = HashMap<Arc<str>, HashMap<Arc<str>, ClusterView>>;

/// The clusters as most namespaces see them, and where others see something else.
pub(super) fn clusters(
    services: &Services<'_>,
    rules: &SubsetRules,
) -> (HashMap<ClusterKey, Arc<Cluster>>, Views) {
    let mut clusters = HashMap::new();
    let mut views = Views::new();
    let particular = rules.particular_namespaces();
    for service in &services.list {
        let (owner, host) = (&*service.model.namespace, &service.model.host);
        clusters.extend(with_subset(service, None));
        let usual = rules.rule(None, owner, host);
        clusters.extend(subsets(service, usual));
        for client in &particular {
            let rule = rules.rule(Some(client), owner, host);
            let same = match (rule, usual) {
                (Some(rule), Some(usual)) => std::ptr::eq(rule, usual),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                let view = with_subset(service, None)
                    .chain(subsets(service, rule))
                    .collect();
                let hosts = views.entry(Arc::clone(client)).or_default();
                hosts.insert(Arc::clone(host), view);
            }
        }
    }
    (clusters, views)
}

fn subsets(
    service: &Registered<'_>,
    rule: Option<&Merged>,
) -> impl Iterator<Item = (ClusterKey, Arc<Cluster>)> {
    rule.into_iter()
        .flat_map(|rule| &rule.subsets)
        .flat_map(|subset| with_subset(service, Some((&subset.name, &subset.labels))))
}

/// A cluster per port.
fn with_subset(
    service: &Registered<'_>,
    subset: Option<(&Arc<str>, &Labels)>,
) -> impl Iterator<Item = (ClusterKey, Arc<Cluster>)> {
    let ports = service.model.ports.iter().zip(&service.backends);
    let ports = ports.zip(&service.names);
    ports
        .filter(|((port, _), _)| port.protocol != Protocol::Udp)
        .map(move |((port, backends), names)| {
            let key = ClusterKey {
                host: Arc::clone(&service.model.host),
                port: port.number,
                subset: subset.map(|(name, _)| Arc::clone(name)),
            };
            let endpoints = backends.iter().filter(|backend| {
                let in_subset = |(_, wanted): (_, &Labels)| {
                    wanted.is_empty()
                        || backend
                            .labels
                            .is_some_and(|labels| has_labels(labels, wanted))
                };
                backend.ready && subset.is_none_or(in_subset)
            });
            let cluster = Cluster {
                key: key.clone(),
                protocol: port.protocol,
                endpoints: endpoints.map(|backend| backend.endpoint.clone()).collect(),
                policy: Arc::<TrafficPolicy>::default(),
                discovery: discovery(service, names, subset.map(|(_, labels)| labels)),
            };
            (key, Arc::new(cluster))
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn discovery(
    service: &Registered<'_>,
    names: &[(NamedEndpoint, Option<&Labels>)],
    subset: Option<&Labels>,
) -> Discovery {
    let in_subset = |labels: Option<&Labels>| {
        subset.is_none_or(|wanted| {
            wanted.is_empty() || labels.is_some_and(|labels| has_labels(labels, wanted))
        })
    };
    match service.found {
        Found::Listed if service.headless => Discovery::Headless,
        Found::Listed => Discovery::Listed,
        Found::Dialled => Discovery::Original,
        Found::Named { every_address } => Discovery::Dns {
            names: names
                .iter()
                .filter(|(_, labels)| in_subset(*labels))
                .map(|(named, _)| named.clone())
                .collect(),
            every_address,
        },
    }
}
