//! The objects that decide over what is to be made again. What is compiled from these alone is, as far as the scope goes,
//! what all of them would make: whoever may have a say in it is among them, and they are of the same ages.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::incremental::index::{Key, hosts};
use crate::config::compile::incremental::scope::{Everything, Scope, View, all_names, names};
use crate::config::compile::rules;
use crate::config::object::virtual_service::Action;
use crate::config::object::{Body, Kind, Object, VirtualService};

/// How many ExternalName Services may stand for one another, and some more.
const MAX_ALIASES: usize = 16;

/// Those that decide over Services, clusters, Pods, and who owns an address.
pub(super) fn endpoints(scope: &Scope, view: View<'_>) -> Result<Inputs, Everything> {
    let mut found = Inputs::default();
    // There are few of them, and any may say where a Pod is or what it serves, or stand behind a Service.
    for kind in [Kind::Node, Kind::WorkloadEntry, Kind::Sidecar] {
        for object in view.inputs.of_kind(kind) {
            found.insert(Arc::clone(object));
        }
    }
    let mut services: Vec<Arc<Object>> = Vec::new();
    for host in &scope.clusters {
        services.extend(view.index.hosted(host, view.options).cloned());
        // Also where the Service is gone: a rule that selects some clients shows in more than its clusters.
        add_rules(host, view, &mut found)?;
    }
    for id in &scope.pods {
        let Some(pod) = view.inputs.get(id) else {
            continue;
        };
        found.insert(Arc::clone(pod));
        found.extend(view.namespace_of(pod));
        services.extend(view.in_front(pod));
    }
    for address in &scope.owners {
        services.extend(view.index.get(Key::Owns(*address)).iter().cloned());
        for pod in view.index.get(Key::At(*address)) {
            services.extend(view.in_front(pod));
        }
        for slice in view.index.get(Key::Lists(*address)) {
            services.extend(view.of_slice(slice));
        }
        for (object, entry, own) in view.workloads() {
            if own == *address {
                services.extend(view.selecting(&object.id.namespace, &entry.labels));
            }
        }
    }
    for address in &scope.pod_addresses {
        for pod in view.index.get(Key::At(*address)) {
            found.insert(Arc::clone(pod));
        }
    }
    for service in services {
        if found.get(&service.id).is_some() {
            continue;
        }
        let objects = view.slices(&service).iter().cloned();
        for object in objects.chain(view.behind(&service)) {
            found.insert(object);
        }
        for host in hosts(&service, view.options) {
            add_rules(&host, view, &mut found)?;
        }
        found.insert(service);
    }
    Ok(found)
}

/// The DestinationRules for a host.
fn add_rules(host: &str, view: View<'_>, found: &mut Inputs) -> Result<(), Everything> {
    let objects = rules::keys(host).flat_map(|key| view.index.get(Key::Rules(key)));
    for object in objects {
        if let Body::DestinationRule(rule) = &object.body {
            // Then who asks matters, and which Pods there are at all.
            if rule.selector.is_some() || rule.names_secret() {
                return Err(Everything);
            }
        }
        found.insert(Arc::clone(object));
    }
    Ok(())
}

/// Those that decide over routes. The scope gets to know all names of its hosts.
pub(super) fn routes(scope: &mut Scope, view: View<'_>) -> Result<Inputs, Everything> {
    for host in &scope.routes {
        scope.names.insert((None, Arc::clone(host)));
        for object in view.index.hosted(host, view.options) {
            scope.names.extend(names(host, object, view.options));
        }
        for alias in view.aliases(host) {
            scope.names.extend(all_names(&alias, false, view.options));
        }
    }
    let mut gathered = Routes {
        view,
        found: Inputs::default(),
        whole: BTreeSet::new(),
    };
    for (_, name) in &scope.names {
        gathered.add_name(name)?;
    }
    gathered.add_ports();
    Ok(gathered.found)
}

struct Routes<'v> {
    view: View<'v>,
    found: Inputs,
    /// The hosts whose routes are all there.
    whole: BTreeSet<Arc<str>>,
}

impl Routes<'_> {
    /// Everyone who may give a name its routes.
    fn add_name(&mut self, name: &str) -> Result<(), Everything> {
        self.add_literal(name)?;
        self.add_owner(name);
        let narrow = name.strip_prefix("*.");
        for name in narrow.into_iter().chain([name]) {
            let dotless = name.strip_suffix('.');
            let bare = name.strip_suffix(".svc").unwrap_or(name);
            let full = format!("{bare}.svc.{}", self.view.options.cluster_domain);
            let longer = format!("{name}.svc.{}", self.view.options.cluster_domain);
            for host in [name, &full, &longer].into_iter().chain(dotless) {
                self.add_host(host, 0);
            }
        }
        Ok(())
    }

    /// A name that VirtualServices have for a host of theirs. Which ports it is a name on depends on the other hosts.
    fn add_literal(&mut self, name: &str) -> Result<(), Everything> {
        if let Some(suffix) = name.strip_prefix('*') {
            // It would come before what a headless Service has there.
            if !self.view.index.get(Key::RoutesAll(suffix)).is_empty() {
                return Err(Everything);
            }
        }
        for object in self.view.index.get(Key::Routes(name)) {
            let Body::VirtualService(rules) = &object.body else {
                continue;
            };
            if rules.hosts.iter().any(|host| host.starts_with('*')) {
                return Err(Everything);
            }
            for host in &rules.hosts {
                self.add_target(host, 0);
            }
            self.add_rules(object, rules);
        }
        Ok(())
    }

    /// The Services that own an address, should the name be one.
    fn add_owner(&mut self, name: &str) {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let Ok(address) = bare.parse() else {
            return;
        };
        for service in self.view.index.get(Key::Owns(address)) {
            for host in hosts(service, self.view.options) {
                self.add_host(&host, 0);
            }
        }
    }

    /// The Services of a host, or those that it stands for, with all that is routed there.
    fn add_host(&mut self, host: &str, depth: usize) {
        if depth > MAX_ALIASES || self.whole.contains(host) {
            return;
        }
        for service in self.view.index.hosted(host, self.view.options) {
            self.found.insert(Arc::clone(service));
            if let Some(target) = stands_for(service) {
                self.add_host(target, depth + 1);
            }
        }
        if self
            .view
            .index
            .hosted(host, self.view.options)
            .next()
            .is_none()
        {
            return;
        }
        self.whole.insert(host.into());
        for object in self.view.index.routing(host) {
            if let Body::VirtualService(rules) = &object.body {
                self.add_rules(object, rules);
            }
        }
    }

    /// A VirtualService, those that it delegates to, and the Services that it sends to.
    fn add_rules(&mut self, object: &Arc<Object>, rules: &VirtualService) {
        if self.found.insert(Arc::clone(object)).is_some() {
            return;
        }
        for target in rules.targets() {
            self.add_target(&target.host, 0);
        }
        for rule in &rules.rules {
            let Action::Delegate(delegate) = &rule.action else {
                continue;
            };
            let id = crate::config::object::ObjectId {
                kind: Kind::VirtualService,
                namespace: Arc::clone(&delegate.namespace),
                name: Arc::clone(&delegate.name),
            };
            if let Some(object) = self.view.inputs.get(&id)
                && let Body::VirtualService(rules) = &object.body
            {
                self.add_rules(object, rules);
            }
        }
    }

    /// A Service that is only looked at: how many ports it has, and which.
    fn add_target(&mut self, host: &str, depth: usize) {
        if depth > MAX_ALIASES {
            return;
        }
        for service in self.view.index.hosted(host, self.view.options) {
            self.found.insert(Arc::clone(service));
            if let Some(target) = stands_for(service) {
                self.add_target(target, depth + 1);
            }
        }
    }

    /// A port has a table where anyone declares HTTP on it.
    fn add_ports(&mut self) {
        let services = self.found.services().into_iter();
        let of_services = services.flat_map(|(_, service)| &service.ports);
        let mut ports: BTreeSet<u16> = of_services.map(|port| port.number).collect();
        let entries = self.found.service_entries().into_iter();
        ports.extend(entries.flat_map(|(_, entry)| entry.ports.iter().map(|port| port.number)));
        ports.insert(80);
        for port in ports {
            if let Some(service) = self.view.index.get(Key::Declares(port)).first() {
                self.found.insert(Arc::clone(service));
            }
        }
    }
}

fn stands_for(service: &Object) -> Option<&str> {
    match &service.body {
        Body::Service(service) => service.external.as_deref(),
        _ => None,
    }
}
