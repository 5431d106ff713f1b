//! Images in registries (OCI distribution): where their manifests and layers are, and which of them is the module.

mod registry;

use serde::Deserialize;

use self::registry::Registry;
use super::{Fetched, Secret, Wanted, client::Client, hex, unpack};

/// The layer of an image that is packed for containers: `plugin.wasm` in a compressed archive.
const PACKED: [&str; 2] = ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"];
/// The layer of an artifact: the module itself.
const PLAIN: [&str; 2] = ["application/vnd.module.wasm.content.layer.v1+wasm", "application/wasm"];

const SCHEME: &str = "oci://";
const SHA256: &str = "sha256:";

/// Where an image is: `registry/repository`, and which one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    registry: String,
    repository: String,
    /// A tag, or a digest with `sha256:` in front.
    reference: String,
}

/// A manifest, or a list of such for several machines.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// Returns a URL by which all modules of one image go: without what says which.
pub(super) fn without_tag(url: &str) -> String {
    match parse(url) {
        Some(Reference { registry, repository, .. }) => format!("{SCHEME}{registry}/{repository}"),
        None => url.to_owned(),
    }
}

/// Returns the digest that the URL of an image names.
pub(super) fn digest_in(url: &str) -> Option<&str> {
    let (_, digest) = url.strip_prefix(SCHEME)?.rsplit_once('@')?;
    digest.strip_prefix(SHA256)
}

/// Returns whether it is an image that is whatever is newest.
pub(super) fn is_latest(url: &str) -> bool {
    parse(url).is_some_and(|image| image.reference == "latest")
}

/// Fetches the module of an image.
///
/// # Errors
/// When there is none to be had: why.
pub(super) async fn fetch(client: &Client, wanted: &Wanted) -> Result<Fetched, String> {
    let image = parse(&wanted.url).ok_or("names no image")?;
    let credentials = match &wanted.secret {
        Secret::Is(credentials) => Some(credentials),
        Secret::Nothing | Secret::Missing => None,
    };
    let mut registry = Registry::new(client, &image.registry, &image.repository, credentials)?;
    let named = registry.manifest(&image.reference).await?;
    let outer = hex(&named);
    if let Some(digest) = image.reference.strip_prefix(SHA256).filter(|digest| *digest != outer) {
        return Err(format!("has digest {outer}, and must have {digest}"));
    }
    let (manifest, digest) = match read(&named)? {
        list if !list.manifests.is_empty() => {
            let chosen = chosen(&list.manifests).ok_or("is a list of no images")?;
            let inner = registry.manifest(&chosen.digest).await?;
            verify(&inner, &chosen.digest)?;
            (read(&inner)?, hex(&inner))
        }
        manifest => (manifest, outer.clone()),
    };
    if !wanted.digest.is_empty() && ![&digest, &outer].contains(&&wanted.digest) {
        return Err(format!("has digest {digest}, and must have {}", wanted.digest));
    }
    // The name by which it was asked for is that by which it is found again.
    let digest = if wanted.digest == outer || digest_in(&wanted.url) == Some(&outer) { outer } else { digest };
    Ok(Fetched { module: module(&mut registry, &manifest).await?, digest })
}

async fn module(registry: &mut Registry<'_>, manifest: &Manifest) -> Result<Vec<u8>, String> {
    let plain = manifest.layers.iter().find(|layer| PLAIN.contains(&layer.media_type.as_str()));
    if let Some(layer) = plain {
        return blob(registry, layer).await;
    }
    let last = manifest.layers.last().ok_or("has no layer")?;
    if !PACKED.contains(&last.media_type.as_str()) {
        return Err(format!("has layers of type {:?}, and none that a module is in", last.media_type));
    }
    let layer = blob(registry, last).await?;
    tokio::task::spawn_blocking(move || unpack::of_layer(&layer)).await.map_err(|error| error.to_string())?
}

async fn blob(registry: &mut Registry<'_>, layer: &Descriptor) -> Result<Vec<u8>, String> {
    let bytes = registry.blob(&layer.digest).await?;
    verify(&bytes, &layer.digest)?;
    Ok(bytes)
}

fn verify(bytes: &[u8], digest: &str) -> Result<(), String> {
    match digest.strip_prefix(SHA256) {
        Some(expected) if expected == hex(bytes) => Ok(()),
        Some(_) => Err(format!("has a part that is not the {digest} that it must be")),
        None => Err(format!("has a part with digest {digest:?}: only {SHA256} can be verified")),
    }
}

fn read(manifest: &[u8]) -> Result<Manifest, String> {
    serde_json::from_slice(manifest).map_err(|error| format!("has no manifest: {error}"))
}

/// Returns the image for machines like ours. Modules are the same for all.
fn chosen(images: &[Descriptor]) -> Option<&Descriptor> {
    let is_usual = |image: &&Descriptor| {
        image.platform.as_ref().is_some_and(|platform| (platform.os.as_str(), platform.architecture.as_str()) == ("linux", "amd64"))
    };
    images.iter().find(is_usual).or(images.first())
}

/// Reads the URL of an image, with what may be left out of it.
fn parse(url: &str) -> Option<Reference> {
    let path = url.strip_prefix(SCHEME)?;
    let (name, reference) = match path.rsplit_once('@') {
        // Beside a digest a tag says nothing.
        Some((name, digest)) => (without(name), digest.to_owned()),
        None => match tag(path) {
            Some((name, tag)) => (name, tag.to_owned()),
            None => (path, "latest".to_owned()),
        },
    };
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    let (registry, repository) = match (is_host, first) {
        (true, "docker.io" | "index.docker.io") => ("registry-1.docker.io", with_library(rest)),
        (true, host) => (host, rest.to_owned()),
        (false, _) => ("registry-1.docker.io", with_library(name)),
    };
    let is_repository = |text: &str| {
        !text.is_empty()
            && text.split('/').all(|part| {
                !part.is_empty()
                    && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
                    && !part.starts_with('.')
            })
    };
    let is_reference = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte));
    (is_repository(&repository) && is_reference(&reference)).then(|| Reference { registry: registry.to_owned(), repository, reference })
}

fn tag(path: &str) -> Option<(&str, &str)> {
    path.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

fn without(name: &str) -> &str {
    tag(name).map_or(name, |(name, _)| name)
}

fn with_library(repository: &str) -> String {
    if repository.contains('/') { repository.to_owned() } else { format!("library/{repository}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_a_reference_is_dockers() {
        let of = |url: &str| parse(url).map(|Reference { registry, repository, reference }| format!("{registry} {repository} {reference}"));
        for (url, expected) in [
            ("oci://ghcr.io/x/y:v1", "ghcr.io x/y v1"),
            ("oci://localhost:5000/y", "localhost:5000 y latest"),
            ("oci://y", "registry-1.docker.io library/y latest"),
            ("oci://x/y:v1", "registry-1.docker.io x/y v1"),
            ("oci://docker.io/x/y@sha256:00", "registry-1.docker.io x/y sha256:00"),
            ("oci://a.b:1/x:v1@sha256:00", "a.b:1 x sha256:00"),
        ] {
            assert_eq!(of(url).as_deref(), Some(expected), "{url}");
        }
        for wrong in
            ["https://a/b", "oci://", "oci://a.b/", "oci://a.b/../c", "oci://a.b/X", "oci://a.b/x?y=z", "oci://a.b/x:", "oci://a.b//x"]
        {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_image_is_known_by_its_digest_and_its_name_without_tag() {
        assert_eq!(digest_in("oci://a.b/x@sha256:00ff"), Some("00ff"));
        assert_eq!(digest_in("https://a.b/x@sha256:00ff"), None);
        assert_eq!(without_tag("oci://a.b/x:v1"), without_tag("oci://a.b/x@sha256:00"));
        assert_eq!(without_tag("https://a.b/x.wasm"), "https://a.b/x.wasm");
        assert!(is_latest("oci://a.b/x") && is_latest("oci://a.b/x:latest") && !is_latest("oci://a.b/x:v1"));
    }
}
