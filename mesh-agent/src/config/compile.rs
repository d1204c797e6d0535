//! From the objects in force to the world: everything that depends on more than one object.
//!
//! Pure: no I/O, no clock. What an object lacks to be of use (a Service that is not there, a Gateway that nobody defined)
//! is reported, and everything else applies.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::compile::clusters::Clusters;
use crate::config::compile::located::LocatedPods;
use crate::config::compile::rules::Rules;
use crate::config::compile::services::Services;
use crate::config::object::Object;
use crate::config::path::Path;
use crate::config::problem::{Problems, Rejected};
use crate::config::{CompileOptions, Inputs};
use crate::model::{Outlook, Snapshot};

mod capture;
mod clusters;
mod credentials;
mod gateways;
mod located;
mod mesh;
mod pods;
mod policy;
mod references;
mod routes;
mod rules;
mod services;

/// Makes the world of these objects. What is wrong between them comes beside it; what is wrong within one was found when
/// it was read.
pub fn compile(inputs: &Inputs, options: &CompileOptions) -> (Snapshot, Vec<Rejected>) {
    let mut report = Report::default();
    let located = LocatedPods::gather(inputs);
    let services = Services::gather(inputs, &located, options);
    let rules = Rules::gather(inputs, options);
    let bindings = routes::bindings(inputs);
    let mut selections = gateways::Selections::new(inputs);
    let mut clusters = Clusters::new(inputs, &services, &rules);
    let pods = pods::pods(
        &located,
        &services,
        &mut clusters,
        &mut selections,
        options,
        &mut report,
    );
    let (mesh, undeclared) = mesh::tables(&bindings, &services, options);
    references::check(inputs, &services, &rules, &mut report);
    let snapshot = Snapshot {
        generation: 0,
        services: services.models(),
        clusters: clusters.usual,
        views: clusters.views,
        selected: clusters.selected,
        gateway_views: clusters.gateway_views,
        common: Outlook {
            addresses: services.addresses(),
            mesh,
            undeclared,
            ..Outlook::default()
        },
        restricted: Vec::new(),
        gateways: gateways::gateways(&selections, &bindings, &services),
        pods_by_address: pods::by_address(&pods),
        pods: pods
            .into_iter()
            .map(|pod| (pod.id.clone(), pod))
            .collect::<HashMap<_, Arc<_>>>(),
    };
    (snapshot, report.rejected)
}

/// What is wrong between objects.
#[derive(Default)]
struct Report {
    rejected: Vec<Rejected>,
}

impl Report {
    fn take(&mut self, object: &Object, problems: Problems) {
        self.rejected
            .extend(problems.into_iter().map(|problem| object.reject(problem)));
    }

    fn warn(
        &mut self,
        object: &Object,
        path: &Path,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let mut problems = Problems::default();
        problems.warning(path, message, remedy);
        self.take(object, problems);
    }
}

#[cfg(test)]
mod scale;
#[cfg(test)]
mod tests;
