//! `manifests/crds`: the definitions of Istio's kinds, for clusters that have none, and of our own, made from the kinds that are read.
//! `UPDATE_GOLDEN=1 cargo test --test offline crds` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use istiod_lite::api::{ApiResource, Kind, Shown, parse};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
        CustomResourceDefinitionVersion, CustomResourceSubresourceStatus, CustomResourceSubresources, CustomResourceValidation,
        JSONSchemaProps, JSONSchemaPropsOrArray,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

/// A kind, where it is kept and what users see of it.
#[derive(Clone, Copy)]
struct Defined {
    kind: Kind,
    resource: &'static ApiResource,
    shown: &'static Shown,
}

fn defined() -> impl Iterator<Item = Defined> {
    Kind::ALL.into_iter().filter_map(|kind| Some(Defined { kind, resource: kind.resource()?, shown: kind.shown()? }))
}

#[test]
fn the_definitions_are_fresh() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("manifests/crds");
    let files: BTreeMap<String, String> = defined().map(|defined| (file_name(defined), yaml(defined))).collect();
    if env::var_os("UPDATE_GOLDEN").is_some() {
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }
    for (name, text) in &files {
        let stands = fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stands, *text, "{name} is stale: UPDATE_GOLDEN=1 cargo test --test offline crds");
    }
    let listed = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
    let listed: Vec<&str> = listed.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    assert_eq!(listed, files.keys().collect::<Vec<_>>(), "kustomization.yaml");
}

#[test]
fn every_kind_has_a_definition_with_the_versions_that_are_read() {
    for (defined, version) in defined().flat_map(|defined| defined.resource.versions.iter().map(move |version| (defined, version))) {
        let api_version = format!("{}/{version}", defined.resource.group);
        let document = json!({"apiVersion": api_version, "kind": defined.kind.as_str(), "metadata": {"name": "x"}, "spec": {}});
        let parsed = parse(&document, &"Kubernetes".into());
        assert!(
            parsed
                .objects
                .iter()
                .map(|object| &object.key)
                .chain(parsed.refused.iter().map(|refused| &refused.key))
                .any(|key| key.kind == defined.kind),
            "{document}"
        );
    }
}

fn file_name(defined: Defined) -> String {
    format!("{}.yaml", defined.resource.plural)
}

fn yaml(defined: Defined) -> String {
    let note = "# Made by tests/crds.rs. For clusters without Istio's own definitions: see kustomization.yaml.\n";
    note.to_owned() + &serde_norway::to_string(&definition(defined)).unwrap()
}

fn definition(defined: Defined) -> CustomResourceDefinition {
    let (resource, kind) = (defined.resource, defined.kind.as_str());
    let group = resource.group.replace('.', "-");
    let group = group.strip_suffix("-io").unwrap();
    let categories = vec!["istio-io".to_owned(), format!("{group}-io")];
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", resource.plural, resource.group)),
            labels: Some([("app.kubernetes.io/part-of".to_owned(), "istiod-lite".to_owned())].into()),
            // Removing the definition would remove every object of the kind.
            annotations: Some([("helm.sh/resource-policy".to_owned(), "keep".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: resource.group.to_owned(),
            names: CustomResourceDefinitionNames {
                categories: Some(categories),
                kind: kind.to_owned(),
                list_kind: Some(format!("{kind}List")),
                plural: resource.plural.to_owned(),
                short_names: defined.shown.short_name.map(|name| vec![name.to_owned()]),
                singular: Some(kind.to_lowercase()),
            },
            scope: "Namespaced".to_owned(),
            versions: resource.versions.iter().enumerate().map(|(at, name)| version(defined, name, at == 0)).collect(),
            ..CustomResourceDefinitionSpec::default()
        },
        ..CustomResourceDefinition::default()
    }
}

fn version(defined: Defined, name: &str, storage: bool) -> CustomResourceDefinitionVersion {
    CustomResourceDefinitionVersion {
        name: name.to_owned(),
        served: true,
        storage,
        subresources: Some(CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(json!({}))),
            ..CustomResourceSubresources::default()
        }),
        additional_printer_columns: Some(defined.shown.columns.iter().map(|(name, path)| column(name, path)).collect()),
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema(defined)) }),
        ..CustomResourceDefinitionVersion::default()
    }
}

fn column(name: &str, path: &str) -> CustomResourceColumnDefinition {
    let type_ = if name == "Age" { "date" } else { "string" };
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        json_path: path.to_owned(),
        type_: type_.to_owned(),
        ..CustomResourceColumnDefinition::default()
    }
}

/// Says nothing of the fields of `spec`: what is wrong there is told by the validating webhook, by Events and by the
/// condition in `status`, and what only Istio knows is kept.
fn schema(defined: Defined) -> JSONSchemaProps {
    let kind = defined.kind.as_str();
    let spec = JSONSchemaProps {
        description: Some(format!("{kind}: {}. Fields: {}", defined.shown.purpose, fields_of(defined))),
        ..open("object")
    };
    JSONSchemaProps { properties: Some([("spec".to_owned(), spec), ("status".to_owned(), status())].into()), ..open("object") }
}

/// Returns where the fields are explained.
fn fields_of(defined: Defined) -> &'static str {
    if defined.resource.group.ends_with(".istio.io") { "https://istio.io/latest/docs/reference/config/" } else { "docs/rate-limits.md" }
}

// A list with keys, so that every writer of conditions owns its own.
fn status() -> JSONSchemaProps {
    let text = |name: &str| (name.to_owned(), typed("string"));
    let time = |name: &str| (name.to_owned(), JSONSchemaProps { format: Some("date-time".to_owned()), ..typed("string") });
    let fields = [text("type"), text("status"), text("reason"), text("message"), time("lastTransitionTime"), time("lastProbeTime")];
    let condition = JSONSchemaProps {
        required: Some(vec!["type".to_owned()]),
        properties: Some(fields.into_iter().chain([generation()]).collect()),
        ..open("object")
    };
    let conditions = JSONSchemaProps {
        items: Some(JSONSchemaPropsOrArray::Schema(Box::new(condition))),
        x_kubernetes_list_type: Some("map".to_owned()),
        x_kubernetes_list_map_keys: Some(vec!["type".to_owned()]),
        ..typed("array")
    };
    JSONSchemaProps { properties: Some([("conditions".to_owned(), conditions), generation()].into()), ..open("object") }
}

// Istio writes 64-bit numbers as texts.
fn generation() -> (String, JSONSchemaProps) {
    ("observedGeneration".to_owned(), JSONSchemaProps { x_kubernetes_int_or_string: Some(true), ..JSONSchemaProps::default() })
}

fn open(type_: &str) -> JSONSchemaProps {
    JSONSchemaProps { x_kubernetes_preserve_unknown_fields: Some(true), ..typed(type_) }
}

fn typed(type_: &str) -> JSONSchemaProps {
    JSONSchemaProps { type_: Some(type_.to_owned()), ..JSONSchemaProps::default() }
}
