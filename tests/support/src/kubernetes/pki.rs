//! A certificate authority for one API server: its serving certificate, its users, its service account keys.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize, SanType,
};

/// The certificate that clients trust, in the authority's folder.
pub(super) const CA: &str = "ca.crt";
/// The serving certificate and its key.
pub(super) const SERVING: &str = "api";

/// A CA whose key stays in memory; what it signs is written to its folder as `<name>.crt` and `<name>.key`.
#[derive(Debug)]
pub(super) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the folder, the CA and the serving certificate for these addresses and the API server's usual names.
    pub(super) fn create(folder: PathBuf, addresses: &[IpAddr]) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut parameters = named("kubernetes-test-ca", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        fs::write(folder.join(CA), parameters.self_signed(&key)?.pem())?;
        let authority = Self { folder, issuer: Issuer::new(parameters, key) };
        authority.sign(SERVING, serving(addresses)?)?;
        Ok(authority)
    }

    /// Writes a client certificate of a user, perhaps in a group, as `<file>.crt` and `<file>.key`.
    pub(super) fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<()> {
        let mut parameters = named(user, group);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, parameters)
    }

    /// Writes a CA of its own, by which the cluster's own signers sign, as `<file>.crt` and `<file>.key`.
    pub(super) fn signers(&self, file: &str) -> Result<()> {
        let mut parameters = named("kubernetes-test-signers", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.sign(file, parameters)
    }

    /// Writes a key that signs service account tokens; RSA, as most clusters have it.
    pub(super) fn token_key(&self, file: &str) -> Result<PathBuf> {
        let path = self.path(file);
        fs::write(&path, KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?.serialize_pem())?;
        Ok(path)
    }

    /// Returns a file of the folder.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn sign(&self, file: &str, parameters: CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        fs::write(self.path(&format!("{file}.crt")), parameters.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }
}

fn serving(addresses: &[IpAddr]) -> Result<CertificateParams> {
    let mut parameters = named("kube-apiserver", None);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
    for name in ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"] {
        parameters.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    }
    Ok(parameters)
}

fn named(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        parameters.distinguished_name.push(DnType::OrganizationName, organization);
    }
    parameters
}
