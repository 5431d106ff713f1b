//! Istio's own `istioctl`, unmodified, and what it must show of a control plane that tells the truth. The same checks
//! hold for a control plane that is reached directly and for one in a cluster, reached through the API server.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{process::Command, time::timeout};

use crate::{admin::Admin, http_client::get_text, tools};

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG_DUMP: &str = "/config_dump";
const CLUSTERS: &str = "/clusters?format=json";

/// A proxy that `proxy-status` is to list.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// `pod.namespace`
    pub name: &'a str,
    /// What it subscribes to, as the table says it: `4 (CDS,LDS,EDS,RDS)`, or `2 (CDS,LDS)` for one that calls nobody.
    pub types: &'a str,
}

/// `istioctl` for somebody who reaches a cluster by a kubeconfig.
#[derive(Clone, Debug)]
pub struct Istioctl {
    kubeconfig: PathBuf,
    reach: Reach,
    /// What starts it.
    wrapper: Vec<String>,
}

/// How it reaches the control plane.
#[derive(Clone, Debug)]
pub enum Reach {
    /// By port-forward to the pods of the control plane: that needs a kubelet.
    Cluster,
    /// At port 15012, with a token of `istio-system/default`, which it gets from the API server.
    ByToken {
        /// Where it listens.
        address: SocketAddr,
    },
    /// At port 15012, with a certificate of `istio-system/default`.
    ByCertificate {
        /// Where it listens.
        address: SocketAddr,
        /// `key.pem`, `cert-chain.pem`, `root-cert.pem`; see [`crate::pilot_agent::certificates`].
        certificates: PathBuf,
    },
}

/// Where a proxy's Envoy is asked for what it has.
#[derive(Clone, Copy, Debug)]
pub enum Envoy<'a> {
    /// In its pod, by istioctl itself: that needs a kubelet.
    InItsPod,
    /// On this machine; what it says goes into a file in the folder.
    Here {
        /// Its admin port.
        admin: Admin,
        /// For the file.
        folder: &'a Path,
    },
}

impl Istioctl {
    /// Makes an istioctl with this kubeconfig. Each command needs an API server: for the revision in use, if for nothing else.
    pub fn new(kubeconfig: impl Into<PathBuf>, reach: Reach) -> Self {
        Self { kubeconfig: kubeconfig.into(), reach, wrapper: Vec::new() }
    }

    /// Lets it be run by another program (`nsenter … --`), of which it is the last argument with its own after it.
    #[must_use]
    pub fn wrapped(self, wrapper: impl IntoIterator<Item = String>) -> Self {
        Self { wrapper: wrapper.into_iter().collect(), ..self }
    }

    /// Runs it; gives what it printed on both outputs, and an error with that if it fails.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let (succeeded, text) = self.output(arguments).await?;
        ensure!(succeeded, "istioctl {}: {text}", arguments.join(" "));
        Ok(text)
    }

    /// Runs it; gives whether it succeeded, and what it printed on both outputs.
    pub async fn output(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let istioctl = tools::go("istio", "istioctl")?;
        let mut command = match self.wrapper.split_first() {
            None => Command::new(istioctl),
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(istioctl);
                command
            }
        };
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.with_context(|| format!("istioctl {}: no end", arguments.join(" ")))??;
        Ok((output.status.success(), [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()))
    }

    /// Checks that `proxy-status` lists exactly these proxies, each with its types and the name of the control plane (its pod's).
    pub async fn expect_proxies(&self, proxies: &[Listed<'_>], instance: &str) -> Result<()> {
        let table = self.ask(&["proxy-status"]).await?;
        let mut rows: Vec<&str> = table.lines().filter(|line| !line.trim().is_empty()).collect();
        let header = rows.iter().position(|row| row.starts_with("NAME")).with_context(|| format!("no table: {table}"))?;
        rows.drain(..=header);
        let names: Vec<&str> = rows.iter().filter_map(|row| row.split_whitespace().next()).collect();
        let mut expected = proxies.to_vec();
        expected.sort_unstable_by_key(|proxy| proxy.name);
        ensure!(names.iter().copied().eq(expected.iter().map(|proxy| proxy.name)), "listed are {names:?}, not {expected:?}:\n{table}");
        for (row, proxy) in rows.iter().zip(expected) {
            ensure!(row.contains(proxy.types) && row.contains("Kubernetes") && row.contains(instance), "{row:?} of\n{table}");
        }
        Ok(())
    }

    /// Checks that `proxy-status --verbosity 1` says of each of these proxies that all its types are in sync.
    pub async fn expect_synced(&self, proxies: &[Listed<'_>]) -> Result<()> {
        let table = self.ask(&["proxy-status", "--verbosity", "1"]).await?;
        for Listed { name, types } in proxies {
            let row = table.lines().find(|row| row.starts_with(&format!("{name} "))).with_context(|| format!("no {name} in\n{table}"))?;
            let synced = row.matches("SYNCED").count();
            ensure!(types.starts_with(&format!("{synced} ")) && !row.contains("STALE"), "{row:?} of\n{table}");
        }
        Ok(())
    }

    /// Checks that `version` says which version of istiod we stand in for, and how many proxies there are.
    pub async fn expect_version(&self, version: &str, proxies: usize) -> Result<()> {
        let text = match self.reach {
            Reach::Cluster => self.run(&["version"]).await?,
            Reach::ByToken { .. } | Reach::ByCertificate { .. } => self.ask(&["experimental", "version"]).await?,
        };
        ensure!(text.contains(&format!("control plane version: {version}\n")), "{text}");
        ensure!(text.contains(&format!("({proxies} proxies)")), "{text}");
        Ok(())
    }

    /// Checks that `proxy-status <pod>` compares what the control plane wants with what the Envoy has, and finds no difference.
    pub async fn expect_in_sync(&self, proxy: &str, envoy: Envoy<'_>) -> Result<()> {
        let file = envoy.file(proxy, CONFIG_DUMP).await?;
        let from = file.iter().flat_map(|file| ["--file", file]);
        let text = self.ask(&["proxy-status", proxy].into_iter().chain(from).collect::<Vec<_>>()).await?;
        for what in ["Clusters Match", "Listeners Match", "Routes Match"] {
            ensure!(text.contains(what), "{what}? {text}");
        }
        Ok(())
    }

    /// Checks that `proxy-config` reads our names in the Envoy of a client of `reviews`: clusters with subsets,
    /// listeners, routes and endpoints.
    pub async fn expect_proxy_config(&self, proxy: &str, envoy: Envoy<'_>) -> Result<()> {
        for (section, path, expected) in [
            ("cluster", CONFIG_DUMP, &["reviews.shop.svc.cluster.local", "9080", "v2", "outbound", "EDS"][..]),
            ("listener", CONFIG_DUMP, &["9080", "Route: "]),
            ("route", CONFIG_DUMP, &["reviews.shop.svc.cluster.local", "reviews.shop"]),
            ("endpoint", CLUSTERS, &["HEALTHY", "outbound|9080|v1|reviews.shop.svc.cluster.local"]),
        ] {
            let file = envoy.file(proxy, path).await?;
            let from = file.as_deref().map_or(vec![proxy], |file| vec!["--file", file]);
            let text = self.run(&[&["proxy-config", section][..], &from].concat()).await?;
            for word in expected {
                ensure!(text.contains(word), "proxy-config {section} without {word:?}:\n{text}");
            }
        }
        Ok(())
    }

    /// Checks that `experimental internal-debug` lists our pages, shows one, and says what exists when asked for one that does not.
    pub async fn expect_debug_pages(&self, proxies: usize) -> Result<()> {
        for arguments in [&["--list"][..], &["nonsensez"]] {
            let text = self.ask(&[&["experimental", "internal-debug"], arguments].concat()).await?;
            for page in ["syncz", "config_dump", "registryz"] {
                ensure!(text.contains(&format!("\"{page}\"")), "no {page} in {text}");
            }
        }
        let text = self.ask(&["experimental", "internal-debug", "syncz"]).await?;
        let start = text.find('[').with_context(|| format!("no list: {text}"))?;
        let listed: serde_json::Value = serde_json::from_str(&text[start..]).with_context(|| text.clone())?;
        ensure!(listed.as_array().map(Vec::len) == Some(proxies), "{proxies} proxies, listed are {listed:#}");
        Ok(())
    }

    /// Checks that `analyze` of one namespace names this code and this object.
    pub async fn expect_finding(&self, namespace: &str, code: &str, object: &str) -> Result<()> {
        // It fails when it finds errors.
        let (_, text) = self.output(&["analyze", "--namespace", namespace]).await?;
        ensure!(text.lines().any(|line| line.contains(code) && line.contains(object)), "no {code} for {object}:\n{text}");
        Ok(())
    }

    /// Asks the control plane.
    async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut all: Vec<String> = arguments.iter().copied().map(String::from).collect();
        match &self.reach {
            Reach::Cluster => {}
            Reach::ByToken { address } => all.extend(["--xds-address".into(), address.to_string()]),
            Reach::ByCertificate { address, certificates } => {
                let Some(certificates) = certificates.to_str() else { bail!("a folder whose name is no text") };
                all.extend(["--xds-address".into(), address.to_string(), "--cert-dir".into(), certificates.into()]);
                all.extend(["--authority", "istiod.istio-system.svc"].map(String::from));
            }
        }
        self.run(&all.iter().map(String::as_str).collect::<Vec<_>>()).await
    }
}

impl Envoy<'_> {
    async fn file(self, proxy: &str, path: &str) -> Result<Option<String>> {
        let Self::Here { admin, folder } = self else { return Ok(None) };
        let file = folder.join(format!("{proxy}.json"));
        std::fs::write(&file, get_text(admin.address(), path).await?)?;
        Ok(Some(file.to_str().context("a folder whose name is no text")?.to_owned()))
    }
}
