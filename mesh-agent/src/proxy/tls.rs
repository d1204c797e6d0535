//! TLS: what a client says before anybody answers, the settings that handshakes are made with, and what they have shown.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use crate::certificate::{self, Authorities, Unfit};
use crate::model::{Certificate, Credential, TlsVersion, TrustRoots, Verification};
use crate::proxy::stream::{PEEK_LIMIT, Stream};
use crate::proxy::tls::client::ClientConfigs;
use crate::proxy::tls::files::Reading;
use crate::proxy::tls::hello::Hello;
use crate::proxy::tls::server::ServerConfigs;

pub(super) use crate::proxy::tls::client::{Offer, Upstream};
pub(super) use crate::proxy::tls::facts::TlsFacts;
pub(super) use crate::proxy::tls::hello::ClientHello;

mod client;
mod facts;
mod files;
mod hello;
mod server;
mod verify;

/// The settings of all handshakes, made once for all threads and anew when what they are made of has changed.
#[derive(Debug, Default)]
pub(super) struct Configs {
    /// For clients of a gateway.
    pub(super) servers: ServerConfigs,
    /// For servers.
    pub(super) clients: ClientConfigs,
}

/// Why a handshake cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// The Secret is not there, or not what it should be.
    #[error("{0}")]
    Missing(Arc<str>),
    /// A file cannot be read.
    #[error("{path} cannot be read: {why}")]
    File {
        /// Which.
        path: String,
        /// What the kernel said.
        why: String,
    },
    /// What was read is of no use.
    #[error("{path}: {unfit}")]
    Unfit {
        /// Which file; empty for a Secret.
        path: String,
        /// Why.
        unfit: Unfit,
    },
    /// They do not go together.
    #[error("{0}")]
    Settings(String),
}

/// A certificate that is still good for less than this is told of when it is put to use.
const SOON: i64 = 14 * 24 * 3600;

/// Looks at the beginning of a connection until it is known which name its client asks for. `None` where it does not begin
/// as TLS does; an error too where it does, and the message is longer than any that is read: whoever decides by names must
/// not take such a client for one that asks for none. Nothing is consumed; safe to cancel.
pub(super) async fn peek(stream: &mut Stream) -> io::Result<Option<ClientHello>> {
    loop {
        match hello::read(stream.seen()) {
            Hello::Complete(hello) => return Ok(Some(hello)),
            Hello::Other => return Ok(None),
            Hello::TooLong => return Err(too_long()),
            Hello::Incomplete if stream.seen().len() >= PEEK_LIMIT => return Err(too_long()),
            Hello::Incomplete => {}
        }
        if stream.look().await? == 0 {
            return Ok(None);
        }
    }
}

fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the first message of its TLS is longer than any that is read",
    )
}

/// Signatures and ciphers, those for TLS 1.2 by OpenSSL's names; none named is all.
fn provider(cipher_suites: &[Arc<str>]) -> CryptoProvider {
    let mut provider = certificate::provider();
    if !cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            let name = format!("{:?}", suite.suite());
            // TLS 1.3 has suites of its own, which nothing chooses among.
            suite.version() == &TLS13 || cipher_suites.iter().any(|known| openssl(known) == name)
        });
        let position = |suite: &rustls::SupportedCipherSuite| {
            let name = format!("{:?}", suite.suite());
            cipher_suites
                .iter()
                .position(|known| openssl(known) == name)
        };
        provider.cipher_suites.sort_by_key(position);
    }
    provider
}

/// `ECDHE-RSA-AES128-GCM-SHA256` as rustls calls it.
fn openssl(name: &str) -> String {
    let name = name.replace('-', "_");
    for (cipher, with) in [("_AES128", "_WITH_AES_128"), ("_AES256", "_WITH_AES_256")] {
        if let Some((exchange, rest)) = name.split_once(cipher) {
            return format!("TLS_{exchange}{with}{rest}");
        }
    }
    match name.split_once("_CHACHA20") {
        Some((exchange, _)) => format!("TLS_{exchange}_WITH_CHACHA20_POLY1305_SHA256"),
        None => name,
    }
}

fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static rustls::SupportedProtocolVersion> {
    [(TlsVersion::V1_2, &TLS12), (TlsVersion::V1_3, &TLS13)]
        .into_iter()
        .filter(|(version, _)| min <= *version && *version <= max)
        .map(|(_, version)| version)
        .collect()
}

/// A certificate with its key, from wherever it comes.
fn key_pair(
    credential: &Credential<Certificate>,
    reading: &mut Reading,
) -> Result<CertifiedKey, Unusable> {
    let (pair, path) = match credential {
        Credential::Given(pair) => (Arc::clone(pair), String::new()),
        Credential::Files(files) => {
            let [chain, key] = files.as_slice() else {
                return Err(Unusable::Settings("a certificate needs a key".to_owned()));
            };
            let pair = Certificate {
                chain: reading.read(chain)?,
                key: reading.read(key)?,
            };
            (Arc::new(pair), chain.display().to_string())
        }
        Credential::Missing(why) => return Err(Unusable::Missing(Arc::clone(why))),
    };
    let pair = certificate::key_pair(&pair).map_err(|unfit| Unusable::Unfit {
        path: path.clone(),
        unfit,
    })?;
    warn_of_expiry(&pair.cert[0], &path);
    Ok(pair)
}

/// Who must have signed a peer's certificate, and what they revoked.
fn authorities(
    verification: &Verification,
    reading: &mut Reading,
) -> Result<Option<Authorities>, Unusable> {
    let (roots, path) = match &verification.roots {
        None => return Ok(None),
        Some(Credential::Given(roots)) => (Arc::clone(roots), String::new()),
        Some(Credential::Files(files)) => {
            let Some((authorities, revoked)) = files.split_first() else {
                return Ok(None);
            };
            let revoked = revoked.first().map(|file| reading.read(file));
            let roots = TrustRoots {
                authorities: reading.read(authorities)?,
                revoked: revoked.transpose()?,
            };
            (Arc::new(roots), authorities.display().to_string())
        }
        Some(Credential::Missing(why)) => return Err(Unusable::Missing(Arc::clone(why))),
    };
    certificate::authorities(&roots)
        .map(Some)
        .map_err(|unfit| Unusable::Unfit { path, unfit })
}

/// The authorities as rustls has them. One that it cannot make anything of is passed over, as long as there are others.
fn root_store(authorities: &Authorities) -> Result<RootCertStore, Unusable> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(authorities.certificates.iter().cloned());
    match store.is_empty() {
        true => Err(Unusable::Unfit {
            path: String::new(),
            unfit: Unfit::BrokenCertificate,
        }),
        false => Ok(store),
    }
}

fn warn_of_expiry(der: &[u8], path: &str) {
    let Some(details) = certificate::details(der) else {
        return;
    };
    let left = details.not_after - now();
    let subject = details.subject;
    if left < 0 {
        tracing::warn!(
            subject,
            path,
            "a certificate has expired, and is shown all the same"
        );
    } else if left < SOON {
        let days = left / (24 * 3600);
        tracing::warn!(subject, path, days, "a certificate will expire soon");
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
