//! Annotations that mean nothing: unknown ones (IST0108), those on the wrong kind of object (IST0107), those that Istio
//! has deprecated (IST0135), and those that would change in Istio how traffic goes, and do not here (MESH0001). Looked at, as
//! by Istio, are Services and Pods.

use crate::config::Inputs;
use crate::config::compile::analysis::Findings;
use crate::config::object::{Kind, annotation};
use crate::config::problem::{Code, Problem};
use crate::config::yaml::read::nearest;

/// An annotation, the kinds that it is for (none for all), and whether it is deprecated.
type Known = (&'static str, &'static [&'static str], bool);

const POD: &[&str] = &["Pod"];
const SERVICE: &[&str] = &["Service"];
const GATEWAY: &[&str] = &["Gateway"];
const ENTRY: &[&str] = &["WorkloadEntry"];

/// Istio's, of its release 1.31, and our own. Beside these there is nothing under `istio.io` and `mesh-agent.io`.
const KNOWN: &[Known] = &[
    ("alpha.istio.io/canonical-serviceaccounts", SERVICE, true),
    ("alpha.istio.io/kubernetes-serviceaccounts", SERVICE, true),
    ("ambient.istio.io/bypass-inbound-capture", POD, false),
    ("ambient.istio.io/dns-capture", POD, false),
    ("ambient.istio.io/redirection", POD, false),
    (
        "ambient.istio.io/waypoint-inbound-binding",
        &["Gateway", "GatewayClass"],
        false,
    ),
    ("galley.istio.io/analyze-suppress", &[], false),
    ("gateway.istio.io/controller-version", &[], false),
    ("gateway.istio.io/name-override", GATEWAY, false),
    ("gateway.istio.io/service-account", GATEWAY, false),
    ("inject.istio.io/templates", POD, false),
    ("istio.io/autoRegistrationGroup", ENTRY, false),
    ("istio.io/connectedAt", ENTRY, false),
    ("istio.io/disconnectedAt", ENTRY, false),
    ("istio.io/dry-run", &["AuthorizationPolicy"], false),
    ("istio.io/reroute-virtual-interfaces", POD, false),
    ("istio.io/rev", POD, false),
    (
        "istio.io/use-waypoint-canary-weight",
        &["Namespace", "Service", "ServiceEntry"],
        false,
    ),
    ("istio.io/workloadController", ENTRY, false),
    ("mesh-agent.io/enrol", POD, false),
    ("mesh-agent.io/fast-path", POD, false),
    ("mesh-agent.io/netns", POD, false),
    ("mesh-agent.io/on-agent-loss", POD, false),
    ("mesh-agent.io/source", POD, false),
    ("networking.istio.io/exportTo", SERVICE, false),
    ("networking.istio.io/service-type", GATEWAY, false),
    (
        "networking.istio.io/traffic-distribution",
        &["Namespace", "Service", "ServiceEntry"],
        false,
    ),
    ("prometheus.istio.io/merge-metrics", POD, false),
    ("proxy.istio.io/config", POD, false),
    ("proxy.istio.io/overrides", POD, false),
    (
        "readiness.status.sidecar.istio.io/applicationPorts",
        POD,
        false,
    ),
    (
        "readiness.status.sidecar.istio.io/failureThreshold",
        POD,
        false,
    ),
    (
        "readiness.status.sidecar.istio.io/initialDelaySeconds",
        POD,
        false,
    ),
    (
        "readiness.status.sidecar.istio.io/periodSeconds",
        POD,
        false,
    ),
    ("sidecar.istio.io/agentLogLevel", POD, false),
    ("sidecar.istio.io/bootstrapOverride", POD, false),
    ("sidecar.istio.io/componentLogLevel", POD, false),
    ("sidecar.istio.io/discoveryAddress", POD, true),
    ("sidecar.istio.io/extraStatTags", POD, true),
    // Deprecated in favour of the label of the same name, which is not looked at here: both stand together.
    ("sidecar.istio.io/inject", POD, false),
    ("sidecar.istio.io/interceptionMode", POD, false),
    ("sidecar.istio.io/logLevel", POD, false),
    ("sidecar.istio.io/nativeSidecar", POD, false),
    ("sidecar.istio.io/proxyCPU", POD, false),
    ("sidecar.istio.io/proxyCPULimit", POD, false),
    ("sidecar.istio.io/proxyImage", POD, false),
    ("sidecar.istio.io/proxyImageType", POD, false),
    ("sidecar.istio.io/proxyMemory", POD, false),
    ("sidecar.istio.io/proxyMemoryLimit", POD, false),
    ("sidecar.istio.io/rewriteAppHTTPProbers", POD, false),
    ("sidecar.istio.io/statsCompression", POD, true),
    ("sidecar.istio.io/statsEvictionInterval", POD, false),
    ("sidecar.istio.io/statsFlushInterval", POD, false),
    ("sidecar.istio.io/statsHistogramBins", POD, false),
    ("sidecar.istio.io/statsHistogramBuckets", POD, false),
    ("sidecar.istio.io/statsInclusionPrefixes", POD, true),
    ("sidecar.istio.io/statsInclusionRegexps", POD, true),
    ("sidecar.istio.io/statsInclusionSuffixes", POD, true),
    ("sidecar.istio.io/status", POD, false),
    ("sidecar.istio.io/userVolume", POD, false),
    ("sidecar.istio.io/userVolumeMount", POD, false),
    ("status.sidecar.istio.io/port", POD, false),
    (
        "topology.istio.io/controlPlaneClusters",
        &["Namespace"],
        false,
    ),
    ("traffic.istio.io/nodeSelector", SERVICE, false),
    ("traffic.sidecar.istio.io/excludeInboundPorts", POD, false),
    ("traffic.sidecar.istio.io/excludeInterfaces", POD, false),
    (
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        POD,
        false,
    ),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", POD, false),
    ("traffic.sidecar.istio.io/includeInboundPorts", POD, false),
    (
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        POD,
        false,
    ),
    ("traffic.sidecar.istio.io/includeOutboundPorts", POD, false),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", POD, true),
];

const NAMES: [&str; KNOWN.len()] = names();

const fn names() -> [&'static str; KNOWN.len()] {
    let mut names = [""; KNOWN.len()];
    let mut place = 0;
    while place < names.len() {
        names[place] = KNOWN[place].0;
        place += 1;
    }
    names
}

pub(super) fn check(inputs: &Inputs, findings: &mut Findings) {
    let services = inputs.services().into_iter().map(|(object, _)| object);
    let pods = inputs.pods().into_iter().map(|(object, _)| object);
    for object in services.chain(pods) {
        let annotations = object.annotations.iter();
        for (name, value) in annotations.filter(|(name, _)| is_ours(name)) {
            if let Some(problem) = judge(name, value, object.id.kind) {
                findings.add(object, problem);
            }
        }
    }
}

/// Whether there is nothing of this name but what is listed here.
fn is_ours(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or_default();
    let below = |root: &str| {
        let sub = domain.strip_suffix(root);
        sub.is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
    };
    below("istio.io") || below("mesh-agent.io")
}

fn judge(name: &str, value: &str, kind: Kind) -> Option<Problem> {
    let path = annotation(name);
    let known = KNOWN.iter().find(|(known, ..)| *known == name);
    let problem = match known {
        None => {
            let remedy = match nearest(name, &NAMES) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "check its spelling, or remove it".to_owned(),
            };
            Problem::breach(Code::Ist0108, &path, "there is no such annotation", remedy)
        }
        Some((_, kinds, _)) if !kinds.is_empty() && !kinds.contains(&kind.name()) => {
            let message = format!("this annotation has no effect on a {}", kind.name());
            let remedy = format!("move it to a {}", kinds.join(" or a "));
            Problem::breach(Code::Ist0107, &path, message, remedy)
        }
        Some((_, _, true)) => Problem::breach(
            Code::Ist0135,
            &path,
            "Istio has deprecated this annotation",
            "remove it",
        ),
        Some((_, _, false)) => return undone(name, value),
    };
    // It is the name that is wrong, and its value that may be on the same line.
    Some(Problem {
        name: true,
        ..problem
    })
}

/// What an annotation would do in Istio, and does not here; what concerns the sidecar's container alone is not missed.
fn undone(name: &str, value: &str) -> Option<Problem> {
    let (message, remedy) = match (name, value) {
        ("sidecar.istio.io/interceptionMode", "TPROXY") => (
            "TPROXY has no effect: the app sees 127.0.0.6 as its client",
            "set mesh-agent.io/source: preserve, and the app sees its client's address",
        ),
        ("sidecar.istio.io/interceptionMode", "NONE") => (
            "NONE has no effect: the Pod's connections are steered",
            "set mesh-agent.io/enrol: \"false\" to keep the Pod out of the mesh",
        ),
        ("sidecar.istio.io/bootstrapOverride", _) => (
            "there is no Envoy whose bootstrap it would override",
            "remove it",
        ),
        _ => return None,
    };
    Some(Problem::breach(
        Code::Mesh0001,
        &annotation(name),
        message,
        remedy,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_told_apart_by_name_and_kind() {
        let cases = [
            ("sidecar.istio.io/inject", Kind::Pod, None),
            (
                "sidecar.istio.io/inject",
                Kind::Service,
                Some(Code::Ist0107),
            ),
            ("sidecar.istio.io/injekt", Kind::Pod, Some(Code::Ist0108)),
            (
                "sidecar.istio.io/statsCompression",
                Kind::Pod,
                Some(Code::Ist0135),
            ),
            ("networking.istio.io/exportTo", Kind::Service, None),
            (
                "networking.istio.io/exportTo",
                Kind::Pod,
                Some(Code::Ist0107),
            ),
            ("galley.istio.io/analyze-suppress", Kind::Service, None),
            ("mesh-agent.io/netns", Kind::Pod, None),
            ("mesh-agent.io/netns", Kind::Service, Some(Code::Ist0107)),
            ("mesh-agent.io/enroll", Kind::Pod, Some(Code::Ist0108)),
        ];
        for (name, kind, expected) in cases {
            let code = judge(name, "", kind).and_then(|problem| problem.code);
            assert_eq!(code, expected, "{name}");
        }
        let remedy = |name| judge(name, "", Kind::Pod).map(|problem| problem.remedy);
        assert_eq!(
            remedy("traffic.sidecar.istio.io/excludeinboundport").as_deref(),
            Some("did you mean traffic.sidecar.istio.io/excludeInboundPorts?")
        );
    }

    #[test]
    fn others_annotations_are_nobodys_business() {
        for name in [
            "example.com/x",
            "istio.io.example.com/x",
            "myistio.io/x",
            "x",
            "",
        ] {
            assert!(!is_ours(name), "{name}");
        }
        for name in [
            "istio.io/x",
            "a.b.istio.io/x",
            "mesh-agent.io/x",
            "istio.io",
        ] {
            assert!(is_ours(name), "{name}");
        }
    }
}
