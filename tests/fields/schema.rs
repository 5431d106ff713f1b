//! The fields of Istio's kinds, as its definitions list them (`istio.txt`, written by `scripts/istio-fields`), those of our own (`own.txt`), those of MeshConfig, as
//! its descriptor does (`mesh_config.txt`, written by `scripts/mesh-config-fields`), and those of Kubernetes' kinds that istiod reads.

use std::collections::BTreeSet;

use istiod_lite::api::Kind;

/// One field that holds a value.
#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) kind: String,
    /// `spec.http[].match[].headers.*.exact`
    pub(crate) path: String,
    /// `string`, `integer`, `enum` and so on.
    pub(crate) of_type: String,
    /// The names of an enum's values.
    pub(crate) values: Vec<String>,
}

pub(crate) struct Schema(Vec<Field>);

impl Field {
    /// Returns kind and path.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.kind, self.path)
    }
}

impl Schema {
    pub(crate) fn load() -> Self {
        let text = ["istio.txt", "own.txt", "mesh_config.txt", "kubernetes.txt"].map(super::read).concat();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let fields = lines.map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut next = || words.next().unwrap_or_else(|| panic!("{line}"));
            let (kind, path, of_type) = (next(), next(), next());
            Field { kind, path, of_type, values: words.collect() }
        });
        let schema = Self(fields.collect());
        assert!(schema.kinds().count() >= 7 && schema.0.len() > 700, "istio.txt is cut");
        schema
    }

    /// Returns the kinds whose fields are read.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let known: BTreeSet<&str> = self.0.iter().map(|field| field.kind.as_str()).collect();
        Kind::ALL.into_iter().map(Kind::as_str).filter(move |kind| known.contains(kind))
    }

    pub(crate) fn leaves(&self, kind: &str) -> impl Iterator<Item = &Field> {
        self.0.iter().filter(move |field| field.kind == kind && field.of_type != "message")
    }

    /// Returns the paths of the messages of a kind.
    pub(crate) fn messages(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |field| field.kind == kind && field.of_type == "message").map(|field| field.path.as_str())
    }
}
