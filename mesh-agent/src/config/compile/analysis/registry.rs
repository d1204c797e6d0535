//! Who is who: the objects by what others call them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::compile::hosts::endings;
use crate::config::compile::services::has_labels;
use crate::config::object::endpoint_slice::SERVICE_LABEL;
use crate::config::object::name::service_host;
use crate::config::object::service::Target;
use crate::config::object::{Object, Pod, Service};
use crate::config::{CompileOptions, Inputs};
use crate::model::{Labels, Protocol};

/// Services and Pods, with who stands behind whom.
pub(super) struct Registry<'a> {
    /// Oldest first.
    pub(super) services: Vec<Known<'a>>,
    /// Oldest first.
    pub(super) pods: Vec<Member<'a>>,
    /// The namespace whose DestinationRules hold for everyone who has none.
    pub(super) root: Arc<str>,
    by_host: HashMap<Arc<str>, usize>,
    by_name: HashMap<&'a str, Vec<usize>>,
    /// What the hosts of Services end in, from a dot on.
    endings: HashSet<String>,
    /// The hosts of ServiceEntries and of ExternalName Services: what they lead to is not looked into.
    elsewhere: HashSet<Arc<str>>,
}

/// A Service.
pub(super) struct Known<'a> {
    pub(super) object: &'a Object,
    pub(super) service: &'a Service,
    /// Fully qualified.
    pub(super) host: Arc<str>,
    /// The Pods behind it, by their places in the list; none where that cannot be told from the objects.
    pub(super) members: Option<Vec<usize>>,
}

/// A Pod.
pub(super) struct Member<'a> {
    pub(super) object: &'a Object,
    pub(super) pod: &'a Pod,
    /// The Services whose selectors it fits, by their places in the list.
    pub(super) services: Vec<usize>,
}

impl<'a> Registry<'a> {
    pub(super) fn gather(inputs: &'a Inputs, options: &CompileOptions) -> Self {
        let mut services: Vec<Known<'a>> = inputs
            .services()
            .into_iter()
            .map(|(object, service)| Known {
                object,
                service,
                host: service_host(
                    &object.id.name,
                    &object.id.namespace,
                    &options.cluster_domain,
                ),
                members: service.selector.is_some().then(Vec::new),
            })
            .collect();
        let selectors = services.iter().map(|known| {
            let namespace = &*known.object.id.namespace;
            known
                .service
                .selector
                .as_ref()
                .map(|selector| (namespace, selector))
        });
        let selectors = Selectors::new(selectors);
        let pods: Vec<Member<'a>> = inputs
            .pods()
            .into_iter()
            .filter(|(_, pod)| !pod.ended)
            .map(|(object, pod)| Member {
                object,
                pod,
                services: selectors.matching(&object.id.namespace, &object.labels),
            })
            .collect();
        for (place, pod) in pods.iter().enumerate() {
            for service in &pod.services {
                services[*service]
                    .members
                    .get_or_insert_default()
                    .push(place);
            }
        }
        let mut registry = Self {
            by_host: HashMap::new(),
            by_name: HashMap::new(),
            endings: HashSet::new(),
            elsewhere: HashSet::new(),
            root: Arc::clone(&options.root_namespace),
            services,
            pods,
        };
        registry.take_slices(inputs);
        registry.index(inputs);
        registry
    }

    /// The Service of a host.
    pub(super) fn service(&self, host: &str) -> Option<&Known<'a>> {
        self.by_host.get(host).map(|place| &self.services[*place])
    }

    /// Whether a host leads somewhere that no Service with Pods stands for: a ServiceEntry has it, also by a wildcard, or an
    /// ExternalName Service.
    pub(super) fn is_elsewhere(&self, host: &str) -> bool {
        let covered = |suffix: &str| self.elsewhere.contains(format!("*{suffix}").as_str());
        self.elsewhere.contains(host) || endings(host).any(covered)
    }

    /// Whether any Service or ServiceEntry has the host, or a host below the wildcard.
    pub(super) fn any(&self, host: &str) -> bool {
        match host.strip_prefix('*') {
            Some("") => !self.services.is_empty() || !self.elsewhere.is_empty(),
            Some(suffix) => self.endings.contains(suffix),
            None => self.by_host.contains_key(host) || self.is_elsewhere(host),
        }
    }

    /// What to do about a host that nobody has: a name with a dot is not completed, and one without is of the own
    /// namespace.
    pub(super) fn remedy(&self, host: &str) -> String {
        let mut parts = host.split('.');
        let (name, namespace) = (parts.next().unwrap_or_default(), parts.next());
        let named = self.by_name.get(name).into_iter().flatten();
        let mut named = named.map(|place| &self.services[*place]);
        let same = named
            .clone()
            .find(|known| Some(&*known.object.id.namespace) == namespace);
        match same.or(named.next()) {
            Some(known) => format!("did you mean {}?", known.host),
            None => "check the name, or add the Service".to_owned(),
        }
    }

    /// Where EndpointSlices name the Pods, selectors count for nothing.
    fn take_slices(&mut self, inputs: &'a Inputs) {
        let slices = inputs.endpoint_slices();
        if slices.is_empty() {
            return;
        }
        let pods: HashMap<(&str, &str), usize> = self
            .pods
            .iter()
            .enumerate()
            .map(|(place, pod)| {
                let id = &pod.object.id;
                ((&*id.namespace, &*id.name), place)
            })
            .collect();
        let mut behind: HashMap<(&str, &str), Option<Vec<usize>>> = HashMap::new();
        for (object, slice) in slices {
            let Some(service) = object.labels.get(SERVICE_LABEL) else {
                continue;
            };
            let members = behind
                .entry((&object.id.namespace, service))
                .or_insert_with(|| Some(Vec::new()));
            for endpoint in &slice.endpoints {
                let id = endpoint.pod.as_ref();
                let place = id.and_then(|id| pods.get(&(&*id.namespace, &*id.name)));
                match (members.as_mut(), place) {
                    (Some(members), Some(place)) => members.push(*place),
                    (_, None) => *members = None,
                    (None, Some(_)) => {}
                }
            }
        }
        for known in &mut self.services {
            let id = &known.object.id;
            if let Some(members) = behind.remove(&(&*id.namespace, &*id.name)) {
                known.members = members;
            }
        }
    }

    fn index(&mut self, inputs: &Inputs) {
        for (_, entry) in inputs.service_entries() {
            for host in &entry.hosts {
                self.endings.extend(endings(host).map(str::to_owned));
                self.elsewhere.insert(Arc::clone(host));
            }
        }
        let external = self
            .services
            .iter()
            .filter(|known| known.service.external.is_some());
        self.elsewhere
            .extend(external.map(|known| Arc::clone(&known.host)));
        for (place, known) in self.services.iter().enumerate() {
            self.by_host.insert(Arc::clone(&known.host), place);
            let name = &*known.object.id.name;
            self.by_name.entry(name).or_default().push(place);
            for ending in endings(&known.host) {
                if !self.endings.contains(ending) {
                    self.endings.insert(ending.to_owned());
                }
            }
        }
    }
}

impl Known<'_> {
    /// The numbers of its TCP ports.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        let ports = self.service.ports.iter();
        ports
            .filter(|port| port.protocol != Protocol::Udp)
            .map(|port| port.number)
    }
}

impl Member<'_> {
    /// The container port that a Service's port is for.
    pub(super) fn target(&self, target: &Target) -> Option<u16> {
        match target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => {
                let named = self.pod.ports.iter().find(|(other, _)| other == name);
                named.map(|(_, number)| *number)
            }
        }
    }
}

/// Selectors, found by the labels that fit them. Each is kept under that of its labels which the fewest others have.
pub(super) struct Selectors<'a> {
    by_label: HashMap<Label<'a>, Vec<(usize, &'a Labels)>>,
}

/// A namespace, and a label's key and value.
type Label<'a> = (&'a str, &'a str, &'a str);

impl<'a> Selectors<'a> {
    /// By their places; those that are `None` or empty select nothing.
    pub(super) fn new(
        selectors: impl Iterator<Item = Option<(&'a str, &'a Labels)>> + Clone,
    ) -> Self {
        let mut common: HashMap<Label<'_>, usize> = HashMap::new();
        let labels = |(namespace, selector): (&'a str, &'a Labels)| {
            let labels = selector.iter();
            labels.map(move |(key, value)| (namespace, &**key, &**value))
        };
        for label in selectors.clone().flatten().flat_map(labels) {
            *common.entry(label).or_default() += 1;
        }
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for (place, selector) in selectors.enumerate() {
            let Some(selector) = selector else { continue };
            let rarest = labels(selector).min_by_key(|label| common.get(label));
            if let Some(label) = rarest {
                by_label.entry(label).or_default().push((place, selector.1));
            }
        }
        Self { by_label }
    }

    /// The places of those that fit, in ascending order.
    pub(super) fn matching(&self, namespace: &str, labels: &Labels) -> Vec<usize> {
        let mut found: Vec<usize> = labels
            .iter()
            .filter_map(|(key, value)| self.by_label.get(&(namespace, &**key, &**value)))
            .flatten()
            .filter(|(_, selector)| has_labels(labels, selector))
            .map(|(place, _)| *place)
            .collect();
        found.sort_unstable();
        found
    }
}
