//! Key material of TLS that is opened to endpoints.

use std::sync::Arc;

use crate::config::compile::secrets::Secrets;
use crate::config::object::destination_rule::{KeyMaterial, Tls, TlsOrigin};
use crate::model::{ClientTls, Credential, Verification};

/// Whose Secrets a policy may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Audience<'a> {
    /// Nobody's: pods of the mesh, to whom a rule applies that selects none in particular. What needs a Secret is left
    /// out for them, and they send plain text, as in Istio.
    #[default]
    Pods,
    /// Those of this namespace: its gateways, and the pods that a rule of it selects.
    Holders(&'a str),
}

impl Tls {
    /// The Secret that key material is in.
    pub(super) fn secret(&self) -> Option<&Arc<str>> {
        match self {
            Self::Disable => None,
            Self::Originate(origin) => match &origin.material {
                KeyMaterial::Secret(name) => Some(name),
                KeyMaterial::Files { .. } => None,
            },
        }
    }
}

/// The TLS that an audience opens; `None` is plain text. `vouched` are the names that the Service itself says its
/// certificate bears, for where the rule says none.
pub(super) fn client_tls(
    tls: &Tls,
    vouched: &[Arc<str>],
    secrets: &Secrets<'_>,
    audience: Audience<'_>,
) -> Option<Arc<ClientTls>> {
    let Tls::Originate(origin) = tls else {
        return None;
    };
    let (certificate, roots) = match &origin.material {
        KeyMaterial::Files {
            certificate,
            authorities,
            revoked,
        } => {
            let certificate = certificate
                .clone()
                .map(|(chain, key)| Credential::Files(vec![chain, key]));
            let roots = authorities.clone().map(|authorities| {
                let files = std::iter::once(authorities).chain(revoked.clone());
                Credential::Files(files.collect())
            });
            (certificate, roots)
        }
        KeyMaterial::Secret(name) => {
            let Audience::Holders(namespace) = audience else {
                return None;
            };
            let certificate = || match secrets.certificate(Some(namespace), name) {
                Ok(certificate) => Credential::Given(certificate),
                Err(useless) => useless.credential(),
            };
            let roots = match secrets.authorities(Some(namespace), name) {
                Ok(roots) => Credential::Given(roots),
                Err(useless) => useless.credential(),
            };
            (origin.mutual.then(certificate), Some(roots))
        }
    };
    let TlsOrigin {
        mutual: _,
        material: _,
        any_server,
        names,
        server_name,
    } = origin;
    Some(Arc::new(ClientTls {
        certificate,
        verification: (!any_server).then(|| Verification {
            roots,
            names: match names.is_empty() {
                true => vouched.to_vec(),
                false => names.clone(),
            },
            hashes: Vec::new(),
            keys: Vec::new(),
        }),
        server_name: server_name.clone(),
        bears_host: !any_server && server_name.is_none() && names.is_empty(),
    }))
}
