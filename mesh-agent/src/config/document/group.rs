//! Which kinds there are, and what becomes of each.

use crate::config::object::Kind;

/// What `apiVersion` and `kind` say.
pub(super) enum Group {
    Known(Kind),
    /// A list, and the kind that its items have unless they say otherwise.
    List(Option<(String, String)>),
    /// Of Istio or the Gateway API, and not acted on.
    Unsupported,
    /// Nothing of that name exists there.
    Unknown(&'static str),
    /// Somebody else's.
    Foreign,
}

/// Tells what to do with an object of this `apiVersion` and `kind`.
pub(super) fn group(version: &str, kind: &str) -> Group {
    let (group, version_name) = version.split_once('/').unwrap_or(("", version));
    if let Some(item) = kind
        .strip_suffix("List")
        .filter(|_| !matches!(group, "networking.istio.io"))
    {
        let implied = (!item.is_empty()).then(|| (version.to_owned(), item.to_owned()));
        return Group::List(implied);
    }
    match (group, kind) {
        ("", "Service") => Group::Known(Kind::Service),
        ("", "Pod") => Group::Known(Kind::Pod),
        ("", "ConfigMap") => Group::Known(Kind::ConfigMap),
        ("", "Secret") => Group::Known(Kind::Secret),
        ("", "Node") => Group::Known(Kind::Node),
        ("", "Namespace") => Group::Known(Kind::Namespace),
        ("discovery.k8s.io", "EndpointSlice") => Group::Known(Kind::EndpointSlice),
        ("networking.istio.io", _) if !matches!(version_name, "v1" | "v1beta1" | "v1alpha3") => {
            Group::Unknown("write networking.istio.io/v1")
        }
        ("networking.istio.io", "VirtualService") => Group::Known(Kind::VirtualService),
        ("networking.istio.io", "DestinationRule") => Group::Known(Kind::DestinationRule),
        ("networking.istio.io", "Gateway") => Group::Known(Kind::Gateway),
        ("networking.istio.io", "ServiceEntry") => Group::Known(Kind::ServiceEntry),
        ("networking.istio.io", "WorkloadEntry") => Group::Known(Kind::WorkloadEntry),
        ("networking.istio.io", "Sidecar") => Group::Known(Kind::Sidecar),
        ("networking.istio.io", "WorkloadGroup" | "EnvoyFilter" | "ProxyConfig") => {
            Group::Unsupported
        }
        ("networking.istio.io", _) => match kind.strip_suffix("List") {
            Some(
                item @ ("VirtualService" | "DestinationRule" | "Gateway" | "ServiceEntry"
                | "WorkloadEntry" | "Sidecar"),
            ) => Group::List(Some((version.to_owned(), item.to_owned()))),
            _ => Group::Unknown("check the spelling of the kind"),
        },
        ("security.istio.io", "AuthorizationPolicy") => Group::Known(Kind::AuthorizationPolicy),
        ("security.istio.io", "PeerAuthentication") => Group::Known(Kind::PeerAuthentication),
        ("security.istio.io", "RequestAuthentication") => Group::Known(Kind::RequestAuthentication),
        ("telemetry.istio.io", "Telemetry") => Group::Known(Kind::Telemetry),
        (
            "security.istio.io"
            | "telemetry.istio.io"
            | "extensions.istio.io"
            | "gateway.networking.k8s.io",
            _,
        ) => Group::Unsupported,
        _ => Group::Foreign,
    }
}
