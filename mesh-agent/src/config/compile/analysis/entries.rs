//! ServiceEntries that are for one port of one host and do not agree on what is spoken there (IST0177).

use std::collections::HashMap;

use crate::config::Inputs;
use crate::config::compile::analysis::Findings;
use crate::config::object::Object;
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};
use crate::model::Protocol;

/// Who was the first to declare a port.
#[derive(Clone, Copy)]
struct First<'a> {
    object: &'a Object,
    protocol: Protocol,
    port: usize,
}

pub(super) fn check(inputs: &Inputs, findings: &mut Findings) {
    let mut declared: HashMap<(&str, u16), First<'_>> = HashMap::new();
    for (object, entry) in inputs.service_entries() {
        for (place, port) in entry.ports.iter().enumerate() {
            let own = First {
                object,
                protocol: port.protocol,
                port: place,
            };
            // One word for each port, however many of its hosts it is about.
            let mut other = None;
            for host in &entry.hosts {
                let first = *declared.entry((host, port.number)).or_insert(own);
                let differs = first.protocol != port.protocol && first.object.id != object.id;
                if differs && other.is_none() {
                    other = Some((host, first));
                }
            }
            if let Some((host, first)) = other {
                let id = &first.object.id;
                let message = format!(
                    "port {} of {host} is {} here and {} by the older {id}, which holds",
                    port.number, port.protocol, first.protocol
                );
                let protocol = |place| Path::of("spec.ports").index(place).key("protocol");
                let remedy = "write the same protocol in both";
                let problem = Problem::breach(Code::Ist0177, &protocol(place), message, remedy);
                let there = first
                    .object
                    .place(&protocol(first.port), format!("{id} says so here"));
                findings.add(object, problem.see(there));
            }
        }
    }
}
