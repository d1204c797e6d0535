//! The settings of handshakes with servers, and the names that they are asked for by.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use crate::certificate::Authorities;
use crate::model::{ClientTls, Credential, TlsVersion};
use crate::proxy::tls::files::Reading;
use crate::proxy::tls::{Unusable, authorities, key_pair, provider, root_store, verify, versions};

/// TLS towards a server: how, and by which name. Two that are equal may share a connection.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Upstream {
    settings: Arc<ClientTls>,
    name: ServerName<'static>,
    /// Whether the name is one that the server's certificate must bear.
    named: bool,
}

/// What is offered to be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Offer {
    /// `h2`.
    Http2,
    /// `http/1.1`.
    Http1,
    /// Nothing: who relays does not know.
    Nothing,
}

/// The settings for each `tls` of a DestinationRule.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ClientConfigs {
    made: Mutex<HashMap<Key, Entry>>,
    system: OnceLock<Arc<RootCertStore>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    settings: Settings,
    named: bool,
    offer: Offer,
}

/// Settings, the same where they say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings(Arc<ClientTls>);

#[derive(Debug)]
struct Entry {
    reading: Reading,
    looked: Instant,
    used: Instant,
    config: Result<Arc<ClientConfig>, Unusable>,
}

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Settings that were not used for so long are forgotten.
const FORGET: Duration = Duration::from_secs(3600);

impl Upstream {
    /// TLS for requests with this Host: `sni`, else the Host is asked for. A Host that is an address is not asked for; where
    /// the certificate must bear the Host, it must be in it all the same.
    pub(in crate::proxy) fn for_host(settings: &Arc<ClientTls>, host: &str) -> Option<Self> {
        let name = settings
            .server_name
            .as_deref()
            .unwrap_or_else(|| without_port(host));
        Self::new(settings, name, settings.bears_host)
    }

    /// TLS for a connection that is relayed: `sni`, else nothing is asked for. There is no Host that the certificate could
    /// have to bear.
    pub(in crate::proxy) fn for_relay(settings: &Arc<ClientTls>) -> Option<Self> {
        if let Some(written) = settings.server_name.as_deref() {
            return Self::new(settings, written, false);
        }
        Some(Self {
            settings: Arc::clone(settings),
            // No address is ever asked for.
            name: ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()),
            named: false,
        })
    }

    fn new(settings: &Arc<ClientTls>, name: &str, named: bool) -> Option<Self> {
        let name = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(name);
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = match name.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(name.to_ascii_lowercase()).ok()?,
        };
        Some(Self {
            settings: Arc::clone(settings),
            name,
            named,
        })
    }

    /// What is asked for.
    pub(in crate::proxy) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

impl PartialEq for Upstream {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.named == other.named && self.settings == other.settings
    }
}

impl Eq for Upstream {}

impl Hash for Upstream {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ClientTls {
            certificate,
            verification,
            server_name,
            bears_host: _,
        } = &*self.0;
        server_name.hash(state);
        if let Some(Credential::Files(files)) = certificate {
            files.hash(state);
        }
        if let Some(verification) = verification {
            verification.names.hash(state);
            if let Some(Credential::Files(files)) = &verification.roots {
                files.hash(state);
            }
        }
    }
}

impl ClientConfigs {
    /// The settings: made when they are first asked for, and again when the files have changed. Files that become unusable
    /// leave the last good settings in force.
    pub(in crate::proxy) fn get(
        &self,
        tls: &Upstream,
        offer: Offer,
    ) -> Result<Arc<ClientConfig>, Unusable> {
        let now = Instant::now();
        let key = Key {
            settings: Settings(Arc::clone(&tls.settings)),
            named: tls.named,
            offer,
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = made.get_mut(&key) {
            entry.used = now;
            if !entry.reading.is_empty() && now.duration_since(entry.looked) >= LOOK {
                entry.looked = now;
                if entry.reading.has_changed() {
                    let (config, reading) = self.make(&key);
                    entry.reading = reading;
                    match (&entry.config, config) {
                        (Ok(_), Err(error)) => {
                            tracing::error!("TLS to servers stays as it was: {error}");
                        }
                        (_, config) => entry.config = config,
                    }
                }
            }
            return entry.config.clone();
        }
        made.retain(|_, entry| now.duration_since(entry.used) < FORGET);
        let (config, reading) = self.make(&key);
        if let Err(error) = &config {
            tracing::error!("TLS to servers fails: {error}");
        }
        let entry = Entry {
            reading,
            looked: now,
            used: now,
            config: config.clone(),
        };
        made.insert(key, entry);
        config
    }

    fn make(&self, key: &Key) -> (Result<Arc<ClientConfig>, Unusable>, Reading) {
        let mut reading = Reading::default();
        let config = self.make_of(key, &mut reading);
        (config.map(Arc::new), reading)
    }

    fn make_of(&self, key: &Key, reading: &mut Reading) -> Result<ClientConfig, Unusable> {
        let ClientTls {
            certificate,
            verification,
            server_name: _,
            bears_host: _,
        } = &*key.settings.0;
        let shown = certificate
            .as_ref()
            .map(|certificate| key_pair(certificate, reading))
            .transpose()?;
        let provider = Arc::new(provider(&[]));
        let authorities = match verification {
            None => None,
            Some(verification) => Some(match authorities(verification, reading)? {
                Some(authorities) => (Arc::new(root_store(&authorities)?), authorities),
                None => (self.system()?, Authorities::default()),
            }),
        };
        let verifier =
            verify::Servers::new(verification.as_ref(), authorities, key.named, &provider)?;
        let mut config = builder(provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(match shown {
                Some(pair) => Arc::new(SingleCertAndKey::from(pair)) as Arc<dyn ResolvesClientCert>,
                None => Arc::new(Nothing),
            });
        config.alpn_protocols = match key.offer {
            Offer::Http2 => vec![b"h2".to_vec()],
            Offer::Http1 => vec![b"http/1.1".to_vec()],
            Offer::Nothing => Vec::new(),
        };
        Ok(config)
    }

    /// The system's authorities, read once.
    fn system(&self) -> Result<Arc<RootCertStore>, Unusable> {
        if let Some(roots) = self.system.get() {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's authorities cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(Unusable::NoAuthorities);
        }
        Ok(Arc::clone(self.system.get_or_init(|| Arc::new(roots))))
    }
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Unusable> {
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(TlsVersion::V1_2, TlsVersion::V1_3))
        .map_err(|error| Unusable::Settings(error.to_string()))
}

/// Shows no certificate.
#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// `host:port` without the port; an address of IPv6 may stand in brackets.
fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}
