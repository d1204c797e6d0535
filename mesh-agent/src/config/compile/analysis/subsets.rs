//! DestinationRules for hosts that nobody has (IST0174), and subsets without Pods (IST0173).

use crate::config::Inputs;
use crate::config::compile::analysis::registry::Registry;
use crate::config::compile::analysis::{Findings, shown};
use crate::config::compile::services::has_labels;
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};

pub(super) fn check(inputs: &Inputs, registry: &Registry<'_>, findings: &mut Findings) {
    for (object, rule) in inputs.destination_rules() {
        let path = Path::of("spec");
        if !registry.any(&rule.host) {
            let message = format!("no Service is called {}", rule.host);
            let remedy = registry.remedy(&rule.host);
            let problem = Problem::breach(Code::Ist0174, &path.key("host"), message, remedy);
            findings.add(object, problem);
            continue;
        }
        let known = registry.service(&rule.host);
        let Some((known, members)) = known.and_then(|known| Some((known, known.members.as_ref()?)))
        else {
            continue;
        };
        if registry.pods.is_empty() {
            continue;
        }
        for (index, subset) in rule.subsets.iter().enumerate() {
            let selected =
                |place: &usize| has_labels(&registry.pods[*place].object.labels, &subset.labels);
            if members.iter().any(selected) {
                continue;
            }
            let message = match members.len() {
                0 => format!(
                    "no Pod is behind {}, so subset {} has none either",
                    rule.host, subset.name
                ),
                _ => format!(
                    "none of the Pods behind {} is labelled {}, so subset {} has none",
                    rule.host,
                    shown(&subset.labels),
                    subset.name
                ),
            };
            let remedy = "correct the labels, or add the Pods; until then the subset's share is answered with 503";
            let path = path.key("subsets").index(index);
            let at = if subset.labels.is_empty() {
                path.key("name")
            } else {
                path.key("labels")
            };
            let problem = Problem::breach(Code::Ist0173, &at, message, remedy);
            let selector = known.object.place(
                &Path::of("spec.selector"),
                format!("the Pods are those of {}", known.object.id),
            );
            findings.add(object, problem.see(selector));
        }
    }
}
