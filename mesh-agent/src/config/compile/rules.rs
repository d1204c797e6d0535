//! DestinationRules: which one a client gets for a Service (`istio-routing.md` 2.1).
//!
//! Rules are looked up by host, never searched: a mesh has thousands of them, and as many Services to ask for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::config::compile::hosts::endings;
use crate::config::compile::services::Services;
use crate::config::object::destination_rule::{Policy, Subset};
use crate::config::object::name::ExportTo;
use crate::config::object::{DestinationRule, Object};
use crate::config::{CompileOptions, Inputs};
use crate::model::Labels;

/// Every DestinationRule.
pub(super) struct Rules<'a> {
    /// First those for some clients, then those for all; the oldest first among each.
    merged: Vec<Merged<'a>>,
    /// What a namespace's own clients find in it.
    own: HashMap<&'a str, ByHost<'a>>,
    /// What the clients of other namespaces may find in a namespace.
    exported: HashMap<&'a str, ByHost<'a>>,
    /// What only the root namespace's clients find in it.
    root_private: ByHost<'a>,
    root: &'a str,
}

/// The rules of one namespace for one host, one audience, and the same clients, as one.
pub(super) struct Merged<'a> {
    export: &'a ExportTo,
    pub(super) selector: Option<&'a Labels>,
    pub(super) policy: Option<&'a Policy>,
    pub(super) subsets: Vec<&'a Subset>,
    /// Their names.
    names: HashSet<&'a str>,
}

/// Names a [`Merged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RuleId(usize);

/// What the clients of a namespace get for a Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FoundRules {
    /// The rule of those whom no other selects.
    pub(super) rule: Option<RuleId>,
    /// Rules for some of them; the first whose selector fits wins.
    pub(super) selected: Vec<RuleId>,
}

/// Rules by the hosts that they are for.
#[derive(Default)]
struct ByHost<'a> {
    rules: HashMap<&'a str, Vec<RuleId>>,
}

/// Who may get a rule of their own for a host: the clients of a namespace, for Services of another or of any.
struct Interest<'a> {
    client: &'a str,
    owner: Option<&'a str>,
}

impl<'a> Rules<'a> {
    pub(super) fn gather(inputs: &'a Inputs, options: &'a CompileOptions) -> Self {
        let mut rules = Self {
            merged: Vec::new(),
            own: HashMap::new(),
            exported: HashMap::new(),
            root_private: ByHost::default(),
            root: &options.root_namespace,
        };
        let (some, all): (Vec<_>, Vec<_>) = inputs
            .destination_rules()
            .into_iter()
            .partition(|(_, rule)| rule.selector.is_some());
        let default = inputs.mesh_config().destination_rules.as_ref();
        let mut known: HashMap<(&str, &str), Vec<RuleId>> = HashMap::new();
        for (object, rule) in some.into_iter().chain(all) {
            let namesakes = known
                .entry((&*object.id.namespace, &*rule.host))
                .or_default();
            rules.add(object, rule, rule.export.or(default), namesakes);
        }
        rules
    }

    /// Rules for one host in one namespace are one rule, unless they differ in whom they are for: the subsets of the
    /// younger are added where their names are new, and of the policies the oldest holds, whole.
    fn add(
        &mut self,
        object: &'a Object,
        rule: &'a DestinationRule,
        export: &'a ExportTo,
        namesakes: &mut Vec<RuleId>,
    ) {
        let same = namesakes.iter().find(|id| {
            let older = &self.merged[id.0];
            older.selector == rule.selector.as_ref() && same_audience(older.export, export)
        });
        if let Some(id) = same {
            let older = &mut self.merged[id.0];
            older.policy = older.policy.or(rule.policy.as_ref());
            for subset in &rule.subsets {
                if older.names.insert(&subset.name) {
                    older.subsets.push(subset);
                }
            }
            return;
        }
        let id = RuleId(self.merged.len());
        namesakes.push(id);
        self.merged.push(Merged {
            export,
            selector: rule.selector.as_ref(),
            policy: rule.policy.as_ref(),
            subsets: rule.subsets.iter().collect(),
            names: rule.subsets.iter().map(|subset| &*subset.name).collect(),
        });
        let (namespace, host) = (&*object.id.namespace, &*rule.host);
        let mut named = export.namespaces.iter();
        let names_own = named.any(|name| **name == *namespace);
        if export.public || export.private || names_own {
            self.own.entry(namespace).or_default().add(host, id);
        }
        if !is_private(export, namespace) {
            self.exported.entry(namespace).or_default().add(host, id);
        } else if namespace == self.root {
            self.root_private.add(host, id);
        }
    }

    /// What the clients of `client` get for `host`, a Service of namespace `owner`. `None` as the client is any
    /// namespace that no rule names or belongs to. The first namespace that has a rule wins, with all of it.
    pub(super) fn find(&self, client: Option<&str>, owner: &str, host: &str) -> FoundRules {
        let own = match client {
            // What is there for everyone's sake must not hide what a Service's owner says to the gateways there.
            Some(client) if client == self.root => Some(&self.root_private),
            Some(client) => self.own.get(client),
            None => None,
        };
        if let Some(ids) = own.and_then(|own| own.most_specific(host)) {
            return self.found(ids.iter().copied());
        }
        for namespace in [owner, self.root] {
            let exported = self.exported.get(namespace);
            let ids = exported.and_then(|exported| exported.most_specific(host));
            let visible = ids.into_iter().flatten().copied().filter(|id| {
                let export = self.merged[id.0].export;
                let named = |client: &str| export.namespaces.iter().any(|name| **name == *client);
                export.public || client.is_some_and(named)
            });
            let found = self.found(visible);
            if found.rule.is_some() {
                return found;
            }
        }
        FoundRules::default()
    }

    /// Of several rules for all, which then have different audiences, Istio takes the youngest.
    fn found(&self, ids: impl Iterator<Item = RuleId>) -> FoundRules {
        let mut found = FoundRules::default();
        for id in ids {
            match self.merged[id.0].selector {
                Some(_) => found.selected.push(id),
                None => found.rule = Some(id),
            }
        }
        found
    }

    /// Whether any rule that is for all clients names a Secret.
    pub(super) fn name_secrets(&self) -> bool {
        let mut for_all = self.merged.iter().filter(|rule| rule.selector.is_none());
        for_all.any(Merged::has_secret)
    }

    pub(super) fn get(&self, id: RuleId) -> &Merged<'a> {
        &self.merged[id.0]
    }

    /// The Services for which the clients of a namespace may get something else than most, by namespace; as their places
    /// in the list.
    pub(super) fn particular(&self, services: &Services<'_>) -> BTreeMap<&'a str, BTreeSet<usize>> {
        let interests = self.interests();
        let mut particular: BTreeMap<&'a str, BTreeSet<usize>> = BTreeMap::new();
        for (index, service) in services.list.iter().enumerate() {
            let host = &service.model.host;
            let interested = keys(host).filter_map(|key| interests.get(key)).flatten();
            for Interest { client, owner } in interested {
                if owner.is_none_or(|owner| *owner == *service.model.namespace) {
                    particular.entry(client).or_default().insert(index);
                }
            }
        }
        particular
    }

    /// By what hosts are looked up by.
    fn interests(&self) -> HashMap<&'a str, Vec<Interest<'a>>> {
        let mut interests: HashMap<&str, Vec<Interest<'a>>> = HashMap::new();
        let private = (self.root, &self.root_private);
        let own = self.own.iter().map(|(client, rules)| (*client, rules));
        let own = own.filter(|(client, _)| *client != self.root);
        for (client, rules) in own.chain([private]) {
            for key in rules.rules.keys() {
                let interest = Interest {
                    client,
                    owner: None,
                };
                interests.entry(key).or_default().push(interest);
            }
        }
        for (namespace, rules) in &self.exported {
            let owner = (*namespace != self.root).then_some(*namespace);
            for (key, ids) in &rules.rules {
                let exports = ids.iter().map(|id| self.merged[id.0].export);
                for client in exports.flat_map(|export| &export.namespaces) {
                    let interest = Interest { client, owner };
                    interests.entry(key).or_default().push(interest);
                }
            }
        }
        interests
    }
}

impl<'a> ByHost<'a> {
    fn add(&mut self, host: &'a str, id: RuleId) {
        let key = host.strip_prefix('*').unwrap_or(host);
        self.rules.entry(key).or_default().push(id);
    }

    fn most_specific(&self, host: &str) -> Option<&[RuleId]> {
        keys(host)
            .find_map(|key| self.rules.get(key))
            .map(Vec::as_slice)
    }
}

/// What the rules for a host stand under, the most specific first: the host itself, and of wildcards `.b.c` for `*.b.c`
/// and nothing for `*`. No host begins with a dot, so the two are never taken for one another.
pub(super) fn keys(host: &str) -> impl Iterator<Item = &str> {
    let own = (!host.starts_with('*')).then_some(host);
    own.into_iter().chain(endings(host))
}

/// Whether two rules are exported to the same namespaces, in whatever order they are named.
fn same_audience(a: &ExportTo, b: &ExportTo) -> bool {
    let names = |export: &'_ ExportTo| {
        export
            .namespaces
            .iter()
            .cloned()
            .collect::<BTreeSet<Arc<str>>>()
    };
    a.public == b.public && a.private == b.private && names(a) == names(b)
}

/// Whether nobody but the own namespace's clients may find a rule.
fn is_private(export: &ExportTo, own: &str) -> bool {
    match export.namespaces.as_slice() {
        _ if export.public => false,
        [] => export.private,
        [only] => !export.private && **only == *own,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
