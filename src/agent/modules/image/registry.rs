//! One repository of a registry, as somebody who shows what it asks for.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::agent::modules::{
    Credentials,
    client::{Answer, Client},
};

/// The forms of manifests that are read.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// By what names Docker's own registry stands in Docker's configuration.
const DOCKER: [&str; 4] = ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"];

pub(super) struct Registry<'a> {
    client: &'a Client,
    /// `https://host/v2/repository`
    base: String,
    repository: String,
    /// User and password, as they stand in a header.
    basic: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
}

/// Docker's configuration, as far as it says who somebody is.
#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, Login>,
}

#[derive(Default, Deserialize)]
struct Login {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl<'a> Registry<'a> {
    /// Prepares to ask a registry. What is shown to it is what the configuration has for that registry, and nothing else.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub(super) fn new(client: &'a Client, host: &str, repository: &str, credentials: Option<&Credentials>) -> Result<Self, String> {
        let basic = credentials.map(|credentials| basic(&credentials.0, host)).transpose()?.flatten();
        let base = format!("{}://{host}/v2/{repository}", client.scheme(host));
        Ok(Self { client, base, repository: repository.to_owned(), basic, authorization: None })
    }

    /// Returns a manifest by tag or digest, as it is.
    ///
    /// # Errors
    /// When there is none to be had: why.
    pub(super) async fn manifest(&mut self, reference: &str) -> Result<Vec<u8>, String> {
        let url = format!("{}/manifests/{reference}", self.base);
        let answer = match self.ask(&url, false).await? {
            answer if answer.status == StatusCode::UNAUTHORIZED => {
                self.authorize(&answer).await?;
                self.ask(&url, false).await?
            }
            answer => answer,
        };
        found(answer, "its manifest")
    }

    /// Returns a part of an image by its digest. It is not verified.
    ///
    /// # Errors
    /// When there is none to be had: why.
    pub(super) async fn blob(&mut self, digest: &str) -> Result<Vec<u8>, String> {
        let is_digest = digest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':');
        if !is_digest {
            return Err(format!("has a part with digest {digest:?}"));
        }
        found(self.ask(&format!("{}/blobs/{digest}", self.base), true).await?, "a layer")
    }

    async fn ask(&self, url: &str, is_blob: bool) -> Result<Answer, String> {
        let mut headers = HeaderMap::new();
        headers.extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        if is_blob {
            return self.client.part(url, &headers).await;
        }
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
        self.client.document(url, &headers).await
    }

    /// Gets what the registry asks for.
    async fn authorize(&mut self, refusal: &Answer) -> Result<(), String> {
        let challenges = refusal.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        for challenge in challenges {
            let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                self.authorization = Some(self.token(parameters).await?);
                return Ok(());
            }
            if scheme.eq_ignore_ascii_case("basic") && self.basic.is_some() {
                self.authorization = self.basic.clone();
                return Ok(());
            }
        }
        Err("its registry asks for something that is not known (401)".to_owned())
    }

    async fn token(&self, parameters: &str) -> Result<HeaderValue, String> {
        let realm = parameter(parameters, "realm").ok_or("its registry does not say who gives out tokens")?;
        let uri: Uri = realm.parse().map_err(|_| format!("its registry names {realm:?} for tokens"))?;
        // What is shown there is a password: it goes over TLS, unless the registry itself is spoken to without.
        let is_plain = uri.scheme_str() != Some("https");
        if is_plain && (self.base.starts_with("https:") || uri.scheme_str() != Some("http")) {
            return Err(format!("its registry names {realm:?} for tokens, which is no https://"));
        }
        let scope = parameter(parameters, "scope").unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let service = parameter(parameters, "service").unwrap_or_default();
        let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let separator = if realm.contains('?') { '&' } else { '?' };
        let url = format!("{realm}{separator}service={}&scope={}", escaped(&service), escaped(&scope));
        let mut headers = HeaderMap::new();
        headers.extend(self.basic.clone().map(|value| (AUTHORIZATION, value)));
        let answer = self.client.document(&url, &headers).await.map_err(|why| format!("no token of its registry: {why}"))?;
        let Token { token, access_token } =
            serde_json::from_slice(&found(answer, "a token of its registry")?).map_err(|_| "its registry's tokens are none".to_owned())?;
        let token = if token.is_empty() { access_token } else { token };
        secret(&format!("Bearer {token}"))
    }
}

fn found(answer: Answer, what: &str) -> Result<Vec<u8>, String> {
    match answer.status {
        StatusCode::OK => Ok(answer.body.to_vec()),
        status => Err(format!("{what} is refused: {status}")),
    }
}

/// Returns a parameter of a challenge: `realm="https://…"`.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim_matches([' ', ',']).eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next;
    }
    None
}

/// Returns what a Docker configuration has for a registry, as it stands in a header.
fn basic(config: &str, host: &str) -> Result<Option<HeaderValue>, String> {
    // What is wrong with it must not be told by repeating it.
    let config: DockerConfig = serde_json::from_str(config).map_err(|_| "its pull secret is no Docker configuration".to_owned())?;
    let bare = |name: &str| {
        let name = name.trim_start_matches("https://").trim_start_matches("http://");
        name.split('/').next().unwrap_or_default().to_owned()
    };
    let is_docker = DOCKER.contains(&host);
    let is_for = |name: &str| bare(name) == host || (is_docker && DOCKER.contains(&name));
    let Some(login) = config.auths.iter().find(|(name, _)| is_for(name)).map(|(_, login)| login) else { return Ok(None) };
    let encoded = match login.auth.as_str() {
        "" => STANDARD.encode(format!("{}:{}", login.username, login.password)),
        auth => auth.to_owned(),
    };
    secret(&format!("Basic {encoded}")).map(Some)
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(text).map_err(|_| "its credentials cannot stand in a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_shown_what_is_for_it_alone() {
        let config = r#"{"auths": {"https://ghcr.io/v1/": {"auth": "YTpi"}, "a.b:5000": {"username": "u", "password": "p"}, "https://index.docker.io/v1/": {"auth": "ZDpk"}}}"#;
        let shown = |host: &str| basic(config, host).unwrap().map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(shown("ghcr.io").as_deref(), Some("Basic YTpi"));
        assert_eq!(shown("a.b:5000").as_deref(), Some("Basic dTpw"));
        assert_eq!(shown("registry-1.docker.io").as_deref(), Some("Basic ZDpk"));
        assert_eq!((shown("a.b"), shown("evil.io")), (None, None));
        assert!(!basic("hunter2", "a").unwrap_err().contains("hunter2"));
        assert!(basic(config, "ghcr.io").unwrap().unwrap().is_sensitive());
    }

    #[test]
    fn a_challenge_is_read_with_and_without_quotes() {
        let challenge = r#"realm="https://a/token?x=1,2",service=a, scope="repository:x:pull""#;
        assert_eq!(parameter(challenge, "realm").as_deref(), Some("https://a/token?x=1,2"));
        assert_eq!(parameter(challenge, "service").as_deref(), Some("a"));
        assert_eq!(parameter(challenge, "scope").as_deref(), Some("repository:x:pull"));
        assert_eq!(parameter(challenge, "error"), None);
        assert_eq!(parameter(r#"realm="open"#, "realm"), None);
    }
}
