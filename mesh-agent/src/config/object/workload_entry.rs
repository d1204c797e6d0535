//! A WorkloadEntry: an endpoint that is no Pod, by itself or in a ServiceEntry.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::crd::service_entry::WorkloadEntrySpec;
use crate::config::object::{self, name};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Labels, Locality};

/// A WorkloadEntry.
#[derive(Debug, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Where it is.
    pub address: Address,
    /// Its port numbers, by the name of the Service's port.
    pub ports: Vec<(Arc<str>, u16)>,
    /// Its labels: for selectors and subsets.
    pub labels: Arc<Labels>,
    /// `locality`.
    pub locality: Option<Arc<Locality>>,
    /// `weight`; 1 where nothing is written.
    pub weight: u32,
}

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A name to be resolved, lower case.
    Name(Arc<str>),
}

impl WorkloadEntry {
    /// Reads a spec at `path`. `None` where there is no address that could be used; what is wrong is reported.
    pub fn read(spec: WorkloadEntrySpec, path: &Path, problems: &mut Problems) -> Option<Self> {
        let WorkloadEntrySpec {
            address,
            ports,
            labels,
            network,
            locality,
            weight,
            service_account: _,
        } = spec;
        if !network.is_empty() {
            problems.without_effect(&path.key("network"), "network");
        }
        let ports = ports
            .into_iter()
            .filter_map(|(name, port)| {
                let path = path.key("ports").key(&name);
                let number = object::port_number(Some(port), &path, problems)?;
                Some((name.into(), number))
            })
            .collect();
        Some(Self {
            address: read_address(&address, &path.key("address"), problems)?,
            ports,
            labels: Arc::new(object::labels(&labels)),
            locality: read_locality(&locality),
            weight: weight.map_or(1, |weight| weight.0.max(1)),
        })
    }

    /// Where a port named `name`, with container port `target`, is served.
    pub fn port(&self, name: &str, target: u16) -> u16 {
        let own = self.ports.iter().find(|(other, _)| &**other == name);
        own.map_or(target, |(_, number)| *number)
    }
}

/// Reads `region/zone/subzone`, of which the end may be missing.
pub fn read_locality(text: &str) -> Option<Arc<Locality>> {
    if text.is_empty() {
        return None;
    }
    let mut parts = text.splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default().into();
    Some(Arc::new(Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    }))
}

fn read_address(text: &str, path: &Path, problems: &mut Problems) -> Option<Address> {
    if text.is_empty() {
        problems.error(path, "an endpoint needs an address", "add one");
        return None;
    }
    if text.starts_with("unix://") {
        problems.unsupported_part(
            path,
            "an endpoint that is a Unix socket",
            "nothing is sent to it",
        );
        return None;
    }
    if let Ok(address) = text.parse() {
        return Some(Address::Ip(address));
    }
    if text.contains('*') || !name::is_host(text) {
        problems.error(
            path,
            format!("\"{text}\" is neither an IP address nor a DNS name"),
            "write one of both",
        );
        return None;
    }
    Some(Address::Name(text.to_ascii_lowercase().into()))
}
