//! Gateways of the same Pods that show one certificate (IST0138).

use std::collections::HashMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use crate::config::compile::analysis::Findings;
use crate::config::compile::analysis::gateways::Found;
use crate::config::object::gateway::{Certificates, Server, ServerKind};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};
use crate::model::Labels;

/// What tells a certificate from another, without looking into it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Shown<'a> {
    Secret(&'a Arc<str>),
    Files(&'a FilePath, &'a FilePath),
}

/// As Istio, each Gateway is compared with those whose selector asks for at least what its own does.
pub(super) fn check(gateways: &[Found<'_>], findings: &mut Findings) {
    let mut by_certificate: HashMap<Shown<'_>, Vec<(usize, Path)>> = HashMap::new();
    for (place, (_, gateway)) in gateways.iter().enumerate() {
        for server in &gateway.servers {
            if let Some((shown, path)) = shown(server) {
                let users = by_certificate.entry(shown).or_default();
                // Servers of one Gateway are as its author wants them.
                if users.last().is_none_or(|(last, _)| *last != place) {
                    users.push((place, path));
                }
            }
        }
    }
    for users in by_certificate.values() {
        for (place, path) in users {
            let selector = &gateways[*place].1.selector;
            let other = users.iter().find(|(other, _)| {
                other != place && asks_for(&gateways[*other].1.selector, selector)
            });
            if let Some((other, there)) = other {
                let (object, (other, _)) = (gateways[*place].0, gateways[*other]);
                let message = format!("{} shows the same certificate", other.id);
                let remedy = "put the servers into one Gateway, or give each a certificate of its own: a browser uses a connection to one for the hosts of the other";
                let problem = Problem::breach(Code::Ist0138, path, message, remedy);
                findings.add(object, problem.see(other.place(there, "it shows it here")));
            }
        }
    }
}

/// The certificate of a server that has just one, and where it was written.
fn shown(server: &Server) -> Option<(Shown<'_>, Path)> {
    let (ServerKind::Https(tls) | ServerKind::Tls(tls)) = &server.service else {
        return None;
    };
    match &tls.certificates {
        Certificates::Secrets(names) => match names.as_slice() {
            [(name, path)] => Some((Shown::Secret(name), path.clone())),
            _ => None,
        },
        Certificates::Files(pairs) => match pairs.as_slice() {
            [[certificate, key]] => {
                let path = server.path.key("tls").key("serverCertificate");
                Some((Shown::Files(certificate, key), path))
            }
            _ => None,
        },
    }
}

/// Whether whoever has the labels that `narrow` asks for has those that `wide` asks for.
fn asks_for(narrow: &Labels, wide: &Labels) -> bool {
    wide.iter()
        .all(|(key, value)| narrow.get(key) == Some(value))
}
