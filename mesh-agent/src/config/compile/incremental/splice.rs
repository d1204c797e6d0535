//! A part of a world in the place of the same part of another.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::clusters::Clusters;
use crate::config::compile::incremental::Made;
use crate::config::compile::incremental::gather;
use crate::config::compile::incremental::index::Key;
use crate::config::compile::incremental::scope::{Everything, Name, Scope, View};
use crate::config::compile::located::LocatedPods;
use crate::config::compile::pods::{self, Place};
use crate::config::compile::rules::Rules;
use crate::config::compile::services::{Services, has_labels, pod_id};
use crate::config::compile::sight::{Sight, Sights};
use crate::config::compile::{Report, mesh, routes, streams};
use crate::config::object::{Body, Kind, Object, ObjectId};
use crate::config::problem::Rejected;
use crate::model::{Cluster, ClusterKey, Pod, PodId, RouteTable, SharedMap, VirtualHost};

/// A world in the making.
pub(super) struct Splice<'v> {
    pub(super) made: Made,
    view: View<'v>,
}

impl<'v> Splice<'v> {
    /// Begins with the last world.
    pub(super) fn new(made: Made, view: View<'v>) -> Self {
        Self { made, view }
    }

    /// Puts Services, their clusters, the owners of addresses, and Pods in their places.
    pub(super) fn endpoints(
        &mut self,
        scope: &Scope,
        changes: &BTreeMap<ObjectId, Option<Arc<Object>>>,
    ) -> Result<(), Everything> {
        if scope.clusters.is_empty() && scope.pods.is_empty() && scope.owners.is_empty() {
            return Ok(());
        }
        if !scope.owners.is_empty() && self.is_restricted() {
            return Err(Everything);
        }
        let options = self.view.options;
        let inputs = gather::endpoints(scope, self.view)?;
        let located = LocatedPods::gather(&inputs, self.view.options);
        let services = Services::gather(&inputs, &located, options);
        let rules = Rules::gather(&inputs, options);
        let mut clusters = Clusters::new(&inputs, &services, &rules);
        let models = services.models();
        for host in &scope.clusters {
            let model = models.get(host).cloned();
            put(&mut self.made.snapshot.services, host, model);
        }
        let owners = services.addresses(&Sight::common());
        for address in &scope.owners {
            let owner = owners.get(address).cloned();
            put(&mut self.made.snapshot.common.addresses, address, owner);
        }
        self.clusters(&scope.clusters, &clusters);
        let sights = Sights::new(&inputs, &services, options);
        let mut served = pods::served_ports(located.list.len(), &services, &mut clusters);
        let mut found: HashMap<&ObjectId, usize> = HashMap::new();
        for (index, pod) in located.list.iter().enumerate() {
            found.insert(&pod.object.id, index);
        }
        let mut complaints = Vec::new();
        for id in &scope.pods {
            let index = found.get(id).copied();
            let place = self.place(id, index.map(|index| located.list[index].object), changes)?;
            let mut report = Report::default();
            let pod = index.map(|index| {
                let located = &located.list[index];
                let labels = &located.object.labels;
                let listeners = sights.ingress(&located.object.id.namespace, labels);
                let inbound = pods::inbound(listeners, std::mem::take(&mut served[index]));
                Arc::new(pods::pod(located, place, inbound, options, &mut report))
            });
            let key = PodId {
                namespace: Arc::clone(&id.namespace),
                name: Arc::clone(&id.name),
            };
            put(&mut self.made.snapshot.pods, &key, pod);
            complaints.push(report.rejected);
        }
        self.complain(&scope.pods, complaints);
        self.pod_addresses(scope);
        Ok(())
    }

    fn clusters(&mut self, hosts: &BTreeSet<Arc<str>>, made: &Clusters<'_>) {
        let mut by_host: HashMap<&Arc<str>, Vec<(&ClusterKey, &Arc<Cluster>)>> = HashMap::new();
        for (key, cluster) in made.usual.iter() {
            by_host.entry(&key.host).or_default().push((key, cluster));
        }
        let snapshot = &mut self.made.snapshot;
        for host in hosts {
            let now = by_host.remove(host).unwrap_or_default();
            let keys: Vec<ClusterKey> = now.iter().map(|(key, _)| (*key).clone()).collect();
            let before = match keys.is_empty() {
                true => self.made.keys.remove(host),
                false => self.made.keys.insert(Arc::clone(host), keys.clone()),
            };
            for gone in before.iter().flatten().filter(|key| !keys.contains(key)) {
                snapshot.clusters.remove(gone);
            }
            for (key, cluster) in now {
                put(&mut snapshot.clusters, key, Some(Arc::clone(cluster)));
            }
        }
        let clients = snapshot.views.keys().chain(made.views.keys()).cloned();
        for client in clients.collect::<BTreeSet<Arc<str>>>() {
            let now = made.views.get(&client);
            let views = snapshot.views.entry(Arc::clone(&client)).or_default();
            for host in hosts {
                put(views, host, now.and_then(|now| now.get(host)).cloned());
            }
            if views.is_empty() {
                snapshot.views.remove(&client);
            }
        }
    }

    /// What a Pod has in common with others. Which of these there are, and in which order, goes by the Pods that there
    /// are, so for a Pod that was not there in the same way it can be told only where it has nothing special.
    fn place(
        &self,
        id: &ObjectId,
        now: Option<&Object>,
        changes: &BTreeMap<ObjectId, Option<Arc<Object>>>,
    ) -> Result<Place, Everything> {
        let key = PodId {
            namespace: Arc::clone(&id.namespace),
            name: Arc::clone(&id.name),
        };
        let before = self.made.snapshot.pods.get(&key);
        let kept = before.map(|pod| Place {
            view: pod.view,
            outlook: pod.outlook,
            gateway: pod.gateway,
        });
        let same = match (changes.get(id), before.is_some(), now) {
            (None, ..) => true,
            // Whoever is in a namespace with Pods of a Gateway may have Secrets for them, even without an address.
            (_, false, None) => self.view.index.secretive == 0,
            (Some(Some(before)), true, Some(now)) => is_alike(before, now),
            (Some(_), ..) => false,
        };
        let gateways = self.view.inputs.gateways();
        let of_gateway = now.is_some_and(|pod| {
            let mut gateways = gateways.iter();
            gateways.any(|(_, gateway)| {
                !gateway.selector.is_empty() && has_labels(&pod.labels, &gateway.selector)
            })
        });
        // Where its Services lead decides which servers are merged.
        if same && !of_gateway {
            return Ok(kept.unwrap_or_default());
        }
        let index = self.view.index;
        let special = kept.is_some_and(|kept| kept != Place::default());
        // A Gateway without a selector is every Pod's; one that names Secrets is another one in each namespace.
        let mut open = gateways
            .iter()
            .filter(|(_, gateway)| gateway.selector.is_empty());
        let secretive = open.any(|(_, gateway)| gateway.names_secret());
        let grouped = self.is_restricted() || index.selecting > 0 || index.secretive > 0;
        if special || of_gateway || secretive || grouped {
            return Err(Everything);
        }
        Ok(Place::default())
    }

    /// Puts what is wrong with some Pods in its place: first comes what is wrong with Pods, the oldest first.
    fn complain(&mut self, of: &BTreeSet<ObjectId>, now: Vec<Vec<(ObjectId, Rejected)>>) {
        let told = &mut self.made.rejected;
        // What was said of them stands where they were, which may be out of order by now.
        told.retain(|(other, _)| !of.contains(other));
        let inputs = self.view.inputs;
        for now in now {
            let Some((id, _)) = now.first() else {
                continue;
            };
            let place = told.partition_point(|(other, _)| {
                other.kind == Kind::Pod && by_age(inputs, other, id).is_lt()
            });
            told.splice(place..place, now);
        }
    }

    fn pod_addresses(&mut self, scope: &Scope) {
        let snapshot = &mut self.made.snapshot;
        for address in &scope.pod_addresses {
            let claiming = self.view.index.get(Key::At(*address)).iter();
            let claiming = claiming.filter_map(|object| {
                let pod = snapshot.pods.get(&pod_id(object))?;
                pod.addresses.contains(address).then_some((object, pod))
            });
            let first = claiming.min_by(|(one, a), (other, b)| {
                let here = |pod: &Pod| pod.local.is_none();
                let local = here(a).cmp(&here(b));
                local.then_with(|| by_age(self.view.inputs, &one.id, &other.id))
            });
            let owner = first.map(|(_, pod)| Arc::clone(pod));
            put(&mut snapshot.pods_by_address, address, owner);
        }
    }

    /// Puts routes in their places.
    pub(super) fn routes(&mut self, mut scope: Scope) -> Result<(), Everything> {
        if scope.routes.is_empty() && scope.names.is_empty() {
            return Ok(());
        }
        if self.is_restricted() || self.view.index.addressed > 0 {
            return Err(Everything);
        }
        let options = self.view.options;
        let inputs = gather::routes(&mut scope, self.view)?;
        let located = LocatedPods::gather(&inputs, self.view.options);
        let services = Services::gather(&inputs, &located, options);
        let bindings = routes::bindings(&inputs);
        let sight = Sight::common();
        let (tables, undeclared) = mesh::tables(&bindings, &services, &sight, options);
        let streams = streams::mesh_streams(&bindings, &services, &sight);
        let common = &mut self.made.snapshot.common;
        for host in &scope.routes {
            let now = undeclared.get(host).cloned();
            put(&mut common.undeclared, host, now);
            let changed = put(&mut common.streams, host, streams.get(host).cloned());
            let mut owners = self.view.index.hosted(host, options);
            if changed && owners.any(|object| matches!(object.body, Body::ServiceEntry(_))) {
                // What goes to a port of no address in particular may go there too.
                return Err(Everything);
            }
        }
        for port in &scope.gone_ports {
            common.mesh.remove(port);
        }
        for port in &scope.new_ports {
            // Only those that have changed have anything to say there: but for guesses, and for names of no Service at all.
            let guesses = !self.view.index.get(Key::Guesses(*port)).is_empty();
            match tables.get(port) {
                Some(table) if *port != 80 && !guesses => {
                    common.mesh.insert(*port, Arc::clone(table));
                }
                Some(_) | None => return Err(Everything),
            }
        }
        if tables.keys().any(|port| !common.mesh.contains_key(port)) {
            return Err(Everything);
        }
        for (port, table) in &mut common.mesh {
            let now = tables.get(port).map(|table| &**table);
            for name in &scope.names {
                put_name(table, name, now);
            }
        }
        Ok(())
    }

    /// Whether some Pods see another world than most.
    fn is_restricted(&self) -> bool {
        let mut sidecars = self.view.inputs.of_kind(Kind::Sidecar);
        self.view.index.hidden > 0
            || sidecars.next().is_some()
            || !self.made.snapshot.restricted.is_empty()
    }
}

/// Whether a Pod is in the same groups as before, in the same place among its like.
fn is_alike(before: &Object, now: &Object) -> bool {
    let (Body::Pod(one), Body::Pod(other)) = (&before.body, &now.body) else {
        return false;
    };
    before.labels == now.labels && before.age == now.age && one.node == other.node
}

/// As [`Inputs`] has them.
fn by_age(inputs: &Inputs, one: &ObjectId, other: &ObjectId) -> Ordering {
    let age = |id: &ObjectId| inputs.get(id).map(|object| &object.age);
    age(one).cmp(&age(other)).then_with(|| one.cmp(other))
}

/// Gives a key what it has now, if anything. What is the same already stays, and stays shared. True where it has changed.
fn put<K, V>(map: &mut SharedMap<K, V>, key: &K, now: Option<V>) -> bool
where
    K: Hash + Eq + Clone,
    V: Clone + PartialEq,
{
    if map.get(key) == now.as_ref() {
        return false;
    }
    match now {
        Some(now) => map.insert(key.clone(), now),
        None => map.remove(key),
    };
    true
}

/// Gives a name in a table the virtual host that it has in another.
fn put_name(table: &mut Arc<RouteTable>, (of, name): &Name, from: Option<&RouteTable>) {
    let Some(namespace) = of else {
        put_host(table, name, from);
        return;
    };
    let from = from.and_then(|table| table.local.get(namespace));
    let mut local = table.local.get(namespace).cloned().unwrap_or_default();
    if !put_host(&mut local, name, from.map(|table| &**table)) {
        return;
    }
    let table = Arc::make_mut(table);
    if *local == RouteTable::default() {
        table.local.remove(namespace);
    } else {
        table.local.insert(Arc::clone(namespace), local);
    }
}

/// Likewise, of a table for all. True where it has changed.
fn put_host(table: &mut Arc<RouteTable>, name: &Arc<str>, from: Option<&RouteTable>) -> bool {
    let look = |table: &RouteTable| -> Option<Arc<VirtualHost>> {
        match name.strip_prefix('*') {
            Some(suffix) => table.suffixes.get(suffix).cloned(),
            None => table.exact.get(name).cloned(),
        }
    };
    let now = from.and_then(look);
    if look(table) == now {
        return false;
    }
    let table = Arc::make_mut(table);
    match name.strip_prefix('*') {
        Some(suffix) => table.suffixes.put(suffix.into(), now),
        None => {
            put(&mut table.exact, name, now);
        }
    }
    true
}
