//! How names that users write become full: short hostnames and `exportTo`.

use smol_str::{SmolStr, format_smolstr};

use super::model::{Hostname, Visibility};

/// Returns the full name of a service: one without a dot is of the object's own namespace, `reviews` → `reviews.shop.svc.cluster.local`.
pub(in crate::mesh) fn full_hostname(written: &str, namespace: &str, domain: &str) -> Hostname {
    if written.is_empty() || written.contains('.') || written.starts_with('*') {
        return Hostname::new(written);
    }
    Hostname::new(format_smolstr!("{written}.{namespace}.svc.{domain}"))
}

/// Returns who may see an object by its `exportTo`, or by the mesh's default where it has none.
pub(in crate::mesh) fn visibility<'a>(
    written: impl IntoIterator<Item = &'a SmolStr>,
    default: &'a [SmolStr],
    namespace: &SmolStr,
) -> Visibility {
    let written: Vec<&SmolStr> = written.into_iter().collect();
    let written = if written.is_empty() { default.iter().collect() } else { written };
    if written.is_empty() || written.iter().any(|name| *name == "*") {
        return Visibility::Public;
    }
    let mut names: Vec<SmolStr> =
        written.into_iter().filter(|name| *name != "~").map(|name| if name == "." { namespace.clone() } else { name.clone() }).collect();
    names.sort();
    names.dedup();
    if names.is_empty() { Visibility::None } else { Visibility::Namespaces(names.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_without_a_dot_are_short() {
        assert_eq!(full_hostname("reviews", "shop", "cluster.local").as_str(), "reviews.shop.svc.cluster.local");
        assert_eq!(full_hostname("reviews.shop", "shop", "cluster.local").as_str(), "reviews.shop");
        assert_eq!(full_hostname("*", "shop", "cluster.local").as_str(), "*");
    }

    #[test]
    fn export_to_falls_back_to_the_default() {
        let (shop, default) = (SmolStr::from("shop"), [SmolStr::from("*")]);
        assert_eq!(visibility(&[], &default, &shop), Visibility::Public);
        assert_eq!(visibility(&["~".into()], &default, &shop), Visibility::None);
        assert_eq!(visibility(&[".".into(), "b".into()], &default, &shop), Visibility::Namespaces(["b".into(), "shop".into()].into()));
    }
}
