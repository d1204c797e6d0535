//! Which pods see which destinations: `exportTo` of Services and ServiceEntries, and Sidecars
//! (`istio-routing.md` 1.1 and 4).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::config::compile::routes::Binding;
use crate::config::compile::services::{Registered, Services};
use crate::config::object::name::ExportTo;
use crate::config::object::sidecar::{Egress, EgressHost, OutboundPolicy};
use crate::config::object::{Object, Sidecar};
use crate::config::{CompileOptions, Inputs};
use crate::model::Labels;

/// What one group of pods sees.
#[derive(Clone, Debug)]
pub(super) struct Sight<'a> {
    /// The namespace that the pods are of; `None` where it makes no difference.
    namespace: Option<&'a str>,
    /// Only what these import; `None` is everything.
    egress: Option<&'a [Egress]>,
    /// What visible VirtualServices send to, which comes along with them.
    along: HashSet<Arc<str>>,
    /// What becomes of the rest; `None` is what the mesh says.
    pub(super) unknown: Option<&'a OutboundPolicy>,
}

/// Groups pods by what they see.
pub(super) struct Sights<'a> {
    /// The Sidecars, oldest first.
    sidecars: Vec<(&'a Object, &'a Sidecar)>,
    root: &'a str,
    /// Of namespaces, which of the Services that not everyone sees they see.
    particular: HashMap<&'a str, BTreeSet<usize>>,
    groups: HashMap<Group<'a>, usize>,
    /// One for each group.
    pub(super) restricted: Vec<Sight<'a>>,
}

/// What makes pods see the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group<'a> {
    /// Without a Sidecar: the Services that not everyone sees.
    Seen(BTreeSet<usize>),
    /// With one: which, and the namespace that `.` stands for.
    Sidecar(usize, &'a str),
}

impl<'a> Sight<'a> {
    /// What those see that nothing restricts and that nobody has exported anything to by name.
    pub(super) fn common() -> Self {
        Self {
            namespace: None,
            egress: None,
            along: HashSet::new(),
            unknown: None,
        }
    }

    /// Whether a Service is seen at all.
    pub(super) fn sees(&self, service: &Registered<'_>) -> bool {
        self.allows(&service.export, service)
            && self.egress.is_none_or(|egress| {
                let mut hosts = egress.iter().flat_map(|egress| &egress.hosts);
                self.along.contains(&service.model.host)
                    || hosts.any(|host| self.imports(host, service))
            })
    }

    /// Whether it is seen on one of its ports: an egress entry for a port is the only one that counts there.
    pub(super) fn sees_port(&self, service: &Registered<'_>, port: u16) -> bool {
        let Some(egress) = self.egress else {
            return self.allows(&service.export, service);
        };
        let own = egress.iter().find(|egress| egress.port == Some(port));
        let general = || egress.iter().find(|egress| egress.port.is_none());
        let along = own.is_none() && self.along.contains(&service.model.host);
        let hosts = own.or_else(general).map_or(&[][..], |egress| &egress.hosts);
        self.allows(&service.export, service)
            && (along || hosts.iter().any(|host| self.imports(host, service)))
    }

    /// Whether a VirtualService is: one imported host brings the others along.
    pub(super) fn sees_rules(&self, binding: &Binding<'_>) -> bool {
        let Some(egress) = self.egress else {
            return true;
        };
        let own = self.namespace.unwrap_or_default();
        let namespace = &binding.object.id.namespace;
        let mut hosts = egress.iter().flat_map(|egress| &egress.hosts);
        hosts.any(|imported| {
            let mut written = binding.service.hosts.iter();
            written.any(|host| imported.imports(own, namespace, host))
        })
    }

    /// Whether a name of an ExternalName Service is.
    pub(super) fn sees_alias(&self, export: &ExportTo, namespace: &str) -> bool {
        export.allows(namespace, self.namespace.unwrap_or_default())
    }

    fn allows(&self, export: &ExportTo, service: &Registered<'_>) -> bool {
        export.public
            || self
                .namespace
                .is_some_and(|own| export.allows(&service.model.namespace, own))
    }

    fn imports(&self, host: &EgressHost, service: &Registered<'_>) -> bool {
        let own = self.namespace.unwrap_or_default();
        host.imports(own, &service.model.namespace, &service.model.host)
    }
}

impl<'a> Sights<'a> {
    pub(super) fn new(
        inputs: &'a Inputs,
        services: &Services<'a>,
        options: &'a CompileOptions,
    ) -> Self {
        let mut particular: HashMap<&str, BTreeSet<usize>> = HashMap::new();
        let hidden = services.list.iter().enumerate();
        // Named namespaces are looked up by the pods that are there.
        let mut inhabited: Option<BTreeSet<&str>> = None;
        for (index, service) in hidden.filter(|(_, service)| !service.export.public) {
            let ExportTo {
                private,
                namespaces,
                ..
            } = &service.export;
            let own = private.then(|| &*service.object.id.namespace);
            let inhabited = inhabited.get_or_insert_with(|| {
                let pods = inputs.pods().into_iter();
                pods.map(|(pod, _)| &*pod.id.namespace).collect()
            });
            let named = namespaces.iter();
            let named = named.filter_map(|name| inhabited.get(&**name).copied());
            for namespace in own.into_iter().chain(named) {
                particular.entry(namespace).or_default().insert(index);
            }
        }
        Self {
            sidecars: inputs.sidecars(),
            root: &options.root_namespace,
            particular,
            groups: HashMap::new(),
            restricted: Vec::new(),
        }
    }

    /// Which of `restricted` a pod has; `None` where it sees what everyone does.
    pub(super) fn of(
        &mut self,
        namespace: &'a str,
        labels: &Labels,
        bindings: &[Binding<'_>],
    ) -> Option<usize> {
        let sidecar = self.sidecar(namespace, labels);
        let group = match sidecar {
            Some(index) => Group::Sidecar(index, namespace),
            None => Group::Seen(self.particular.get(namespace)?.clone()),
        };
        if let Some(known) = self.groups.get(&group) {
            return Some(*known);
        }
        let sidecar = sidecar.map(|index| self.sidecars[index].1);
        let mut sight = Sight {
            namespace: Some(namespace),
            egress: sidecar.and_then(|sidecar| sidecar.egress.as_deref()),
            along: HashSet::new(),
            unknown: sidecar.and_then(|sidecar| sidecar.unknown.as_ref()),
        };
        if sight.egress.is_some() {
            let seen = bindings.iter().filter(|binding| sight.sees_rules(binding));
            sight.along = seen.flat_map(Binding::destinations).collect();
        }
        self.restricted.push(sight);
        self.groups.insert(group, self.restricted.len() - 1);
        Some(self.restricted.len() - 1)
    }

    /// A pod's Sidecar: what it serves, and how, where that is not what its Services say.
    pub(super) fn sidecar_of(&self, namespace: &str, labels: &Labels) -> Option<&'a Sidecar> {
        let sidecar = self.sidecar(namespace, labels);
        sidecar.map(|index| self.sidecars[index].1)
    }

    /// The Sidecar of a pod: one that selects it, else the one of its namespace, else that of the root namespace.
    fn sidecar(&self, namespace: &str, labels: &Labels) -> Option<usize> {
        let position = |wanted: &dyn Fn(&Object, &Sidecar) -> bool| {
            self.sidecars
                .iter()
                .position(|(object, sidecar)| wanted(object, sidecar))
        };
        position(&|object, sidecar| {
            let selected = sidecar
                .selector
                .as_ref()
                .is_some_and(|selector| super::services::has_labels(labels, selector));
            selected && *object.id.namespace == *namespace
        })
        .or_else(|| {
            position(&|object, sidecar| {
                sidecar.selector.is_none() && *object.id.namespace == *namespace
            })
        })
        .or_else(|| {
            position(&|object, sidecar| {
                sidecar.selector.is_none() && *object.id.namespace == *self.root
            })
        })
    }
}
