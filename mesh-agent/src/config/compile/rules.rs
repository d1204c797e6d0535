//! DestinationRules: which one a client of a namespace gets for a Service (`istio-routing.md` 2.1).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::object::destination_rule::Subset;
use crate::config::object::name::{ExportTo, covers};
use crate::config::{CompileOptions, Inputs};

/// Every DestinationRule, by its namespace.
pub(super) struct SubsetRules {
    by_namespace: HashMap<Arc<str>, Vec<Merged>>,
    root: Arc<str>,
}

/// The rules of one namespace for one host and one audience.
pub(super) struct Merged {
    pub(super) host: Arc<str>,
    namespace: Arc<str>,
    export: ExportTo,
    pub(super) subsets: Vec<Subset>,
}

impl SubsetRules {
    /// Rules for one host in one namespace are one rule, unless they differ in who sees them: the subsets of the
    /// younger are added where their names are new.
    pub(super) fn gather(inputs: &Inputs, options: &CompileOptions) -> Self {
        let mut by_namespace: HashMap<Arc<str>, Vec<Merged>> = HashMap::new();
        for (object, rule) in inputs.destination_rules() {
            let rules = by_namespace
                .entry(Arc::clone(&object.id.namespace))
                .or_default();
            let same = rules
                .iter_mut()
                .find(|other| other.host == rule.host && other.export == rule.export);
            match same {
                Some(older) => {
                    for subset in &rule.subsets {
                        if !older.subsets.iter().any(|other| other.name == subset.name) {
                            older.subsets.push(subset.clone());
                        }
                    }
                }
                None => rules.push(Merged {
                    host: Arc::clone(&rule.host),
                    namespace: Arc::clone(&object.id.namespace),
                    export: rule.export.clone(),
                    subsets: rule.subsets.clone(),
                }),
            }
        }
        Self {
            by_namespace,
            root: Arc::clone(&options.root_namespace),
        }
    }

    /// The rule that clients of `client` get for `host`, a Service of namespace `owner`. `None` as the client is any
    /// namespace that no rule names or belongs to. The first namespace that has a rule wins, with all of it.
    pub(super) fn rule(&self, client: Option<&str>, owner: &str, host: &str) -> Option<&Merged> {
        let own = client.filter(|client| *client != &*self.root);
        let places = [own, Some(owner), Some(&*self.root)];
        places
            .into_iter()
            .flatten()
            .find_map(|namespace| self.most_specific(namespace, client.unwrap_or_default(), host))
    }

    /// The namespaces whose clients may get another rule than the rest.
    pub(super) fn particular_namespaces(&self) -> BTreeSet<&Arc<str>> {
        let named = self
            .by_namespace
            .values()
            .flatten()
            .flat_map(|rule| &rule.export.namespaces);
        self.by_namespace.keys().chain(named).collect()
    }

    fn most_specific(&self, namespace: &str, client: &str, host: &str) -> Option<&Merged> {
        let rules = self.by_namespace.get(namespace)?;
        rules
            .iter()
            .rev()
            .filter(|rule| rule.export.allows(&rule.namespace, client) && covers(&rule.host, host))
            // Of equals the last one is the maximum, which reversed is the oldest.
            .max_by_key(|rule| (!rule.host.starts_with('*'), rule.host.len()))
    }
}
