//! Where the CA stands: in a folder, or in a Secret.

use std::{fmt, path::PathBuf};

use anyhow::Context;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::PostParams};

use super::folder;
use crate::{
    identity::rotation::Entries,
    source::kubernetes::{ClientSettings, client},
};

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct PlaceArguments {
    /// The folder of the CA in use (the control plane's --ca-dir)
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// The namespace of Secret `cacerts`, in the cluster of KUBECONFIG
    #[arg(long, value_name = "NAMESPACE")]
    secret: Option<String>,
}

/// Where the CA stands.
pub(super) enum Place {
    /// In a folder.
    Folder(PathBuf),
    /// In Secret `cacerts` of a namespace.
    Secret(String, Api<Secret>),
}

/// What stood there.
pub(super) struct Found {
    pub(super) entries: Entries,
    secret: Option<Secret>,
}

/// The Secret of a CA that an operator gives.
const CACERTS: &str = "cacerts";

impl Place {
    pub(super) async fn open(arguments: &PlaceArguments) -> anyhow::Result<Self> {
        match (&arguments.ca_dir, &arguments.secret) {
            (_, Some(namespace)) => {
                let settings = ClientSettings { kubeconfig: None, context: None, qps: 5.0, burst: 10 };
                let client = client(&settings).await?;
                Ok(Self::Secret(namespace.clone(), Api::namespaced(client, namespace)))
            }
            (Some(folder), None) => Ok(Self::Folder(folder.clone())),
            (None, None) => anyhow::bail!("--ca-dir or --secret says where the CA is"),
        }
    }

    pub(super) async fn read(&self) -> anyhow::Result<Found> {
        match self {
            Self::Folder(folder) => Ok(Found { entries: folder::read(folder)?, secret: None }),
            Self::Secret(_, api) => {
                let secret = api.get(CACERTS).await.with_context(|| self.to_string())?;
                let data = secret.data.iter().flatten();
                let entries = data.map(|(name, ByteString(bytes))| (name.clone(), bytes.clone())).collect();
                Ok(Found { entries, secret: Some(secret) })
            }
        }
    }

    /// Replaces what was found. A Secret that somebody else has changed since is left as it is.
    pub(super) async fn write(&self, found: &Found, after: &Entries) -> anyhow::Result<()> {
        match (self, &found.secret) {
            (Self::Folder(folder), _) => folder::write(folder, &found.entries, after),
            (Self::Secret(_, api), Some(secret)) => {
                let data = after.iter().map(|(name, bytes)| (name.clone(), ByteString(bytes.clone()))).collect();
                let secret = Secret { data: Some(data), ..secret.clone() };
                api.replace(CACERTS, &PostParams::default(), &secret).await.map(drop).with_context(|| self.to_string())
            }
            (Self::Secret(..), None) => Ok(()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Secret(namespace, _) => write!(f, "Secret {namespace}/{CACERTS}"),
        }
    }
}
