//! How names that users write become full: short hostnames, gateways, `exportTo`.

use smol_str::{SmolStr, format_smolstr};

use crate::mesh::{
    model::{Hostname, Visibility},
    routing::model::GatewayRef,
};

/// A name without a dot is a service of the object's own namespace: `reviews` → `reviews.shop.svc.cluster.local`.
pub(in crate::mesh) fn full_hostname(written: &str, namespace: &str, domain: &str) -> Hostname {
    if written.is_empty() || written.contains('.') || written.starts_with('*') {
        return Hostname::new(written);
    }
    Hostname::new(format_smolstr!("{written}.{namespace}.svc.{domain}"))
}

/// `mesh`, `name`, `namespace/name`, `./name`, or the old form `name.namespace.svc…`.
pub(in crate::mesh) fn gateway(written: &str, namespace: &SmolStr) -> GatewayRef {
    if written == "mesh" {
        return GatewayRef::Mesh;
    }
    let (gateway_namespace, name) = match written.split_once('/') {
        Some((".", name)) => (namespace.clone(), name.into()),
        Some((other, name)) => (other.into(), name.into()),
        None => match written.split_once('.') {
            Some((name, rest)) => (rest.split('.').next().unwrap_or(rest).into(), name.into()),
            None => (namespace.clone(), written.into()),
        },
    };
    GatewayRef::Gateway { namespace: gateway_namespace, name }
}

/// `exportTo`, or the mesh's default where it is not written.
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
    fn gateways_may_name_their_namespace() {
        let shop = SmolStr::from("shop");
        let at = |namespace: &str, name: &str| GatewayRef::Gateway { namespace: namespace.into(), name: name.into() };
        assert_eq!(gateway("mesh", &shop), GatewayRef::Mesh);
        assert_eq!(gateway("public", &shop), at("shop", "public"));
        assert_eq!(gateway("./public", &shop), at("shop", "public"));
        assert_eq!(gateway("infra/public", &shop), at("infra", "public"));
        assert_eq!(gateway("public.infra.svc.cluster.local", &shop), at("infra", "public"));
    }

    #[test]
    fn export_to_falls_back_to_the_default() {
        let (shop, default) = (SmolStr::from("shop"), [SmolStr::from("*")]);
        assert_eq!(visibility(&[], &default, &shop), Visibility::Public);
        assert_eq!(visibility(&["~".into()], &default, &shop), Visibility::None);
        assert_eq!(visibility(&[".".into(), "b".into()], &default, &shop), Visibility::Namespaces(["b".into(), "shop".into()].into()));
    }
}
