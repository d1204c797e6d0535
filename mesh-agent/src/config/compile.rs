//! From the objects in force to the world: everything that depends on more than one object.
//!
//! Pure: no I/O, no clock. What an object lacks to be of use (a Service that is not there, a Gateway that nobody defined)
//! changes nothing for the others; [`analyze`] reports it, apart from [`compile()`], for a world must not wait for that.

use std::sync::Arc;

use crate::config::compile::clusters::Clusters;
use crate::config::compile::located::LocatedPods;
use crate::config::compile::rules::Rules;
use crate::config::compile::services::Services;
use crate::config::compile::sight::{Sight, Sights};
use crate::config::object::{Object, ObjectId};
use crate::config::problem::{Problem, Problems, Rejected};
use crate::config::{CompileOptions, Inputs};
use crate::model::Snapshot;

pub use crate::config::compile::analysis::analyze;
pub use crate::config::compile::incremental::Compiler;
pub use crate::config::compile::membership::ENROL;
pub(super) use crate::config::compile::secrets::secrets_named;

mod analysis;
mod capture;
mod clusters;
mod credentials;
mod delegates;
mod entries;
mod gateways;
mod hosts;
mod incremental;
mod located;
mod membership;
mod mesh;
mod outlooks;
mod pods;
mod policy;
mod routes;
mod rules;
mod secrets;
mod services;
mod sight;
mod streams;
mod topology;

/// Makes the world of these objects. What is wrong between them comes beside it; what is wrong within one was found when
/// it was read.
pub fn compile(inputs: &Inputs, options: &CompileOptions) -> (Snapshot, Vec<Rejected>) {
    let (snapshot, report) = whole(inputs, options);
    let rejected = report.rejected.into_iter();
    (snapshot, rejected.map(|(_, rejected)| rejected).collect())
}

fn whole(inputs: &Inputs, options: &CompileOptions) -> (Snapshot, Report) {
    let mut report = Report::default();
    let located = LocatedPods::gather(inputs, options);
    let services = Services::gather(inputs, &located, options);
    let rules = Rules::gather(inputs, options);
    let bindings = routes::bindings(inputs);
    let mut selections = gateways::Selections::new(inputs);
    let mut sights = Sights::new(inputs, &services, options);
    let mut groups = pods::Groups {
        gateways: &mut selections,
        sights: &mut sights,
        bindings: &bindings,
    };
    let mut clusters = Clusters::new(inputs, &services, &rules);
    let pods = pods::pods(
        &located,
        &services,
        &mut clusters,
        &mut groups,
        options,
        &mut report,
    );
    let outlook = |sight: &Sight<'_>| outlooks::outlook(sight, &bindings, &services, options);
    let gateways = gateways::gateways(&selections, &bindings, &services, &mut report);
    let snapshot = Snapshot {
        generation: 0,
        services: services.models(),
        clusters: clusters.usual,
        views: clusters.views,
        selected: clusters.selected,
        gateway_views: clusters.gateway_views,
        common: outlook(&Sight::common()),
        restricted: sights
            .restricted
            .iter()
            .map(|sight| Arc::new(outlook(sight)))
            .collect(),
        gateways,
        pods_by_address: pods::by_address(&pods),
        pods: pods.into_iter().map(|pod| (pod.id.clone(), pod)).collect(),
    };
    (snapshot, report)
}

/// What is wrong between objects.
#[derive(Default)]
struct Report {
    /// First that of Pods, the oldest first.
    rejected: Vec<(ObjectId, Rejected)>,
}

impl Report {
    fn take(&mut self, object: &Object, problems: Problems) {
        for problem in problems {
            self.add(object, problem);
        }
    }

    fn add(&mut self, object: &Object, problem: Problem) {
        self.rejected
            .push((object.id.clone(), object.reject(problem)));
    }
}

#[cfg(test)]
mod scale;
#[cfg(test)]
mod tests;
