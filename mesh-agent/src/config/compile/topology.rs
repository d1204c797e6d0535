//! What a Pod's annotation `proxy.istio.io/config` says of a gateway. Of all that may stand there, what stands before a
//! gateway is acted on; the rest is told of by name.

use crate::config::compile::Report;
use crate::config::crd::Number;
use crate::config::crd::proxy_config::{GatewayTopology, ProxyConfig};
use crate::config::object::{self, Object};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::config::yaml::read::read as read_yaml;
use crate::config::yaml::{self, Node};
use crate::model::Topology;

/// The annotation.
const CONFIG: &str = "proxy.istio.io/config";

/// The only way of handling `x-forwarded-client-cert` here, and the default at a gateway.
const SANITIZE_SET: &str = "SANITIZE_SET";

/// What the annotation says, over `default`. What cannot be read is told of, and the default stays.
pub(super) fn read(object: &Object, default: Topology, report: &mut Report) -> Topology {
    let Some(text) = object.annotations.get(CONFIG) else {
        return default;
    };
    let mut problems = Problems::default();
    let topology = parse(text, default, &object::annotation(CONFIG), &mut problems);
    report.take(object, problems);
    topology
}

fn parse(text: &str, default: Topology, path: &Path, problems: &mut Problems) -> Topology {
    let node: Node = match yaml::documents(text).next() {
        None => return default,
        Some(Ok(node)) => node,
        Some(Err(error)) => {
            problems.left_out(
                path,
                format!("this is no YAML: {error}"),
                "nothing of it is in force",
            );
            return default;
        }
    };
    let (config, unread) = match read_yaml::<ProxyConfig>(&node) {
        Ok(found) => found,
        Err(misfit) => {
            let message = format!("{} {}", misfit.path, misfit.message);
            problems.left_out(path, message.trim_start(), "nothing of it is in force");
            return default;
        }
    };
    let unread: Vec<String> = unread.iter().map(|field| field.path.to_string()).collect();
    if !unread.is_empty() {
        problems.without_effect(path, &unread.join(", "));
    }
    let Some(GatewayTopology {
        num_trusted_proxies,
        forward_client_cert_details,
        proxy_protocol,
    }) = config.gateway_topology
    else {
        return default;
    };
    if let Some(details) = forward_client_cert_details.filter(|details| details != SANITIZE_SET) {
        let what = format!("gatewayTopology.forwardClientCertDetails {details}");
        problems.without_effect(path, &what);
    }
    Topology {
        trusted_proxies: match num_trusted_proxies {
            Some(Number(count)) => count,
            None => default.trusted_proxies,
        },
        proxy_protocol: proxy_protocol.is_some() || default.proxy_protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: (u32, bool), told: &[&str]) {
        let default = Topology {
            trusted_proxies: 7,
            proxy_protocol: false,
        };
        let mut problems = Problems::default();
        let found = parse(text, default, &object::annotation(CONFIG), &mut problems);
        assert_eq!(
            (found.trusted_proxies, found.proxy_protocol),
            expected,
            "{text}"
        );
        let found: Vec<String> = problems
            .into_iter()
            .map(|problem| format!("{} {}", problem.severity.name(), problem.message))
            .collect();
        assert_eq!(found, told, "{text}");
    }

    #[test]
    fn an_annotation_says_what_stands_before_the_gateway() {
        check("", (7, false), &[]);
        check("{}", (7, false), &[]);
        check("gatewayTopology: {}", (7, false), &[]);
        check("gatewayTopology: {numTrustedProxies: 2}", (2, false), &[]);
        check("gatewayTopology: {numTrustedProxies: '0'}", (0, false), &[]);
        check(
            "gateway_topology: {num_trusted_proxies: 1}",
            (1, false),
            &[],
        );
        check("gatewayTopology: {proxyProtocol: {}}", (7, true), &[]);
        check(
            r#"{"gatewayTopology": {"numTrustedProxies": 1, "forwardClientCertDetails": "SANITIZE_SET"}}"#,
            (1, false),
            &[],
        );
    }

    #[test]
    fn the_rest_is_told_of_by_name() {
        check(
            "{concurrency: 2, holdApplicationUntilProxyStarts: true, gatewayTopology: {numTrustedProxies: 1, x: 1}}",
            (1, false),
            &[
                "warning concurrency, holdApplicationUntilProxyStarts, gatewayTopology.x is not supported yet and has no effect",
            ],
        );
        check(
            "gatewayTopology: {forwardClientCertDetails: FORWARD_ONLY}",
            (7, false),
            &[
                "warning gatewayTopology.forwardClientCertDetails FORWARD_ONLY is not supported yet and has no effect",
            ],
        );
        for (text, told) in [
            (
                "gatewayTopology: {numTrustedProxies: -1}",
                "error gatewayTopology.numTrustedProxies ",
            ),
            ("gatewayTopology: {numTrustedProxies: many}", "error "),
            ("gatewayTopology: 3", "error "),
            ("[1]", "error "),
            ("a: [", "error this is no YAML"),
        ] {
            let mut problems = Problems::default();
            let default = Topology::default();
            let found = parse(text, default, &object::annotation(CONFIG), &mut problems);
            assert_eq!(found, default, "{text}");
            let found: Vec<String> = problems
                .into_iter()
                .map(|problem| format!("{} {}", problem.severity.name(), problem.message))
                .collect();
            assert!(found.len() == 1 && found[0].starts_with(told), "{found:?}");
        }
    }
}
