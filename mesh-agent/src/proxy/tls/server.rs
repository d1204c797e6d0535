//! The settings of handshakes with a gateway's clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello as Hello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::certificate;
use crate::model::{ClientAuthentication, ServerTls};
use crate::proxy::tls::files::Reading;
use crate::proxy::tls::hello::ClientHello;
use crate::proxy::tls::{Unusable, authorities, key_pair, provider, verify, versions};

/// The settings of each server, by its name.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ServerConfigs {
    by_server: Mutex<HashMap<Arc<str>, Entry>>,
}

/// What a handshake is made with.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Server {
    /// With the protocols that are offered.
    agreeing: Arc<ServerConfig>,
    /// The same without, for clients that want none of them: they are served without having agreed on any.
    silent: Arc<ServerConfig>,
    /// The URIs of its own certificate.
    pub(in crate::proxy) uris: Arc<[String]>,
}

#[derive(Debug)]
struct Entry {
    made_of: Arc<ServerTls>,
    reading: Reading,
    looked: Instant,
    server: Result<Server, Unusable>,
}

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is spoken inside TLS, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

impl ServerConfigs {
    /// The settings for the server of this name: made when they are first asked for, and again when what they are made of
    /// has changed. Files that become unusable leave the last good settings in force.
    pub(in crate::proxy) fn get(
        &self,
        name: &Arc<str>,
        tls: &Arc<ServerTls>,
    ) -> Result<Server, Unusable> {
        let now = Instant::now();
        let mut by_server = self
            .by_server
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = by_server.get_mut(name) else {
            // Servers of worlds that are gone.
            by_server.retain(|_, entry| Arc::strong_count(&entry.made_of) > 1);
            let entry = Entry::new(name, tls, now);
            let server = entry.server.clone();
            by_server.insert(Arc::clone(name), entry);
            return server;
        };
        if !Arc::ptr_eq(&entry.made_of, tls) {
            // Every new world has it anew, and most often the same.
            if entry.made_of != *tls {
                *entry = Entry::new(name, tls, now);
                return entry.server.clone();
            }
            entry.made_of = Arc::clone(tls);
        }
        entry.look_at_files(name, now);
        entry.server.clone()
    }
}

impl Entry {
    fn new(name: &str, tls: &Arc<ServerTls>, now: Instant) -> Self {
        let (server, reading) = make(tls);
        if let Err(error) = &server {
            tracing::error!(server = name, "handshakes fail: {error}");
        }
        Self {
            made_of: Arc::clone(tls),
            reading,
            looked: now,
            server,
        }
    }

    fn look_at_files(&mut self, name: &str, now: Instant) {
        if self.reading.is_empty() || now.duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        if !self.reading.has_changed() {
            return;
        }
        let (server, reading) = make(&self.made_of);
        self.reading = reading;
        match (&self.server, server) {
            (Ok(_), Err(error)) => {
                tracing::error!(server = name, "the certificate is kept as it was: {error}");
            }
            (_, Err(error)) => {
                tracing::error!(server = name, "handshakes fail: {error}");
                self.server = Err(error);
            }
            (_, Ok(server)) => {
                tracing::info!(server = name, "the certificate was read again");
                self.server = Ok(server);
            }
        }
    }
}

impl Server {
    /// What to answer a client with.
    pub(in crate::proxy) fn config(&self, hello: &ClientHello) -> Arc<ServerConfig> {
        let agrees = |wanted: &Vec<u8>| PROTOCOLS.contains(&wanted.as_slice());
        let silent = !hello.protocols.is_empty() && !hello.protocols.iter().any(agrees);
        Arc::clone(if silent { &self.silent } else { &self.agreeing })
    }
}

/// The settings, and the files that they were made of, whatever came of that.
fn make(tls: &ServerTls) -> (Result<Server, Unusable>, Reading) {
    let mut reading = Reading::default();
    let server = make_of(tls, &mut reading);
    (server, reading)
}

fn make_of(tls: &ServerTls, reading: &mut Reading) -> Result<Server, Unusable> {
    let ServerTls {
        certificates,
        clients,
        any_client,
        min_version,
        max_version,
        cipher_suites,
    } = tls;
    let pairs: Vec<CertifiedKey> = certificates
        .iter()
        .map(|certificate| key_pair(certificate, reading))
        .collect::<Result<_, _>>()?;
    let shown = pairs
        .first()
        .map(|pair| certificate::details(&pair.cert[0]));
    let uris = shown
        .flatten()
        .map_or_else(Vec::new, |details| details.uris);
    let uris = uris.into_iter().map(str::to_owned).collect();
    let provider = Arc::new(provider(cipher_suites));
    let (verification, optional) = match clients {
        ClientAuthentication::None => (None, true),
        ClientAuthentication::Optional(verification) => (Some(verification), true),
        ClientAuthentication::Required(verification) => (Some(verification), false),
    };
    let verifier = match verification {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(verification) => {
            let authorities = authorities(verification, reading)?;
            let authorities = authorities.ok_or_else(|| {
                Unusable::Settings("it is not known who signs the certificates of clients".into())
            })?;
            Arc::new(verify::Clients::new(
                verification,
                &authorities,
                optional,
                *any_client,
                &provider,
            )?)
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(*min_version, *max_version))
        .map_err(|error| Unusable::Settings(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Choice::of(pairs)));
    // Clients that come again are spared most of a handshake, whichever thread they meet.
    config.ticketer = rustls::crypto::ring::Ticketer::new()
        .map_err(|error| Unusable::Settings(error.to_string()))?;
    let silent = Arc::new(config.clone());
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Server {
        agreeing: Arc::new(config),
        silent,
        uris,
    })
}

/// Several certificates for one server: clients get one that they can check.
#[derive(Debug)]
struct Choice {
    /// RSA is for those who know nothing better.
    shown: Vec<Shown>,
    /// The place among them of the one that was written first.
    first: usize,
}

#[derive(Debug)]
struct Shown {
    pair: Arc<CertifiedKey>,
    names: Vec<String>,
}

impl Choice {
    fn of(pairs: Vec<CertifiedKey>) -> Self {
        let first_is_rsa = pairs
            .first()
            .is_some_and(|pair| pair.key.algorithm() == SignatureAlgorithm::RSA);
        let shown = pairs.into_iter().map(|pair| {
            let details = certificate::details(&pair.cert[0]);
            let names = details.map_or_else(Vec::new, |details| details.names);
            Shown {
                names: names.into_iter().map(str::to_ascii_lowercase).collect(),
                pair: Arc::new(pair),
            }
        });
        let rsa = |shown: &Shown| shown.pair.key.algorithm() == SignatureAlgorithm::RSA;
        let (last, mut shown): (Vec<Shown>, Vec<Shown>) = shown.partition(rsa);
        let first = if first_is_rsa { shown.len() } else { 0 };
        shown.extend(last);
        Self { shown, first }
    }
}

impl ResolvesServerCert for Choice {
    /// As with Envoy: by the name that is asked for; where none of them has it, the one that was written first; and where
    /// nothing is asked for, the best. Only what the client can check counts, as long as there is such.
    fn resolve(&self, hello: Hello<'_>) -> Option<Arc<CertifiedKey>> {
        let known = |shown: &&Shown| {
            let key = &shown.pair.key;
            key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let named = |name: &str| {
            let mut known = self.shown.iter().filter(known);
            known.find(|shown| shown.names.iter().any(|own| own == name))
        };
        let first = || self.shown.get(self.first);
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        let found = asked.and_then(|name| {
            let wildcard = name
                .split_once('.')
                .map(|(_, parent)| format!("*.{parent}"));
            named(&name)
                .or_else(|| named(&wildcard?))
                .or_else(|| first().filter(known))
        });
        let found = found
            .or_else(|| self.shown.iter().find(known))
            .or_else(first);
        found.map(|shown| Arc::clone(&shown.pair))
    }
}
