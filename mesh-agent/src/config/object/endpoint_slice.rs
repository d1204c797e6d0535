//! An EndpointSlice: addresses that serve a Service, found by Kubernetes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::crd::core::{
    Endpoint as WrittenEndpoint, EndpointConditions, EndpointSliceBody,
};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::PodId;

/// The label that names the Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The addresses.
    pub endpoints: Vec<Endpoint>,
    /// Port numbers by the name of the Service port.
    pub ports: Vec<(Arc<str>, u16)>,
}

/// Addresses of one Pod or machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// All of one family; the first one counts, the others name the same endpoint.
    pub address: IpAddr,
    /// Whether it is ready; no word on it counts as yes.
    pub ready: bool,
    /// Whether it is on its way out; no word on it counts as yes where it is not ready, as in Istio.
    pub terminating: bool,
    /// The Pod behind it.
    pub pod: Option<PodId>,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// The zone that it runs in.
    pub zone: Option<Arc<str>>,
}

impl EndpointSlice {
    /// Reads the object's own fields.
    pub fn read(body: EndpointSliceBody, namespace: &str, problems: &mut Problems) -> Self {
        let EndpointSliceBody {
            address_type,
            endpoints,
            ports,
        } = body;
        if address_type == "FQDN" {
            problems.unsupported(&Path::of("addressType"), "an EndpointSlice of type FQDN");
        }
        let mut names = Names::default();
        let path = Path::of("endpoints");
        // Collected from what is written they would keep its room, several times as much as they need.
        let mut read = Vec::with_capacity(endpoints.len());
        read.extend(
            endpoints
                .into_iter()
                .enumerate()
                .filter_map(|(index, endpoint)| {
                    let path = path.index(index);
                    read_endpoint(endpoint, namespace, &mut names, &path, problems)
                }),
        );
        Self {
            endpoints: read,
            ports: ports
                .into_iter()
                .filter(|port| port.protocol.is_empty() || port.protocol == "TCP")
                .filter_map(|port| {
                    let number = u16::try_from(port.port?.0).ok()?;
                    Some((port.name.into(), number))
                })
                .collect(),
        }
    }
}

fn read_endpoint(
    endpoint: WrittenEndpoint,
    namespace: &str,
    names: &mut Names,
    path: &Path,
    problems: &mut Problems,
) -> Option<Endpoint> {
    let WrittenEndpoint {
        addresses,
        conditions: EndpointConditions { ready, terminating },
        node_name,
        zone,
        target_ref,
    } = endpoint;
    let written = addresses.first()?;
    let Ok(address) = written.parse() else {
        let path = path.key("addresses").index(0);
        problems.error(
            &path,
            format!("\"{written}\" is no IP address"),
            "write an address",
        );
        return None;
    };
    let ready = ready.unwrap_or(true);
    let pod = target_ref
        .filter(|target| target.kind == "Pod" && !target.name.is_empty())
        .map(|target| PodId {
            namespace: names.shared(match target.namespace.as_str() {
                "" => namespace,
                other => other,
            }),
            name: target.name.into(),
        });
    Some(Endpoint {
        address,
        ready,
        terminating: terminating.unwrap_or(!ready),
        pod,
        node: (!node_name.is_empty()).then(|| names.shared(&node_name)),
        zone: (!zone.is_empty()).then(|| names.shared(&zone)),
    })
}

/// Names that many endpoints of a slice have: each is kept once.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}
