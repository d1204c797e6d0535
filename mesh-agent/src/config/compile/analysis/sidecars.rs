//! Sidecars that are for the same Pods: by their selectors (IST0110), or for all of a namespace (IST0111); and those that
//! select none (IST0101).

use std::collections::{BTreeMap, HashMap};

use crate::config::Inputs;
use crate::config::compile::analysis::registry::{Registry, Selectors};
use crate::config::compile::analysis::{Findings, shown};
use crate::config::object::{Object, Sidecar};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};

type Found<'a> = (&'a Object, &'a Sidecar);

pub(super) fn check(inputs: &Inputs, registry: &Registry<'_>, findings: &mut Findings) {
    let sidecars = inputs.sidecars();
    check_general(&sidecars, findings);
    if !registry.pods.is_empty() {
        check_selectors(&sidecars, registry, findings);
    }
}

fn check_general(sidecars: &[Found<'_>], findings: &mut Findings) {
    let mut oldest: HashMap<&str, &Object> = HashMap::new();
    let general = sidecars
        .iter()
        .filter(|(_, sidecar)| sidecar.selector.is_none());
    for (object, _) in general {
        let first = *oldest.entry(&object.id.namespace).or_insert(object);
        if first.id == object.id {
            continue;
        }
        let message = format!(
            "the older {} is for all Pods of the namespace too, and holds",
            first.id
        );
        let path = Path::of("metadata.name");
        let remedy = "put both into one, or add a workloadSelector";
        let problem = Problem::breach(Code::Ist0111, &path, message, remedy);
        let there = first.place(&path, "the older one is here");
        findings.add(object, problem.see(there));
    }
}

fn check_selectors(sidecars: &[Found<'_>], registry: &Registry<'_>, findings: &mut Findings) {
    let selectors = sidecars.iter().map(|(object, sidecar)| {
        let selector = sidecar.selector.as_ref()?;
        Some((&*object.id.namespace, selector))
    });
    let index = Selectors::new(selectors);
    let mut selects = vec![false; sidecars.len()];
    // The younger, with the oldest that has a Pod of it, and that Pod.
    let mut shared: BTreeMap<usize, (usize, &Object)> = BTreeMap::new();
    for pod in &registry.pods {
        let object = pod.object;
        let found = index.matching(&object.id.namespace, &object.labels);
        for place in &found {
            selects[*place] = true;
        }
        if let Some((oldest, younger)) = found.split_first() {
            for place in younger {
                shared.entry(*place).or_insert((*oldest, object));
            }
        }
    }
    let path = Path::of("spec.workloadSelector");
    for (place, (older, pod)) in shared {
        let (object, older) = (sidecars[place].0, sidecars[older].0);
        let message = format!(
            "the older {} selects Pods of this one too, such as {}, and holds for them",
            older.id, pod.id
        );
        let remedy = "let the selectors select different Pods, or put both into one";
        let problem = Problem::breach(Code::Ist0110, &path, message, remedy);
        let there = older.place(&path, "the older one selects them here");
        findings.add(object, problem.see(there));
    }
    for ((object, sidecar), selects) in sidecars.iter().zip(selects) {
        let Some(selector) = sidecar.selector.as_ref().filter(|_| !selects) else {
            continue;
        };
        let message = format!(
            "no Pod of namespace {} is labelled {}, so this is for nobody",
            object.id.namespace,
            shown(selector)
        );
        let remedy = "correct the labels, or add the Pods";
        let problem = Problem::breach(Code::Ist0101, &path, message, remedy);
        findings.add(object, problem);
    }
}
