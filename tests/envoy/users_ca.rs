//! A CA of the users' own, for what is neither a workload's certificate nor the mesh's.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256, RevokedCertParams, RsaKeySize, SerialNumber,
};

/// A CA with its key.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    key: String,
    /// Its certificate.
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "the users' own CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { key: key.serialize_pem(), issuer: Issuer::new(params, key), pem })
    }

    /// Issues a certificate; returns it with its key.
    pub(crate) fn issue(&self, name: &str, serial: u64) -> Result<(String, String)> {
        self.issue_for(KeyPair::generate()?, name, serial)
    }

    /// Issues a certificate for an RSA key.
    pub(crate) fn issue_rsa(&self, name: &str, serial: u64) -> Result<(String, String)> {
        self.issue_for(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?, name, serial)
    }

    fn issue_for(&self, key: KeyPair, name: &str, serial: u64) -> Result<(String, String)> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// Returns a list of these as revoked.
    pub(crate) fn crl(&self, revoked: &[u64]) -> Result<String> {
        let now = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// Returns the word, in DER, that a certificate is good. openssl says it.
    pub(crate) fn staple(&self, certificate: &str, serial: u64) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        let index = format!("V\t361231000000Z\t\t{serial:02X}\tunknown\t/CN=x\n");
        for (file, text) in [("ca.pem", &self.pem), ("ca.key", &self.key), ("leaf.pem", &certificate.to_owned()), ("index.txt", &index)] {
            fs::write(folder.path().join(file), text)?;
        }
        let arguments =
            "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -issuer ca.pem -cert leaf.pem -ndays 7 -respout staple.der";
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(fs::read(folder.path().join("staple.der"))?)
    }
}
