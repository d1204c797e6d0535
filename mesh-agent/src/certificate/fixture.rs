//! Certificates for tests: an authority, and what it signs.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

use crate::model::Certificate;

/// Signs certificates.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// Its own certificate, as PEM.
    pub pem: String,
}

/// A certificate with its key.
pub struct Issued {
    /// As PEM.
    pub chain: String,
    /// As PEM.
    pub key: String,
    /// The certificate alone.
    pub der: Vec<u8>,
    /// What it is revoked by.
    pub serial: SerialNumber,
}

impl Authority {
    /// An authority of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// A certificate for these names, the first of which is its common name.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_as(names, |_| {})
    }

    /// The same, with changes.
    pub fn issue_as(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let params = params(names, change);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        issued(&params, &params.signed_by(&key, &issuer).unwrap(), &key)
    }

    /// The list of what it has revoked.
    pub fn revoke(&self, revoked: &[&Issued]) -> String {
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: issued.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2054, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        list.signed_by(&issuer).unwrap().pem().unwrap()
    }
}

impl Issued {
    /// As the model has it.
    pub fn pair(&self) -> Certificate {
        Certificate {
            chain: self.chain.as_bytes().to_vec(),
            key: self.key.as_bytes().to_vec(),
        }
    }
}

/// A certificate that nobody but its holder has signed, and that could sign others.
pub fn self_signed(names: &[&str]) -> Issued {
    let params = params(names, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let key = KeyPair::generate().unwrap();
    issued(&params, &params.self_signed(&key).unwrap(), &key)
}

fn params(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = names.first() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.serial_number = Some(SerialNumber::from(fastrand::u64(1..)));
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    change(&mut params);
    params
}

fn issued(params: &CertificateParams, certificate: &rcgen::Certificate, key: &KeyPair) -> Issued {
    Issued {
        chain: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().to_vec(),
        serial: params.serial_number.clone().unwrap(),
    }
}
