//! The certificates of the corpus, made anew in each run.
//!
//! | name | for | signed by |
//! | --- | --- | --- |
//! | `one`, `two`, `any` | `one.example.com` and so on | `ca` |
//! | `wild` | `*.wild.example.com` | `ca` |
//! | `server` | `secure.default.svc.cluster.local`, `secure.example.com`: what servers of TLS show | `ca` |
//! | `client` | `client.example.com`, `spiffe://example.com/client` | `ca` |
//! | `stranger` | the same | `other-ca` |
//!
//! Cases name a file as `KEYS/one.pem`, `KEYS/one.key` or `KEYS/ca.pem`; `PEM one.pem` stands for what is in it, and
//! `SHA256 one` for its digest. Each of the first four is also a Secret next to the gateway, without authorities.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use mesh_agent::certificate;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};

use super::case::istio;
use super::scenery::GATEWAY_NAMESPACE;

/// The Secrets of the world.
const SECRETS: [&str; 4] = ["one", "two", "any", "wild"];

/// Everything that was made.
#[derive(Debug)]
pub struct Keys {
    files: Vec<(String, String)>,
    certificates: Vec<(&'static str, Vec<u8>)>,
}

/// The keys of this run.
pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        Keys::make().unwrap_or_else(|e| panic!("the certificates cannot be made: {e:#}"))
    })
}

impl Keys {
    fn make() -> Result<Self> {
        let mut keys = Self {
            files: Vec::new(),
            certificates: Vec::new(),
        };
        for (authority, issued) in [
            (
                "ca",
                &[
                    ("one", &["one.example.com"][..]),
                    ("two", &["two.example.com"]),
                    ("any", &["any.example.com"]),
                    ("wild", &["*.wild.example.com"]),
                    (
                        "server",
                        &["secure.default.svc.cluster.local", "secure.example.com"],
                    ),
                    ("client", &["client.example.com"]),
                ][..],
            ),
            ("other-ca", &[("stranger", &["client.example.com"])]),
        ] {
            let (key, params) = (KeyPair::generate()?, authority_of(authority));
            let pem = params.self_signed(&key)?.pem();
            keys.files.push((format!("{authority}.pem"), pem));
            let issuer = Issuer::from_params(&params, &key);
            for (name, hosts) in issued {
                let key = KeyPair::generate()?;
                let made = certificate_of(hosts)?.signed_by(&key, &issuer)?;
                keys.certificates.push((name, made.der().to_vec()));
                keys.files.push((format!("{name}.pem"), made.pem()));
                keys.files
                    .push((format!("{name}.key"), key.serialize_pem()));
            }
        }
        Ok(keys)
    }

    /// Writes all files where cases find them: in the namespace of the calling thread.
    pub fn write(&self) -> Result<()> {
        let folder = Path::new(&path("")).to_owned();
        fs::create_dir_all(&folder)?;
        for (file, text) in &self.files {
            fs::write(folder.join(file), text).with_context(|| format!("writing {file}"))?;
        }
        Ok(())
    }

    /// What is in a file.
    pub fn pem(&self, file: &str) -> Result<&str> {
        let found = self.files.iter().find(|(name, _)| name == file);
        let (_, text) = found.with_context(|| format!("there is no {file} among the keys"))?;
        Ok(text)
    }

    /// Which certificate this is.
    pub fn name_of(&self, der: &[u8]) -> &'static str {
        let found = self.certificates.iter().find(|(_, own)| own == der);
        found.map_or("an unknown one", |(name, _)| name)
    }

    /// Likewise, of the text of a file.
    pub fn name_of_pem(&self, pem: &[u8]) -> Option<&str> {
        let found = self.files.iter().find(|(_, text)| text.as_bytes() == pem);
        found.and_then(|(file, _)| file.strip_suffix(".pem"))
    }

    /// The Secrets that are there before any case.
    pub fn secrets(&self) -> Vec<Value> {
        let text = |file: String| self.pem(&file).unwrap_or_default();
        SECRETS
            .iter()
            .map(|name| {
                let mut secret = istio("Secret", name, GATEWAY_NAMESPACE, Value::Null);
                secret["type"] = json!("kubernetes.io/tls");
                secret["stringData"] = json!({
                    "tls.crt": text(format!("{name}.pem")), "tls.key": text(format!("{name}.key")),
                });
                secret
            })
            .collect()
    }

    /// Puts what is meant in the place of what cases write.
    pub fn fill_in(&self, value: &mut Value) -> Result<()> {
        match value {
            Value::String(text) => {
                let filled = if let Some(file) = text.strip_prefix("KEYS/") {
                    path(file)
                } else if let Some(file) = text.strip_prefix("PEM ") {
                    self.pem(file)?.to_owned()
                } else if let Some(wanted) = text.strip_prefix("SHA256 ") {
                    let mut all = self.certificates.iter();
                    let found = all.find(|(name, _)| *name == wanted);
                    let (_, der) = found.with_context(|| format!("there is no {wanted}"))?;
                    certificate::fingerprint(der)
                } else {
                    return Ok(());
                };
                *text = filled;
            }
            Value::Array(values) => {
                for value in values {
                    self.fill_in(value)?;
                }
            }
            Value::Object(map) => {
                for value in map.values_mut() {
                    self.fill_in(value)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        Ok(())
    }
}

/// Where a file is.
pub fn path(file: &str) -> String {
    format!("{}/keys/{file}", mesh_tests::FILES)
}

fn authority_of(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn certificate_of(hosts: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named(hosts.first().copied().unwrap_or_default());
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    if hosts == ["client.example.com"] {
        let uri = Ia5String::try_from("spiffe://example.com/client")?;
        params.subject_alt_names.push(SanType::URI(uri));
    }
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}
