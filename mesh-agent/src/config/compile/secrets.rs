//! Key material by the names of Secrets.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::gateways;
use crate::config::object::Secret;
use crate::config::problem::Code;
use crate::model::{Certificate, Credential, TrustRoots};

/// Every Secret.
pub(super) struct Secrets<'a> {
    /// By name, then by namespace.
    by_name: HashMap<&'a str, HashMap<&'a str, &'a Secret>>,
}

/// The Secrets that Gateways and DestinationRules name, and those with their authorities: all that a gateway may need.
pub fn secrets_named(inputs: &Inputs) -> BTreeSet<Arc<str>> {
    let gateways = inputs.gateways();
    let of_gateways = gateways
        .iter()
        .flat_map(|(_, gateway)| gateway.servers.iter().flat_map(gateways::credentials));
    let rules = inputs.destination_rules();
    let of_rules = rules.iter().flat_map(|(_, rule)| rule.secrets());
    let named = of_gateways.chain(of_rules);
    named
        .flat_map(|name| [Arc::clone(name), format!("{name}{AUTHORITIES}").into()])
        .collect()
}

/// Why a Secret is of no use where it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Useless {
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) remedy: &'static str,
    /// Which rule that breaks.
    pub(super) code: Code,
}

/// Behind the name of a Secret, the name of the one with its authorities.
const AUTHORITIES: &str = "-cacert";

impl<'a> Secrets<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let mut by_name: HashMap<&str, HashMap<&str, &Secret>> = HashMap::new();
        for (object, secret) in inputs.secrets() {
            let by_namespace = by_name.entry(&*object.id.name).or_default();
            by_namespace.insert(&*object.id.namespace, secret);
        }
        Self { by_name }
    }

    /// Whether there is a Secret of this name, or one with its authorities.
    pub(super) fn has(&self, namespace: &str, name: &str) -> bool {
        self.get(namespace, name).is_some() || self.beside(namespace, name).is_some()
    }

    /// Whether a namespace, whichever, has a Secret of this name.
    pub(super) fn has_anywhere(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The certificate of a Secret. `namespace` is that of the pods that use it; without one there is none.
    pub(super) fn certificate(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Certificate>, Useless> {
        let secret = self.find(namespace, name)?;
        let found = secret.certificate.as_ref().map(Arc::clone);
        found.ok_or_else(|| lacks(secret, name, "certificate: it needs tls.crt and tls.key"))
    }

    /// The authorities that go with a Secret: of the one whose name ends in `-cacert` if it is there, else its own.
    pub(super) fn authorities(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<TrustRoots>, Useless> {
        let beside = namespace.and_then(|namespace| self.beside(namespace, name));
        let secret = match beside {
            Some(secret) => secret,
            None => self.find(namespace, name)?,
        };
        let found = secret.authorities.as_ref().map(Arc::clone);
        found.ok_or_else(|| lacks(secret, name, "authorities: it needs ca.crt"))
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&'a Secret> {
        self.by_name.get(name)?.get(namespace).copied()
    }

    fn beside(&self, namespace: &str, name: &str) -> Option<&'a Secret> {
        self.get(namespace, &format!("{name}{AUTHORITIES}"))
    }

    fn find(&self, namespace: Option<&str>, name: &str) -> Result<&'a Secret, Useless> {
        let found = namespace.and_then(|namespace| self.get(namespace, name));
        found.ok_or_else(|| Useless {
            message: match namespace {
                Some(namespace) => format!("there is no Secret {namespace}/{name}"),
                None => format!("there is no Secret {name}"),
            },
            remedy: "add it in the namespace of the gateway's pods; until then handshakes fail",
            code: Code::Ist0101,
        })
    }
}

impl Useless {
    /// What stands in for the key material.
    pub(super) fn credential<T>(&self) -> Credential<T> {
        Credential::Missing(self.message.as_str().into())
    }
}

fn lacks(secret: &Secret, name: &str, what: &str) -> Useless {
    let entries = match secret.entries.as_slice() {
        [] => "nothing".to_owned(),
        entries => entries.join(", "),
    };
    Useless {
        message: format!("the Secret {name} has no {what}, and has {entries}"),
        remedy: "put PEM into it; until then handshakes fail",
        code: Code::Ist0161,
    }
}
