//! The roots to which certificates of signers chain: nobody else may stand behind a signer's name.

use std::{collections::BTreeMap, sync::Arc};

use super::signer::SignerName;
use crate::{
    api::mesh_config::{CaCertificate, RootsFrom},
    identity::certificate::Certificate,
};

/// The roots that are known, by where they come from. The first of these places that has some counts, as with istiod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignerRoots {
    /// Those of every signer, in the file that is mounted for that.
    pub file: Arc<Vec<Certificate>>,
    /// Those of single signers, as MeshConfig names them (`caCertificates[].certSigners`).
    pub mesh: BTreeMap<SignerName, Vec<Certificate>>,
    /// Those of the cluster's own signers: its CA. Only for a mesh that names no domain of signers.
    pub cluster: Arc<Vec<Certificate>>,
}

// === impl SignerRoots ===

impl SignerRoots {
    /// Returns the roots that MeshConfig has for single signers. What cannot be read is passed over: MeshConfig's findings say so.
    pub fn of_mesh(entries: &[CaCertificate]) -> BTreeMap<SignerName, Vec<Certificate>> {
        let mut known: BTreeMap<SignerName, Vec<Certificate>> = BTreeMap::new();
        for entry in entries {
            let RootsFrom::Pem(pem) = &entry.roots else { continue };
            let (roots, _) = Certificate::each_from_pem(pem);
            for signer in entry.cert_signers.iter().filter_map(|name| SignerName::parse(name).ok()) {
                known.entry(signer).or_default().extend(roots.iter().cloned());
            }
        }
        known
    }

    /// Returns these, and the roots of a file that is gone as they were known: a file that is taken away takes nobody's trust away.
    pub fn with_files_of(self, known: &Self) -> Self {
        let kept = |now: Arc<Vec<Certificate>>, before: &Arc<Vec<Certificate>>| if now.is_empty() { Arc::clone(before) } else { now };
        Self { file: kept(self.file, &known.file), cluster: kept(self.cluster, &known.cluster), mesh: self.mesh }
    }

    /// Returns the roots of this signer; none if nothing is known of it.
    pub fn of(&self, signer: &SignerName) -> &[Certificate] {
        if !self.file.is_empty() {
            return &self.file;
        }
        self.mesh.get(signer).map_or(&self.cluster, |roots| roots.as_slice())
    }

    /// Returns these as one PEM text.
    pub fn bundle_of(&self, signer: &SignerName) -> String {
        self.of(signer).iter().map(Certificate::pem).collect()
    }

    /// Returns every root to which a workload's certificate may chain, each once.
    pub fn all(&self) -> Vec<Certificate> {
        let known: Vec<&Certificate> = if self.file.is_empty() {
            self.mesh.values().flatten().chain(self.cluster.iter()).collect()
        } else {
            self.file.iter().collect()
        };
        let mut all: Vec<Certificate> = Vec::new();
        for root in known {
            if !all.contains(root) {
                all.push(root.clone());
            }
        }
        all
    }
}
