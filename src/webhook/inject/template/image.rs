//! The image of the proxy and of the init container: the operator's, that of another type, or the pod's own.

use super::TemplateInputs;

/// What our image is, and Istio's images of these types are like: without a shell, or without a name.
const USUAL: [&str; 2] = ["default", "distroless"];

/// Returns the image.
pub(super) fn of(inputs: &TemplateInputs<'_>) -> String {
    let own = inputs.annotations.image.clone();
    own.or_else(|| of_type(inputs, asked(inputs)?)).unwrap_or_else(|| inputs.settings.image.clone())
}

/// Says that there is no image of the type that is asked for.
pub(in crate::webhook::inject) fn doubt(inputs: &TemplateInputs<'_>) -> Option<String> {
    let kind = asked(inputs).filter(|kind| inputs.annotations.image.is_none() && !USUAL.contains(kind))?;
    let place = match inputs.annotations.image_type {
        Some(_) => "annotation sidecar.istio.io/proxyImageType",
        None => "ProxyConfig image.imageType",
    };
    of_type(inputs, kind).is_none().then(|| {
        let image = &inputs.settings.image;
        format!("{place}: {kind} has no effect, as there is no such image (--sidecar-image-types says which there are): {image} is used")
    })
}

fn asked<'i>(inputs: &'i TemplateInputs<'_>) -> Option<&'i str> {
    inputs.annotations.image_type.as_deref().or(inputs.config.image_type.as_deref())
}

/// Returns the operator's image with the type in its tag, if there is one.
fn of_type(inputs: &TemplateInputs<'_>, kind: &str) -> Option<String> {
    let known = &inputs.settings.image_types;
    let suffixes: Vec<String> = known.iter().map(|kind| format!("-{kind}")).collect();
    known.iter().any(|known| known == kind).then(|| tagged(&inputs.settings.image, kind, &suffixes)).flatten()
}

/// Puts a type at the end of an image's tag, in place of one that is there. `default` is the tag without any.
fn tagged(image: &str, kind: &str, suffixes: &[String]) -> Option<String> {
    let (name, tag) = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/') && !image.contains('@'))?;
    let plain = suffixes.iter().find_map(|suffix| tag.strip_suffix(suffix.as_str())).unwrap_or(tag);
    Some(if kind == "default" { format!("{name}:{plain}") } else { format!("{name}:{plain}-{kind}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_the_end_of_the_tag() {
        let suffixes = ["-debug".to_owned(), "-default".to_owned()];
        let cases = [
            ("r.example.com:5000/a/b:1.2", "debug", Some("r.example.com:5000/a/b:1.2-debug")),
            ("a:1.2-debug", "default", Some("a:1.2")),
            ("a:1.2-debug", "debug", Some("a:1.2-debug")),
            ("r.example.com:5000/a", "debug", None),
            ("a", "debug", None),
            ("a:1@sha256:00", "debug", None),
        ];
        for (image, kind, expected) in cases {
            assert_eq!(tagged(image, kind, &suffixes).as_deref(), expected, "{image} {kind}");
        }
    }
}
