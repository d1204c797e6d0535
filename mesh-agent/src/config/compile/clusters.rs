//! Clusters: the ports of Services, whole and by subset, as each kind of client sees them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::credentials::Audience;
use crate::config::compile::policy::{InboundManner, Manner, Policies};
use crate::config::compile::rules::{FoundRules, RuleId, Rules};
use crate::config::compile::services::{Backend, Found, Registered, Services, State, has_labels};
use crate::model::{
    Cluster, ClusterKey, Discovery, Endpoint, Endpoints, HostViews, Labels, LocalityPolicy,
    NamedEndpoint, Protocol, SharedMap,
};

/// Every cluster, by who sees it.
pub(super) struct Clusters<'a> {
    services: &'a Services<'a>,
    rules: &'a Rules<'a>,
    policies: Policies<'a>,
    /// By namespace: the hosts for which rules select some of its pods.
    selections: HashMap<&'a str, Vec<Selection>>,
    /// Which of `selected` the pods have for which certain rules were chosen.
    chosen: HashMap<(&'a str, Vec<Choice>), usize>,
    /// As most namespaces see them.
    pub(super) usual: SharedMap<ClusterKey, Arc<Cluster>>,
    /// Where the clients of a namespace see others.
    pub(super) views: HashMap<Arc<str>, HostViews>,
    /// Where the gateways of a namespace do.
    pub(super) gateway_views: HashMap<Arc<str>, HostViews>,
    /// Where pods do that rules select.
    pub(super) selected: Vec<HostViews>,
}

/// A Service, by its place in the list, and the rule that was chosen for it.
type Choice = (usize, RuleId);

/// A Service, by its place in the list, and the rules for some of a namespace's pods.
struct Selection {
    service: usize,
    rules: Vec<RuleId>,
}

impl<'a> Clusters<'a> {
    pub(super) fn new(
        inputs: &'a Inputs,
        services: &'a Services<'a>,
        rules: &'a Rules<'a>,
    ) -> Self {
        let mut clusters = Self {
            services,
            rules,
            policies: Policies::new(inputs),
            selections: HashMap::new(),
            chosen: HashMap::new(),
            usual: SharedMap::with_capacity(services.list.len()),
            views: HashMap::new(),
            gateway_views: HashMap::new(),
            selected: Vec::new(),
        };
        let usual = services
            .list
            .iter()
            .map(|service| clusters.found(None, service).rule);
        let usual: Vec<Option<RuleId>> = usual.collect();
        for (service, rule) in services.list.iter().zip(&usual) {
            let seen = clusters.of_service(service, *rule, Audience::Pods);
            clusters.usual.extend(seen);
        }
        clusters.see_by_namespace(&usual);
        clusters.see_as_gateways(inputs);
        clusters
    }

    fn see_by_namespace(&mut self, usual: &[Option<RuleId>]) {
        for (client, concerned) in self.rules.particular(self.services) {
            for index in concerned {
                let service = &self.services.list[index];
                let FoundRules { rule, selected } = self.found(Some(client), service);
                if rule != usual[index] {
                    let seen = self.of_service(service, rule, Audience::Pods);
                    let views = self.views.entry(client.into()).or_default();
                    let host = Arc::clone(&service.model.host);
                    views.insert(host, Arc::new(seen.into_iter().collect()));
                }
                if !selected.is_empty() {
                    self.selections.entry(client).or_default().push(Selection {
                        service: index,
                        rules: selected,
                    });
                }
            }
        }
    }

    /// What a rule for everyone says of Secrets holds for gateways alone, with the Secrets of their namespace.
    fn see_as_gateways(&mut self, inputs: &'a Inputs) {
        if !self.rules.name_secrets() {
            return;
        }
        for client in gateway_namespaces(inputs) {
            for service in &self.services.list {
                let rule = self.found(Some(client), service).rule;
                if rule.is_some_and(|rule| self.rules.get(rule).has_secret()) {
                    let seen = self.of_service(service, rule, Audience::Holders(client));
                    let views = self.gateway_views.entry(client.into()).or_default();
                    let host = Arc::clone(&service.model.host);
                    views.insert(host, Arc::new(seen.into_iter().collect()));
                }
            }
        }
    }

    /// Which of `selected` a pod has: the clusters of the hosts for which a rule selects it.
    pub(super) fn selected_view(&mut self, namespace: &'a str, labels: &Labels) -> Option<usize> {
        let chosen: Vec<Choice> = self
            .selections
            .get(namespace)?
            .iter()
            .filter_map(|selection| {
                let fits = |id: &&RuleId| {
                    let selector = self.rules.get(**id).selector;
                    selector.is_some_and(|selector| has_labels(labels, selector))
                };
                Some((selection.service, *selection.rules.iter().find(fits)?))
            })
            .collect();
        if chosen.is_empty() {
            return None;
        }
        if let Some(known) = self.chosen.get(&(namespace, chosen.clone())) {
            return Some(*known);
        }
        let mut views = HostViews::default();
        for (index, rule) in &chosen {
            let service = &self.services.list[*index];
            let seen = self.of_service(service, Some(*rule), Audience::Holders(namespace));
            let host = Arc::clone(&service.model.host);
            views.insert(host, Arc::new(seen.into_iter().collect()));
        }
        self.selected.push(views);
        let place = self.selected.len() - 1;
        self.chosen.insert((namespace, chosen), place);
        Some(place)
    }

    /// What holds between a pod's proxy and its app for a Service in front of it: the pod is a client of its own
    /// namespace there, and no selector counts.
    pub(super) fn inbound(&mut self, service: &Registered<'_>, port: u16) -> InboundManner {
        let rule = self.found(Some(&service.model.namespace), service).rule;
        self.policies.inbound(self.rules, rule, port)
    }

    fn found(&self, client: Option<&str>, service: &Registered<'_>) -> FoundRules {
        let model = &service.model;
        self.rules.find(client, &model.namespace, &model.host)
    }

    /// The clusters of a Service for clients to whom a rule applies: one per port, and one per port and subset.
    fn of_service(
        &mut self,
        service: &Registered<'a>,
        rule: Option<RuleId>,
        audience: Audience<'a>,
    ) -> Vec<(ClusterKey, Arc<Cluster>)> {
        let rules = self.rules;
        let subsets = rule.map_or(&[][..], |rule| &rules.get(rule).subsets);
        let mut clusters = Vec::new();
        let ports = service.model.ports.iter().zip(&service.backends);
        for ((port, backends), names) in ports.zip(&service.names) {
            if port.protocol == Protocol::Udp {
                continue;
            }
            let all = std::iter::once(None).chain((0..subsets.len()).map(Some));
            for place in all {
                let target = (service, port.number);
                let manner = self.policies.outbound(rules, rule, place, target, audience);
                let subset = place.map(|place| subsets[place]);
                let key = ClusterKey {
                    host: Arc::clone(&service.model.host),
                    port: port.number,
                    subset: subset.map(|subset| Arc::clone(&subset.name)),
                };
                let wanted = subset.map(|subset| &subset.labels);
                let behind = Behind {
                    found: service.found,
                    backends,
                    names,
                };
                let cluster = cluster(&key, port.protocol, &behind, wanted, manner);
                clusters.push((key, Arc::new(cluster)));
            }
        }
        clusters
    }
}

/// What stands behind a port.
struct Behind<'s> {
    found: Found,
    backends: &'s [Backend],
    names: &'s [NamedEndpoint],
}

fn cluster(
    key: &ClusterKey,
    protocol: Protocol,
    behind: &Behind<'_>,
    wanted: Option<&Labels>,
    manner: Manner,
) -> Cluster {
    let Behind {
        found,
        backends,
        names,
    } = *behind;
    let Manner { policy, original } = manner;
    let wanted = wanted.filter(|wanted| !wanted.is_empty());
    let fits = |labels: &Option<Arc<Labels>>| {
        let labels = labels.as_deref();
        wanted.is_none_or(|wanted| labels.is_some_and(|labels| has_labels(labels, wanted)))
    };
    let pick = |state: State| -> Vec<Endpoint> {
        let picked = backends
            .iter()
            .filter(|backend| backend.state == state && fits(&backend.endpoint.labels));
        // As much room as they need: they are most of what a large world is.
        let mut list = Vec::with_capacity(picked.clone().count());
        list.extend(picked.map(|backend| backend.endpoint.clone()));
        list
    };
    let by_share = policy.outliers.is_some() || policy.locality != LocalityPolicy::Off;
    let below = policy
        .outliers
        .as_ref()
        .is_some_and(|outliers| outliers.min_health_percent > 0);
    Cluster {
        key: key.clone(),
        protocol,
        endpoints: match original {
            true => Endpoints::default(),
            false => {
                let unready = (by_share && !below).then(|| pick(State::Unready));
                Endpoints::new(pick(State::Ready), unready.unwrap_or_default())
            }
        },
        policy,
        discovery: match found {
            _ if original => Discovery::Original,
            Found::Dialled => Discovery::Original,
            Found::Headless => Discovery::Headless,
            Found::Listed => Discovery::Listed,
            Found::Named { every_address } => Discovery::Dns {
                names: names
                    .iter()
                    .filter(|named| fits(&named.labels))
                    .cloned()
                    .collect(),
                every_address,
            },
        },
    }
}

/// The namespaces of the pods that a Gateway selects.
fn gateway_namespaces(inputs: &Inputs) -> BTreeSet<&str> {
    let gateways = inputs.gateways();
    let pods = inputs.pods().into_iter().filter(|(object, _)| {
        gateways
            .iter()
            .any(|(_, gateway)| has_labels(&object.labels, &gateway.selector))
    });
    pods.map(|(object, _)| &*object.id.namespace).collect()
}
