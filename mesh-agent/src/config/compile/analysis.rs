//! What objects say of each other that is not so, or hardly as meant, by the rules of `istioctl analyze`
//! (`istio-routing.md` 5.5). None of it changes what is in force.
//!
//! A file per subject. Each looks up what it needs in [`registry::Registry`], so that the whole takes about as long as
//! reading every object once: nothing here compares every object with every other.
//!
//! What Pods are needed for is looked at only where there are any: manifests that are kept in a repository have none.

use crate::config::compile::analysis::registry::Registry;
use crate::config::object::{Object, suppresses};
use crate::config::problem::{Problem, Rejected};
use crate::config::{CompileOptions, Inputs};
use crate::model::Labels;

mod annotations;
mod delegates;
mod destinations;
mod entries;
mod gateways;
mod hosts;
mod namespaces;
mod pods;
mod policies;
mod registry;
mod services;
mod sidecars;
mod subsets;

/// Says what does not fit together. Pure; the order is that of the rules, not of the files.
pub fn analyze(inputs: &Inputs, options: &CompileOptions) -> Vec<Rejected> {
    let registry = Registry::gather(inputs, options);
    let mut findings = Findings::default();
    annotations::check(inputs, &mut findings);
    namespaces::check(inputs, options, &mut findings);
    pods::check(&registry, &mut findings);
    services::check(&registry, &mut findings);
    entries::check(inputs, &mut findings);
    sidecars::check(inputs, &registry, &mut findings);
    policies::check(inputs, &registry, &mut findings);
    hosts::check(inputs, &mut findings);
    delegates::check(inputs, &mut findings);
    destinations::check(inputs, &registry, &mut findings);
    subsets::check(inputs, &registry, &mut findings);
    gateways::check(inputs, &registry, &mut findings);
    findings.list
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    list: Vec<Rejected>,
}

impl Findings {
    fn add(&mut self, object: &Object, problem: Problem) {
        if !suppresses(&object.annotations, problem.code) {
            self.list.push(object.reject(problem));
        }
    }
}

/// Labels, in words.
fn shown(labels: &Labels) -> String {
    some(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

/// Some of a list, in words: a message must stay one that is read.
fn some<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    const MANY: usize = 5;
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.as_slice() {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [first @ .., last] if items.len() <= MANY => format!("{} and {last}", first.join(", ")),
        _ => format!(
            "{} and {} more",
            items[..MANY].join(", "),
            items.len() - MANY
        ),
    }
}

#[cfg(test)]
mod tests;
