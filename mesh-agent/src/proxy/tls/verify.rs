//! Whether a peer's certificate is to be believed: who signed it, whether it is still good, and for whom it is.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use crate::certificate::{self, Authorities, Details};
use crate::model::Verification;
use crate::proxy::tls::{Unusable, root_store};

/// Checks clients of a gateway.
#[derive(Debug)]
pub(super) struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    check: Check,
}

/// Checks servers.
#[derive(Debug)]
pub(super) struct Servers {
    /// `None` for `insecureSkipVerify`.
    chain: Option<Arc<WebPkiServerVerifier>>,
    check: Check,
    /// Whether the certificate must bear the name that was asked for.
    named: bool,
}

/// What is asked of a certificate besides that it was signed by somebody.
#[derive(Debug)]
struct Check {
    names: Vec<Arc<str>>,
    hashes: Vec<Arc<str>>,
    keys: Vec<Arc<str>>,
    /// Certificates that are believed as they are.
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

/// What both kinds of verifiers have to say of signatures: that they are the provider's business.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, self.check.algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, self.check.algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.check.algorithms().supported_schemes()
        }
    };
}

impl Clients {
    pub(super) fn new(
        verification: &Verification,
        authorities: &Authorities,
        optional: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Unusable> {
        let roots = Arc::new(root_store(authorities)?);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .with_crls(authorities.revoked.clone())
            .enforce_revocation_expiration();
        let builder = match optional {
            true => builder.allow_unauthenticated(),
            false => builder,
        };
        let chain = builder
            .build()
            .map_err(|error| Unusable::Settings(error.to_string()))?;
        Ok(Self {
            chain,
            check: Check::new(provider).asking(verification, authorities),
        })
    }
}

impl Servers {
    /// Checks servers by these authorities, or by none.
    pub(super) fn new(
        verification: Option<&Verification>,
        authorities: Option<(Arc<RootCertStore>, Authorities)>,
        named: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Unusable> {
        let mut check = Check::new(provider);
        let mut chain = None;
        if let (Some(verification), Some((roots, authorities))) = (verification, authorities) {
            let builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
                .with_crls(authorities.revoked.clone())
                .enforce_revocation_expiration();
            let built = builder
                .build()
                .map_err(|error| Unusable::Settings(error.to_string()))?;
            chain = Some(built);
            check = check.asking(verification, &authorities);
        }
        Ok(Self {
            chain,
            named,
            check,
        })
    }
}

impl Check {
    /// One that asks for nothing.
    fn new(provider: &Arc<CryptoProvider>) -> Self {
        Self {
            names: Vec::new(),
            hashes: Vec::new(),
            keys: Vec::new(),
            trusted: Vec::new(),
            provider: Arc::clone(provider),
        }
    }

    fn asking(self, verification: &Verification, authorities: &Authorities) -> Self {
        let Verification {
            roots: _,
            names,
            hashes,
            keys,
        } = verification;
        Self {
            names: names.clone(),
            hashes: hashes.clone(),
            keys: keys.clone(),
            trusted: authorities.certificates.clone(),
            provider: self.provider,
        }
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    /// Whether a certificate is one of the authorities' own. It needs nobody's signature then, as with OpenSSL: so are
    /// certificates trusted that their holder has signed.
    fn trusts(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<bool, Error> {
        if !self.trusted.iter().any(|trusted| **trusted == **leaf) {
            return Ok(false);
        }
        let details = read(leaf)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < details.not_before {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > details.not_after {
            return Err(CertificateError::Expired.into());
        }
        Ok(true)
    }

    /// Whether it has a name that is asked for, and is one of those that are meant.
    fn fits(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let Self {
            names,
            hashes,
            keys,
            trusted: _,
            provider: _,
        } = self;
        let details = read(leaf)?;
        if !names.is_empty() && !names.iter().any(|name| bears(&details, name)) {
            return Err(CertificateError::NotValidForName.into());
        }
        let pinned = || {
            let (hash, key) = (
                certificate::fingerprint(leaf),
                certificate::key_pin(details.subject_public_key_info),
            );
            hashes.iter().any(|known| **known == hash) || keys.iter().any(|known| **known == key)
        };
        let asked = !hashes.is_empty() || !keys.is_empty();
        if asked && !pinned() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }
}

fn read<'c>(leaf: &'c CertificateDer<'_>) -> Result<Details<'c>, Error> {
    certificate::details(leaf).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Whether a certificate has a name, of whatever kind. A wildcard in it stands for one label.
fn bears(details: &Details<'_>, name: &str) -> bool {
    let host = |own: &&str| {
        own.eq_ignore_ascii_case(name)
            || own.strip_prefix("*.").is_some_and(|parent| {
                name.split_once('.').is_some_and(|(label, rest)| {
                    !label.is_empty() && rest.eq_ignore_ascii_case(parent)
                })
            })
    };
    details.names.iter().any(host)
        || details.uris.contains(&name)
        || details.mails.contains(&name)
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| details.addresses.contains(&address))
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.check.trusts(leaf, now)? {
            self.chain.verify_client_cert(leaf, intermediates, now)?;
        }
        self.check.fits(leaf)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.check.trusts(leaf, now)? {
            if self.named {
                let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
            }
        } else {
            match chain.verify_server_cert(leaf, intermediates, server_name, ocsp, now) {
                Ok(_) => {}
                // The name is looked at last, so everything else is as it should be.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) if !self.named => {}
                Err(error) => return Err(error),
            }
        }
        self.check.fits(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
