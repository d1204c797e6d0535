//! Endpoints of the cases' own Services, which change from case to case: files that Envoy reads again when they are replaced.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::view::array;

/// By the full name of a Service, the addresses and ports of its endpoints, in order.
pub type Endpoints = BTreeMap<String, Vec<(String, u64)>>;

/// The full name of a Service, from its object.
pub fn fqdn(service: &Value) -> String {
    let part = |key: &str| service["metadata"][key].as_str().unwrap_or_default();
    format!("{}.{}.svc.cluster.local", part("name"), part("namespace"))
}

/// What the EndpointSlices among the objects say, each with one port.
pub fn of(manifests: &[Value]) -> Endpoints {
    let mut all = Endpoints::new();
    for slice in manifests
        .iter()
        .filter(|object| object["kind"] == "EndpointSlice")
    {
        let metadata = &slice["metadata"];
        let name = &metadata["labels"]["kubernetes.io/service-name"];
        let service = json!({"metadata": {"name": name, "namespace": metadata["namespace"]}});
        let port = slice["ports"][0]["port"].as_u64().unwrap_or_default();
        let addresses = array(&slice["endpoints"])
            .iter()
            .flat_map(|endpoint| array(&endpoint["addresses"]))
            .filter_map(Value::as_str);
        let endpoints = all.entry(fqdn(&service)).or_default();
        endpoints.extend(addresses.map(|address| (address.to_owned(), port)));
        endpoints.sort();
    }
    all
}

/// The file of a Service.
pub fn path(fqdn: &str) -> String {
    format!("{}/envoy/endpoints-{fqdn}.json", mesh_tests::FILES)
}

/// Writes the files, each at one stroke.
pub fn write(endpoints: &Endpoints) -> Result<()> {
    for (fqdn, endpoints) in endpoints {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, port)| {
                let address = json!({"address": address, "port_value": port});
                json!({"endpoint": {"address": {"socket_address": address}}})
            })
            .collect();
        let resource = json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": fqdn,
            "endpoints": [{"lb_endpoints": endpoints}],
        });
        let path = path(fqdn);
        let draft = format!("{path}.draft");
        fs::write(&draft, json!({"resources": [resource]}).to_string())?;
        fs::rename(&draft, Path::new(&path)).with_context(|| format!("replacing {path}"))?;
    }
    Ok(())
}

/// Whether Envoy, by what it shows at `/clusters`, has these endpoints and no others.
pub fn hold(endpoints: &Endpoints, shown: &str) -> bool {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in shown.lines() {
        let Some((cluster, rest)) = line.split_once("::") else {
            continue;
        };
        let addresses = found.entry(cluster).or_default();
        if let Some((address, _)) = rest.split_once("::cx_active::") {
            addresses.push(address);
        }
    }
    endpoints.iter().all(|(fqdn, endpoints)| {
        let wanted: Vec<String> = endpoints
            .iter()
            .map(|(address, port)| format!("{address}:{port}"))
            .collect();
        let of_this = |cluster: &&str| cluster.rsplit('|').next() == Some(fqdn);
        let mut clusters = found.iter_mut().filter(|(cluster, _)| of_this(cluster));
        clusters.all(|(_, addresses)| {
            addresses.sort_unstable();
            *addresses == wanted
        })
    })
}
