//! The lists of revoked certificates, in a file that the control plane keeps (the ConfigMap `istio-ca-crl`).
//!
//! They do not come with a certificate, so that who is revoked is refused long before anybody renews. What is gone or cannot be read
//! leaves the last good lists in use: nobody is let in again because a file is missing.

use std::path::PathBuf;

use tokio::io::AsyncReadExt;
use tracing::{info, warn};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

/// The largest file: that of a ConfigMap.
const LARGEST_FILE: u64 = 1 << 20;

/// The file, and what it held when it was last good.
#[derive(Debug)]
pub(crate) struct RevocationFile {
    path: PathBuf,
    good: Option<String>,
    /// Why there is nothing new; logged once.
    fault: String,
}

impl RevocationFile {
    /// Returns a file that was not read yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, good: None, fault: String::new() }
    }

    /// Reads the file, and returns the lists that hold now; `None`: there were never any.
    pub(crate) async fn lists(&mut self) -> Option<String> {
        match self.read().await {
            Ok(text) if self.good.as_ref() == Some(&text) => self.fault.clear(),
            Ok(text) => {
                info!(file = %self.path.display(), "other certificates are revoked now");
                (self.good, self.fault) = (Some(text), String::new());
            }
            // No list at all is the usual case.
            Err(_) if self.good.is_none() && !self.path.exists() => {}
            Err(fault) if fault == self.fault => {}
            Err(fault) => {
                warn!(file = %self.path.display(), kept = self.good.is_some(), "unusable lists of revoked certificates: {fault}");
                self.fault = fault;
            }
        }
        self.good.clone()
    }

    async fn read(&self) -> Result<String, String> {
        let read = async {
            let mut text = String::new();
            tokio::fs::File::open(&self.path).await?.take(LARGEST_FILE + 1).read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        let text = read.await.map_err(|error| error.to_string())?;
        if text.len() as u64 > LARGEST_FILE {
            return Err(format!("more than {LARGEST_FILE} bytes"));
        }
        let blocks = pem::parse_many(&text).map_err(|_| "it is not PEM".to_owned())?;
        let whole = text.matches("-----BEGIN").count() == blocks.len() && !blocks.is_empty();
        let is_list = |block: &pem::Pem| block.tag() == "X509 CRL" && CertificateRevocationList::from_der(block.contents()).is_ok();
        match whole && blocks.iter().all(is_list) {
            true => Ok(text),
            false => Err("not every block is a list of revoked certificates".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
        SerialNumber,
    };

    use super::*;

    fn list(number: u64) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&issuer).unwrap().pem().unwrap()
    }

    #[tokio::test]
    async fn what_is_gone_or_broken_leaves_the_last_good_lists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca-crl.pem");
        let mut file = RevocationFile::new(path.clone());
        assert_eq!(file.lists().await, None);
        fs::write(&path, "nonsense").unwrap();
        assert_eq!(file.lists().await, None, "there was never a good one");
        let (first, second) = (list(1), list(2));
        fs::write(&path, &first).unwrap();
        assert_eq!(file.lists().await.as_ref(), Some(&first));
        let half = &format!("{second}{first}")[..second.len() + first.len() / 2];
        for broken in ["", "nonsense", half, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, broken).unwrap();
            assert_eq!(file.lists().await.as_ref(), Some(&first), "{broken:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(file.lists().await.as_ref(), Some(&first));
        fs::write(&path, &second).unwrap();
        assert_eq!(file.lists().await.as_ref(), Some(&second));
    }
}
