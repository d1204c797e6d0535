//! Certificates and keys: what PEM must hold to be of use, whether a key belongs to its certificate, and what a
//! certificate says of its holder. No I/O, and nothing of a key ever gets into a message.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::model::{Certificate, TrustRoots};

pub use crate::certificate::der::{Details, details};

mod der;
#[cfg(test)]
pub(crate) mod fixture;

/// Why key material is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No block of it is a certificate.
    #[error("it has no block that begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// A block is broken.
    #[error("it is not PEM: a block in it is broken")]
    BrokenPem,
    /// A certificate cannot be read.
    #[error("a certificate in it cannot be read")]
    BrokenCertificate,
    /// No block of the key is one.
    #[error("the key has no block that begins with -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// The key asks for a password.
    #[error("the key is encrypted, and there is nobody to ask for the password")]
    EncryptedKey,
    /// The key is of a kind that cannot be used.
    #[error(
        "the key cannot be used: it must be RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519"
    )]
    UnknownKey,
    /// The key is another certificate's.
    #[error("the key does not belong to the certificate")]
    OtherKey,
    /// The revocation list cannot be read.
    #[error("the list of revoked certificates cannot be read")]
    BrokenRevocations,
}

/// Authorities and what they have revoked, read.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    /// Never empty.
    pub certificates: Vec<CertificateDer<'static>>,
    /// `caCrl`.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
}

/// Signatures, ciphers and digests.
pub fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// A certificate with the key that it is for.
pub fn key_pair(pem: &Certificate) -> Result<CertifiedKey, Unfit> {
    let chain = certificates(&pem.chain)?;
    if details(&chain[0]).is_none() {
        return Err(Unfit::BrokenCertificate);
    }
    let key = private_key(&pem.key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Unfit::OtherKey,
        rustls::Error::InvalidCertificate(_) => Unfit::BrokenCertificate,
        _ => Unfit::UnknownKey,
    })
}

/// Who may have signed a peer's certificate.
pub fn authorities(pem: &TrustRoots) -> Result<Authorities, Unfit> {
    let certificates = certificates(&pem.authorities)?;
    if certificates.iter().any(|der| details(der).is_none()) {
        return Err(Unfit::BrokenCertificate);
    }
    let revoked = match &pem.revoked {
        None => Vec::new(),
        Some(lists) => CertificateRevocationListDer::pem_slice_iter(lists)
            .collect::<Result<_, _>>()
            .map_err(|_| Unfit::BrokenRevocations)?,
    };
    if revoked.is_empty() && pem.revoked.is_some() {
        return Err(Unfit::BrokenRevocations);
    }
    Ok(Authorities {
        certificates,
        revoked,
    })
}

/// SHA-256 of a certificate, in lower-case hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().iter().fold(String::new(), |mut text, b| {
        text.push(char::from(HEX[usize::from(b >> 4)]));
        text.push(char::from(HEX[usize::from(b & 15)]));
        text
    })
}

/// SHA-256 of a public key, in base64.
pub fn key_pin(subject_public_key_info: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, subject_public_key_info);
    BASE64_STANDARD.encode(digest)
}

/// A certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Never empty.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Unfit::BrokenPem)?;
    match certificates.is_empty() {
        true => Err(Unfit::NoCertificate),
        false => Ok(certificates),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Unfit> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound if is_encrypted(pem) => Unfit::EncryptedKey,
        rustls::pki_types::pem::Error::NoItemsFound => Unfit::NoKey,
        _ if is_encrypted(pem) => Unfit::EncryptedKey,
        _ => Unfit::BrokenPem,
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    [
        &b"BEGIN ENCRYPTED PRIVATE KEY"[..],
        b"Proc-Type: 4,ENCRYPTED",
    ]
    .iter()
    .any(|mark| pem.windows(mark.len()).any(|window| window == *mark))
}

/// Whether a text looks like PEM at all.
pub fn is_pem(text: &[u8]) -> bool {
    type Section = (SectionKind, Vec<u8>);
    Section::pem_slice_iter(text).next().is_some()
        || text.windows(11).any(|window| window == b"-----BEGIN ")
}

#[cfg(test)]
mod tests;
