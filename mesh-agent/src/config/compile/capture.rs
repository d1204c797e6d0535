//! A Pod's annotations as the steering of its connections. A malformed one is reported, and the default stays.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::config::object;
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::{CapturePolicy, CidrSet, FailPolicy, PortSet, SourceMode};

/// The default policy with what the annotations change.
pub(super) fn policy(
    annotations: &BTreeMap<String, String>,
    default: &CapturePolicy,
    problems: &mut Problems,
) -> CapturePolicy {
    let mut policy = default.clone();
    for (name, value) in annotations {
        let path = object::annotation(name);
        match name.split_once('/') {
            Some(("traffic.sidecar.istio.io", field)) => {
                istio(&mut policy, field, value, &path, problems);
            }
            Some(("istio.io", "reroute-virtual-interfaces")) => {
                policy.virtual_interfaces = names(value);
            }
            Some(("mesh-agent.io", field)) => own(&mut policy, field, value, &path, problems),
            Some(_) | None => {}
        }
    }
    policy
}

fn istio(
    policy: &mut CapturePolicy,
    field: &str,
    value: &str,
    path: &Path,
    problems: &mut Problems,
) {
    match field {
        "includeInboundPorts" => set(&mut policy.inbound_ports, port_set(value), path, problems),
        "excludeInboundPorts" => {
            // These are added to the proxy's own ports, which Istio excludes whatever is asked.
            if let Some(ports) = ports(value).or_report(path, problems) {
                for port in ports {
                    if !policy.exclude_inbound_ports.contains(&port) {
                        policy.exclude_inbound_ports.push(port);
                    }
                }
            }
        }
        "includeOutboundIPRanges" => {
            set(&mut policy.outbound_cidrs, cidr_set(value), path, problems);
        }
        "excludeOutboundIPRanges" => set(
            &mut policy.exclude_outbound_cidrs,
            cidrs(value),
            path,
            problems,
        ),
        "includeOutboundPorts" => set(
            &mut policy.include_outbound_ports,
            ports(value),
            path,
            problems,
        ),
        "excludeOutboundPorts" => set(
            &mut policy.exclude_outbound_ports,
            ports(value),
            path,
            problems,
        ),
        "excludeInterfaces" => policy.exclude_interfaces = names(value),
        "kubevirtInterfaces" => policy.virtual_interfaces = names(value),
        // Whether there is such an annotation at all is looked at by `analysis`, on every object.
        _ => {}
    }
}

fn own(policy: &mut CapturePolicy, field: &str, value: &str, path: &Path, problems: &mut Problems) {
    match field {
        "source" => {
            let mode = match value {
                "sidecar" => Ok(SourceMode::Sidecar),
                "preserve" => Ok(SourceMode::Preserve),
                _ => Err(format!("\"{value}\" is neither sidecar nor preserve")),
            };
            set(&mut policy.source, mode, path, problems);
        }
        "on-agent-loss" => {
            let loss = match value {
                "refuse" => Ok(FailPolicy::Refuse),
                "open" => Ok(FailPolicy::Open),
                "hold" => Ok(FailPolicy::Hold),
                _ => Err(format!("\"{value}\" is neither refuse, open nor hold")),
            };
            set(&mut policy.on_agent_loss, loss, path, problems);
        }
        "fast-path" => {
            let fast = match value {
                "on" => Ok(true),
                "off" => Ok(false),
                _ => Err(format!("\"{value}\" is neither on nor off")),
            };
            set(&mut policy.fast_path, fast, path, problems);
        }
        "enrol" if !matches!(value, "true" | "false") => problems.code(Code::Ist0125).left_out(
            path,
            format!("\"{value}\" is neither true nor false"),
            "the Pod is enrolled",
        ),
        // Whether there is such an annotation at all is looked at by `analysis`, on every object.
        _ => {}
    }
}

/// Takes a value over, or reports why it does not.
fn set<T>(field: &mut T, value: Result<T, String>, path: &Path, problems: &mut Problems) {
    if let Some(value) = value.or_report(path, problems) {
        *field = value;
    }
}

trait OrReport<T> {
    fn or_report(self, path: &Path, problems: &mut Problems) -> Option<T>;
}

impl<T> OrReport<T> for Result<T, String> {
    fn or_report(self, path: &Path, problems: &mut Problems) -> Option<T> {
        match self {
            Ok(value) => Some(value),
            Err(message) => {
                let remedy = "the default holds until this is corrected";
                problems.code(Code::Ist0125).left_out(path, message, remedy);
                None
            }
        }
    }
}

fn port_set(text: &str) -> Result<PortSet, String> {
    match text.trim() {
        "*" => Ok(PortSet::All),
        list => ports(list).map(PortSet::Only),
    }
}

fn cidr_set(text: &str) -> Result<CidrSet, String> {
    match text.trim() {
        "*" => Ok(CidrSet::All),
        list => cidrs(list).map(CidrSet::Only),
    }
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    parts(text)
        .map(|part| match part.parse() {
            Ok(port) => Ok(port),
            Err(_) => Err(format!("\"{part}\" is no port")),
        })
        .collect()
}

fn cidrs(text: &str) -> Result<Vec<IpNet>, String> {
    parts(text)
        .map(|part| match part.parse() {
            Ok(cidr) => Ok(cidr),
            Err(_) => Err(format!("\"{part}\" is no CIDR range")),
        })
        .collect()
}

fn names(text: &str) -> Vec<String> {
    parts(text).map(ToOwned::to_owned).collect()
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (CapturePolicy, Vec<String>) {
        let annotations = annotations
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut problems = Problems::default();
        let policy = policy(&annotations, &CapturePolicy::default(), &mut problems);
        (
            policy,
            problems
                .into_iter()
                .map(|problem| problem.message)
                .collect(),
        )
    }

    #[test]
    fn annotations_change_what_they_name_and_nothing_else() {
        let (policy, problems) = read(&[
            ("traffic.sidecar.istio.io/includeInboundPorts", "80, 8080"),
            ("traffic.sidecar.istio.io/excludeInboundPorts", "22,15021"),
            (
                "traffic.sidecar.istio.io/includeOutboundIPRanges",
                "10.0.0.0/8,fd00::/8",
            ),
            (
                "traffic.sidecar.istio.io/excludeOutboundIPRanges",
                "10.1.0.0/16",
            ),
            ("traffic.sidecar.istio.io/includeOutboundPorts", "3306"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "25,26"),
            ("traffic.sidecar.istio.io/excludeInterfaces", "net1,net2"),
            ("traffic.sidecar.istio.io/kubevirtInterfaces", "tap0"),
            ("mesh-agent.io/source", "preserve"),
            ("mesh-agent.io/on-agent-loss", "hold"),
            ("mesh-agent.io/fast-path", "off"),
            ("example.com/other", "x"),
        ]);
        let cidr = |text: &str| text.parse::<IpNet>().expect("a CIDR");
        let expected = CapturePolicy {
            inbound_ports: PortSet::Only(vec![80, 8080]),
            exclude_inbound_ports: vec![15090, 15021, 15020, 22],
            outbound_cidrs: CidrSet::Only(vec![cidr("10.0.0.0/8"), cidr("fd00::/8")]),
            exclude_outbound_cidrs: vec![cidr("10.1.0.0/16")],
            include_outbound_ports: vec![3306],
            exclude_outbound_ports: vec![25, 26],
            exclude_interfaces: vec!["net1".to_owned(), "net2".to_owned()],
            virtual_interfaces: vec!["tap0".to_owned()],
            source: SourceMode::Preserve,
            on_agent_loss: FailPolicy::Hold,
            fast_path: false,
            ..CapturePolicy::default()
        };
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(policy, expected);
    }

    #[test]
    fn a_star_is_all_and_an_empty_list_is_none() {
        let (policy, problems) = read(&[
            ("traffic.sidecar.istio.io/includeInboundPorts", ""),
            ("traffic.sidecar.istio.io/includeOutboundIPRanges", "*"),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(policy.inbound_ports, PortSet::Only(Vec::new()));
        assert_eq!(policy.outbound_cidrs, CidrSet::All);
    }

    #[test]
    fn what_cannot_be_read_is_reported_and_leaves_the_default() {
        let (policy, problems) = read(&[
            ("traffic.sidecar.istio.io/includeInboundPorts", "80,http"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "70000"),
            (
                "traffic.sidecar.istio.io/excludeOutboundIPRanges",
                "10.0.0.0/33",
            ),
            ("traffic.sidecar.istio.io/excludeOutboundPort", "25"),
            ("mesh-agent.io/source", "true"),
        ]);
        assert_eq!(policy, CapturePolicy::default());
        assert_eq!(
            problems,
            [
                "\"true\" is neither sidecar nor preserve",
                "\"10.0.0.0/33\" is no CIDR range",
                "\"70000\" is no port",
                "\"http\" is no port",
            ]
        );
    }
}
