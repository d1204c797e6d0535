//! What is watched, and how the API server is asked for it. Pure.

use std::fmt;
use std::sync::Arc;

use crate::config::kube::Viewer;
use crate::config::object::Kind;

/// A set of objects that is listed and watched as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Feed {
    /// All objects of a kind.
    All(Kind),
    /// The Pods of this node, or the gateway's own, in full.
    PodsHere,
    /// The metadata of the other Pods.
    PodsElsewhere,
    /// One Secret of the gateway's namespace.
    Secret(Arc<str>),
}

/// A feed, and how to ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) feed: Feed,
    pub(super) group: &'static str,
    /// The versions that are understood, the best first.
    pub(super) versions: &'static [&'static str],
    pub(super) namespace: Option<Arc<str>>,
    pub(super) fields: Option<String>,
    /// Whether the metadata is enough.
    pub(super) metadata: bool,
}

/// Pods that have ended: their addresses may be another's by now.
const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed";

impl Feed {
    /// The kind of its objects.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::All(kind) => *kind,
            Self::PodsHere | Self::PodsElsewhere => Kind::Pod,
            Self::Secret(_) => Kind::Secret,
        }
    }

    /// The feed of this name, as displayed.
    pub(super) fn named(name: &str) -> Option<Self> {
        let plain = [Self::PodsHere, Self::PodsElsewhere].into_iter();
        let kinds = [
            Kind::Service,
            Kind::EndpointSlice,
            Kind::Namespace,
            Kind::Node,
        ];
        let kinds = kinds.into_iter().chain(Kind::ROUTING).map(Self::All);
        match name.strip_prefix("Secret ") {
            Some(secret) => Some(Self::Secret(secret.into())),
            None => plain.chain(kinds).find(|feed| feed.to_string() == name),
        }
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(kind) => f.write_str(kind.name()),
            Self::PodsHere => f.write_str("Pods here"),
            Self::PodsElsewhere => f.write_str("Pods elsewhere"),
            Self::Secret(name) => write!(f, "Secret {name}"),
        }
    }
}

impl Scope {
    /// Everything that is watched for a viewer, but for Secrets.
    pub(super) fn all(viewer: &Viewer) -> Vec<Self> {
        let mut scopes = vec![
            Self::core(Kind::Service),
            Self::core(Kind::Namespace),
            Self {
                metadata: true,
                ..Self::core(Kind::Node)
            },
            Self {
                group: "discovery.k8s.io",
                versions: &["v1", "v1beta1"],
                ..Self::core(Kind::EndpointSlice)
            },
        ];
        scopes.extend(Self::pods(viewer));
        scopes.extend(Kind::ROUTING.map(|kind| Self {
            group: "networking.istio.io",
            versions: &["v1", "v1beta1", "v1alpha3"],
            ..Self::core(kind)
        }));
        scopes
    }

    /// One Secret of a namespace.
    pub(super) fn secret(namespace: &Arc<str>, name: &Arc<str>) -> Self {
        Self {
            feed: Feed::Secret(Arc::clone(name)),
            namespace: Some(Arc::clone(namespace)),
            fields: Some(format!("metadata.name={name}")),
            ..Self::core(Kind::Secret)
        }
    }

    /// The Pods that matter in full are one feed, all others another: no Pod is in both for longer than a moment.
    fn pods(viewer: &Viewer) -> [Self; 2] {
        let (namespace, here, elsewhere) = match viewer {
            Viewer::Node(node) => (
                None,
                format!("spec.nodeName={node}"),
                format!("spec.nodeName!={node},{RUNNING}"),
            ),
            Viewer::Gateway { namespace, name } => (
                Some(Arc::clone(namespace)),
                format!("metadata.name={name}"),
                RUNNING.to_owned(),
            ),
        };
        [
            Self {
                feed: Feed::PodsHere,
                namespace,
                fields: Some(here),
                ..Self::core(Kind::Pod)
            },
            Self {
                feed: Feed::PodsElsewhere,
                fields: Some(elsewhere),
                metadata: true,
                ..Self::core(Kind::Pod)
            },
        ]
    }

    fn core(kind: Kind) -> Self {
        Self {
            feed: Feed::All(kind),
            group: "",
            versions: &["v1"],
            namespace: None,
            fields: None,
            metadata: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feed_has_a_name_to_be_found_by() {
        let viewer = Viewer::Node("a".into());
        for scope in Scope::all(&viewer) {
            let name = scope.feed.to_string();
            assert_eq!(Feed::named(&name), Some(scope.feed), "{name}");
        }
        let secret = Feed::Secret("web-cert".into());
        assert_eq!(Feed::named("Secret web-cert"), Some(secret));
        assert_eq!(Feed::named("ConfigMap"), None);
    }

    #[test]
    fn an_agent_asks_for_its_own_pods_in_full_and_for_the_rest_in_short() {
        let [here, elsewhere] = Scope::pods(&Viewer::Node("n1".into()));
        assert_eq!(here.fields.as_deref(), Some("spec.nodeName=n1"));
        assert!(!here.metadata && elsewhere.metadata);
        let fields = "spec.nodeName!=n1,status.phase!=Succeeded,status.phase!=Failed";
        assert_eq!(elsewhere.fields.as_deref(), Some(fields));
    }

    #[test]
    fn a_gateway_asks_for_its_own_pod_in_full() {
        let viewer = Viewer::Gateway {
            namespace: "istio-system".into(),
            name: "gw-0".into(),
        };
        let [here, _] = Scope::pods(&viewer);
        assert_eq!(here.namespace.as_deref(), Some("istio-system"));
        assert_eq!(here.fields.as_deref(), Some("metadata.name=gw-0"));
    }
}
