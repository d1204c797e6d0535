//! VirtualServices of the mesh that are for one host (IST0109): they are not merged, and the oldest has it.

use std::collections::HashMap;

use crate::config::Inputs;
use crate::config::compile::analysis::Findings;
use crate::config::object::name::{ExportTo, GatewayName};
use crate::config::object::{Object, VirtualService};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};

pub(super) fn check(inputs: &Inputs, findings: &mut Findings) {
    // By audience: a VirtualService for fewer clients goes before one for more, and that is no conflict.
    let default = inputs.mesh_config().virtual_services.as_ref();
    let mut owners: HashMap<(Option<&str>, &str), (&Object, Path)> = HashMap::new();
    for (object, service) in inputs.virtual_services() {
        if !service.gateways.contains(&GatewayName::Mesh) {
            continue;
        }
        for (index, host) in hosts(service) {
            let path = Path::of("spec.hosts").index(index);
            let mut older = None;
            for audience in audiences(service.export.or(default), &object.id.namespace) {
                let owner = owners
                    .entry((audience, host))
                    .or_insert_with(|| (object, path.clone()));
                if owner.0.id != object.id {
                    older = older.or(Some(owner.clone()));
                }
            }
            if let Some((older, there)) = older {
                let message = format!("in the mesh, {host} belongs to the older {}", older.id);
                let remedy = "put the rules of both into one";
                let problem = Problem::breach(Code::Ist0109, &path, message, remedy);
                let there = older.place(&there, "the older one has it here");
                findings.add(object, problem.see(there));
            }
        }
    }
}

fn hosts(service: &VirtualService) -> impl Iterator<Item = (usize, &str)> {
    let hosts = service.hosts.iter().enumerate();
    hosts.map(|(index, host)| (index, &**host))
}

/// The namespaces of the clients; `None` is all of them.
fn audiences<'e>(export: &'e ExportTo, own: &'e str) -> impl Iterator<Item = Option<&'e str>> {
    let public = export.public.then_some(None);
    let private = export.private.then_some(Some(own));
    let named = export.namespaces.iter().map(|name| Some(&**name));
    public.into_iter().chain(private).chain(named)
}
